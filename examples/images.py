"""An image generator on handwritten digits, trained one block at a time.

python examples/images.py
"""

import oneblock as ob


def main(out: str = "runs/images", budget: str = "200k", size: str = "nano", data: str = "digits") -> None:
    recipe = ob.ImageRecipe(size=size, blocks=3, budget=budget)
    ob.train(recipe, data=data, out=f"{out}/run")
    model = ob.Model.open(f"{out}/run")
    images = model.sample([0, 1, 2], steps=24)
    print(f"images: uint8 {tuple(images.shape)}")
    scores = model.evaluate(num_samples=200)
    print(f"held-out loss {scores['loss']:.3f}, Frechet distance {scores['frechet']:.1f}")
    model.save(f"{out}/model")


if __name__ == "__main__":
    main()
