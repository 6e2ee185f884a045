"""Blockwise: a backbone and a plan become one denoiser per block.

A backbone is ``stem -> layers -> head`` (``oneblock.backbone``), and nothing else is asked of it. Each block has its
own stem, noise embedder and head: nothing trainable is shared.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Protocol, cast, overload

import torch
from torch import Tensor, nn

from oneblock.backbone import Backbone, BuildBackbone, as_backbone, check_layers, forward
from oneblock.condition import Condition, Until
from oneblock.partition import Partition
from oneblock.plan import Plan
from oneblock.precondition import Frame
from oneblock.projection import Projecting, projected
from oneblock.relay import relayed
from oneblock.state import START, Hidden, State


class DenoiserLike(Protocol):
    """``D(z, sigma, x)``: noisy target (n, ...), noise levels (n,), n samples' condition -> clean target (n, ...)."""

    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor: ...


class BlockDenoiser(nn.Module):
    """A block between what its frame shows it and what the frame makes of its answer: with EDM's preconditioning
    ``D_b(z, sigma, x) = c_skip z + c_out F_b(c_in z, c_noise, x)`` (EDM, Equation 7).

    For targets that are rows of a table the answer is one logit per row (``sample.labels`` makes a target of it). With
    ``checkpointing`` each layer's activations are recomputed in the backward pass. A module that is not a backbone is a
    ``ValueError``.

    It knows states (``oneblock.state``); a backbone without ``relay.RelayAdapter`` leaves ``START``, and one that is
    ``projection.Projecting`` takes none and leaves its projected tokens.
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

    @overload
    def forward(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor: ...

    @overload
    def forward(self, z: Tensor, sigma: Tensor, condition: Condition, state: State) -> tuple[Tensor, State]: ...

    def forward(
        self, z: Tensor, sigma: Tensor, condition: Condition, state: State | None = None
    ) -> Tensor | tuple[Tensor, State]:
        if sigma.ndim < 1 or sigma.shape != z.shape[: sigma.ndim]:
            raise ValueError(f"sigma has shape {tuple(sigma.shape)}; give one level per sample, ({z.shape[0]},)")
        if len(condition) != len(z):
            raise ValueError(
                f"the condition is for {len(condition)} samples, but z has {len(z)}; give one entry per sample"
            )
        if isinstance(condition, Until):
            condition = Until(condition.condition, self.frame.noise(condition.level))
        if state is None:
            prediction = forward(
                self._parts, self.frame.inputs(z, sigma), self.frame.noise(sigma), condition, self.checkpointing
            )
            return self.frame.outputs(z, sigma, prediction)
        inputs, noise = self.frame.inputs(z, sigma), self.frame.noise(sigma)
        left: State
        if isinstance(self.backbone, Projecting):
            prediction, left = projected(self._parts, inputs, noise, condition, self.checkpointing)
        else:
            prediction, left = relayed(self._parts, inputs, noise, condition, state, self.checkpointing)
        return self.frame.outputs(z, sigma, prediction), left

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


class Ahead(Protocol):
    """Reads a block into host memory before it is asked for."""

    def begin(self, block: int) -> None:
        """Start to read block ``block``, which is likely to be the next one that is loaded."""

    def settle(self) -> None:
        """Wait for what is being read, and let it go."""


@dataclass(frozen=True)
class _Kept:
    """A block that is kept, and what goes with it."""

    block: BlockDenoiser
    forms: dict[Hashable, DenoiserLike]


class Denoiser:
    """The denoiser of the whole noise range: routes each level to the block that owns its band.

    It knows states (``oneblock.state``). A state is private: a sample whose level belongs to another block than that
    which left its state begins anew there.

    Args:
        partition: says which block owns a level.
        load: gives block b ready for evaluation; called when b is needed and not at hand.
        resident: how many blocks are kept; 1 holds a single block at any time, ``None`` keeps all.
        ahead: told which block comes next, once the present one works; ``load`` should then find it read. Only where
            the blocks work on a device with a memory of its own: in host memory there would be one block more.
    """

    def __init__(
        self,
        partition: Partition,
        load: Callable[[int], BlockDenoiser],
        resident: int | None = None,
        ahead: Ahead | None = None,
    ) -> None:
        check_resident(resident)
        self.partition = partition
        self._load = load
        self._resident = resident
        self._ahead = ahead
        self._again = False
        self._told: int | None = None
        self._kept: OrderedDict[int, _Kept] = OrderedDict()

    def block(self, index: int) -> BlockDenoiser:
        """Block ``index``; the block unused for longest is let go first, before the new one is loaded."""
        if index not in self._kept:
            while self._resident is not None and len(self._kept) >= self._resident:
                self._kept.popitem(last=False)
            self._kept[index] = _Kept(self._load(index), {})
            self._told = None
        self._kept.move_to_end(index)
        return self._kept[index].block

    def forms(self, index: int) -> dict[Hashable, DenoiserLike]:
        """Other forms of block ``index``, e.g. recorded ones, by whatever tells them apart; the caller fills this. They
        go when the block goes."""
        self.block(index)
        return self._kept[index].forms

    def owner(self, sigma: Tensor) -> int | None:
        """The block that owns all levels (n,) of ``sigma``; None if they belong to several."""
        first, last = self.owners(sigma).aminmax()
        return int(first) if first == last else None

    def expect(self, again: bool) -> None:
        """Say whether all levels will be gone through once more after the last block: then block 0 is read ahead while
        that one works. Unless this is called they are not."""
        self._again = again

    def settle(self) -> None:
        """Let go of what was read ahead and not asked for, and expect nothing more."""
        self._told, self._again = None, False
        if self._ahead is not None:
            self._ahead.settle()

    @overload
    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor: ...

    @overload
    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition, state: State) -> tuple[Tensor, State]: ...

    def __call__(
        self, z: Tensor, sigma: Tensor, condition: Condition, state: State | None = None
    ) -> Tensor | tuple[Tensor, State]:
        owners = self.owners(sigma)
        asked = owners.unique().tolist()
        if state is not None:
            return self._handed(asked, owners.to(z.device), z, sigma, condition, state)
        if len(asked) == 1:
            out: Tensor = self.block(asked[0])(z, sigma, condition)
        else:
            out = self._mixed(asked, owners.to(z.device), z, sigma, condition)
        self.worked(asked[-1])
        return out

    def worked(self, index: int) -> None:
        """Block ``index`` has been given work: it is time to read the next one."""
        following = index + 1 if index + 1 < self.partition.num_blocks else 0 if self._again else None
        if self._ahead is not None and following is not None and following not in {self._told, *self._kept}:
            self._told = following
            self._ahead.begin(following)

    def owners(self, sigma: Tensor) -> Tensor:
        """The block (n,) of each sample's level in ``sigma`` (n,), on the CPU: a device is waited for once. Where each
        frame has a level, (n, frames), the noisiest one decides."""
        levels = sigma.cpu()
        return self.partition.block_at(levels if levels.ndim == 1 else levels.flatten(1).amax(1))

    def _mixed(self, asked: Sequence[int], owners: Tensor, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """The answers of several blocks, each to its own samples."""
        answers = []
        for index in asked:
            mine = owners == index
            answers.append((mine, self.block(index)(z[mine], sigma[mine], condition.take(mine))))
        return _gathered(len(z), answers)

    def _handed(
        self, asked: Sequence[int], owners: Tensor, z: Tensor, sigma: Tensor, condition: Condition, state: State
    ) -> tuple[Tensor, State]:
        """The answers of the blocks, and the states that they leave."""
        if isinstance(state, Hidden):
            state = state.only(state.owner == owners)
        if len(asked) == 1:
            answer, left = self.block(asked[0])(z, sigma, condition, state)
            self.worked(asked[0])
            return answer, _owned(left, owners)
        answers: list[tuple[Tensor, Tensor, State]] = []
        for index in asked:
            mine = owners == index
            inputs = z[mine], sigma[mine], condition.take(mine), state.take(mine)
            answers.append((mine, *self.block(index)(*inputs)))
        self.worked(asked[-1])
        mixed = _gathered(len(z), [(mine, answer) for mine, answer, _ in answers])
        left_by = [(mine, left.tokens) for mine, _, left in answers if isinstance(left, Hidden)]
        if len(left_by) < len(answers):
            return mixed, START
        return mixed, Hidden(_gathered(len(z), left_by), owners)


def _owned(state: State, owners: Tensor) -> State:
    return state.of(owners) if isinstance(state, Hidden) else state


def _gathered(count: int, parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """(count, ...): each part's values in the places bool (count,) that are its own."""
    first = parts[0][1]
    whole = torch.empty(count, *first.shape[1:], dtype=first.dtype, device=first.device)
    for mine, values in parts:
        whole[mine] = values
    return whole
