"""Frozen autoencoders of diffusers as codecs of clips."""

import json
from pathlib import Path

import pytest
import torch
from autoencoders import SMALL, save_small
from torch import Tensor

from oneblock.convert.clips import KINDS, ClipAutoencoder, open_clip_codec
from oneblock.convert.from_diffusers import Autoencoder
from oneblock.data import Framewise
from oneblock.data.clips import ClipCodec

diffusers = pytest.importorskip("diffusers")
WAN, IMAGES = "AutoencoderKLWan", "AutoencoderKL"
PATCHED = {
    "in_channels": 12, "out_channels": 12, "patch_size": 2, "is_residual": True, "decoder_base_dim": 8,
    "dim_mult": [1, 2, 2],
}  # fmt: skip
"""What Wan 2.2 has that Wan 2.1 has not."""


def frames(count: int, channels: int = 1, side: int = 8, n: int = 2) -> Tensor:
    return torch.rand(n, count, channels, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> ClipAutoencoder:
    return ClipAutoencoder(save_small(tmp_path_factory.mktemp("wan"), WAN))


def test_latents_are_centred_and_scaled_by_channel(tmp_path: Path) -> None:
    path = save_small(tmp_path, WAN)
    codec, model, clips = ClipAutoencoder(path), diffusers.AutoencoderKLWan.from_pretrained(path).eval(), frames(9)
    mean, std = (torch.tensor(SMALL[WAN][name])[:, None, None] for name in ("latents_mean", "latents_std"))
    with torch.no_grad():
        raw = model.encode(clips.transpose(1, 2)).latent_dist.mean.transpose(1, 2)
        latents = codec.encode(clips)
        torch.testing.assert_close(latents, 0.5 * (raw - mean) / std)
        torch.testing.assert_close(codec.decode(latents), model.decode(raw.transpose(1, 2)).sample.transpose(1, 2))
    assert tuple(latents.shape) == (2, 3, 4, 2, 2) and not latents.requires_grad


def test_ltx_has_mean_and_deviation_among_its_weights(tmp_path: Path) -> None:
    kind = "AutoencoderKLLTXVideo"
    path = save_small(tmp_path, kind)
    model = diffusers.AutoencoderKLLTXVideo.from_pretrained(path)
    model.latents_mean += 0.3
    model.latents_std *= 2
    model.save_pretrained(path)
    clips = frames(1, 3, 64, 1)
    with torch.no_grad():
        raw = model.eval().encode(clips.transpose(1, 2)).latent_dist.mean.transpose(1, 2)
    torch.testing.assert_close(ClipAutoencoder(path).encode(clips), 0.5 * 0.7 * (raw - 0.3) / 2)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_of_every_kind(tmp_path: Path, kind: str) -> None:
    codec = open_clip_codec(save_small(tmp_path, kind))
    assert isinstance(codec, ClipCodec)
    shape = codec.decoded_shape((2, SMALL[kind].get("latent_channels", 4), 2, 2))
    latents = codec.encode(frames(shape[0], shape[1], shape[2], 1))
    assert tuple(latents.shape[1:]) == codec.encoded_shape(shape)
    assert tuple(codec.decode(latents).shape[1:]) == shape
    with pytest.raises(ValueError, match="frames do not fit the autoencoder"):
        codec.encode(frames(shape[0] + 1, shape[1], shape[2], 1))


@pytest.mark.parametrize("changes", [{}, PATCHED], ids=["wan-2.1", "wan-2.2"])
def test_a_clip_that_is_decoded_piece_by_piece_is_the_whole(tmp_path: Path, changes: dict) -> None:
    codec = ClipAutoencoder(save_small(tmp_path, WAN, **changes))
    channels, *places = codec.encoded_shape((1, *codec.decoded_shape((1, 4, 2, 2))[1:]))[1:]
    latents = torch.randn(2, 5, channels, *places, generator=torch.Generator().manual_seed(1))
    whole = codec.decode(latents)
    decoder, sizes = codec.decoder(), []
    pieces = []
    for size in (1, 2, 1):
        start = sum(map(lambda piece: piece.shape[1], pieces))
        begun = (start + 3) // 4
        pieces.append(decoder(latents[:, begun : begun + size]))
        sizes.append(sum(one.nbytes for one in decoder.state().values()))
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole[:, :13])
    assert sizes[1] == sizes[2], "what is kept does not grow"
    other = codec.decoder()
    other.restore(decoder.state())
    torch.testing.assert_close(other(latents[:, 4:]), whole[:, 13:])


def test_a_decoder_is_restored_after_its_first_frame(wan: ClipAutoencoder) -> None:
    """Where convolutions over time were passed, and keep a mark alone."""
    latents = torch.randn(1, 3, 4, 2, 2, generator=torch.Generator().manual_seed(1))
    decoder, other = wan.decoder(), wan.decoder()
    decoder(latents[:, :1])
    other.restore({name: one.clone() for name, one in decoder.state().items()})
    torch.testing.assert_close(other(latents[:, 1:]), wan.decode(latents)[:, 1:])


def test_the_first_frames_are_encoded_as_in_a_longer_clip(wan: ClipAutoencoder) -> None:
    clips = frames(9)
    torch.testing.assert_close(wan.encode(clips[:, :5]), wan.encode(clips)[:, :2])


def test_an_autoencoder_of_images_takes_every_frame(tmp_path: Path) -> None:
    path = save_small(tmp_path, IMAGES)
    codec, images, clips = open_clip_codec(path), Autoencoder(path), frames(3)
    assert isinstance(codec, Framewise) and codec.fingerprint() == images.fingerprint()
    latents = codec.encode(clips)
    for i in range(3):
        torch.testing.assert_close(latents[:, i], images.encode(clips[:, i]))
        torch.testing.assert_close(codec.decode(latents)[:, i], images.decode(latents[:, i]))
    assert tuple(latents.shape[1:]) == codec.encoded_shape((3, 1, 8, 8)) == (3, 3, 4, 4)
    assert codec.decoded_shape((3, 3, 4, 4)) == (3, 1, 8, 8)


def test_fingerprints_follow_weights_and_scaling(tmp_path: Path) -> None:
    found = [
        ClipAutoencoder(save_small(tmp_path / str(i), WAN, seed, **changes)).fingerprint()
        for i, (seed, changes) in enumerate([(0, {}), (0, {}), (1, {}), (0, {"latents_std": [1.0] * 4})])
    ]
    assert found[0] == found[1] and len(set(found)) == 3


def test_one_of_whole_clips_does_not_stream(tmp_path: Path) -> None:
    codec = ClipAutoencoder(save_small(tmp_path, "AutoencoderKLMagvit"))
    assert not codec.streams
    with pytest.raises(ValueError, match="AutoencoderKLMagvit decodes whole clips, and not piece by piece; make whole"):
        codec.decoder()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperal_downsample": [True, False]}, "2 frames are decoded to 3, which are encoded as 1: time is not"),
        ({"latents_std": [1.0, 0.0, 1.0, 1.0]}, "a scale that is not above 0"),
        ({"latents_mean": [0.0] * 3}, "does not hold an autoencoder of diffusers for clips"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    path = save_small(tmp_path, WAN, **changes)
    with pytest.raises(ValueError, match=message):
        open_clip_codec(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "_class_name",
            "AutoencoderDC",
            r"for clips \(it holds AutoencoderDC\); give the directory .* AutoencoderKLWan",
        ),
        ("_class_name", None, "does not hold"),
        ("z_dim", 5, "does not hold an autoencoder of diffusers for clips"),
        ("latents_std", "x", "does not hold an autoencoder of diffusers for clips"),
        ("patch_size", 3, "does not hold an autoencoder of diffusers for clips"),
    ],
)
def test_an_altered_configuration_is_refused(tmp_path: Path, key: str, value: object, message: str) -> None:
    path = save_small(tmp_path, WAN) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(ValueError, match=message):
        open_clip_codec(tmp_path)


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000])
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (save_small(tmp_path, WAN) / "config.json").write_text(text)
    with pytest.raises(ValueError, match="does not hold an AutoencoderKL of diffusers"):
        open_clip_codec(tmp_path)
    with pytest.raises(ValueError, match="does not hold an AutoencoderKL of diffusers"):
        open_clip_codec(tmp_path / "nowhere")
