"""Blockwise: a backbone and a plan become one denoiser per block.

The contract. A backbone has three parts, and this module asks nothing else of it:

- ``stem(z, noise, context) -> (h, condition)``
- ``layers``: a ``ModuleDict`` from the layer's index in the whole network to ``layer(h, condition) -> h``
- ``head(h, condition) -> prediction`` of the shape of z

A builder is given the range of layers to build, so that the other blocks never exist. Each block has its own stem,
noise embedder and head: nothing trainable is shared.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from oneblock.partition import Partition
from oneblock.plan import Plan
from oneblock.precondition import Frame

BuildBackbone = Callable[[range], nn.Module]


class DenoiserLike(Protocol):
    """``D(z, sigma, context)``: noisy target (n, ...), noise levels (n,), context (n, ...) -> clean target (n, ...)."""

    def __call__(self, z: Tensor, sigma: Tensor, context: Tensor) -> Tensor: ...


class BlockDenoiser(nn.Module):
    """A block between what its frame shows it and what the frame makes of its answer: with EDM's preconditioning
    ``D_b(z, sigma, x) = c_skip z + c_out F_b(c_in z, c_noise, x)`` (EDM, Equation 7).

    For targets that are rows of a table the answer is one logit per row (``sample.labels`` makes a target of it). With
    ``checkpointing`` each layer's activations are recomputed in the backward pass.
    """

    def __init__(self, backbone: nn.Module, frame: Frame, checkpointing: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.frame = frame
        self.checkpointing = checkpointing

    @property
    def num_layers(self) -> int:
        return len(list(self.backbone.get_submodule("layers").children()))

    def forward(self, z: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        if sigma.shape != z.shape[:1]:
            raise ValueError(f"sigma has shape {tuple(sigma.shape)}; give one level per sample, ({z.shape[0]},)")
        prediction = self._network(self.frame.inputs(z, sigma), self.frame.noise(sigma), context)
        return self.frame.outputs(z, sigma, prediction)

    def _network(self, z: Tensor, noise: Tensor, context: Tensor) -> Tensor:
        h, condition = self.backbone.get_submodule("stem")(z, noise, context)
        for layer in self.backbone.get_submodule("layers").children():
            if self.checkpointing and torch.is_grad_enabled():
                h = checkpoint(layer, h, condition, use_reentrant=False)
            else:
                h = layer(h, condition)
        out: Tensor = self.backbone.get_submodule("head")(h, condition)
        return out


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
        """Block ``block`` with fresh weights; a block outside the plan is a ``ValueError``."""
        layers = self.plan.layer_range(block)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.plan.derive_seed("init", block))  # leaves the GPU's alone
            backbone = self.build(layers)
        return BlockDenoiser(backbone, deepcopy(self.frame), checkpointing)


class Denoiser:
    """The denoiser of the whole noise range: routes each level to the block that owns its band.

    Args:
        partition: says which block owns a level.
        load: gives block b ready for evaluation; called when b is needed and not at hand.
        resident: how many blocks are kept; 1 holds a single block at any time, ``None`` keeps all.
    """

    def __init__(self, partition: Partition, load: Callable[[int], BlockDenoiser], resident: int | None = None) -> None:
        if resident is not None and resident < 1:
            raise ValueError(f"resident={resident} leaves no block to work with; use 1 or more")
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

    def __call__(self, z: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        owner = self.partition.block_at(sigma)
        first = int(owner[0])
        if bool((owner == first).all()):
            out: Tensor = self.block(first)(z, sigma, context)
            return out
        answers = []
        for index in owner.unique().tolist():
            mine = owner == index
            answers.append((mine, self.block(int(index))(z[mine], sigma[mine], context[mine])))
        mixed = torch.empty(len(z), *answers[0][1].shape[1:], dtype=answers[0][1].dtype, device=z.device)
        for mine, answer in answers:
            mixed[mine] = answer
        return mixed
