"""A vision transformer of timm, cut into blocks that train alone, and given back to timm.

pip install timm torchvision; python examples/convert_timm.py
"""

import sys

import timm

import oneblock as ob


def main(out: str = "runs/timm", budget: str = "60k") -> None:
    # made by its name, with the shape of the data; pretrained=True has weights of its own
    sizes = {"img_size": 8, "patch_size": 2, "in_chans": 1, "num_classes": 10}
    network = timm.create_model("vit_tiny_patch16_224", depth=6, embed_dim=48, num_heads=3, **sizes)
    backbone = ob.convert(network, outputs=10)
    recipe = ob.ClassifyRecipe(blocks=2, batch_size=32, budget=budget)
    for row in ob.cost(recipe, image_size=8, channels=1, classes=10, backbone=backbone).rows:
        if not row.checkpointing:
            print(f"{row.strategy}, {row.blocks} blocks: {row.peak.total / 1e6:.1f} MB at the peak")
    ob.train(recipe, backbone=backbone, data="digits", out=f"{out}/run")
    model = ob.Model.open(f"{out}/run")  # the run keeps the network
    print("accuracy:", model.evaluate()["accuracy"])
    model.export(f"{out}/export")
    block = timm.create_model(f"local-dir:{out}/export/block-0", pretrained=True)
    print("block 0 in timm:", type(block).__name__, "of", len(block.blocks), "layers")


if __name__ == "__main__":
    main(*sys.argv[1:])
