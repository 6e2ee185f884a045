"""Large images: read in bands, close to what reading them whole gives, in little memory."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import ENVIRONMENT

from oneblock.data import bands
from oneblock.data.pixels import to_pixels
from oneblock.data.png import open_rows

Image = pytest.importorskip("PIL.Image")


def picture(mode: str, width: int = 157, height: int = 211) -> Any:
    """Smooth colours and a little noise, so that every filter of PNG is used."""
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(0).integers(0, 9, (height, width))
    planes = [x * 200 // width, y * 200 // height, (x + y) * 200 // (width + height), 255 - y * 255 // height]
    array = np.stack([plane + noise for plane in planes], -1).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(array, "RGBA")
    return image.convert("RGB").quantize(64) if mode == "P" else image.convert(mode)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of more than 100 pixels are large, a band has 10 rows or so."""
    monkeypatch.setattr(bands, "LARGE", 100)
    monkeypatch.setattr(bands, "BAND", 1600)


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "LA", "RGBA"])
def test_the_rows_of_a_png_are_its_pixels(tmp_path: Path, mode: str) -> None:
    path = str(tmp_path / "x.png")
    picture(mode).save(path)
    rows = open_rows(path)
    assert rows is not None and rows.mode == mode
    whole = np.array(Image.open(path))
    for top, bottom, step in ((0, 211, 211), (0, 211, 10), (50, 160, 7), (210, 211, 1)):
        found = np.concatenate([np.array(band) for band in rows.bands(top, bottom, step)])
        assert np.array_equal(found, whole[top:bottom])


def test_rows_end_where_the_file_is_damaged(tmp_path: Path) -> None:
    picture("RGB").save(tmp_path / "x.png")
    content = (tmp_path / "x.png").read_bytes()
    for name, damaged in (
        ("cut", content[: len(content) // 2]),
        ("flipped", content[:900] + bytes([content[900] ^ 1]) + content[901:]),
    ):
        path = tmp_path / f"{name}.png"
        path.write_bytes(damaged)
        rows = open_rows(str(path))
        assert rows is not None
        with pytest.raises(OSError, match=r"truncated|broken PNG file|decod"):
            list(rows.bands(0, 211, 20))


@pytest.mark.parametrize("options", [{"bits": 4}, {"interlace": 1}, {"format": "TIFF"}])
def test_other_files_are_read_whole(tmp_path: Path, options: dict[str, Any]) -> None:
    picture("P").quantize(16).save(tmp_path / "x", **{"format": "PNG", **options})
    if "interlace" in options:  # Pillow does not write these; the byte alone says it
        content = bytearray((tmp_path / "x").read_bytes())
        content[28] = 1
        (tmp_path / "x").write_bytes(content)
    assert open_rows(str(tmp_path / "x")) is None
    assert open_rows(str(tmp_path / "nothing")) is None


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "JPEG"])
@pytest.mark.parametrize("mode", ["L", "RGB", "P", "RGBA"])
def test_bands_are_close_to_the_whole(
    tmp_path: Path, mode: str, kind: str, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (kind, mode) in (("JPEG", "P"), ("JPEG", "RGBA"), ("BMP", "RGBA")):
        pytest.skip("not a kind of image of this format")
    picture(mode).save(tmp_path / "x", kind)
    with Image.open(tmp_path / "x") as image:
        assert bands.is_streamed(image) == (kind == "PNG")
        found = to_pixels(image, 8, channels)
    monkeypatch.setattr(bands, "LARGE", 10**9)
    with Image.open(tmp_path / "x") as image:
        whole = to_pixels(image, 8, channels)
    assert (found.int() - whole.int()).abs().max() <= 6


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("mode", ["P", "RGB", "L"])
def test_a_colour_may_be_clear(tmp_path: Path, mode: str) -> None:
    """In every second row a colour stands for nothing: on average half of it is white."""
    image = Image.new(mode, (64, 64), 7 if mode != "RGB" else (200, 0, 0))
    if mode == "P":
        image.putpalette([0, 0, 0] * 7 + [200, 0, 0] + [0, 100, 0] + [1, 2, 3] * 100)
    for y in range(0, 64, 2):
        image.paste(8 if mode != "RGB" else (0, 100, 0), (0, y, 64, y + 1))
    image.save(tmp_path / "x.png", transparency=8 if mode != "RGB" else (0, 100, 0))
    red = {"P": (200, 0, 0), "RGB": (200, 0, 0), "L": (7, 7, 7)}[mode]
    with Image.open(tmp_path / "x.png") as opened:
        assert bands.is_streamed(opened) and "transparency" in opened.info
        found = to_pixels(opened, 4, 3)[:, 2, 2]
    assert (found - (torch.tensor(red) + 255) / 2).abs().max() <= 2


@pytest.mark.usefixtures("small")
def test_large_images_are_turned_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 3
    for kind in ("PNG", "JPEG", "TIFF"):
        picture("RGB").save(tmp_path / "x", kind, exif=exif)
        with Image.open(tmp_path / "x") as image:
            found = to_pixels(image, 8, 3)
        assert found[0, 0, 0] > found[0, 0, 7] + 50 and found[1, 0, 0] > found[1, 7, 0] + 50


@pytest.mark.usefixtures("small")
def test_large_banners_keep_their_centre(tmp_path: Path) -> None:
    array = np.zeros((6, 600), dtype=np.uint8)
    array[:, 296:304] = 200
    for kind in ("PNG", "TIFF"):
        Image.fromarray(array).save(tmp_path / "x", kind)
        with Image.open(tmp_path / "x") as image:
            assert to_pixels(image, 6, 1).unique().tolist() == [200]


def test_photographs_are_decoded_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture("RGB", 640, 480).save(tmp_path / "x.jpg", quality=95)
    monkeypatch.setattr(bands, "LARGE", 1000)
    with Image.open(tmp_path / "x.jpg") as image:
        to_pixels(image, 16, 3)
        assert image.size == (80, 60)


MEASURE = """
import resource, sys
from PIL import Image
from oneblock.data.pixels import to_pixels
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
with Image.open(sys.argv[2]) as image: to_pixels(image, 32, 3)
before = peak()
with Image.open(sys.argv[1]) as image: to_pixels(image, 32, 3)
print(peak() - before)
"""


def test_a_large_png_takes_little_memory(tmp_path: Path) -> None:
    """60 megapixels: 240 MB decoded, and about five times as much to lay them on white."""
    side = 7746
    Image.new("RGBA", (side, side), (200, 10, 0, 128)).save(tmp_path / "x.png", compress_level=1)
    picture("RGBA").save(tmp_path / "y.png")
    words = [sys.executable, "-c", MEASURE, str(tmp_path / "x.png"), str(tmp_path / "y.png")]
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 100


def test_what_is_told_of_a_large_png_is_streamed(tmp_path: Path) -> None:
    """The image of a stream, which has no file of its own, is read whole."""
    file = io.BytesIO()
    picture("RGB").save(file, "PNG")
    with Image.open(file) as image:
        assert not bands.is_streamed(image)
        assert torch.equal(to_pixels(image, 8, 3), to_pixels(picture("RGB"), 8, 3))
