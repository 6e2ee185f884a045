"""Blocks of a ViT that take the tokens of the block before."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from oneblock import backbone
from oneblock.condition import Condition, Frames, told
from oneblock.models.vit import Modulation, ViT, ViTConfig
from oneblock.rivals.base import seeded


class Tokens(nn.Module):
    """The stem of a block whose input is tokens."""

    def forward(self, z: Tensor, noise: Tensor, condition: Condition) -> tuple[Tensor, Modulation]:
        """(n, label_width), (n,), tokens as ``Frames`` (n, t, d) -> the same tokens, modulation."""
        return told(condition, Frames).values, Modulation(noise, z, noise)


def vit_block(config: ViTConfig, layers: range, seed: int) -> ViT:
    """``layers`` of an ordinary ViT and a head, with weights that follow from ``seed``; from its second layer on
    without the stem, in whose place come tokens."""
    block = seeded(lambda: ViT(config, layers), seed)
    if layers.start > 0:
        block.add_module("stem", Tokens())
    return block


def check_plain(config: ViTConfig) -> None:
    """Refuse a ViT that looks at noise."""
    if config.noisy_token != "none" or config.modulated or config.skip_sigma_data:
        raise ValueError(
            f"noisy_token={config.noisy_token!r}, modulated={config.modulated}, skip_sigma_data="
            f"{config.skip_sigma_data}: there is no noise to look at; use noisy_token='none', False and 0"
        )


def hidden(block: ViT, x: Tensor) -> tuple[Tensor, Modulation]:
    """Images (n, c, h, w), or tokens (n, t, d) where the block has no stem -> its output tokens, modulation."""
    nothing = x.new_zeros(len(x))
    return backbone.hidden(block, nothing[:, None], nothing, Frames(x))


def logits(block: ViT, x: Tensor) -> Tensor:
    """Images or tokens, as in ``hidden`` -> logits (n, k)."""
    out: Tensor = block.head(*hidden(block, x))
    return out.float()


@torch.no_grad()
def through(blocks: Iterable[ViT], x: Tensor) -> Tensor:
    """Images (n, c, h, w) -> tokens after ``blocks``, frozen; the images again if there is none."""
    for block in blocks:
        x, _ = hidden(block, x)
    return x
