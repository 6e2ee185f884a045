from pathlib import Path
from typing import Any

import pytest
import torch

from oneblock.partition import make_partition
from oneblock.report.video import check_video_place, open_video, side_by_side, video_tables, write_video
from oneblock.schedule import logit_normal

Image = pytest.importorskip("PIL.Image")


def clips(n: int = 3, frames: int = 5, size: int = 16) -> torch.Tensor:
    return torch.randint(256, (n, frames, 1, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_videos_stand_side_by_side() -> None:
    shown = side_by_side(clips())
    assert shown.shape == (5, 3, 256, 256)  # 2 x 2 of 16 pixels, 8 times as large
    small = shown[:, 0, ::8, ::8]
    assert torch.equal(small[:, :16, 16:], clips()[1, :, 0]) and torch.equal(small[:, 16:, :16], clips()[2, :, 0])
    assert not small[:, 16:, 16:].any()
    assert side_by_side(clips(1, 2, 129), even=True).shape == (2, 3, 130, 130)


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animations_have_all_frames(tmp_path: Path, suffix: str) -> None:
    file = open_video(tmp_path / f"new/video{suffix}", fps=5)
    file.add(clips()[:, :3])
    file.add(clips()[:, 3:])
    file.close()
    with Image.open(tmp_path / f"new/video{suffix}") as found:
        assert found.n_frames == 5
        for i in range(5):
            found.seek(i)
            shown = torch.frombuffer(bytearray(found.convert("L").tobytes()), dtype=torch.uint8).view(256, 256)
            wanted = side_by_side(clips())[i, 0]
            assert (shown.int() - wanted.int()).abs().max() <= 2
            assert found.info["duration"] == 200


def test_a_picture_has_a_row_for_each_video(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = write_video(tmp_path / "all.png", clips())
    with Image.open(path) as found:
        width, height = found.size
    assert (width, height) == (5 * (64 + 2), 3 * (64 + 2))


def test_an_mp4_is_written_frame_by_frame(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    moving = torch.zeros(1, 12, 1, 16, 16, dtype=torch.uint8)
    for i in range(12):
        moving[0, i, 0, :, i : i + 4] = 255
    file = open_video(tmp_path / "video.mp4", fps=6)
    for part in moving.split(5, dim=1):
        file.add(part)
    file.close()
    with av.open(str(tmp_path / "video.mp4")) as found:
        assert found.streams.video[0].average_rate == 6
        frames = [torch.from_numpy(frame.to_ndarray(format="gray")) for frame in found.decode(video=0)]
    assert len(frames) == 12
    seen = torch.stack(frames).float().mean(1)  # (12, 128): brightness of columns
    centre = (seen * torch.arange(128)).sum(1) / seen.sum(1)
    torch.testing.assert_close(centre.diff(), torch.full((11,), 8.0), rtol=0, atol=1.0)


def test_nothing_written_is_no_file(tmp_path: Path) -> None:
    for name in ("a.gif", "b.png"):
        open_video(tmp_path / name).close()
    assert not list(tmp_path.iterdir())


def test_places_that_are_no_videos_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValueError, match=r"is not the name of a video; use one that ends in \.mp4, \.gif, \.webp, \.png"
    ):
        check_video_place(tmp_path / "video.avi")
    with pytest.raises(ValueError, match="fps=0 is not allowed; use a whole number, 1 or more"):
        open_video(tmp_path / "video.gif", 0)
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ImportError, match=r"needs the package av; install it with: pip install 'oneblock\[video\]'"):
        check_video_place(tmp_path / "video.mp4")


def test_scores_as_tables() -> None:
    row: dict[str, Any] = {"band_losses": [0.5, 0.25], "loss": 0.375, "frechet": 2.5, "features": "frame-pairs-8x8"}
    bands = make_partition(logit_normal(), 2)
    losses, scores = video_tables(row, bands)
    assert losses.rows[1] == ("0.001001 to 1", "0.2500") and scores.title == "generated clips"
    rollout = {"place_error": [0.5, 1.25], "still_error": [2.0, 3.0], "place_errors": [0.5]}
    *_, third = video_tables(row | rollout, bands)
    assert third.rows == [("1", "0.500", "2.000"), ("2", "1.250", "3.000")]
    assert "place_errors" not in dict(scores.rows)
    assert video_tables({"band_losses": [0.5], "loss": 0.5}, make_partition(logit_normal(), 1))[1].title == "all bands"
