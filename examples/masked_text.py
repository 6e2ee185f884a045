"""Masked diffusion of text in two blocks, each of which owns a band of masked shares.

python examples/masked_text.py PATH       # a text file; after `make text` also: books
"""

import sys

import oneblock as ob


def main(data: str, out: str = "runs/masked-text", budget: str = "100k", size: str = "nano") -> None:
    recipe = ob.MaskedRecipe(size=size, blocks=2, budget=budget, batch_size=8, weighting="even", length=64)
    ob.train(recipe, data=data, out=out)
    model = ob.Model.open(out)
    scores = model.evaluate(windows=64)
    print(f"{scores['bits_per_byte']:.3f} bits per byte at most")
    print(*model.sample(count=2), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1] if sys.argv[1:2] == ["books"] else f"file:{sys.argv[1]}")
