"""Arithmetic in whole numbers, against Python's own."""

import math

import pytest
import torch
from torch import Tensor

from oneblock.ops.integers import LogLikelihood, clipped, linear, norm, products, shift_of

GENERATOR = torch.Generator()


def bytes_of(*shape: int) -> Tensor:
    return torch.randint(-127, 128, shape, dtype=torch.int8, generator=GENERATOR)


@pytest.fixture(autouse=True)
def seeded() -> None:
    GENERATOR.manual_seed(0)


def test_products_are_exact() -> None:
    for k, m, n in ((1, 1, 16), (5, 7, 16), (64, 256, 64), (3, 16, 256)):
        x, matrix = bytes_of(k, n), bytes_of(m, n)
        expected = [
            [sum(a * b for a, b in zip(row, other, strict=True)) for other in matrix.tolist()] for row in x.tolist()
        ]
        assert products(x, matrix).tolist() == expected
    full = torch.full((1, 1024), 127, dtype=torch.int8)
    assert products(full, full).tolist() == [[1024 * 127 * 127]]


def test_a_layer_rounds_down_and_clips() -> None:
    x, matrix, own = bytes_of(9, 16), bytes_of(5, 16), torch.randint(-9000, 9000, (9, 5), dtype=torch.int32)
    for extra in (torch.zeros_like(own), own):
        found = linear(x, matrix, extra.clone())
        for i in range(9):
            for j in range(5):
                total = sum(a * b for a, b in zip(x[i].tolist(), matrix[j].tolist(), strict=True)) + int(extra[i, j])
                assert int(found[i, j]) == max(-127, min(127, total // (16 * 4)))
    assert found.dtype == torch.int8
    assert clipped(torch.tensor([-500, -128, -127, 3, 127, 128])).tolist() == [-127, -127, -127, 3, 127, 127]


def test_the_norm_divides_by_the_mean_size() -> None:
    x, weight = bytes_of(6, 16), bytes_of(16)
    x[0] = 0
    x[1] = 1
    found = norm(x, weight)
    for i in range(6):
        mean = max(1, sum(map(abs, x[i].tolist())) // 16)
        expected = [max(-127, min(127, (a * w) // mean)) for a, w in zip(x[i].tolist(), weight.tolist(), strict=True)]
        assert found[i].tolist() == expected


def test_the_log_likelihood_is_that_of_its_definition() -> None:
    logits = torch.cat(
        [bytes_of(20, 256), torch.full((1, 256), 127, dtype=torch.int8), torch.full((1, 256), -127, dtype=torch.int8)]
    )
    targets = torch.randint(256, (22,), generator=GENERATOR)
    found = LogLikelihood()(logits, targets)
    for row, target, value in zip(logits.tolist(), targets.tolist(), found.tolist(), strict=True):
        total = sum(math.floor(16 * 2 ** ((y + 128) / 16)) for y in row)
        exact = next(k for k in range(28 * 16, -1, -1) if 2**k <= total**16)  # of 16 log2, without a float
        assert value == row[target] + 128 - (exact - 64)
    assert found.dtype == torch.int32
    assert found[-2].item() / 16 == pytest.approx(-8.0, abs=0.1), "equal logits give 8 bits"


def test_widths_that_are_no_power_of_four_are_refused() -> None:
    assert [shift_of(n) for n in (16, 64, 256, 1024)] == [6, 7, 8, 9]
    for wrong in (0, 8, 20, 32):
        with pytest.raises(ValueError, match=f"{wrong} inputs are not a power of 4"):
            shift_of(wrong)
