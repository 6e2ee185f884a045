import pytest
import torch

from oneblock.audit.attractors import attractors, clusters, degenerate, typical_spread
from oneblock.data import load_images, to_float


def test_single_links_join_through_others() -> None:
    points = torch.tensor([[0.0], [10.0], [0.9], [1.8], [10.5], [30.0]])
    assert clusters(points, 1.0).tolist() == [0, 1, 0, 0, 1, 2]
    assert clusters(points, 0.8).tolist() == [1, 0, 2, 3, 0, 4]
    assert clusters(points, 100.0).unique().tolist() == [0]


def test_a_long_chain_of_links_is_one_cluster() -> None:
    line = torch.arange(2000.0)[torch.randperm(2000, generator=torch.Generator().manual_seed(0)), None]
    assert clusters(line, 1.5).unique().tolist() == [0]
    with pytest.raises(ValueError, match="points=9000 is not allowed; use a whole number, 1 or more up to 8192"):
        clusters(torch.zeros(9000, 1), 1.0)


def test_attractors_are_reached_from_different_starts() -> None:
    """Chains 0 and 1 meet at 0, chain 0 on every other cycle; chain 2 stays at 50 alone."""
    a, b, c = [0.0, 20.0, 0.1, 30.0, 0.2], [0.1, 0.0, 0.1, 0.2, 0.0], [50.0] * 5
    late = torch.tensor([a, b, c]).T[..., None]
    (only,) = attractors(late, link=1.0)
    assert (only.states, only.starts) == (8, 2)
    assert only.center.item() == pytest.approx(0.1)
    assert only.return_time == pytest.approx((2 + 2 + 4 * 1) / 6)
    assert len(attractors(late, link=1.0, starts=1)) == 4
    assert attractors(late[-1:], link=1.0)[0].return_time is None


def test_constant_and_striped_images_are_degenerate() -> None:
    grid = torch.linspace(-1, 1, 8)
    digit = to_float(load_images("digits", "test").images[:1])
    images = torch.cat(
        [
            torch.full((1, 1, 8, 8), 0.3) + 0.01 * torch.eye(8),
            grid.expand(1, 1, 8, 8),
            grid[:, None].expand(1, 1, 8, 8),
            grid.expand(1, 1, 8, 8) + 0.2 * torch.eye(8),
            digit,
        ]
    )
    spread = typical_spread(to_float(load_images("digits", "test").images))
    assert degenerate(images, spread).tolist() == [True, True, True, True, False]
    assert not degenerate(torch.zeros(3, 5), 1.0).any(), "vectors are not images"


def test_the_filter_lets_real_images_pass() -> None:
    for name in ("digits",):
        images = to_float(load_images(name, "test").images)
        assert degenerate(images, typical_spread(images)).double().mean() < 0.01
