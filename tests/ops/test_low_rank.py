"""Layers with a perturbation of low rank against the same layers with the whole matrix."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from oneblock.ops import low_rank

MEMBERS = 5
GENERATOR = torch.Generator()


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


@pytest.fixture(autouse=True)
def seeded() -> None:
    GENERATOR.manual_seed(0)


Layer = Callable[[Any, Tensor, Tensor | None, Tensor, Tensor], Tensor]


def check(
    fast: Layer, plain: Callable[[Any, Tensor, Tensor | None], Tensor], x: Any, shape: tuple[int, ...], rank: int
) -> None:
    """One member, a population with inputs of its own, and a population that shares one input."""
    rows, columns = low_rank.rows_and_columns(shape)
    weight, bias = numbers(*shape), numbers(rows)
    a, b = numbers(MEMBERS, rows, rank), numbers(MEMBERS, columns, rank)
    expected = torch.stack([plain(x[i], low_rank.materialised(weight, a[i], b[i]), bias) for i in range(MEMBERS)])
    torch.testing.assert_close(fast(x[0], weight, bias, a[0], b[0]), expected[0])
    own = torch.vmap(lambda x, a, b: fast(x, weight, bias, a, b))(x, a, b)
    torch.testing.assert_close(own, expected)
    shared = torch.vmap(lambda a, b: fast(x[0], weight, bias, a, b))(a, b)
    again = torch.stack([plain(x[0], low_rank.materialised(weight, a[i], b[i]), bias) for i in range(MEMBERS)])
    torch.testing.assert_close(shared, again)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("inputs", [(1,), (4,), (2, 3), ()])
def test_linear(inputs: tuple[int, ...], rank: int) -> None:
    check(low_rank.linear, F.linear, numbers(MEMBERS, *inputs, 6), (5, 6), rank)


@pytest.mark.parametrize("rank", [1, 3])
def test_transposed(rank: int) -> None:
    check(
        lambda x, w, _, a, b: low_rank.transposed(x, w, a, b),
        lambda x, w, _: x @ w,
        numbers(MEMBERS, 4, 5),
        (5, 6),
        rank,
    )


@pytest.mark.parametrize("rank", [1, 3])
def test_embedding(rank: int) -> None:
    ids = torch.randint(7, (MEMBERS, 2, 3), generator=GENERATOR)
    check(lambda x, w, _, a, b: low_rank.embedding(x, w, a, b), lambda x, w, _: F.embedding(x, w), ids, (7, 6), rank)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize(
    ("shape", "size", "words"),
    [
        ((4, 2, 3), (9,), {"padding": 1}),
        ((4, 3, 3, 2), (6, 7), {"stride": (2, 1), "dilation": (1, 2)}),
        ((6, 2, 3, 3), (5, 5), {"groups": 3, "padding": "same"}),
        ((4, 1, 2, 2, 2), (3, 3, 3), {}),
    ],
)
def test_convolution(shape: tuple[int, ...], size: tuple[int, ...], words: dict[str, Any], rank: int) -> None:
    convolve: Any = (F.conv1d, F.conv2d, F.conv3d)[len(size) - 1]
    x = numbers(MEMBERS, 2, shape[1] * words.get("groups", 1), *size)
    check(
        lambda x, w, bias, a, b: low_rank.convolution(x, w, bias, a, b, **words),
        lambda x, w, bias: convolve(x, w, bias, **words),
        x,
        shape,
        rank,
    )


@pytest.mark.parametrize(
    ("shape", "matrix"),
    [((5, 6), (5, 6)), ((1, 5, 6), (5, 6)), ((4, 2, 3, 3), (4, 18)), ((1, 6), (1, 6)), ((1, 1, 6), (1, 6))],
)
def test_what_is_a_matrix(shape: tuple[int, ...], matrix: tuple[int, int]) -> None:
    assert low_rank.rows_and_columns(shape) == matrix
