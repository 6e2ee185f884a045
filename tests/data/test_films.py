"""Films of a user: files of video and folders of frames, whatever their sizes and rates."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from oneblock.data import load_videos
from oneblock.data.films import load_films
from oneblock.data.progress import listening

av = pytest.importorskip("av")
np = pytest.importorskip("numpy")
Image = pytest.importorskip("PIL.Image")
STEP = 16
"""Between the greys of two frames."""


def movie(path: Path, count: int, rate: int = 8, size: tuple[int, int] = (32, 16), pixels: str = "yuv420p") -> Path:
    """A film whose frame i is of the grey ``STEP i`` everywhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), mode="w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("mpeg4" if pixels == "yuv420p" else "ffv1", rate=Fraction(rate))
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        stream.bit_rate = 1_000_000
        for i in range(count):
            grey = np.full((size[1], size[0], 3), STEP * i % 256, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    return path


def pictures(folder: Path, greys: Sequence[int], size: tuple[int, int] = (10, 8), mode: str = "L") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, grey in enumerate(greys, 1):
        Image.new("L", size, grey).convert(mode).save(folder / f"{i}.png")
    return folder


def means(clips: torch.Tensor) -> list[list[int]]:
    """The grey of every frame in steps."""
    found: list[list[int]] = (clips.float().mean((2, 3, 4)) / STEP).round().int().tolist()
    return found


def said(root: Path, **settings: object) -> tuple[torch.Tensor, str]:
    heard: list[str] = []
    with listening(note=heard.append):
        clips = load_films(root, "train", **settings).clips  # type: ignore[arg-type]
    return clips, " ".join(heard)


def test_clips_of_files_and_folders(tmp_path: Path) -> None:
    movie(tmp_path / "train" / "cat" / "a.mp4", 9)
    pictures(tmp_path / "train" / "dog" / "10", [STEP * i for i in range(12)])
    pictures(tmp_path / "train" / "dog" / "9", [160, 144, 128, 112])
    movie(tmp_path / "test" / "cat" / "b.mp4", 4, size=(16, 48))
    found = load_videos(f"folder:{tmp_path}", "train", frames=4, size=8, channels=1)
    assert (tuple(found.clips.shape), found.classes) == ((6, 4, 1, 8, 8), ("cat", "dog"))
    assert found.labels is not None and found.labels.tolist() == [0, 0, 1, 1, 1, 1]
    assert means(found.clips) == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [10, 9, 8, 7],
        *([i, i + 1, i + 2, i + 3] for i in (0, 4, 8)),
    ]
    held_out = load_videos(f"folder:{tmp_path.name}", "test", frames=4, size=8, channels=1, root=tmp_path.parent)
    assert means(held_out.clips) == [[0, 1, 2, 3]] and held_out.classes == found.classes


def test_frames_are_taken_at_one_rate(tmp_path: Path) -> None:
    movie(tmp_path / "train" / "slow.mp4", 6, rate=4)
    movie(tmp_path / "train" / "fast.mp4", 12, rate=8)
    movie(tmp_path / "test" / "slow.mp4", 6, rate=4)
    with pytest.raises(ValueError, match=r"mixes rates: slow.mp4 has 4 frames a second, fast.mp4 has 8; .* fps=4 "):
        load_films(tmp_path, "train", 3, 8)
    assert means(load_films(tmp_path, "train", 3, 8, fps=4).clips) == [[0, 2, 4], [6, 8, 10], [0, 1, 2], [3, 4, 5]]
    clips, text = said(tmp_path, frames=3, size=8, fps=8)
    assert len(clips) == 4
    assert "too slow: 1 (slow.mp4 (4 frames a second, of which fps=8 cannot be taken))" in text


def test_frames_are_resized_and_their_middle_is_kept(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "train" / "a", [], mode="RGB")
    pictures(tmp_path / "test" / "a", [0, 0], mode="RGB")
    wide = Image.new("RGB", (40, 10), (255, 0, 0))
    wide.paste((0, 0, 255), (15, 0, 25, 10))
    for name in ("1.png", "2.png"):
        wide.save(folder / name)
    (clip,) = load_films(tmp_path, "train", 2, 10).clips
    assert clip.shape == (2, 3, 10, 10) and clip[:, 2].min() == 255 and clip[:, :2].max() == 0


def test_what_cannot_be_used_is_said_in_one_message(tmp_path: Path) -> None:
    root = tmp_path / "train"
    movie(root / "good.mp4", 4)
    movie(root / "short.mp4", 3)
    cut = movie(root / "cut.mp4", 40, size=(64, 64))
    whole = cut.read_bytes()
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    (root / "text.mp4").write_text("no film")
    (root / "empty.mp4").write_bytes(b"")
    (root / "readme.txt").write_text("hello")
    pictures(tmp_path / "test" / "clip", [0, 0, 0, 0], mode="RGB")
    clips, text = said(tmp_path, frames=4, size=8)
    assert "2 of 5 films of the train split are used" in text
    for part in (
        "all films are of one class, 'unlabelled'",
        "not a video: 1 (text.mp4)",
        "empty file: 1 (empty.mp4)",
        "fewer than 4 frames: 1 (short.mp4 (3))",
        "ends early: 1 (cut.mp4 (after ",
        "neither video nor picture: 1 (readme.txt)",
    ):
        assert part in text
    assert 1 < len(clips) < 1 + 40 // 4


def test_a_frame_that_cannot_be_read_ends_a_folder(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "train" / "clip", [0, 16, 32, 48, 64])
    (folder / "4.png").write_bytes(b"no picture")
    pictures(tmp_path / "test" / "clip", [0, 0])
    clips, text = said(tmp_path, frames=2, size=8)
    assert means(clips) == [[0, 1]]
    assert "ends early: 1 (clip (after 3 frames: not an image (4.png)))" in text


def test_the_split_of_a_film_depends_on_its_name_alone(tmp_path: Path) -> None:
    for i in range(30):
        pictures(tmp_path / "kind" / f"film{i}", [STEP * (i % 16)] * 2)
    train, test = (load_films(tmp_path, split, 2, 8) for split in ("train", "test"))
    assert (len(train), len(test)) == (25, 5) and train.classes == ("kind",)
    pictures(tmp_path / "kind" / "other", [0, 0])
    assert load_films(tmp_path, "test", 2, 8).fingerprint() == test.fingerprint()


def test_folders_without_usable_films_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        load_films(tmp_path / "nothing", "train", 2)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_text("")
    with pytest.raises(ValueError, match=r"has no films \(neither video nor picture: 1 \(a/x.txt\)\); files of video"):
        load_films(tmp_path, "train", 2)
    (tmp_path / "a" / "x.mp4").write_text("no film")
    with pytest.raises(ValueError, match=r"has no readable film \(left out: not a video: 1 \(a/x.mp4\)\)"):
        load_films(tmp_path, "train", 2)
    pictures(tmp_path / "clip", [0, 0])
    with pytest.raises(ValueError, match=r"class folders \(a/x.mp4\) and others beside them \(clip\); move every film"):
        load_films(tmp_path, "train", 2)


def test_grey_and_colour_are_not_mixed_unasked(tmp_path: Path) -> None:
    for split in ("train", "test"):
        pictures(tmp_path / split / "grey", [0, 0])
        pictures(tmp_path / split / "colour", [0, 0], mode="RGB")
    with pytest.raises(ValueError, match=r"mixes grey and colour images \(1 L, 1 RGB\)|2 L, 2 RGB"):
        load_films(tmp_path, "train", 2)
    assert load_films(tmp_path, "train", 2, 8, channels=3).shape == (2, 3, 8, 8)


def test_a_split_without_a_clip_is_refused(tmp_path: Path) -> None:
    pictures(tmp_path / "train" / "a", [0, 0])
    pictures(tmp_path / "test" / "a", [0])
    with pytest.raises(ValueError, match=r"fewer than 2 frames: 1 \(a \(1\)\); this split has no clip of 2 frames"):
        load_films(tmp_path, "test", 2)


def test_settings_of_films_are_not_for_clips_that_are_made() -> None:
    with pytest.raises(ValueError, match="fps=8 is a setting of films of your own"):
        load_videos("bouncing-digits", fps=8)
    grey, coloured = (load_videos("bouncing-digits,clips=8", channels=channels).clips for channels in (1, 3))
    assert torch.equal(coloured, grey.expand(-1, -1, 3, -1, -1)), "colour, for autoencoders that take nothing else"
