"""Latents of a frozen autoencoder of the diffusers library, given by the user as a directory; nothing is downloaded.

Latent diffusion: Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", Section 3.1,
https://arxiv.org/abs/2112.10752.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oneblock.data.clips import Compression

# diffusers scales latents to a standard deviation of 1; EDM's preconditioning expects sigma_data.
LATENT_STD = 0.5


class Autoencoder:
    """A frozen ``AutoencoderKL`` as a codec: images (n, channels, height, width) in [-1, 1] to latents (n, c, h, w)
    and back.

    ``encode`` gives ``0.5 * scaling_factor * (mean - shift_factor)``, the mean of the posterior without its noise, so
    that a batch follows from (seed, step) alone.

    Args:
        directory: as ``AutoencoderKL.save_pretrained`` writes it.
        device: where it runs.
        batch_size: images per pass.

    Raises:
        ValueError: the directory does not hold such a model.
        ImportError: diffusers is not installed.
    """

    def __init__(self, directory: Path, device: torch.device | str = "cpu", batch_size: int = 64) -> None:
        require_diffusers()
        try:
            model = load_frozen(directory, "AutoencoderKL")
            self._shift = float(model.config.shift_factor or 0.0)
            self._scale = LATENT_STD * float(model.config.scaling_factor)
            if not (math.isfinite(self._shift) and 0 < self._scale < math.inf):
                raise ValueError("a scale that is not above 0")
        except Exception as error:  # diffusers checks little: a wrong value ends in any error
            raise ValueError(
                f"{directory} does not hold an AutoencoderKL of diffusers ({error}); give the directory that has its "
                "config.json and diffusion_pytorch_model.safetensors"
            ) from error
        self._model: Any = model.to(device)
        self._device = torch.device(device)
        self._batch_size = batch_size

    @property
    def compression(self) -> Compression:
        """Of each image."""
        config = self._model.config
        return Compression(
            pixels=2 ** (len(config.block_out_channels) - 1), channels=(config.in_channels, config.latent_channels)
        )

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Latents (n, c, h, w) of ``images`` (n, channels, height, width) in [-1, 1]; float32 on the CPU."""
        channels = self._model.config.in_channels
        if images.shape[1] != channels:
            raise ValueError(
                f"images have {images.shape[1]} channels, but the autoencoder takes {channels}; "
                f"use --channels {channels}"
            )
        parts = [
            self._model.encode(part.to(self._device)).latent_dist.mode().float().cpu()
            for part in images.split(self._batch_size)
        ]
        return self._scale * (torch.cat(parts) - self._shift)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images (n, channels, height, width), about [-1, 1], of ``latents`` (n, c, h, w); float32 on the CPU."""
        parts = [
            self._model.decode((part / self._scale + self._shift).to(self._device)).sample.float().cpu()
            for part in latents.split(self._batch_size)
        ]
        return torch.cat(parts)

    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 over weights and scaling."""
        return weights_digest(self._model, f"{self._scale} {self._shift}")


def require_diffusers() -> Any:
    """The library; an ``ImportError`` names the extra."""
    try:
        import diffusers
    except ImportError as error:
        raise ImportError("latents need diffusers; pip install 'oneblock[convert]'") from error
    return diffusers


def load_frozen(directory: Path, kind: str) -> Any:
    """A network of diffusers, of the class ``kind``, that is not trained.

    Raises:
        Exception: of any type, where the directory does not hold one with all its weights, finite.
    """
    model, loaded = getattr(require_diffusers(), kind).from_pretrained(
        directory, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    if any(loaded.values()):  # diffusers would go on with random weights
        raise ValueError(", ".join(f"{name}: {str(found)[:80]}" for name, found in loaded.items() if found))
    bad = [name for name, t in model.state_dict().items() if not bool(torch.isfinite(t).all())]
    if bad:
        raise ValueError(f"numbers that are not finite in {', '.join(bad[:3])}")
    return model.eval().requires_grad_(False)


def weights_digest(model: Any, said: str) -> str:
    """First 16 hex digits of the SHA-256 over what is ``said`` of a network and its weights."""
    digest = hashlib.sha256(said.encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
