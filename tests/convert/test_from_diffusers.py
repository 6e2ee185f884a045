import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import TINY, WORK
from safetensors.torch import load_file, save_file
from torch import Tensor

from oneblock.convert.from_diffusers import Autoencoder

diffusers = pytest.importorskip("diffusers")


def save_autoencoder(path: Path, seed: int) -> Path:
    """8 x 8 grey images to 3 x 4 x 4 latents, random weights."""
    torch.manual_seed(seed)
    model = diffusers.AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=3,
        norm_num_groups=4,
        sample_size=8,
        scaling_factor=0.7,
        shift_factor=0.1,
    )
    model.save_pretrained(path)
    return path


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_latents_are_scaled_means(tmp_path: Path, images: Tensor) -> None:
    path = save_autoencoder(tmp_path, 0)
    codec, model = Autoencoder(path, batch_size=2), diffusers.AutoencoderKL.from_pretrained(path).eval()
    with torch.no_grad():
        mean, _ = model.quant_conv(model.encoder(images)).chunk(2, dim=1)
        latents = codec.encode(images)
        torch.testing.assert_close(latents, 0.5 * 0.7 * (mean - 0.1))
        torch.testing.assert_close(codec.decode(latents), model.decode(mean).sample)
    assert latents.shape == (5, 3, 4, 4)
    assert not latents.requires_grad


def test_fingerprint_follows_the_weights(tmp_path: Path) -> None:
    prints = [Autoencoder(save_autoencoder(tmp_path / str(i), seed)).fingerprint() for i, seed in enumerate((0, 0, 1))]
    assert prints[0] == prints[1] != prints[2]


def test_wrong_channels_are_refused(tmp_path: Path) -> None:
    codec = Autoencoder(save_autoencoder(tmp_path, 0))
    with pytest.raises(ValueError, match="images have 3 channels, but the autoencoder takes 1; use --channels 1"):
        codec.encode(torch.zeros(1, 3, 8, 8))


def test_a_place_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not hold an AutoencoderKL of diffusers .*give the directory that has"):
        Autoencoder(tmp_path)


def test_train_and_sample_in_latents(tmp_path: Path, ok: Callable, refused: Callable) -> None:
    pytest.importorskip("sklearn")
    run, codec = tmp_path / "run", save_autoencoder(tmp_path / "codec", 0)
    ok("train", "images", "--out", run, "--autoencoder", codec, *TINY, *WORK)
    (row,) = ok("sample", run, "--out", tmp_path / "x.png", "--per-class", "1", "--autoencoder", codec, "--json",
                "--steps", "2")  # fmt: skip
    assert row["images"] == 10
    ok("evaluate", run, "--autoencoder", codec, "--num-samples", "60", "--steps", "2", "--json")
    assert "the plan denoises the latents of autoencoder" in refused("sample", run, "--out", tmp_path / "x.png")
    other = save_autoencoder(tmp_path / "other", 1)
    assert "--autoencoder gives the latents of" in refused("evaluate", run, "--autoencoder", other)
    assert "another" in refused("train", "images", "--out", run, *TINY, *WORK)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scaling_factor", None), ("scaling_factor", "x"), ("scaling_factor", -1.0), ("shift_factor", [1]),
        ("block_out_channels", 3), ("latent_channels", 5), ("norm_num_groups", 3), ("down_block_types", ["Nothing"]),
        ("act_fn", None), ("in_channels", "one"),
    ],
)  # fmt: skip
def test_an_altered_configuration_is_refused(tmp_path: Path, key: str, value: object) -> None:
    path = save_autoencoder(tmp_path, 0) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(ValueError, match="does not hold an AutoencoderKL of diffusers"):
        Autoencoder(tmp_path)


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, '{"scaling_factor": NaN}'])
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (save_autoencoder(tmp_path, 0) / "config.json").write_text(text)
    with pytest.raises(ValueError, match="does not hold an AutoencoderKL of diffusers"):
        Autoencoder(tmp_path)


def test_weights_that_are_not_finite_or_missing_are_refused(tmp_path: Path) -> None:
    path = save_autoencoder(tmp_path, 0) / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["encoder.conv_in.bias"][0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"numbers that are not finite .*encoder.conv_in.bias"):
        Autoencoder(tmp_path)
    del weights["encoder.conv_in.bias"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="does not hold an AutoencoderKL of diffusers"):
        Autoencoder(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="does not hold an AutoencoderKL of diffusers"):
        Autoencoder(tmp_path)
