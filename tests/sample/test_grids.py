import pytest
import torch

from oneblock.noise import LogNormal
from oneblock.partition import make_partition
from oneblock.sample import equal_mass_grid, karras_grid


@pytest.mark.parametrize("bands", ["equal-mass", "log-uniform"])
def test_every_block_gets_the_same_number_of_steps(bands: str) -> None:
    partition = make_partition(LogNormal(), 3, bands=bands)  # type: ignore[arg-type]
    grid = equal_mass_grid(partition, 12)
    assert len(grid) == 13
    assert grid[-1] == 0
    assert bool((grid.diff() < 0).all())
    assert partition.block_at(grid[:-1]).bincount().tolist() == [4, 4, 4]
    assert grid[:-1:4].tolist() == list(partition.edges[:-1])
    masses = partition.law.cdf(grid[4:8])  # inside a band the steps have equal mass
    q_low, q_high = partition.law.cdf(torch.tensor(partition.band(1), dtype=torch.float64)).tolist()
    assert masses.tolist() == pytest.approx([q_high - (q_high - q_low) * i / 4 for i in range(4)], abs=1e-9)


def test_with_equal_bands_the_grid_does_not_depend_on_the_blocks() -> None:
    one, three = (equal_mass_grid(make_partition(LogNormal(), b), 12) for b in (1, 3))
    torch.testing.assert_close(one, three, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("steps", "advice"), [(10, "9 or 12"), (2, "3"), (0, "3")])
def test_other_numbers_of_steps_are_refused(steps: int, advice: str) -> None:
    with pytest.raises(ValueError, match=f"steps={steps} is not a multiple of the 3 blocks; use {advice}$"):
        equal_mass_grid(make_partition(LogNormal(), 3), steps)


def test_karras_levels() -> None:
    grid = karras_grid(0.002, 80.0, 5)
    assert (grid[0], grid[-2], grid[-1]) == (80.0, 0.002, 0.0)
    roots = grid[:-1] ** (1 / 7)
    assert (-roots.diff()).tolist() == pytest.approx([(80 ** (1 / 7) - 0.002 ** (1 / 7)) / 4] * 4)
    with pytest.raises(ValueError, match="steps=1 is too small for a grid; use 2 or more"):
        karras_grid(0.002, 80.0, 1)
