"""What a codec makes of a whole set: encoded once, kept on disk, and the same batches as without."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from oneblock.data import EncodedSource, ImageSet, MemorySource, Pixels
from oneblock.data.encoded import movable
from oneblock.data.latents import PIECE, latents_folder
from oneblock.data.reading import Reading

COUNT = PIECE + 44


class Halves:
    """Every second column, tripled; counts the images that it encodes."""

    def __init__(self, name: str = "halves") -> None:
        self.name, self.encoded = name, 0

    def encode(self, images: Tensor) -> Tensor:
        self.encoded += len(images)
        return 3 * images[..., ::2]

    def decode(self, encoded: Tensor) -> Tensor:
        return encoded.repeat_interleave(2, -1) / 3

    def fingerprint(self) -> str:
        return self.name


def images(seed: int = 0) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (COUNT, 1, 4, 4), dtype=torch.uint8, generator=generator)
    return ImageSet(pixels, torch.arange(COUNT) % 3, ("a", "b", "c"), "noise")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONEBLOCK_DATA", str(tmp_path))
    return latents_folder()


def source(codec: Halves, reading: Reading | None, seed: int = 0) -> EncodedSource:
    found = EncodedSource(MemorySource(images(seed)), codec, reading)
    codec.encoded = 0  # one image is encoded for the shape
    return found


def same(one: EncodedSource, other: EncodedSource) -> None:
    for step in (0, 3, 40):
        ours, theirs = one.batch(step, 7, 5), other.batch(step, 7, 5)
        assert ours.values.equal(theirs.values)
        assert ours.labels is not None and theirs.labels is not None
        assert ours.labels.equal(theirs.labels)
    assert all(a.equal(b) for a, b in zip(one.samples(10), other.samples(10), strict=True))  # type: ignore[union-attr, arg-type]


def test_every_image_is_encoded_once_and_batches_stay_what_they_were(folder: Path) -> None:
    codec, each = Halves(), Halves()
    kept, plain = source(codec, Reading()), source(each, None)
    assert not folder.exists(), "nothing is encoded before it is asked for"
    same(kept, plain)
    assert codec.encoded == COUNT
    assert each.encoded == 3 * 7 + 10
    (file,) = folder.iterdir()
    again = Halves()
    same(source(again, Reading()), plain)
    assert again.encoded == 0
    assert file.name.startswith("noise-")


def test_other_images_and_other_codecs_have_files_of_their_own(folder: Path) -> None:
    for codec, seed in ((Halves(), 0), (Halves("others"), 0), (Halves(), 1)):
        same(source(codec, Reading(), seed), source(Halves(), None, seed))
        assert codec.encoded == COUNT
    assert len(list(folder.iterdir())) == 3


def test_the_same_of_other_images_are_encoded_once_too(folder: Path) -> None:
    codec = Halves()
    other = source(codec, Reading()).of(MemorySource(images(1)))
    codec.encoded = 0
    same(other, source(Halves(), None, 1))
    assert codec.encoded == COUNT and len(list(folder.iterdir())) == 1


def test_a_damaged_file_is_made_again(folder: Path) -> None:
    source(Halves(), Reading()).batch(0, 4, 0)
    (file,) = folder.iterdir()
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    codec = Halves()
    with pytest.warns(UserWarning, match="is damaged and is made again"):
        same(source(codec, Reading()), source(Halves(), None))
    assert codec.encoded == COUNT
    file.write_bytes(b"")
    with pytest.warns(UserWarning, match="is damaged and is made again"):
        same(source(Halves(), Reading()), source(Halves(), None))


def test_nothing_is_kept_where_that_is_not_wanted_or_too_much(folder: Path) -> None:
    for reading in (Reading(cache=False), Reading(cache_gb=1e-6)):
        codec = Halves()
        same(source(codec, reading), source(Halves(), None))
        assert codec.encoded == COUNT
        assert not folder.exists()


def test_files_of_other_sets_make_room(folder: Path) -> None:
    room = Reading(cache_gb=1.5 * COUNT * 8 * 4 / 1e9)
    source(Halves(), room).batch(0, 1, 0)
    (first,) = folder.iterdir()
    source(Halves("others"), room).batch(0, 1, 0)
    (left,) = folder.iterdir()
    assert left != first


def test_latents_may_move_to_a_device_and_pixels_move_as_bytes() -> None:
    kept = movable(source(Halves(), Reading()))
    assert kept is not None
    assert kept.nbytes == COUNT * 8 * 4 + COUNT * 8
    moved = kept.to(torch.device("cpu")).batch(3, 7, 5)
    assert moved.values.equal(source(Halves(), None).batch(3, 7, 5).values)
    assert movable(source(Halves(), None)) is None
    assert isinstance(movable(EncodedSource(MemorySource(images()), Pixels())), MemorySource)
