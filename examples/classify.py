"""A classifier of handwritten digits whose blocks denoise labels, and an ordinary one beside it.

python examples/classify.py
"""

import oneblock as ob


def main(out: str = "runs/classify", budget: str = "100k", size: str = "nano", data: str = "digits") -> None:
    recipe = ob.ClassifyRecipe(size=size, blocks=3, budget=budget, batch_size=64, block_batch_size=64)
    ob.train(recipe, data=data, out=f"{out}/blocks")
    ob.train(recipe, data=data, out=f"{out}/whole", strategy="end-to-end")
    for name in ("blocks", "whole"):
        scores = ob.Model.open(f"{out}/{name}").evaluate()
        print(f"{name}: accuracy {scores['accuracy']:.1%}, calibration error {scores['ece']:.3f}")


if __name__ == "__main__":
    main()
