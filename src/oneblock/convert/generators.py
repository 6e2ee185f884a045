"""Generators of images, of the diffusers library: told a time step, and a class or texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from einops import rearrange
from torch import Tensor, nn

from oneblock.condition import ClassIds, Condition, told
from oneblock.convert.kind import Argument, Kind, config_of, first_of

TIME_STEPS = 400.0
"""Time steps for a unit of EDM's noise conditioning ``ln(sigma) / 4``: its range becomes about a thousand steps, which
is what such networks are made for."""
PIXELS = 8
"""Pixels in a row for one of the autoencoder's latents, where a network is told how large an image is."""
TEXT, MASK = "encoder_hidden_states", "encoder_attention_mask"
POOLED, GUIDANCE = "pooled_projections", "guidance"


@dataclass(frozen=True)
class Image(Kind):
    """A generator of images that is told a time step, and here their class.

    Args:
        time_steps: for a unit of the noise conditioning.
    """

    time_steps: float = TIME_STEPS

    name = "image"
    endings: ClassVar[tuple[str, ...]] = ("DiTTransformer2DModel",)
    knows_noise = True
    knows_targets = True
    time_scale: ClassVar[float] = 1.0
    """Time steps in a unit of what the network is told."""

    @staticmethod
    def size(network: nn.Module) -> int:
        config = config_of(network)
        return int(config.out_channels or config.in_channels)

    @staticmethod
    def image_shape(network: nn.Module) -> tuple[int, int, int]:
        """Channels, height and width of images that the network can be called with."""
        config = config_of(network)
        return config.in_channels, config.sample_size, config.sample_size

    def example_shape(self, network: nn.Module) -> torch.Size:
        return torch.Size([2, *self.image_shape(network)])

    def example(self, network: nn.Module) -> dict[str, Any]:
        first = first_of(network)
        images = torch.zeros(self.example_shape(network), device=first.device, dtype=first.dtype)
        zeros = torch.zeros(2, device=first.device)
        return self.call(images, zeros, ClassIds(zeros.long()))

    def call(self, z: Tensor, noise: Tensor, condition: Condition) -> dict[str, Any]:
        return {**self._shown(z, noise), "class_labels": told(condition, ClassIds).ids}

    def answer(self, found: Any, shape: torch.Size) -> Tensor:
        images: Tensor = found.sample[:, : self.outputs]
        return images

    def _shown(self, z: Tensor, noise: Tensor) -> dict[str, Any]:
        return {"hidden_states": z, "timestep": self.time_steps * noise / self.time_scale}


class Captioned(Image):
    """A generator of images that is told texts: here those of the image's class (``convert.prompts``)."""

    endings: ClassVar[tuple[str, ...]] = ()

    def call(self, z: Tensor, noise: Tensor, condition: Condition) -> dict[str, Any]:
        return self._shown(z, noise)


class StableDiffusion3(Captioned):
    """A transformer of image and text tokens, which has a vector of the whole text besides."""

    endings = ("SD3Transformer2DModel",)

    @staticmethod
    def texts(network: nn.Module) -> Mapping[str, Argument]:
        config = config_of(network)
        return {
            TEXT: Argument((0, config.joint_attention_dim)),
            POOLED: Argument((config.pooled_projection_dim,)),
        }


class AuraFlow(Captioned):
    """The same without that vector; joint layers of both kinds of tokens, then single ones. It is told t in [0, 1]."""

    endings = ("AuraFlowTransformer2DModel",)
    time_scale = 1000.0

    @staticmethod
    def texts(network: nn.Module) -> Mapping[str, Argument]:
        return {TEXT: Argument((0, config_of(network).joint_attention_dim))}


class Flux(Captioned):
    """Joint and single layers too. It is shown patches of 2 x 2 and their places, and told t in [0, 1]."""

    endings = ("FluxTransformer2DModel",)
    time_scale = 1000.0

    @staticmethod
    def size(network: nn.Module) -> int:
        return Image.size(network) // 4

    @staticmethod
    def image_shape(network: nn.Module) -> tuple[int, int, int]:
        return config_of(network).in_channels // 4, 4, 4

    @staticmethod
    def texts(network: nn.Module) -> Mapping[str, Argument]:
        guided = {GUIDANCE: Argument(())} if config_of(network).guidance_embeds else {}
        return {**StableDiffusion3.texts(network), **guided}

    def call(self, z: Tensor, noise: Tensor, condition: Condition) -> dict[str, Any]:
        height, width = z.shape[2:]
        if height % 2 or width % 2:
            raise ValueError(f"the images are {height} x {width}, and a Flux is shown patches of 2 x 2; use even sizes")
        patches = rearrange(z, "n c (h p) (w q) -> n (h w) (c p q)", p=2, q=2)
        rows, columns = (torch.arange(size // 2, device=z.device, dtype=z.dtype) for size in (height, width))
        places = torch.cartesian_prod(torch.zeros_like(rows[:1]), rows, columns)
        return {**self._shown(patches, noise), "img_ids": places}

    def with_texts(self, call: dict[str, Any], texts: Mapping[str, Tensor]) -> dict[str, Any]:
        places = call["img_ids"].new_zeros(texts[TEXT].shape[1], 3)
        return {**super().with_texts(call, texts), "txt_ids": places}

    def answer(self, found: Any, shape: torch.Size) -> Tensor:
        images = rearrange(found.sample, "n (h w) (c p q) -> n c (h p) (w q)", p=2, q=2, h=shape[2] // 2)
        return images[:, : self.outputs]


@dataclass(frozen=True)
class PixArt(Captioned):
    """A DiT that reads texts by cross attention.

    Args:
        sizes: it is told how large the image is.
    """

    sizes: bool = False

    endings = ("PixArtTransformer2DModel",)

    @classmethod
    def of(cls, network: nn.Module, outputs: int, special_id: int | None) -> Self:
        known: Any = network
        return replace(super().of(network, outputs, special_id), sizes=bool(known.use_additional_conditions))

    @staticmethod
    def texts(network: nn.Module) -> Mapping[str, Argument]:
        config = config_of(network)
        width = config.caption_channels or config.cross_attention_dim
        return {TEXT: Argument((0, width)), MASK: Argument((0,), needed=False)}

    def call(self, z: Tensor, noise: Tensor, condition: Condition) -> dict[str, Any]:
        call = super().call(z, noise, condition)
        if not self.sizes:
            return call
        height, width = (z.new_full((len(z), 1), PIXELS * size) for size in z.shape[2:])
        sizes = {"resolution": torch.cat([height, width], dim=1), "aspect_ratio": height / width}
        return {**call, "added_cond_kwargs": sizes}


class Sana(Captioned):
    """The same with linear attention."""

    endings = ("SanaTransformer2DModel",)

    @staticmethod
    def texts(network: nn.Module) -> Mapping[str, Argument]:
        config = config_of(network)
        guided = {GUIDANCE: Argument(())} if config.guidance_embeds else {}
        return {TEXT: Argument((0, config.caption_channels)), MASK: Argument((0,), needed=False), **guided}


class SanaVideo(Sana):
    """A generator of videos, which is shown an image as a video of one frame."""

    endings = ("SanaVideoTransformer3DModel",)

    def call(self, z: Tensor, noise: Tensor, condition: Condition) -> dict[str, Any]:
        return super().call(z[:, :, None], noise, condition)

    def answer(self, found: Any, shape: torch.Size) -> Tensor:
        return super().answer(found, shape)[:, :, 0]


GENERATORS: tuple[type[Image], ...] = (Image, PixArt, Sana, SanaVideo, StableDiffusion3, Flux, AuraFlow)
