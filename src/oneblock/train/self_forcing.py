"""A second stage of training for video: the network learns from videos that it made itself (``tasks.self_forcing``).

Every update of the network is preceded by several of the critic, which learns to denoise what the network makes at that
time. All blocks of layers are in memory, three times: the network, as it was, and the critic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from oneblock.blockwise import BlockDenoiser, Denoiser
from oneblock.checks import check_fields, check_least, check_number, check_seed
from oneblock.condition import Condition
from oneblock.optim.adamw import make_adamw
from oneblock.sample.stream import reader
from oneblock.tasks.self_forcing import Matching, roll_out
from oneblock.tasks.video import VideoGeneration, everywhere, two_streams
from oneblock.train.learner import NonFiniteError


@dataclass(frozen=True, kw_only=True)
class SelfForcing:
    """How a network learns from what it makes; rates and betas are those of LongSANA's configurations."""

    updates: int = 200
    """of the network"""
    critic_updates: int = 5
    """of the critic, before each of these"""
    batch_size: int = 16
    """videos of one update"""
    steps: int = 4
    """of the sampler renoise for each block of frames, in training and later"""
    learning_rate: float = 1e-5
    """of the network"""
    critic_learning_rate: float = 2e-6
    """of the critic"""
    beta1: float = 0.0
    """decay of AdamW's mean of gradients"""
    beta2: float = 0.999
    """decay of AdamW's mean of squared gradients"""
    clip: float = 10.0
    """largest norm of a gradient"""
    seed: int = 0
    """of everything drawn"""

    def __post_init__(self) -> None:
        check_fields(self)
        check_least(self, 1, "updates", "critic_updates", "batch_size", "steps")
        check_seed("seed", self.seed)
        for name in ("learning_rate", "critic_learning_rate", "clip"):
            check_number(name, getattr(self, name), above=0)
        for name in ("beta1", "beta2"):
            check_number(name, getattr(self, name), least=0, below=1)


@dataclass(frozen=True)
class Forced:
    """An update: how many there were, the mean loss of the network and that of the critic."""

    update: int
    loss: float
    critic_loss: float


def self_force(
    network: Denoiser,
    task: VideoGeneration,
    grid: Tensor,
    shape: tuple[int, ...],
    settings: SelfForcing,
) -> Iterator[Forced]:
    """Train the blocks of ``network`` in place, one update for each item.

    Args:
        network: keeps all of its blocks, which stream.
        task: of its plan; its blocks of frames are those of a video that is made.
        grid: levels of the few steps, descending to 0, on the device of the network.
        shape: (c, h, w) of a frame.

    Raises:
        NonFiniteError: a loss is not finite.
    """
    stage = _Stage(network, task, grid, shape, settings)
    for update in range(1, settings.updates + 1):
        critic = sum(stage.critic_update() for _ in range(settings.critic_updates)) / settings.critic_updates
        yield Forced(update, stage.update(), critic)


class _Stage:
    def __init__(
        self, network: Denoiser, task: VideoGeneration, grid: Tensor, shape: tuple[int, ...], settings: SelfForcing
    ) -> None:
        self._task, self._whole = task, everywhere(task)
        self._grid, self._shape, self._settings = grid, shape, settings
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._network = network
        blocks = [network.block(b) for b in range(network.partition.num_blocks)]
        critic = [deepcopy(block) for block in blocks]
        teacher = [deepcopy(block).requires_grad_(False) for block in blocks]
        self._weights, self._critic_weights = _weights(blocks), _weights(critic)
        self._optimizer = self._adam(self._weights, settings.learning_rate)
        self._critic_optimizer = self._adam(self._critic_weights, settings.critic_learning_rate)
        self._matching = Matching(self._whole, _clean_before(network, teacher), _clean_before(network, critic))

    def update(self) -> float:
        """One of the network; the mean loss."""
        frames, condition = self._made()
        found = self._matching.loss(frames, condition, self._levels(), self._generator)
        return self._step(found, self._optimizer, self._weights)

    def critic_update(self) -> float:
        """One of the critic; the mean loss."""
        with torch.no_grad():
            frames, condition = self._made()
        found = self._matching.critic_loss(frames, condition, self._levels(), self._generator)
        return self._step(found.weighted, self._critic_optimizer, self._critic_weights)

    def _adam(self, weights: Sequence[Tensor], rate: float) -> torch.optim.Optimizer:
        beta1, beta2 = self._settings.beta1, self._settings.beta2
        return make_adamw(weights, learning_rate=rate, beta1=beta1, beta2=beta2, weight_decay=0.0)

    def _made(self) -> tuple[Tensor, Condition]:
        n = self._settings.batch_size
        labels = torch.randint(max(1, self._task.num_classes), (n,), generator=self._generator)
        condition = self._task.condition(labels.to(self._grid.device))
        made = roll_out(
            reader(self._network),
            self._grid,
            condition,
            self._task.blocks,
            self._shape,
            self._noise,
            self._task.clean,
            self._generator,
        )
        return made.frames, condition

    def _noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self._generator).to(like)

    def _levels(self) -> Tensor:
        drawn = self._whole.partition.draw(0, self._settings.batch_size, self._generator)
        return drawn.to(self._grid.device)

    def _step(self, losses: Tensor, optimizer: torch.optim.Optimizer, weights: Sequence[Tensor]) -> float:
        mean = losses.mean()
        loss = float(mean.detach())
        if not math.isfinite(loss):
            raise NonFiniteError(f"the loss of self-forcing is {loss}; use a smaller learning_rate")
        optimizer.zero_grad()
        mean.backward()
        torch.nn.utils.clip_grad_norm_(weights, self._settings.clip)
        optimizer.step()
        return loss


def _weights(blocks: Sequence[BlockDenoiser]) -> list[Tensor]:
    return [p for block in blocks for p in block.parameters() if p.requires_grad]


def _clean_before(network: Denoiser, blocks: Sequence[BlockDenoiser]) -> Denoiser:
    """A denoiser of ``blocks``, the bands of ``network``, given every frame clean and noisy."""
    return two_streams(Denoiser(network.partition, blocks.__getitem__))
