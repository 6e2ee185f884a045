"""Shapes of clips behind a codec, frames that are encoded one by one, and latents of clips on disk."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from oneblock.data import EncodedSource, Framewise, Pixels, VideoSet, VideoSource, clip_codec
from oneblock.data.clips import Compression
from oneblock.data.encoded import movable
from oneblock.data.latents import PIECE
from oneblock.data.reading import Reading

WAN = Compression(frames=4, pixels=8, channels=(3, 16))
FRAMES, COUNT = 3, PIECE // 3 + 7


class Halves:
    """Every second column, tripled; counts the images that it encodes."""

    def __init__(self) -> None:
        self.encoded = 0

    def encode(self, images: Tensor) -> Tensor:
        self.encoded += len(images)
        return 3 * images[..., ::2, ::2]

    def decode(self, encoded: Tensor) -> Tensor:
        return encoded.repeat_interleave(2, -1).repeat_interleave(2, -2) / 3

    def fingerprint(self) -> str:
        return "halves"


def clips(labels: bool = True) -> VideoSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (COUNT, FRAMES, 1, 4, 4), dtype=torch.uint8, generator=generator)
    return VideoSet(pixels, torch.arange(COUNT) % 2 if labels else None, ("a", "b") if labels else (), "noise")


def source(codec: Halves, reading: Reading | None, labels: bool = True) -> EncodedSource:
    return EncodedSource(VideoSource(clips(labels)), Framewise(codec, Compression(pixels=2)), reading)


def test_one_and_r_k_frames_become_one_and_k() -> None:
    assert WAN.encoded_shape((81, 3, 480, 832)) == (21, 16, 60, 104)
    assert WAN.decoded_shape((21, 16, 60, 104)) == (81, 3, 480, 832)
    assert [WAN.num_encoded(frames) for frames in (1, 5, 9)] == [1, 2, 3]
    assert [WAN.num_encoded(frames, later=True) for frames in (4, 8)] == [1, 2]
    assert Compression().encoded_shape((7, 1, 5, 3)) == (7, 1, 5, 3)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((16, 3, 64, 64), r"16 frames do not fit the autoencoder, which takes 1 \+ 4 k of them; use 13 or 17 frames"),
        ((3, 3, 64, 64), r"3 frames do not fit the autoencoder, which takes 1 \+ 4 k of them; use 1 or 5 frames"),
        ((17, 1, 64, 64), "frames have 1 channels, but the autoencoder takes 3; use --channels 3"),
        ((17, 3, 64, 60), "frames of 64 x 60 pixels do not fit .* of 8 x 8; use 56 or 64 pixels"),
        ((17, 3, 4, 64), "frames of 4 x 64 pixels do not fit .* of 8 x 8; use 8 pixels"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WAN.encoded_shape(shape)


def test_later_frames_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"3 frames do not fit .* takes 4 k of them after others; use 4 frames"):
        WAN.num_encoded(3, later=True)


def test_frames_are_encoded_one_by_one() -> None:
    codec = Framewise(Halves(), Compression(pixels=2))
    frames = torch.rand(2, 3, 1, 4, 6)
    found = codec.encode(frames)
    assert torch.equal(found, torch.stack([Halves().encode(clip) for clip in frames]))
    assert torch.equal(codec.decode(found), torch.stack([Halves().decode(clip) for clip in found]))
    assert tuple(found.shape[1:]) == codec.encoded_shape((3, 1, 4, 6)) == (3, 1, 2, 3)
    decoder = codec.decoder()
    assert torch.equal(torch.cat([decoder(found[:, :1]), decoder(found[:, 1:])], dim=1), codec.decode(found))
    with pytest.raises(ValueError, match="frames of 4 x 5 pixels do not fit"):
        codec.encode(torch.rand(2, 3, 1, 4, 5))


def test_pixels_are_a_codec_of_clips_and_one_of_images_is_not() -> None:
    codec = clip_codec(Pixels())
    frames = torch.rand(2, 3, 1, 5, 7)
    assert torch.equal(codec.encode(frames), frames) and codec.fingerprint() == ""
    assert clip_codec(codec) is codec
    with pytest.raises(ValueError, match="Halves encodes images, and these are clips; give a ClipCodec, as Framewise"):
        clip_codec(Halves())


@pytest.mark.parametrize("labels", [True, False])
def test_every_clip_is_encoded_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: bool) -> None:
    monkeypatch.setenv("ONEBLOCK_DATA", str(tmp_path))
    each, once, again = Halves(), Halves(), Halves()
    plain, kept, found = (
        source(each, None, labels), source(once, Reading(), labels), source(again, Reading(), labels)
    )  # fmt: skip
    assert once.encoded == 0, "the shape is known without a clip"
    for step in (0, 3, 40):
        ours, theirs, mapped = (one.batch(step, 7, 5) for one in (kept, plain, found))
        assert torch.equal(ours.values, theirs.values) and torch.equal(mapped.values, theirs.values)
        assert (ours.labels is None) == (not labels)
        if ours.labels is not None and theirs.labels is not None:
            assert torch.equal(ours.labels, theirs.labels)
    assert torch.equal(kept.samples(10).values, plain.samples(10).values)
    assert (once.encoded, again.encoded) == (COUNT * FRAMES, 0)
    moved = movable(kept)
    assert moved is not None and moved.nbytes == COUNT * FRAMES * 4 * 4 + COUNT * 8 * labels
    assert isinstance(movable(EncodedSource(VideoSource(clips()), Pixels())), VideoSource)
