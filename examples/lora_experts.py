"""Experts of a DiT of the diffusers library by LoRA: one frozen network, small adapters for each band of noise levels.

pip install 'oneblock[convert,images]'; python examples/lora_experts.py
"""

import sys

from diffusers import DiTTransformer2DModel
from peft import PeftModel

import oneblock as ob

BLOCKS = 2


def network() -> DiTTransformer2DModel:
    """Tiny and untrained; from_pretrained gives a trained one."""
    return DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=1, out_channels=1, num_layers=4, sample_size=8,
        patch_size=2, num_embeds_ada_norm=10, norm_num_groups=1,
    )  # fmt: skip


def main(out: str = "runs/lora", budget: str = "100k") -> None:
    dit = network()
    whole_numbers = sum(p.numel() for p in dit.parameters())
    whole = ob.convert(dit, outputs=1)
    adapted = ob.lora(whole, targets=["to_q", "to_k", "to_v", "to_out.0"], rank=4)
    backbone = adapted.pick(adapted.picks * BLOCKS)  # every band gets all layers
    recipe = ob.experts(ob.ImageRecipe(depth=whole.depth, blocks=BLOCKS, budget=budget))
    ob.train(recipe, backbone=backbone, data="digits", out=f"{out}/run")
    ob.Model.open(f"{out}/run").export(f"{out}/export")
    for band in range(BLOCKS):
        expert = PeftModel.from_pretrained(dit, f"{out}/export/block-{band}")
        adapters = sum(p.numel() for name, p in expert.named_parameters() if "lora_" in name)
        print(f"band {band}: {adapters} numbers beside {whole_numbers} of the network")
        dit = expert.unload()  # for the next band


if __name__ == "__main__":
    main(*sys.argv[1:])
