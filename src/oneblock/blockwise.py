"""Blockwise: a backbone and a plan become one denoiser per block.

A backbone is ``stem -> layers -> head`` (``oneblock.backbone``), and nothing else is asked of it. Each block has its
own stem, noise embedder and head: nothing trainable is shared.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from oneblock.backbone import Backbone, BuildBackbone, as_backbone, check_layers, forward
from oneblock.condition import Condition
from oneblock.partition import Partition
from oneblock.plan import Plan
from oneblock.precondition import Frame


class DenoiserLike(Protocol):
    """``D(z, sigma, x)``: noisy target (n, ...), noise levels (n,), n samples' condition -> clean target (n, ...)."""

    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor: ...


class BlockDenoiser(nn.Module):
    """A block between what its frame shows it and what the frame makes of its answer: with EDM's preconditioning
    ``D_b(z, sigma, x) = c_skip z + c_out F_b(c_in z, c_noise, x)`` (EDM, Equation 7).

    For targets that are rows of a table the answer is one logit per row (``sample.labels`` makes a target of it). With
    ``checkpointing`` each layer's activations are recomputed in the backward pass. A module that is not a backbone is a
    ``ValueError``.
    """

    def __init__(self, backbone: nn.Module, frame: Frame, checkpointing: bool = False) -> None:
        super().__init__()
        as_backbone(backbone)
        self.backbone = backbone
        self.frame = frame
        self.checkpointing = checkpointing

    @property
    def layers(self) -> nn.ModuleDict:
        """The block's layers, by their index in the whole network."""
        return self._parts.layers

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def forward(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        if sigma.shape != z.shape[:1]:
            raise ValueError(f"sigma has shape {tuple(sigma.shape)}; give one level per sample, ({z.shape[0]},)")
        if len(condition) != len(z):
            raise ValueError(
                f"the condition is for {len(condition)} samples, but z has {len(z)}; give one entry per sample"
            )
        prediction = forward(
            self._parts, self.frame.inputs(z, sigma), self.frame.noise(sigma), condition, self.checkpointing
        )
        return self.frame.outputs(z, sigma, prediction)

    @property
    def _parts(self) -> Backbone:
        return cast(Backbone, self.backbone)


class Blockwise:
    """Builds block b of a plan as a denoiser, and nothing of any other block.

    Initial weights follow from (plan.seed, block) alone, so any machine builds the same block. ``frame`` is the plan's
    EDM preconditioning unless given.
    """

    def __init__(self, build: BuildBackbone, plan: Plan, frame: Frame | None = None) -> None:
        self.build = build
        self.plan = plan
        self.frame = frame or plan.precondition

    def denoiser(self, block: int, checkpointing: bool = False) -> BlockDenoiser:
        """Block ``block`` with fresh weights.

        Raises:
            ValueError: the plan has no such block, or its layers are not what the builder makes.
        """
        layers = self.plan.layer_range(block)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.plan.derive_seed("init", block))  # leaves the GPU's alone
            backbone = self.build(layers)
        check_layers(as_backbone(backbone), layers)
        return BlockDenoiser(backbone, deepcopy(self.frame), checkpointing)


def check_resident(resident: int | None) -> None:
    """Refuse to keep no block at all."""
    if resident is not None and resident < 1:
        raise ValueError(f"resident={resident} leaves no block to work with; use 1 or more")


class Denoiser:
    """The denoiser of the whole noise range: routes each level to the block that owns its band.

    Args:
        partition: says which block owns a level.
        load: gives block b ready for evaluation; called when b is needed and not at hand.
        resident: how many blocks are kept; 1 holds a single block at any time, ``None`` keeps all.
    """

    def __init__(self, partition: Partition, load: Callable[[int], BlockDenoiser], resident: int | None = None) -> None:
        check_resident(resident)
        self.partition = partition
        self._load = load
        self._resident = resident
        self._blocks: OrderedDict[int, BlockDenoiser] = OrderedDict()

    def block(self, index: int) -> BlockDenoiser:
        """Block ``index``; the block unused for longest is let go first, before the new one is loaded."""
        if index not in self._blocks:
            while self._resident is not None and len(self._blocks) >= self._resident:
                self._blocks.popitem(last=False)
            self._blocks[index] = self._load(index)
        self._blocks.move_to_end(index)
        return self._blocks[index]

    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        owner = self.partition.block_at(sigma)
        first = int(owner[0])
        if bool((owner == first).all()):
            out: Tensor = self.block(first)(z, sigma, condition)
            return out
        answers = []
        for index in owner.unique().tolist():
            mine = owner == index
            answers.append((mine, self.block(int(index))(z[mine], sigma[mine], condition.take(mine))))
        mixed = torch.empty(len(z), *answers[0][1].shape[1:], dtype=answers[0][1].dtype, device=z.device)
        for mine, answer in answers:
            mixed[mine] = answer
        return mixed
