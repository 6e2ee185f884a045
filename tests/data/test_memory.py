import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oneblock.data.imageset import ImageSet
from oneblock.data.memory import MemorySource
from oneblock.data.order import epoch_seed
from oneblock.data.transforms import to_float


def numbered(num: int) -> MemorySource:
    """The value of image i is i, its label i modulo 5."""
    images = torch.arange(num, dtype=torch.uint8).reshape(num, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    return MemorySource(ImageSet(images, torch.arange(num) % 5, tuple("abcde"), "numbered"))


def row(source: MemorySource, batch_size: int, num: int, seed: int = 3) -> list[int]:
    """The first `num` positions of the endless row, read in batches."""
    steps = -(-num // batch_size)
    batches = [source.indices(step, batch_size, seed) for step in range(steps)]
    return torch.cat(batches)[:num].tolist()


@settings(deadline=None, max_examples=30)
@given(num=st.integers(1, 40), batch_size=st.integers(1, 100))
def test_each_epoch_shows_each_sample_once(num: int, batch_size: int) -> None:
    positions = row(numbered(num), batch_size, 3 * num)
    for epoch in range(3):
        assert sorted(positions[epoch * num : (epoch + 1) * num]) == list(range(num))


def test_epochs_and_seeds_differ() -> None:
    positions = row(numbered(50), 10, 100)
    assert positions[:50] != positions[50:]
    assert row(numbered(50), 10, 50, seed=4) != positions[:50]
    assert positions[:50] != list(range(50))


@settings(deadline=None, max_examples=30)
@given(first=st.integers(1, 60), second=st.integers(1, 60))
def test_the_batch_size_only_cuts_the_row(first: int, second: int) -> None:
    assert row(numbered(17), first, 60) == row(numbered(17), second, 60)


def test_resume_needs_no_state() -> None:
    running = numbered(17)
    batches = [running.batch(step, 5, seed=7) for step in range(12)]
    for step in (11, 0, 6):
        images, labels = numbered(17).batch(step, 5, seed=7)
        torch.testing.assert_close(images, batches[step][0], rtol=0, atol=0)
        assert torch.equal(labels, batches[step][1])


def test_other_seeds_between_steps_change_nothing() -> None:
    source = numbered(17)
    for seed in (7, 8, 7):
        assert torch.equal(source.indices(1, 5, seed), numbered(17).indices(1, 5, seed))


def test_batches_hold_the_images_and_their_labels() -> None:
    source = numbered(17)
    images, labels = source.batch(2, 6, seed=0)
    chosen = source.indices(2, 6, seed=0)
    assert (images.dtype, tuple(images.shape)) == (torch.float32, (6, 1, 2, 2))
    torch.testing.assert_close(images[:, 0, 0, 0], to_float(chosen.to(torch.uint8)))
    assert torch.equal(labels, chosen % 5)
    assert (source.name, source.shape, source.classes) == ("numbered", (1, 2, 2), tuple("abcde"))


def test_epoch_seeds_fit_and_differ() -> None:
    seeds = [epoch_seed(seed, epoch, 32) for seed in range(30) for epoch in range(30)]
    assert len(set(seeds)) == 900
    assert max(seeds) < 2**32
    assert epoch_seed(1, 23) != epoch_seed(12, 3)


def test_the_order_stays_the_same_between_versions() -> None:
    assert row(numbered(8), 4, 8, seed=0) == [7, 1, 5, 3, 4, 0, 6, 2]


def test_wrong_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="step=-1 is negative"):
        numbered(3).batch(-1, 2, 0)
    with pytest.raises(ValueError, match="batch_size=0 is too small"):
        numbered(3).batch(0, 0, 0)
