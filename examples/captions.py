"""A generator that is told captions, on generated scenes: what differs from one that is told classes, and how far its
pictures agree with what they were told.

python examples/captions.py
"""

import oneblock as ob
from oneblock.plan import differences
from oneblock.presets import make_plan


def main(out: str = "runs/captions", budget: str = "1M", size: str = "nano", data: str = "scenes") -> None:
    recipe = ob.ImageRecipe(size=size, blocks=3, budget=budget, branch=0.5)
    scenes = ob.ImageData(data=data, image_size=24)
    classes, _ = make_plan(recipe, ob.ImageData(data="digits", image_size=24, channels=3))
    captions, _ = make_plan(recipe, scenes)
    keys = differences(classes, captions)
    print(f"{len(keys)} keys differ from the plan for classes: {', '.join(keys)}")

    ob.train(recipe, data=scenes, out=out)
    model = ob.Model.open(out)
    images = model.sample(captions=["two red squares left of a blue circle", "a green triangle"], guidance=2.0)
    print(f"images: uint8 {tuple(images.shape)}")
    scores = model.evaluate(num_samples=200, guidance=2.0)
    for name, share in scores["caption_agreement"].items():
        chance, real = (scores[f"caption_agreement_{kind}"][name] for kind in ("chance", "real"))
        print(f"{name}: {share:.2f} of the pictures agree, {chance:.2f} by chance, {real:.2f} of real ones")


if __name__ == "__main__":
    main()
