import pytest
import torch

from oneblock.data import open_bouncing
from oneblock.metrics.motion import bright_centres, frame_pairs, place_errors


def spots(*places: tuple[int, int]) -> torch.Tensor:
    """A clip of bright spots on a ground that is not quite black."""
    clip = torch.full((1, len(places), 1, 6, 8), 50, dtype=torch.uint8)
    for frame, (row, column) in enumerate(places):
        clip[0, frame, 0, row, column] = 200
    return clip


def test_centres_are_those_of_what_is_bright() -> None:
    assert bright_centres(spots((0, 0), (2, 5)))[0].tolist() == [[0, 0], [2, 5]]
    both = spots((1, 1)).maximum(spots((3, 5)))
    assert bright_centres(both)[0].tolist() == [[2, 3]]
    assert bright_centres(spots((1, 1)).expand(-1, -1, 3, -1, -1))[0].tolist() == [[1, 1]]


def test_errors_are_distances() -> None:
    assert place_errors(spots((0, 0), (3, 4)), spots((3, 4), (3, 4)))[0].tolist() == [5, 0]
    dark = torch.zeros(1, 1, 1, 6, 8, dtype=torch.uint8)
    assert place_errors(dark, spots((0, 0)))[0].tolist() == [5]  # half of the diagonal of 6 x 8


def test_true_clips_have_no_error_against_their_true_places() -> None:
    known = open_bouncing("bouncing-digits,clips=80", "test")
    clips = known.render(20)
    assert place_errors(clips, clips).max() == 0
    assert (bright_centres(clips) - known.centres(20)[:, :, 0]).norm(dim=-1).max() < 0.8  # faint pixels do not count


def test_features_are_of_two_frames() -> None:
    clips = torch.randint(256, (2, 4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = frame_pairs(clips)
    assert found.shape == (6, 128)
    cell = clips[1, 2, :, 2:4, 6:8].float().mean() / 127.5 - 1  # row 1, column 3 of 8 x 8 cells
    place = 1 * 8 + 3
    torch.testing.assert_close(found[3 + 2, place], cell)  # the first frame of the pair (2, 3) of clip 1
    torch.testing.assert_close(found[3 + 1, 64 + place], cell)  # the second of (1, 2)
    with pytest.raises(ValueError, match="clips have 1 frame, which makes no pair; use clips of 2 frames or more"):
        frame_pairs(clips[:, :1])
