"""Video of any length, one block of frames after the other.

For every block of frames a sampler goes from noise to a clean block. Meanwhile the denoiser *reads* what it keeps of
the frames before (``models.video.VideoState``, one for each of its blocks of layers) and changes nothing. When the
block is done its frames are *committed*: each block of layers is shown them once, clean, and keeps them. What is kept
has one size with linear attention, so that time and memory for a block do not depend on how many came before.

Shapes: n samples, f frames of a block, c channels, h x w pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor

from oneblock.blockwise import BlockDenoiser, Denoiser, DenoiserLike
from oneblock.condition import Condition
from oneblock.models.video import Video, VideoState
from oneblock.sample.ode import Noise, Sampler

Past = Mapping[int, VideoState]
"""What each block of layers keeps of the frames before; empty at the start."""


def read(
    block: BlockDenoiser, z: Tensor, sigma: Tensor, condition: Condition, state: VideoState | None
) -> tuple[Tensor, VideoState]:
    """The answer of one block of layers to noisy frames ``z`` (n, f, c, h, w) at levels ``sigma`` (n,) or (n, f), after
    the frames of ``state``, and the state with these frames."""
    if not isinstance(block.backbone, Video):
        raise ValueError(
            f"{type(block.backbone).__name__} keeps nothing of earlier frames; only models.video.Video streams: make "
            "whole clips instead"
        )
    frame = block.frame
    answer, after = block.backbone.step(frame.inputs(z, sigma), frame.noise(sigma), condition, state)
    return frame.outputs(z, sigma, answer), after


@dataclass(frozen=True)
class Reading:
    """A denoiser of the next block of frames, whose levels all lie in one band."""

    denoiser: Denoiser
    past: Past = field(default_factory=dict)

    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        owner = self.denoiser.owner(sigma)
        if owner is None:
            raise ValueError("levels of several bands are asked for in one call; give all samples one level")
        block = self.denoiser.block(owner)
        if not self.past and not isinstance(block.backbone, Video):  # a network of whole clips
            answer: Tensor = block(z, sigma, condition)
            return answer
        return read(block, z, sigma, condition, self.past.get(owner))[0]

    def commit(self, y: Tensor, condition: Condition, clean: float) -> Reading:
        """The same after the clean frames ``y`` (n, f, c, h, w), which are shown at the level ``clean``."""
        past = {}
        sigma = y.new_full(y.shape[:1], clean)
        for b in range(self.denoiser.partition.num_blocks):
            past[b] = read(self.denoiser.block(b), y, sigma, condition, self.past.get(b))[1].detach()
        return replace(self, past=past)

    @property
    def nbytes(self) -> int:
        """Of all that is kept."""
        return sum(state.nbytes for state in self.past.values())

    @property
    def position(self) -> int:
        """The number of frames that were committed."""
        return max((state.position for state in self.past.values()), default=0)

    def readings(self) -> dict[str, Reading]:
        """Those that keep a past, by what they are told."""
        return {"told": self}

    def with_readings(self, readings: Mapping[str, Reading]) -> Reading:
        """The same with others in their place."""
        return readings["told"]


@dataclass(frozen=True)
class Guided:
    """``D_null + scale (D - D_null)`` (``guidance.ClassifierFree``) of a reader that is told a condition and one that
    is told nothing; each keeps its own past."""

    told: Reading
    untold: Reading
    scale: float
    interval: tuple[float, float] = (0.0, float("inf"))

    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        told = self.told(z, sigma, condition)
        lower, upper = self.interval
        if not lower <= float(sigma.max()) <= upper:
            return told
        untold = self.untold(z, sigma, condition.null())
        return untold + self.scale * (told - untold)

    def commit(self, y: Tensor, condition: Condition, clean: float) -> Guided:
        told, untold = self.told.commit(y, condition, clean), self.untold.commit(y, condition.null(), clean)
        return replace(self, told=told, untold=untold)

    @property
    def nbytes(self) -> int:
        return self.told.nbytes + self.untold.nbytes

    @property
    def position(self) -> int:
        return self.told.position

    def readings(self) -> dict[str, Reading]:
        return {"told": self.told, "untold": self.untold}

    def with_readings(self, readings: Mapping[str, Reading]) -> Guided:
        return replace(self, told=readings["told"], untold=readings["untold"])


Reader = Reading | Guided


def reader(denoiser: Denoiser, scale: float = 1.0, interval: tuple[float, float] = (0.0, float("inf"))) -> Reader:
    """What reads nothing yet; ``scale`` is that of guidance, 1 for none."""
    first = Reading(denoiser)
    return first if scale == 1.0 else Guided(first, first, scale, interval)


@dataclass(frozen=True)
class Given:
    """A denoiser of a block whose first frames ``first`` (n, k, c, h, w) are known: they are shown clean."""

    denoiser: DenoiserLike
    first: Tensor
    clean: float

    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        k = self.first.shape[1]
        levels = sigma[:, None].repeat(1, z.shape[1])
        levels[:, :k] = self.clean
        answer = self.denoiser(torch.cat([self.first, z[:, k:]], dim=1), levels, condition)
        return torch.cat([self.first, answer[:, k:]], dim=1)


def renoise(
    denoiser: DenoiserLike, z: Tensor, grid: Tensor, condition: Condition, noise: Noise | None = None
) -> Tensor:
    """The answer with fresh noise of the next level, again and again: for few steps.

    ``z' = D(z, sigma) + sigma' eps`` (Song et al., "Consistency Models", Algorithm 1,
    https://arxiv.org/abs/2303.01469). No solver: it has no order, and does not follow one path.
    """
    levels: list[float] = grid.tolist()
    for sigma, after in pairwise(levels):
        z = denoiser(z, torch.full((len(z),), sigma, dtype=z.dtype, device=z.device), condition)
        if after > 0:
            z = z + after * (torch.randn_like(z) if noise is None else noise(z))
    return z


RENOISE = Sampler(renoise, 0, lambda steps: steps)


class SampleNoise:
    """Normal noise of the samples from ``start`` on, sample i from a generator of its own that follows from (``seed``,
    i): more samples change none."""

    def __init__(self, seed: int, count: int, start: int = 0) -> None:
        numbers = [seed * 1_000_003 + i for i in range(start, start + count)]
        self._generators = [torch.Generator().manual_seed(number % 2**64) for number in numbers]

    def __call__(self, like: Tensor) -> Tensor:
        drawn = [torch.randn(like.shape[1:], generator=generator) for generator in self._generators]
        return torch.stack(drawn).to(like)

    def state(self) -> Tensor:
        """uint8 (n, bytes), from which ``restore`` goes on."""
        return torch.stack([generator.get_state() for generator in self._generators])

    def restore(self, state: Tensor) -> None:
        for generator, one in zip(self._generators, state, strict=True):
            generator.set_state(one.clone())  # it reads the memory of a view from the beginning


class Stream:
    """Blocks of clean frames (n, f, c, h, w) in [-1, 1], as they are made, of n samples.

    Between two blocks ``sample.kept`` can save it, to go on later.

    Args:
        start: see ``reader``.
        sampler, grid: from noise to each block.
        condition: of n samples.
        sizes: frames of each block; may never end.
        shape: (c, h, w) of a frame.
        noise: starts every block, and feeds a sampler that draws.
        clean: the level at which frames are committed.
        first: (n, k, c, h, w) in [-1, 1], the frames that the video begins with.
        told: called with what reads, after every commit: before every block but the first.
    """

    def __init__(
        self,
        start: Reader,
        sampler: Sampler,
        grid: Tensor,
        condition: Condition,
        sizes: Sequence[int] | Iterator[int],
        shape: tuple[int, ...],
        noise: SampleNoise,
        clean: float = 0.0,
        first: Tensor | None = None,
        told: Callable[[Reader], None] = lambda reading: None,
    ) -> None:
        self.reading = start
        self.made: Tensor | None = None
        """The last block, which is not committed yet."""
        self.noise_state = noise.state()
        """Of ``noise``, when the last block was made."""
        self._sampler, self._grid, self._condition = sampler, grid, condition
        self._sizes, self._shape, self._noise = iter(sizes), shape, noise
        self._clean, self._first, self._told = clean, first, told

    @property
    def frames(self) -> int:
        """How many were made."""
        return self.reading.position + (0 if self.made is None else self.made.shape[1])

    def go_on(self, reading: Reader, made: Tensor, noise_state: Tensor) -> None:
        """Go on where another stream stood, with its ``reading``, ``made`` and ``noise_state``."""
        self._noise.restore(noise_state)
        self.reading, self.made, self.noise_state = reading, made, noise_state

    def __iter__(self) -> Stream:
        return self

    @torch.no_grad()
    def __next__(self) -> Tensor:
        size, reading = next(self._sizes), self.reading
        if self.made is not None:
            reading = reading.commit(self.made, self._condition, self._clean)
            self._told(reading)
        made = self._block(reading, size)
        self._first = None if self._first is None else self._first[:, size:]
        self.reading, self.made, self.noise_state = reading, made, self._noise.state()
        return made

    def _block(self, reading: Reader, size: int) -> Tensor:
        known = None if self._first is None else self._first[:, :size].to(self._grid.device)
        if known is not None and known.shape[1] == size:
            return known
        asked: DenoiserLike = reading if known is None or not known.shape[1] else Given(reading, known, self._clean)
        empty = torch.empty(len(self._condition), size, *self._shape, device=self._grid.device)
        z = self._noise(empty) * float(self._grid[0])
        return self._sampler.run(asked, z, self._grid, self._condition, self._noise)
