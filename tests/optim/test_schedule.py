import math

import pytest

from oneblock.optim.schedule import learning_rate_factor


def test_warm_up_hold_cosine() -> None:
    factors = [learning_rate_factor(step, total=20, warmup=4, hold=10) for step in range(20)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4:11] == [1.0] * 7
    assert factors[15] == pytest.approx(0.5)  # half way from 10 to 20
    assert factors[19] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.9)))
    assert learning_rate_factor(20, 20, 4, 10) == pytest.approx(0.0)


def test_without_hold_the_cosine_starts_after_the_warm_up() -> None:
    assert learning_rate_factor(12, 20, 4) == pytest.approx(0.5)
    assert learning_rate_factor(0, 1, 1) == 1.0
