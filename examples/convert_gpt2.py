"""A GPT-2 of the transformers library, cut into blocks that train alone; its code is not changed.

pip install transformers; make text; python examples/convert_gpt2.py
"""

import sys

from transformers import GPT2Config, GPT2LMHeadModel

import oneblock as ob

SYMBOLS = 27  # a to z and space


def main(text: str = "books", out: str = "runs/gpt2", budget: str = "100k") -> None:
    # one id more than there are symbols: it stands before a text
    config = GPT2Config(n_embd=96, n_layer=6, n_head=3, n_positions=128, vocab_size=SYMBOLS + 1, bos_token_id=SYMBOLS)
    backbone = ob.convert(GPT2LMHeadModel(config), outputs=SYMBOLS)
    print("layers found in", backbone.path)
    recipe = ob.CausalRecipe(blocks=2, length=64, batch_size=16, budget=budget, branch=0.5)
    ob.train(recipe, backbone=backbone, data=text, out=out)
    model = ob.Model.open(out, backbone=backbone)
    print("bits per byte:", model.evaluate()["bits_per_byte"])


if __name__ == "__main__":
    main(*sys.argv[1:])
