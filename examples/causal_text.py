"""An autoregressive language model in three blocks, which start from a common trunk.

python examples/causal_text.py PATH       # a text file; after `make text` also: books
"""

import sys

import oneblock as ob


def main(data: str, out: str = "runs/text", budget: str = "100k", size: str = "nano") -> None:
    recipe = ob.CausalRecipe(
        size=size, blocks=3, branch=0.8, budget=budget, batch_size=4, block_batch_size=4, length=64
    )
    ob.train(recipe, data=data, out=out)
    model = ob.Model.open(out)
    scores = model.evaluate(windows=64)
    print(f"bits per byte after every call: {[round(bits, 3) for bits in scores['bits_after_calls']]}")
    for piece in model.stream(prompt="the ", tokens=40):
        print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    main(sys.argv[1] if sys.argv[1:2] == ["books"] else f"file:{sys.argv[1]}")
