"""Self-forcing: a video network learns from videos that it made itself, block of frames after block, as in sampling.

Huang et al., "Self Forcing", Algorithm 1, https://arxiv.org/abs/2506.08009: every block of frames is made in the few
steps of ``sample.stream.renoise``, up to one that is drawn at random. The answer of that step is the block; it alone
has a gradient, and the frames are then committed without one, so that no gradient goes through the frames before.

What was made is judged by distribution matching (Yin et al., Equations 7 and 8, https://arxiv.org/abs/2311.18828). With
noise on the frames y, each block of them after the clean ones before it,

    g = (D_made(z) - D_real(z)) / mean |y - D_real(z)|,    loss = mean (y - constant(y - g))^2 / 2

where D_real is the network as it was, and D_made a copy that learns, by the ordinary loss, to denoise what is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.condition import Condition
from oneblock.sample.ode import Noise
from oneblock.sample.stream import Reader, renoise
from oneblock.tasks.base import Loss
from oneblock.tasks.video import VideoGeneration

SMALLEST = 1e-6
"""A teacher that agrees with the frames to less than this in the mean is taken to agree by this."""


@dataclass(frozen=True)
class Rollout:
    """Videos that a network made.

    Args:
        frames: (n, f, c, h, w), with a gradient.
        exits: the step of each block of frames whose answer was taken, from 0 on.
    """

    frames: Tensor
    exits: tuple[int, ...]


def roll_out(
    start: Reader,
    grid: Tensor,
    condition: Condition,
    sizes: Sequence[int],
    shape: tuple[int, ...],
    noise: Noise,
    clean: float = 0.0,
    generator: torch.Generator | None = None,
) -> Rollout:
    """Videos of n samples, with a gradient in one step of each block of frames.

    Args:
        start: see ``sample.stream.reader``; its networks are those that learn.
        grid: levels of the few steps, descending to 0.
        sizes: frames of each block.
        shape: (c, h, w) of a frame.
        noise: starts every block, and goes on every answer but the last.
        clean: the level at which frames are committed.
        generator: draws the steps, on the CPU.
    """
    reading, made, exits = start, [], []
    n, steps = len(condition), len(grid) - 1
    for size in sizes:
        last = int(torch.randint(steps, (), generator=generator))
        z = noise(torch.empty(n, size, *shape, device=grid.device)) * float(grid[0])
        with torch.no_grad():
            z = renoise(reading, z, grid[: last + 1], condition, noise)
        y = reading(z, z.new_full((n,), float(grid[last])), condition)
        with torch.no_grad():
            reading = reading.commit(y.detach(), condition, clean)
        made.append(y)
        exits.append(last)
    return Rollout(torch.cat(made, dim=1), tuple(exits))


@dataclass(frozen=True)
class Matching:
    """Judges videos by what a network of real ones and one of made ones answer to them.

    Args:
        task: of the plan, which says how frames are noised.
        real, made: denoisers that are given every frame clean and noisy (``tasks.video.two_streams``).
    """

    task: VideoGeneration
    real: DenoiserLike
    made: DenoiserLike

    def loss(self, frames: Tensor, condition: Condition, sigma: Tensor, generator: torch.Generator) -> Tensor:
        """How far videos (n, f, c, h, w) are to move, (n,); its gradient is ``g / (f c h w)`` of the module.

        Args:
            sigma: (n,), the level of all frames of a video.
        """
        with torch.no_grad():
            noised = self.task.noised(frames, sigma, None, generator)
            count = frames.shape[1]
            real, made = (d(noised.z, noised.sigma, condition)[:, -count:] for d in (self.real, self.made))
            away = (frames - real).abs().flatten(1).mean(1).clamp(min=SMALLEST)
            target = frames - (made - real) / away[:, None, None, None, None]
        return (frames - target).square().flatten(1).mean(1) / 2

    def critic_loss(self, frames: Tensor, condition: Condition, sigma: Tensor, generator: torch.Generator) -> Loss:
        """The ordinary loss of ``made`` on videos that were made."""
        frames = frames.detach()
        return self.task.loss(self.made, self.task.noised(frames, sigma, None, generator), frames, condition)
