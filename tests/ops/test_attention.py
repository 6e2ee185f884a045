"""Every form of attention against one that goes through places one by one."""

import pytest
import torch
from torch import Tensor

from oneblock.ops import Attend, causal, concatenated, flex, full, two_pass, two_streams

N, HEADS, KV_HEADS, T, E = 2, 4, 2, 5, 8


def qkv(places: int, gradients: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (HEADS, KV_HEADS, KV_HEADS)
    q, k, v = (torch.randn(N, heads, places, E, generator=generator, dtype=torch.float64) for heads in shapes)
    return (q.requires_grad_(gradients), k.requires_grad_(gradients), v.requires_grad_(gradients))


def naive(q: Tensor, k: Tensor, v: Tensor, seen: list[list[int]]) -> Tensor:
    """Query i mixes the values of the places ``seen[i]``."""
    k, v = (x.repeat_interleave(HEADS // KV_HEADS, dim=1) for x in (k, v))
    rows = []
    for i, places in enumerate(seen):
        scores = torch.stack([(q[:, :, i] * k[:, :, j]).sum(-1) for j in places], -1) / E**0.5
        rows.append(sum(w[..., None] * v[:, :, j] for w, j in zip(scores.softmax(-1).unbind(-1), places, strict=True)))
    return torch.stack(rows, 2)


def two_stream_places() -> list[list[int]]:
    clean = [list(range(i + 1)) for i in range(T)]
    return clean + [[*range(i), T + i] for i in range(T)]


def gradients(attend: Attend, inputs: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
    out = attend(*inputs)
    weights = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)
    return (out, *torch.autograd.grad((out * weights).sum(), inputs))


@pytest.mark.parametrize(
    ("attend", "seen"),
    [
        (full, [list(range(T))] * T),
        (causal, [list(range(i + 1)) for i in range(T)]),
        (concatenated, two_stream_places()),
        (two_pass, two_stream_places()),
        (two_streams, two_stream_places()),
    ],
)
def test_values_and_gradients_are_those_of_the_plain_form(attend: Attend, seen: list[list[int]]) -> None:
    inputs = qkv(len(seen))
    expected = gradients(lambda q, k, v: naive(q, k, v, seen), inputs)
    for found, wanted in zip(gradients(attend, inputs), expected, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.filterwarnings("ignore:flex_attention called without")  # which is what a CPU can do
def test_flex_attention_has_the_same_values() -> None:
    q, k, v = (x.float() for x in qkv(2 * T, gradients=False))
    torch.testing.assert_close(flex(q, k, v), two_pass(q, k, v))
