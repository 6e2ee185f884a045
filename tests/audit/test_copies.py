import math

import pytest
import torch

from oneblock.audit.copies import CHUNK_ELEMENTS, adaptive_ratio, gaps, is_memorised, kappa_at, known, nearest


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_copies_among_the_training_samples_count_as_one() -> None:
    """Without that, a sample that equals a training image that stands twice has the ratio 0 / 0."""
    train = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [5.0, 0.0]])
    found = known(train)
    assert found.points.tolist() == [[0.0, 0.0], [1.0, 0.0], [5.0, 0.0]]
    assert (found.copies.tolist(), found.first.tolist()) == ([2, 1, 1], [0, 1, 3])
    seen = nearest(torch.tensor([[0.0, 0.1], [3.5, 0.0]]), found)
    assert seen.index.tolist() == [0, 2]
    torch.testing.assert_close(seen.ratio, torch.tensor([0.1 / math.sqrt(1.01), 1.5 / 2.5], dtype=torch.float64))
    assert is_memorised(torch.tensor([[0.0, 0.1], [0.5, 0.0]]), found).tolist() == [True, False]
    with pytest.raises(ValueError, match="3 samples hold 1 different ones; use data with 2 or more"):
        known(torch.ones(3, 2))


def test_the_search_is_exact_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    train, x = randn(40, 1, 3, 3), randn(25, 1, 3, 3, seed=1)
    whole = nearest(x, known(train))
    distances = (x.flatten(1)[:, None] - train.flatten(1)[None]).double().norm(dim=2)
    torch.testing.assert_close(whole.distance, distances.amin(1))
    assert whole.index.equal(distances.argmin(1))
    monkeypatch.setattr("oneblock.audit.copies.CHUNK_ELEMENTS", 90)
    assert CHUNK_ELEMENTS > 90
    parts = nearest(x, known(train))
    torch.testing.assert_close(parts.second, distances.sort(dim=1).values[:, 1])
    chosen = torch.tensor([39, 0, 7, 20, 1])
    torch.testing.assert_close(gaps(known(train), chosen), _gaps(train.flatten(1))[chosen])


def _gaps(points: torch.Tensor) -> torch.Tensor:
    return torch.cdist(points.double(), points.double()).fill_diagonal_(math.inf).amin(1)


def test_mirror_images_are_copies_where_training_mirrors() -> None:
    train = randn(9, 1, 4, 4)
    mirrored = train[3:4].flip(-1)
    assert not bool(is_memorised(mirrored, known(train))[0])
    assert bool(is_memorised(mirrored, known(train, mirror=True))[0])
    assert int(nearest(mirrored, known(train, mirror=True)).index[0]) == 3
    assert float(gaps(known(train, mirror=True), torch.arange(9)).min()) > 0.1, "the mirror image of a sample is itself"


def test_the_threshold_keeps_to_its_share_of_false_positives() -> None:
    ratios = torch.linspace(0.1, 0.9, 100)
    found = kappa_at(ratios, 0.05, most=1.0)
    assert int((ratios < found).sum()) == 5
    assert kappa_at(ratios, 0.5, most=1 / 3) == 1 / 3
    assert int((ratios < kappa_at(ratios, 0.0)).sum()) == 0


def test_the_adaptive_ratio_takes_the_neighbours_of_the_generated_sample() -> None:
    train = torch.tensor([[0.0], [2.0], [10.0]])
    x = torch.tensor([[0.5]])
    # nearest 0.5, neighbours 0.5 and 1.5; those of the nearest training sample would be 0 and 2
    assert adaptive_ratio(x, known(train), neighbours=2, alpha=0.5).item() == pytest.approx(0.5 / (0.5 * 1.0))
    with pytest.raises(ValueError, match="neighbours=50 is not allowed; use a whole number, 2 or more up to 3"):
        adaptive_ratio(x, known(train))
