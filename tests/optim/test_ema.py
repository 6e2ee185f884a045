import pytest
import torch

from oneblock.optim.ema import ema_beta, ema_update


def run(stream: list[float], gamma: float) -> float:
    averages, weights = {"w": torch.tensor([99.0], dtype=torch.float64)}, {"w": torch.zeros(1, dtype=torch.float64)}
    for step, value in enumerate(stream, start=1):
        weights["w"].fill_(value)
        ema_update(averages, weights, ema_beta(step, gamma))
    return averages["w"].item()


def test_the_first_update_copies() -> None:
    assert ema_beta(1, 6.94) == 0.0
    assert run([3.0], 6.94) == 3.0


def test_gamma_zero_is_the_mean() -> None:
    assert run([1.0, 2.0, 6.0], 0.0) == pytest.approx(3.0)


@pytest.mark.parametrize("gamma", [6.94, 16.97])
def test_mean_and_width_are_those_of_the_power_function(gamma: float) -> None:
    """Weights proportional to t^gamma: mean (gamma + 1) / (gamma + 2) of the training so far (EDM2, Section 3.1)."""
    n = 2000
    mean, square = run([t / n for t in range(1, n + 1)], gamma), run([(t / n) ** 2 for t in range(1, n + 1)], gamma)
    assert mean == pytest.approx((gamma + 1) / (gamma + 2), abs=1e-3)
    width = (gamma + 1) ** 0.5 / ((gamma + 2) * (gamma + 3) ** 0.5)
    assert (square - mean**2) ** 0.5 == pytest.approx(width, rel=0.01)
    assert {6.94: 0.10, 16.97: 0.05}[gamma] == pytest.approx(width, abs=5e-4)
