"""EGG: a recurrent language model of bytes whose weights, activations and loss are whole numbers.

Sarkar et al., "Evolution Strategies at the Hyperscale", Appendices G and H, https://arxiv.org/abs/2511.16652, as in
nano-egg. L layers, each a gated recurrent unit (MinGRU-like, with a state h) and a perceptron, both residual:

    f = clip(u Wf^T + h Uf^T + bf)          u = norm(x)
    g = ((f + 127) h) >> 8
    c = clip(u Wh^T + g Uh^T + bh)
    h <- h + (((f + 127) (c - h)) >> 8)
    x <- clip(h + x)
    x <- clip(norm(x) W1^T W2^T + x)

There are no activation functions: clipping and the division in the norm are all that is not linear. A member of a
population adds ``((u B) A^T) >> (4 + s)`` to a product with a matrix, ``(A_t B) >> (4 + s)`` to the row t of the
embedding and ``(A B) >> (4 + s)`` to a vector; the odd one of a pair has -A. Shapes: n streams, d width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from oneblock.checks import check_fields, check_least, shown
from oneblock.ops.integers import ONE, clipped, linear, norm, shift_of
from oneblock.optim.votes import Factors

SYMBOLS = 256
END = 0
"""The byte before which states are 0: it ends a document."""


@dataclass(frozen=True, kw_only=True)
class EGGConfig:
    """Shape of an EGG.

    Args:
        depth: layers.
        width: a power of 4, so that divisions are shifts; the perceptron is four times as wide.
    """

    depth: int = 6
    width: int = 256

    def __post_init__(self) -> None:
        check_fields(self)
        check_least(self, 1, "depth")
        try:
            shift_of(self.width)
        except ValueError as error:
            raise ValueError(f"width={self.width}: {error}") from error

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the weights, by name; ``513 d + L (4 d + 12 d^2)`` numbers."""
        d = self.width
        layer: dict[str, tuple[int, ...]] = {"norm_a": (d,), "bf": (d,), "bh": (d,), "norm_m": (d,)}
        layer |= {name: (d, d) for name in ("Wf", "Uf", "Wh", "Uh")}
        layer |= {"W1": (4 * d, d), "W2": (d, 4 * d)}
        inner = {f"layers.{i}.{name}": shape for i in range(self.depth) for name, shape in layer.items()}
        return {"embed": (SYMBOLS, d), **inner, "norm": (d,), "head": (SYMBOLS, d)}


def initial_weights(config: EGGConfig, seed: int) -> dict[str, Tensor]:
    """Matrices normal with standard deviation 16, which stands for 1; norms 1, biases 0."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for name, shape in config.shapes.items():
        if len(shape) == 2:
            found[name] = clipped((torch.randn(shape, generator=generator) * ONE).round().to(torch.int32))
        else:
            found[name] = torch.full(shape, ONE if "norm" in name else 0, dtype=torch.int8)
    return found


class Perturbed:
    """The weights as some members of a population have them.

    Args:
        weights: of the model, by name.
        factors: of the noise of their pairs (``optim.votes``); None for the weights as they are.
        shift: s; noise has the standard deviation ``2^-s``.
    """

    def __init__(self, weights: Mapping[str, Tensor], factors: Factors | None = None, shift: int = 4) -> None:
        self._weights, self._shift = weights, 4 + shift
        self._a: dict[str, Tensor] = {}
        self._b: dict[str, Tensor] = {}
        self._vectors = {name: w for name, w in weights.items() if w.ndim == 1}
        for name, (a, b) in (factors or {}).items():
            signed = torch.stack([a, -a], dim=1).flatten(0, 1).to(torch.int32)
            twice = b.repeat_interleave(2, dim=0).to(torch.int32)
            if name in self._vectors:
                self._vectors[name] = clipped(weights[name] + ((signed * twice) >> self._shift))
            else:
                self._a[name], self._b[name] = signed, twice

    def vector(self, name: str) -> Tensor:
        """(d,), or (members, d)."""
        return self._vectors[name]

    def row(self, name: str, places: Tensor) -> Tensor:
        """Rows ``places`` (n,) -> (n, d); with noise, n are the members."""
        found = self._weights[name][places]
        if name not in self._a:
            return found
        a = self._a[name].gather(1, places[:, None].to(torch.int64))
        return clipped(found + ((a * self._b[name]) >> self._shift))

    def linear(self, name: str, u: Tensor) -> Tensor:
        """(n, k) -> (n, m); with noise, n are the members."""
        own = None
        if name in self._a:
            inner = (u * self._b[name]).sum(-1, keepdim=True, dtype=torch.int32)
            own = (inner * self._a[name]) >> self._shift
        return linear(u, self._weights[name], own)


class EGG:
    """The model: 8-bit weights by name, and what they compute.

    Raises:
        ValueError: the weights are not those of ``config``, or not of 8 bits.
    """

    def __init__(self, config: EGGConfig, weights: Mapping[str, Tensor]) -> None:
        shapes = {name: tuple(w.shape) for name, w in weights.items()}
        if shapes != config.shapes:
            wrong = sorted({*shapes.items()} ^ {*config.shapes.items()})
            raise ValueError(f"the weights are not those of this EGG; they differ in {shown(wrong)}")
        for name, w in weights.items():
            if w.dtype != torch.int8:
                raise ValueError(f"{name} is of {w.dtype}; every weight of an EGG is of torch.int8")
        self.config, self.weights = config, dict(weights)

    def start(self, streams: int) -> Tensor:
        """The states (depth, streams, d) before the first byte."""
        device = self.weights["embed"].device
        return torch.zeros(self.config.depth, streams, self.config.width, dtype=torch.int8, device=device)

    def step(self, tokens: Tensor, states: Tensor, w: Perturbed) -> tuple[Tensor, Tensor]:
        """Bytes (n,) of 0 to 255 and states (depth, n, d) -> logits (n, 256) of the next bytes, and states."""
        states = states.masked_fill((tokens == END)[:, None], 0)
        x = w.row("embed", tokens)
        after = []
        for i in range(self.config.depth):
            h = self._recurrent(f"layers.{i}.", norm(x, w.vector(f"layers.{i}.norm_a")), states[i], w)
            after.append(h)
            x = clipped(h.to(torch.int32) + x)
            u = norm(x, w.vector(f"layers.{i}.norm_m"))
            x = clipped(w.linear(f"layers.{i}.W2", w.linear(f"layers.{i}.W1", u)).to(torch.int32) + x)
        return w.linear("head", norm(x, w.vector("norm"))), torch.stack(after)

    def read(self, tokens: Tensor, states: Tensor, w: Perturbed) -> Iterator[tuple[Tensor, Tensor]]:
        """``step`` for each of tokens (t, n), one after the other."""
        for row in tokens:
            logits, states = self.step(row, states, w)
            yield logits, states

    def _recurrent(self, layer: str, u: Tensor, h: Tensor, w: Perturbed) -> Tensor:
        wide = h.to(torch.int32)
        f = clipped(w.linear(layer + "Wf", u).to(torch.int32) + w.linear(layer + "Uf", h) + w.vector(layer + "bf"))
        gate = f.to(torch.int32) + 127
        g = ((gate * wide) >> 8).to(torch.int8)
        c = clipped(w.linear(layer + "Wh", u).to(torch.int32) + w.linear(layer + "Uh", g) + w.vector(layer + "bh"))
        return (wide + ((gate * (c - wide)) >> 8)).to(torch.int8)
