import math

import pytest
import torch

from oneblock.audit.intervals import share


def test_the_bootstrap_interval_is_that_of_the_normal_approximation() -> None:
    hits = torch.arange(400) < 100
    found = share(hits)
    half = 1.96 * math.sqrt(0.25 * 0.75 / 400)
    assert found.mean == 0.25
    assert (found.low, found.high) == pytest.approx((0.25 - half, 0.25 + half), abs=0.01)
    wide, other = share(hits, confidence=0.99), share(hits, seed=1)
    assert wide.high > found.high and wide.low < found.low
    assert other != found and other == share(hits, seed=1)


def test_none_at_all_is_not_certain() -> None:
    none, every = share(torch.zeros(100, dtype=torch.bool)), share(torch.ones(100, dtype=torch.bool))
    assert none.as_row() == pytest.approx([0.0, 0.0, 1 - 0.05**0.01])
    assert every.as_row() == pytest.approx([1.0, 0.05**0.01, 1.0])
