"""What a Pillow image of any kind becomes: the meaning of its values, its colours, its place in the square."""

import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from oneblock.data.pixels import choose_channels, is_grey, to_pixels, value_range

Image = pytest.importorskip("PIL.Image")
ImageCms = pytest.importorskip("PIL.ImageCms")


def stored(image: Any, kind: str, **options: Any) -> Any:
    """The image after it was a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return Image.open(file)


def levels(dtype: str, *values: float) -> Any:
    """An image of 2 x 2 for each value, side by side; one row."""
    return Image.fromarray(np.array([values] * len(values), dtype=dtype))


def row(image: Any, size: int, channels: int = 1) -> list[int]:
    return to_pixels(image, size, channels)[0, 0].tolist()


def test_floating_point_of_unknown_range_is_refused() -> None:
    image = stored(Image.fromarray(np.random.default_rng(0).random((50, 40)).astype("f4")), "TIFF")
    assert image.mode == "F" and is_grey("F")
    assert choose_channels({"F": 3, "L": 1}, None, "x") == 1, "counts as grey"
    with pytest.raises(
        ValueError, match=r"floating point without a known range \(save 8 or 16 bits, or TIFF with SMin"
    ):
        to_pixels(image, 8, 1)


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (-1.0, 3.0), (0.0, 65535.0)])
def test_floating_point_is_scaled_by_what_the_file_says(low: float, high: float) -> None:
    shares = [0, 0.2, 0.4, 1]
    image = stored(
        levels("f4", *(low + share * (high - low) for share in shares)), "TIFF", tiffinfo={340: low, 341: high}
    )
    assert row(image, 4) == [0, 51, 102, 255]


def test_what_lies_outside_the_range_is_black_or_white() -> None:
    image = stored(levels("f4", -9, 0.5, 9, np.nan), "TIFF", tiffinfo={340: 0.0, 341: 1.0})
    assert row(image, 4) == [0, 128, 255, 0]


def test_wide_integers_are_not_guessed() -> None:
    image = stored(levels("i4", 0, 100, 255, 7), "TIFF")
    with pytest.raises(ValueError, match=r"integers of 32 bits without a known range"):
        to_pixels(image, 4, 1)
    image = stored(levels("i4", 0, 100, 255, 51), "TIFF", tiffinfo={340: 0.0, 341: 255.0})
    assert row(image, 4) == [0, 100, 255, 51]


@pytest.mark.parametrize(
    ("make", "white"),
    [
        (lambda: stored(levels("u2", 0, 13107, 65535), "TIFF"), 65535),
        (lambda: stored(levels("u2", 0, 13107, 65535), "PNG"), 65535),
        (lambda: Image.open(io.BytesIO(b"P5\n3 3\n4095\n" + np.array([[0, 819, 4095]] * 3, ">u2").tobytes())), 65535),
    ],
    ids=["tiff", "png", "12 bits of pgm"],
)
def test_sixteen_bits_use_their_whole_range(make: Callable[[], Any], white: int) -> None:
    assert value_range(make()) == (0, white)
    assert row(make(), 3) == [0, 51, 255]


def test_white_may_be_zero() -> None:
    image = stored(levels("u2", 0, 13107, 65535), "TIFF", tiffinfo={262: 0})
    assert image.mode == "I;16"
    assert row(image, 3) == [255, 204, 0]


def test_clear_values_of_sixteen_bits_are_white() -> None:
    image = stored(levels("u2", 0, 514, 65535, 0), "PNG", transparency=514)
    assert row(image, 4) == [0, 255, 255, 0]


def test_twelve_bits_of_tiff_use_their_own_range() -> None:
    """Pillow reads these files and cannot write them."""
    packed = bytes([0x00, 0x03, 0x33, 0xFF, 0xF0]) + b"\0"  # 0, 819, 4095, and a half of a byte that is not used
    tags = [(256, 4, 3), (257, 4, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 122), (277, 3, 1), (278, 4, 1)]
    tags += [(279, 4, 5)]
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    file = head + b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags) + b"\0" * 4
    image = Image.open(io.BytesIO(file + packed))
    assert value_range(image) == (0, 4095)
    assert to_pixels(image, 1, 1).item() == 51


def rotated_profile() -> bytes:
    """sRGB with the primaries of red and green exchanged, under another name."""
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = content.index(b"rXYZ"), content.index(b"gXYZ")
    content[red : red + 4], content[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(content).replace("sRGB".encode("utf-16-be"), "else".encode("utf-16-be")).replace(b"sRGB", b"else")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_colour_profiles_become_srgb(kind: str) -> None:
    image = stored(Image.new("RGB", (8, 8), (200, 30, 60)), kind, icc_profile=rotated_profile())
    swapped = torch.tensor([30, 200, 60])
    assert (to_pixels(image, 8, 3)[:, 4, 4].int() - swapped).abs().max() <= 3


def test_colour_profiles_keep_transparency() -> None:
    options = {"icc_profile": rotated_profile()}
    layer = Image.new("RGBA", (8, 8), (200, 30, 60, 255))
    layer.paste((0, 0, 0, 0), (0, 0, 4, 8))
    image = to_pixels(stored(layer, "PNG", **options), 8, 3)
    assert image[:, 0, 0].tolist() == [255, 255, 255]
    assert (image[:, 0, 7].int() - torch.tensor([30, 200, 60])).abs().max() <= 2
    palette = stored(Image.new("RGB", (8, 8), (200, 30, 60)).quantize(4), "PNG", **options)
    assert palette.mode == "P"
    assert (to_pixels(palette, 8, 3)[:, 0, 0].int() - torch.tensor([30, 200, 60])).abs().max() <= 2


def test_useless_profiles_are_passed_over() -> None:
    plain = Image.new("RGB", (8, 8), (200, 30, 60))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, b"nonsense", srgb[:200]):
        image = stored(plain, "PNG", icc_profile=profile)
        assert to_pixels(image, 8, 3)[:, 0, 0].tolist() == [200, 30, 60]
    grey = stored(Image.new("L", (8, 8), 77), "PNG", icc_profile=rotated_profile())
    assert to_pixels(grey, 8, 1)[:, 0, 0].tolist() == [77], "a profile of colours does not fit a grey image"


def test_palettes_may_be_clear() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([10, 20, 30, 200, 100, 0])
    image.putpixel((0, 0), 0)
    found = to_pixels(stored(image, "PNG", transparency=0), 4, 3)
    assert found[:, 0, 0].tolist() == [255, 255, 255]
    assert found[:, 1, 1].tolist() == [200, 100, 0]


def test_of_several_pictures_the_first_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), (level, 0, 0)) for level in (200, 10)]
    for kind in ("GIF", "PNG", "TIFF"):
        image = stored(frames[0], kind, save_all=True, append_images=frames[1:])
        assert image.n_frames == 2
        assert to_pixels(image, 8, 3)[:, 0, 0].tolist() == [200, 0, 0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize(
    ("turn", "corner"), [(1, (0, 0)), (2, (0, -1)), (3, (-1, -1)), (4, (-1, 0)), (6, (0, -1)), (8, (-1, 0))]
)
def test_every_orientation_is_applied_once(kind: str, turn: int, corner: tuple[int, int]) -> None:
    array = np.zeros((16, 16, 3), dtype=np.uint8)
    array[:8, :8] = 255
    exif = Image.Exif()
    exif[274] = turn
    image = to_pixels(stored(Image.fromarray(array), kind, exif=exif), 16, 3)[0]
    white = [place for place in ((0, 0), (0, -1), (-1, 0), (-1, -1)) if image[place] > 200]
    assert white == [corner]


@pytest.mark.parametrize(
    ("size", "most"),
    [((40, 40), 0), ((41, 30), 0), ((30, 41), 0), ((32, 128), 0), ((33, 32), 0), ((200, 21), 2), ((7, 300), 20)],
)
@pytest.mark.parametrize("side", [7, 32])
def test_the_centre_is_what_resizing_the_whole_gives(size: tuple[int, int], most: int, side: int) -> None:
    """The same bytes for ordinary images; of long ones only the centre is resized, which Pillow rounds differently."""
    array = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(array)
    short = min(size)
    wide, high = (round(edge * side / short) for edge in size)
    whole = image.resize((wide, high), resample=Image.Resampling.BICUBIC)
    left, top = (wide - side) // 2, (high - side) // 2
    expected = np.array(whole.crop((left, top, left + side, top + side)))
    difference = (to_pixels(image, side, 3).int() - torch.from_numpy(expected).permute(2, 0, 1)).abs()
    assert difference.max() <= most and difference.float().mean() < 1


@pytest.mark.parametrize("size", [(20_000, 20), (1, 60_000)])
def test_banners_take_little_memory(size: tuple[int, int]) -> None:
    """Resized as a whole they would take 0.8 and 47 GB."""
    assert to_pixels(Image.new("L", size, 77), 512, 3).unique().tolist() == [77]
