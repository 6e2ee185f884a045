"""A language model of recurrent depth: one pass a step in training, as many calls as wanted afterwards.

python examples/recurrent_text.py PATH    # a text file; after `make text` also: books
"""

import sys
from dataclasses import replace

import oneblock as ob


def main(data: str, out: str = "runs/recurrent-text", budget: str = "100k", size: str = "nano") -> None:
    recipe = replace(ob.recurrent_recipe(), size=size, budget=budget, batch_size=4, length=64)
    ob.train(recipe, data=data, out=out)
    model = ob.Model.open(out)
    for calls in (1, 4):
        scores = model.evaluate(windows=64, calls=calls)
        print(f"{calls} calls: {scores['bits_per_byte']:.3f} bits per byte")


if __name__ == "__main__":
    main(sys.argv[1] if sys.argv[1:2] == ["books"] else f"file:{sys.argv[1]}")
