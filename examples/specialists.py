"""A trained DiT becomes specialists: each band answers in two of six layers, those that it needs most.

python examples/specialists.py
"""

import sys
from typing import Any

import oneblock as ob


def scores(model: ob.Model) -> str:
    found: dict[str, Any] = model.evaluate()
    return f"{max(model.plan.layers)} layers a call, loss {found['loss']:.3f}, Frechet distance {found['frechet']:.1f}"


def main(out: str = "runs/specialists", budget: str = "300k") -> None:
    whole = ob.ImageRecipe(depth=6, width=48, heads=3, budget=budget)
    ob.train(whole, data="digits", out=f"{out}/teacher", strategy="end-to-end")
    teacher = ob.Model.open(f"{out}/teacher")
    network = ob.convert(teacher.network)
    # a lower rate than that of fresh weights: the layers are trained already
    recipe = ob.ImageRecipe(blocks=3, budget=budget, learning_rate=2e-3)
    layers = ob.choose_layers(network, recipe, per_block=2, data="digits", told=print)
    picked = network.pick(layers)
    ob.train(recipe, backbone=picked, data="digits", out=f"{out}/specialists", teacher=teacher)
    print("teacher:    ", scores(teacher))
    print("specialists:", scores(ob.Model.open(f"{out}/specialists", backbone=picked)))


if __name__ == "__main__":
    main(*sys.argv[1:])
