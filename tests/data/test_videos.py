from typing import Any

import pytest

from oneblock.data import VideoData, load_videos, open_bouncing


def test_clips_by_name() -> None:
    found = load_videos("bouncing-digits,clips=24", "train", frames=3)
    assert found.clips.shape == (24, 3, 1, 16, 16) and found.name == "bouncing-digits"
    assert load_videos("bouncing-digits,clips=24", "test", frames=3, size=8).clips.shape == (3, 3, 1, 8, 8)
    two = open_bouncing("bouncing-digits,clips=2,together=3", "train", size=32)
    assert two.pictures.shape == (2, 3, 16, 16)
    assert load_videos("bouncing-digits,clips=8", "test").clips.shape == (1, 16, 1, 16, 16)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digits", "data='digits' is unknown; bouncing-digits, bouncing-clothes, folder:DIR are allowed"),
        ("bouncing-emoji", "data='bouncing-emoji' is unknown; bouncing-digits"),
        ("bouncing-digits,clips=0", "'clips=0' is not a setting of clips; use clips=NUMBER, together=NUMBER"),
        ("bouncing-digits,speed=2", "'speed=2' is not a setting of clips"),
        ("bouncing-digits,clips", "'clips' is not a setting of clips"),
    ],
)
def test_other_names_are_refused(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_videos(spec)


@pytest.mark.parametrize("settings", [{"frames": 0}, {"frame_size": -1}])
def test_sizes_below_one_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is not allowed; use a whole number, 1 or more"):
        VideoData(**settings)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split='valid' is unknown"):
        load_videos("bouncing-digits", "valid")  # type: ignore[arg-type]
