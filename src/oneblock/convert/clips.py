"""Frozen autoencoders of the diffusers library as codecs of clips: of images, frame by frame, or of video.

One of video makes 1 + k frames of 1 + r k: the first by itself, then each of r. What it compresses is asked of the
network itself, with a clip of few pixels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oneblock.convert.from_diffusers import LATENT_STD, Autoencoder, load_frozen, require_diffusers, weights_digest
from oneblock.data import ClipCodec, Framewise
from oneblock.data.clips import ClipDecoder, Compression, State

IMAGES, WAN = "AutoencoderKL", "AutoencoderKLWan"
KINDS = (
    WAN,
    "AutoencoderKLHunyuanVideo",
    "AutoencoderKLLTXVideo",
    "AutoencoderKLMochi",
    "AutoencoderKLMagvit",
    "AutoencoderKLCosmos",
)
"""Classes for video, with one interface; the first can decode piece by piece."""
PIXELS = 2**22
"""Of the clips that are encoded or decoded at a time, about."""
PROBED = 2
"""Frames, and places along their sides, of what is decoded to see how large it gets."""


def open_clip_codec(directory: Path, device: torch.device | str = "cpu") -> ClipCodec:
    """The codec of a directory of diffusers, which runs on ``device``.

    Raises:
        ValueError: the directory does not hold an autoencoder of images or video.
        ImportError: diffusers is not installed.
    """
    if _kind(directory) == IMAGES:
        codec = Autoencoder(directory, device)
        return Framewise(codec, codec.compression)
    return ClipAutoencoder(directory, device)


class ClipAutoencoder:
    """A frozen autoencoder of video as a ``ClipCodec``, which encodes to ``0.5 * scaling_factor * (mean - shift) /
    std``: the mean of the posterior without its noise, centred and scaled as its configuration says.

    Args:
        directory: as ``save_pretrained`` writes it.
        device: where it runs.

    Raises:
        ValueError: the directory does not hold one of ``KINDS``.
        ImportError: diffusers is not installed.
    """

    def __init__(self, directory: Path, device: torch.device | str = "cpu") -> None:
        require_diffusers()
        self.kind = _kind(directory)
        try:
            if self.kind not in KINDS:
                raise ValueError(f"it holds {self.kind}")
            self._model = load_frozen(directory, self.kind)
            self._shift, self._scale = _normalisation(self._model)
            self._compression = _compression(self._model)
        except Exception as error:  # diffusers checks little: a wrong value ends in any error
            raise ValueError(
                f"{directory} does not hold an autoencoder of diffusers for clips ({error}); give the directory that "
                f"has config.json and diffusion_pytorch_model.safetensors of one of {IMAGES}, {', '.join(KINDS)}"
            ) from error
        self._model.to(device)
        self.device = torch.device(device)

    @property
    def streams(self) -> bool:
        return self.kind == WAN

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Latents (n, f', c, h, w) of ``images`` (n, f, channels, height, width) in [-1, 1]; float32 on the CPU."""
        self.encoded_shape(tuple(images.shape[1:]))
        parts = [
            self._model.encode(part.transpose(1, 2).to(self.device)).latent_dist.mode().float().cpu()
            for part in images.split(_at_a_time(images.shape))
        ]
        return self._scale * (torch.cat(parts).transpose(1, 2) - self._shift)

    @torch.no_grad()
    def decode(self, encoded: Tensor) -> Tensor:
        """Frames (n, f, channels, height, width), about [-1, 1], of ``encoded`` (n, f', c, h, w); float32 on the
        CPU."""
        decoded = (1, *self.decoded_shape(tuple(encoded.shape[1:])))
        parts = [self._model.decode(self.raw(part)).sample.float().cpu() for part in encoded.split(_at_a_time(decoded))]
        return torch.cat(parts).transpose(1, 2)

    def decoder(self) -> ClipDecoder:
        if not self.streams:
            raise ValueError(
                f"{self.kind} decodes whole clips, and not piece by piece; make whole videos (model.sample in Python, "
                f"--frames without --state), or train with {WAN} or {IMAGES}"
            )
        return WanDecoder(self, self._model)

    def raw(self, encoded: Tensor) -> Tensor:
        """``encoded`` (n, f', c, h, w) as the network has it, (n, c, f', h, w)."""
        return (encoded.cpu() / self._scale + self._shift).transpose(1, 2).to(self.device)

    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 over class, scaling and weights."""
        return weights_digest(self._model, f"{self.kind} {self._scale.tolist()} {self._shift.tolist()}")

    def num_encoded(self, frames: int, later: bool = False) -> int:
        return self._compression.num_encoded(frames, later)

    def encoded_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return self._compression.encoded_shape(shape)

    def decoded_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return self._compression.decoded_shape(shape)


class WanDecoder:
    """Decodes latent frames of an ``AutoencoderKLWan`` as they come, exactly as in one go: the convolutions over time
    look back alone, and each keeps its last two frames."""

    def __init__(self, codec: ClipAutoencoder, model: Any) -> None:
        self._codec, self._model = codec, model
        self._kept: list[Any] = []

    @torch.no_grad()
    def __call__(self, encoded: Tensor) -> Tensor:
        from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

        frames = []
        for frame in self._model.post_quant_conv(self._codec.raw(encoded)).split(1, dim=2):
            first = not self._kept
            self._kept = self._kept or [None] * self._convolutions()
            frames.append(self._model.decoder(frame, feat_cache=self._kept, feat_idx=[0], first_chunk=first))
        found, patch = torch.cat(frames, dim=2), self._model.config.patch_size
        if patch is not None:
            found = unpatchify(found, patch_size=patch)
        return found.clamp(-1, 1).float().cpu().transpose(1, 2)

    def state(self) -> State:
        """By the number of a convolution; one that was only passed so far, and keeps a mark, has an empty tensor."""
        kept = enumerate(self._kept)
        return {str(i): one if isinstance(one, Tensor) else torch.empty(0) for i, one in kept if one is not None}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._kept = [None] * self._convolutions()
        for number, one in state.items():
            self._kept[int(number)] = one.to(self._codec.device) if one.numel() else "Rep"

    def _convolutions(self) -> int:
        """As many as look back."""
        causal = type(self._model.post_quant_conv)
        return sum(isinstance(module, causal) for module in self._model.decoder.modules())


def _kind(directory: Path) -> str:
    """The class that a directory of diffusers names; that of images where it names none, which then says what is
    wrong."""
    try:
        config = json.loads((directory / "config.json").read_text())
        return str(config.get("_class_name", IMAGES))
    except (OSError, ValueError, RecursionError, AttributeError):
        return IMAGES


def _normalisation(model: Any) -> tuple[Tensor, Tensor]:
    """Shift and scale (c, 1, 1) of latents, from a configuration or, as LTX-Video has it, from buffers."""

    def per_channel(name: str, usual: float) -> Tensor:
        found = model.config.get(name)
        found = dict(model.named_buffers()).get(name) if found is None else found
        return torch.as_tensor(usual if found is None else found, dtype=torch.float64).detach().reshape(-1, 1, 1)

    shift = per_channel("latents_mean", 0.0) + float(model.config.get("shift_factor") or 0.0)
    scale = LATENT_STD * float(model.config.get("scaling_factor", 1.0)) / per_channel("latents_std", 1.0)
    if not (bool(shift.isfinite().all()) and bool(scale.isfinite().all()) and bool((scale > 0).all())):
        raise ValueError("a scale that is not above 0")
    channels = _latent_channels(model)
    return shift.float().expand(channels, 1, 1), scale.float().expand(channels, 1, 1)


def _latent_channels(model: Any) -> int:
    return int(model.config.get("latent_channels") or model.config["z_dim"])


@torch.no_grad()
def _compression(model: Any) -> Compression:
    """What few places are decoded to; encoded again, they must have the shape that they had."""
    channels = _latent_channels(model)
    places = torch.zeros(1, channels, PROBED, PROBED, PROBED)
    pixels = model.decode(places).sample
    found = Compression(
        frames=pixels.shape[2] - 1, pixels=pixels.shape[3] // PROBED, channels=(pixels.shape[1], channels)
    )
    again = tuple(model.encode(pixels).latent_dist.mode().shape)
    if again != tuple(places.shape):
        raise ValueError(
            f"{PROBED} frames are decoded to {pixels.shape[2]}, which are encoded as {again[2]}: time is not "
            "compressed as 1 + r k frames to 1 + k"
        )
    return found


def _at_a_time(shape: tuple[int, ...]) -> int:
    """Clips of the pixels of ``shape`` (n, f, channels, height, width) that are worked on together."""
    return max(1, PIXELS // (shape[1] * shape[3] * shape[4]))
