"""EGG against a slow twin in plain Python, with and without the noise of a population."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from oneblock.models.egg import EGG, EGGConfig, Perturbed, initial_weights
from oneblock.optim.votes import IntegerNoise

CONFIG = EGGConfig(depth=2, width=16)
Row = list[int]


def clip(value: int) -> int:
    return max(-127, min(127, value))


class Plain:
    """One member, number by number."""

    def __init__(self, weights: dict[str, Any], noise: dict[str, tuple[Row, Row]] | None, sign: int) -> None:
        self.w, self.noise, self.sign = weights, noise, sign

    def vector(self, name: str) -> Row:
        if self.noise is None:
            return list(self.w[name])
        a, b = self.noise[name]
        return [clip(w + ((self.sign * x * y) >> 8)) for w, x, y in zip(self.w[name], a, b, strict=True)]

    def row(self, name: str, t: int) -> Row:
        if self.noise is None:
            return list(self.w[name][t])
        a, b = self.noise[name]
        return [clip(w + ((self.sign * a[t] * y) >> 8)) for w, y in zip(self.w[name][t], b, strict=True)]

    def linear(self, name: str, u: Row) -> Row:
        out = []
        root = int(len(u) ** 0.5)
        inner = 0 if self.noise is None else sum(x * y for x, y in zip(u, self.noise[name][1], strict=True))
        for j, weights in enumerate(self.w[name]):
            total = sum(x * w for x, w in zip(u, weights, strict=True))
            if self.noise is not None:
                total += (inner * self.sign * self.noise[name][0][j]) >> 8
            out.append(clip(total // (16 * root)))
        return out

    def norm(self, x: Row, weight: Row) -> Row:
        mean = max(1, sum(map(abs, x)) // len(x))
        return [clip((a * w) // mean) for a, w in zip(x, weight, strict=True)]

    def step(self, token: int, states: list[Row]) -> tuple[Row, list[Row]]:
        if token == 0:
            states = [[0] * CONFIG.width for _ in states]
        x, after = self.row("embed", token), []
        for i, h in enumerate(states):
            at = f"layers.{i}."
            u = self.norm(x, self.vector(at + "norm_a"))
            parts = zip(self.linear(at + "Wf", u), self.linear(at + "Uf", h), self.vector(at + "bf"), strict=True)
            f = [clip(sum(part)) for part in parts]
            g = [((a + 127) * b) >> 8 for a, b in zip(f, h, strict=True)]
            parts = zip(self.linear(at + "Wh", u), self.linear(at + "Uh", g), self.vector(at + "bh"), strict=True)
            c = [clip(sum(part)) for part in parts]
            h = [b + (((a + 127) * (d - b)) >> 8) for a, b, d in zip(f, h, c, strict=True)]
            after.append(h)
            x = [clip(a + b) for a, b in zip(h, x, strict=True)]
            inner = self.linear(at + "W2", self.linear(at + "W1", self.norm(x, self.vector(at + "norm_m"))))
            x = [clip(a + b) for a, b in zip(inner, x, strict=True)]
        return self.linear("head", self.norm(x, self.vector("norm"))), after


def plain_weights() -> dict[str, Any]:
    return {name: w.tolist() for name, w in initial_weights(CONFIG, 0).items()}


TOKENS = torch.tensor([[5, 5, 200, 7], [9, 0, 31, 7], [1, 2, 3, 255]])


@pytest.mark.parametrize("noisy", [False, True])
def test_every_number_is_that_of_the_plain_twin(noisy: bool) -> None:
    model = EGG(CONFIG, initial_weights(CONFIG, 0))
    factors = IntegerNoise(CONFIG.shapes, 3).draw(0, range(2)) if noisy else None
    found = list(model.read(TOKENS, model.start(4), Perturbed(model.weights, factors)))
    for member in range(4):
        noise = None
        if factors is not None:
            noise = {name: (a[member // 2].tolist(), b[member // 2].tolist()) for name, (a, b) in factors.items()}
        twin = Plain(plain_weights(), noise, -1 if member % 2 else 1)
        states = [[0] * CONFIG.width for _ in range(CONFIG.depth)]
        for t, (logits, after) in enumerate(found):
            expected, states = twin.step(int(TOKENS[t, member]), states)
            assert logits[member].tolist() == expected
            assert after[:, member].tolist() == states
    assert {t.dtype for pair in found for t in pair} == {torch.int8}


def test_streams_do_not_see_each_other_and_remember() -> None:
    model = EGG(CONFIG, initial_weights(CONFIG, 0))
    plain = Perturbed(model.weights)
    whole = [logits for logits, _ in model.read(TOKENS, model.start(4), plain)]
    alone = [logits for logits, _ in model.read(TOKENS[:, 2:3], model.start(1), plain)]
    assert all(a[2:3].equal(b) for a, b in zip(whole, alone, strict=True))
    again, _ = model.step(TOKENS[2], model.start(4), plain)
    assert not again[0].equal(whole[2][0]), "what came before matters"
    reset = torch.tensor([[9], [0]])
    *_, (after, _) = model.read(reset, model.start(1), plain)
    assert after.equal(model.step(torch.tensor([0]), model.start(1), plain)[0]), "but not before the end of a document"


def test_the_number_of_weights_is_that_of_the_paper() -> None:
    config = EGGConfig()
    d, count = config.width, config.depth
    sizes = [torch.Size(shape).numel() for shape in config.shapes.values()]
    assert sum(sizes) == 513 * d + count * (4 * d + 12 * d**2) == 4_856_064
    made = initial_weights(EGGConfig(depth=1, width=64), 0)
    assert float(made["head"].double().std()) == pytest.approx(16, rel=0.03)
    assert made["norm"].unique().tolist() == made["layers.0.norm_a"].unique().tolist() == [16]
    assert made["layers.0.bf"].unique().tolist() == [0]


def changed(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, torch.Tensor]:
    weights = initial_weights(CONFIG, 0)
    return weights | {name: change(weights[name])}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: EGG(CONFIG, changed("head", torch.Tensor.float)),
            "head is of torch.float32; every weight .* torch.int8",
        ),
        (lambda: EGG(CONFIG, changed("head", lambda w: w[1:])), "they differ in .*head"),
        (lambda: EGG(CONFIG, {"x": torch.zeros(1)}), "the weights are not those of this EGG"),
        (lambda: EGGConfig(width=32), "width=32: 32 inputs are not a power of 4.*; use 16, 64, 256"),
        (lambda: EGGConfig(depth=0), "depth=0 is not allowed"),
    ],
)
def test_refusals(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
