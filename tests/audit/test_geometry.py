import pytest
import torch
from oracles import gaussian

from oneblock.audit.exact import Empirical
from oneblock.audit.geometry import basin, score_flux
from oneblock.noise import LogNormal


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_flux_estimates_the_divergence_of_the_score() -> None:
    """Data N(0, 0.7^2): the score at level s is ``-z / (0.49 + s^2)``, whose divergence is ``-d / (0.49 + s^2)``."""
    x = torch.zeros(2, 3, 2, dtype=torch.float64)
    x[1] = 0.5
    found = score_flux(gaussian(0.7), x, 0.2, 0.1, 4000, seeded())
    assert (found.outward * 6 / 0.1).tolist() == pytest.approx([-6 / 0.53] * 2, rel=0.15)
    assert found.outward[0].item() == pytest.approx(-0.1 / 0.53), "at the middle every direction gives the same"
    assert found.normalised[0].item() == pytest.approx(-1.0)
    assert -0.3 < found.normalised[1].item() < 0.0


def test_basins_of_isolated_points_are_larger() -> None:
    points = torch.tensor([[-4.0, 0.0], [0.0, 0.0], [0.6, 0.0]], dtype=torch.float64)
    sigmas = [0.05, 0.1, 0.2, 0.4, 0.8, 1.6]
    found = basin(Empirical(points), LogNormal(), points, sigmas, 0.1, seeded())
    assert found[0] > found[1] >= 0.05
    assert found[2] > 0.0
    nowhere = basin(Empirical(points), LogNormal(), points + 5.0, sigmas, 0.1, seeded())
    assert nowhere.tolist() == [0.0] * 3, "no state that is not a point comes back to itself"
