"""Retrieval of captions on directions whose nearest neighbours can be seen."""

import pytest
import torch

from oneblock.metrics import retrieval
from oneblock.metrics.retrieval import caption_retrieval, own_among_nearest


def test_an_image_finds_its_own_caption() -> None:
    captions = torch.diag(torch.tensor([1.0, 2.0, 3.0, 400.0]))  # length says nothing
    images = torch.eye(4) * torch.tensor([[7.0], [8.0], [9.0], [1.0]]) + 0.1
    found = caption_retrieval(images, captions)
    assert (found.recall, found.chance, found.k, found.num_captions) == (1.0, 0.25, 1, 4)
    assert caption_retrieval(images.roll(1, 0), captions).recall == 0.0


def test_among_the_two_nearest_by_hand() -> None:
    captions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    # nearest first: 0 1 2, 1 2 0, 0 1 2
    images = torch.tensor([[2.0, 1.0], [-1.0, 2.0], [2.0, 1.0]])
    assert caption_retrieval(images, captions).recall == pytest.approx(2 / 3)
    assert caption_retrieval(images[[1, 0, 2]], captions, k=2).recall == pytest.approx(1 / 3)
    assert caption_retrieval(images, captions, k=2).recall == pytest.approx(2 / 3)


def test_a_caption_of_several_images_is_one_caption() -> None:
    captions = torch.eye(2)[[0, 0, 0, 1]]
    found = caption_retrieval(torch.eye(2)[[0, 0, 1, 1]], captions)
    assert (found.recall, found.chance, found.num_captions) == (0.75, 0.5, 2)


def test_images_that_say_nothing_score_chance() -> None:
    found = caption_retrieval(torch.zeros(10, 5), torch.eye(5).repeat(2, 1), k=2)
    assert found.recall == pytest.approx(found.chance) == pytest.approx(2 / 5)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    images, captions = (torch.randn(50, 3, generator=draw) for _ in range(2))
    whole = caption_retrieval(images, captions, k=20)
    assert 0.2 < whole.recall < 0.6
    monkeypatch.setattr(retrieval, "_CHUNK_ELEMENTS", 170)
    assert caption_retrieval(images, captions, k=20) == whole


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="3 images have 2 captions"):
        caption_retrieval(torch.eye(3), torch.eye(3)[:2])
    with pytest.raises(ValueError, match=r"k=3 is not in 1\.\.2"):
        caption_retrieval(torch.eye(3), torch.eye(3), k=3)
    with pytest.raises(ValueError, match="dimensions 3 and 2 differ"):
        caption_retrieval(torch.eye(3), torch.eye(3)[:, :2])


def test_captions_that_cannot_be_told_apart_count_as_in_random_order() -> None:
    captions = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert own_among_nearest(images, captions, torch.tensor([1, 2])).tolist() == [0.5, 1.0]
