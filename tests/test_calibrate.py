import math
from functools import cache

import pytest
import torch

from oneblock.calibrate import EVERYWHERE, entropy_law
from oneblock.noise import Tabulated
from oneblock.partition import make_partition
from oneblock.table import posterior_entropy, random_unit, simplex

TABLES = {"simplex": simplex(10), "random": random_unit(4, 6, seed=0)}


@cache
def law_of(name: str) -> Tabulated:
    return entropy_law(TABLES[name])


def log_share(law: Tabulated, level: float) -> float:
    return math.log(level / law.low) / math.log(law.high / law.low)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("blocks", [2, 3, 5])
def test_bands_of_equal_mass_are_equal_steps_of_entropy(name: str, blocks: int) -> None:
    law = law_of(name)
    edges = law.edges(blocks)
    entropy = posterior_entropy(TABLES[name], torch.tensor(edges, dtype=torch.float64), 20_000, seed=1)
    steps = -entropy.diff() / (entropy[0] - entropy[-1])
    assert steps.tolist() == pytest.approx([1 / blocks] * blocks, abs=EVERYWHERE + 0.01)


@pytest.mark.parametrize("name", TABLES)
def test_mass_is_the_entropy_and_a_little_everywhere(name: str) -> None:
    """With the same noise nothing but the straight lines between levels is approximate."""
    law = law_of(name)
    levels = torch.logspace(-1.2, 1.2, 13, dtype=torch.float64)
    entropy = posterior_entropy(TABLES[name], torch.cat([torch.tensor([law.low, law.high]), levels]))
    known = (entropy[2:] - entropy[0]) / (entropy[1] - entropy[0])
    even = torch.tensor([log_share(law, level) for level in levels.tolist()], dtype=torch.float64)
    expected = (1 - EVERYWHERE) * known + EVERYWHERE * even
    torch.testing.assert_close(law.cdf(levels), expected, rtol=0, atol=2e-3)


def test_three_bands_of_ten_classes() -> None:
    edges = make_partition(law_of("simplex"), 3).edges
    assert (edges[0], edges[-1]) == (20.0, 0.05)
    assert edges[1:3] == pytest.approx((0.76, 0.47), abs=0.01)


def test_no_level_is_left_out() -> None:
    law = law_of("simplex")
    assert (law.low, law.high) == (0.05, 20.0)
    share = EVERYWHERE / (len(law.levels) - 1)
    assert min(torch.tensor(law.mass, dtype=torch.float64).diff().tolist()) == pytest.approx(share, rel=0.01)


def test_range_and_number_of_levels_are_as_asked_for() -> None:
    law = entropy_law(simplex(3), low=0.1, high=5.0, num_levels=9)
    assert (law.low, law.high, len(law.levels)) == (0.1, 5.0, 9)
    ratios = [b / a for a, b in zip(law.levels, law.levels[1:], strict=False)]
    assert ratios == pytest.approx([50 ** (1 / 8)] * 8, rel=1e-6)
