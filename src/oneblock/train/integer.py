"""EGG's training: a population votes on the sign of every weight's step, and nothing is a floating-point number.

Sarkar et al., "Evolution Strategies at the Hyperscale", Appendix G, https://arxiv.org/abs/2511.16652; nano-egg.
Groups of members read the same stream of a text. Each member keeps the states of its recurrent layers from step to
step; its fitness is the log-likelihood of the next ``tokens`` bytes of its stream. After t steps about
``1 / (slowdown t + 1)`` of the weights on which the votes mean nothing would move.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from oneblock.checks import check_count, check_fields, check_number, check_seed
from oneblock.models.egg import EGG, EGGConfig, Perturbed, initial_weights
from oneblock.ops.integers import BITS, LogLikelihood
from oneblock.optim.fitness import check_population
from oneblock.optim.population import check_chunk
from oneblock.optim.votes import IntegerNoise, move, threshold, votes
from oneblock.seeds import derive_seed
from oneblock.train.checkpoint import (
    Stamp,
    Stored,
    checkpoint_path,
    keep_last,
    latest,
    newer,
    save_checkpoint,
    set_aside,
)
from oneblock.train.loop import locked
from oneblock.train.step import StepReport

JOB = "egg"


@dataclass(frozen=True, kw_only=True)
class VoteSettings:
    """How an EGG is trained.

    Args:
        steps: of the training.
        population: members, in pairs.
        group_size: consecutive members that read the same stream; even.
        noise_shift: s; the noise of a weight has the standard deviation ``2^-s`` of what stands for 1.
        tokens: bytes of its stream that a member reads in a step.
        slowdown: see the module.
        chunk: members that are evaluated at once; even. It decides about memory, and about nothing else.
    """

    steps: int
    population: int = 1024
    group_size: int = 16
    noise_shift: int = 4
    tokens: int = 50
    slowdown: float = 0.015
    chunk: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        check_population(self.population, self.group_size)
        for name in ("steps", "group_size", "tokens", "chunk"):
            check_count(name, getattr(self, name))
        check_count("noise_shift", self.noise_shift, 0, 20)
        check_number("slowdown", self.slowdown, least=0)
        check_seed("seed", self.seed)
        check_chunk(self.chunk)
        if self.chunk == 1:
            raise ValueError("chunk=1 splits a pair; use an even number")

    @property
    def streams(self) -> int:
        return self.population // self.group_size

    def share(self, step: int) -> float:
        """Of the weights, that would move at ``step`` if votes meant nothing."""
        return 1 / (self.slowdown * step + 1)


class EGGJob:
    """A ``train.loop.Job``: an EGG and the states of its population.

    Args:
        text: bytes (length,) of the training text, uint8.
        directory: gets a folder with checkpoints; None writes no files.
        fingerprint: of the text, for the checkpoints.
        warn: is told about damaged checkpoints that were passed over.

    Raises:
        ValueError: the text is too short for its streams.
    """

    def __init__(
        self,
        config: EGGConfig,
        settings: VoteSettings,
        text: Tensor,
        *,
        directory: Path | None = None,
        fingerprint: str = "",
        keep: int = 2,
        device: torch.device | None = None,
        warn: Callable[[str], None] = lambda message: None,
    ) -> None:
        if len(text) <= settings.tokens * settings.streams:
            raise ValueError(
                f"the text has {len(text)} bytes, too few for {settings.streams} streams that read tokens="
                f"{settings.tokens} bytes a step; use a longer text, fewer tokens or larger groups"
            )
        self.config, self.settings = config, settings
        self.step, self.last_step = 0, settings.steps
        self._text = text.to(device)
        self._noise = IntegerNoise(config.shapes, settings.seed, device)
        self._score = LogLikelihood(device)
        self._device, self._keep, self._warn = device, keep, warn
        self._folder = None if directory is None else directory / JOB
        self._hash = settings_hash(config, settings, fingerprint)
        self._start()

    def _start(self) -> None:
        weights = initial_weights(self.config, derive_seed(self.settings.seed, "init"))
        self.model = EGG(self.config, {name: w.to(self._device) for name, w in weights.items()})
        self._states = self.model.start(self.settings.population)

    def lock(self) -> AbstractContextManager[None]:
        return nullcontext() if self._folder is None else locked(self._folder)

    def restore(self) -> None:
        if self._folder is None:
            return
        found = latest(self._folder, self._hash, misfit=self._misfit)
        if found is None:
            return
        tensors, stamp, problems = found
        for path in newer(self._folder, stamp.step):
            set_aside(path)
        for problem in problems:
            self._warn(problem)
        for name, w in self.model.weights.items():
            w.copy_(tensors[f"weights/{name}"])
        self._states.copy_(tensors["states"])
        self.step = stamp.step

    def _tensors(self) -> dict[str, Tensor]:
        return {"states": self._states} | {f"weights/{name}": w for name, w in self.model.weights.items()}

    def _misfit(self, tensors: Stored, stamp: Stamp) -> str:
        wanted = {name: (t.shape, t.dtype) for name, t in self._tensors().items()}
        found = {name: (t.shape, t.dtype) for name, t in tensors.each()}
        return "" if found == wanted else "its tensors are not those of this EGG and its population"

    def advance(self) -> list[StepReport]:
        settings, step = self.settings, self.step
        tokens = self._tokens(step)
        total = {
            name: torch.zeros(shape, dtype=torch.int32, device=self._device)
            for name, shape in self.config.shapes.items()
        }
        fitness = 0
        for start in range(0, settings.population, settings.chunk):
            members = range(start, min(start + settings.chunk, settings.population))
            scores, factors = self._scores(members, tokens)
            fitness += int(scores.sum())
            signs = (scores[0::2] - scores[1::2]).sign().to(torch.int8)
            for name, each in factors.items():
                total[name] += votes(each, signs, vector=total[name].ndim == 1)
        least = threshold(settings.share(step), settings.population // 2)
        moved = sum(move(w, total[name], least) for name, w in self.model.weights.items())
        self.step += 1
        return [self._report(fitness, moved)]

    def _tokens(self, step: int) -> Tensor:
        """What the streams read in ``step`` and the byte after it, (tokens + 1, streams), of 0 to 255."""
        settings, length = self.settings, len(self._text)
        starts = torch.arange(settings.streams, device=self._device) * length // settings.streams
        within = torch.arange(settings.tokens + 1, device=self._device) + step * settings.tokens
        return self._text[(starts + within[:, None]) % length].to(torch.int32)

    def _scores(self, members: range, tokens: Tensor) -> tuple[Tensor, Mapping[str, tuple[Tensor, Tensor]]]:
        """The fitness (members,) in 1/16 bit, and the factors of their noise; the states go on."""
        factors = self._noise.draw(self.step, range(members.start // 2, members.stop // 2))
        streams = torch.arange(members.start, members.stop, device=self._device) // self.settings.group_size
        read = tokens[:, streams]
        part = slice(members.start, members.stop)
        scores = torch.zeros(len(members), dtype=torch.int32, device=self._device)
        states = self._states[:, part]
        reading = self.model.read(read[:-1], states, Perturbed(self.model.weights, factors, self.settings.noise_shift))
        for (logits, after), following in zip(reading, read[1:], strict=True):
            scores += self._score(logits, following)
            states = after
        self._states[:, part] = states
        return scores, factors

    def _report(self, fitness: int, moved: int) -> StepReport:
        """The loss is the mean bits per byte of all members; the place of the gradients' norm has the share of the
        weights that moved, that of the learning rate the share that would move by chance."""
        settings = self.settings
        bits = -fitness / (BITS * settings.tokens * settings.population)
        evaluations = settings.population * settings.tokens * self.config.depth
        return StepReport(
            job=JOB,
            block=None,
            first_step=0,
            step=self.step,
            num_steps=self.last_step,
            loss=bits,
            plain=bits,
            grad_norm=moved / sum(w.numel() for w in self.model.weights.values()),
            learning_rate=settings.share(self.step - 1),
            layer_evaluations=evaluations,
            work=evaluations * self.step,
        )

    def read(self) -> list[StepReport]:
        return []

    def save(self) -> None:
        if self._folder is not None:
            stamp = Stamp(self._hash, JOB, self.step, self.last_step)
            save_checkpoint(checkpoint_path(self._folder, self.step), self._tensors(), stamp)
            keep_last(self._folder, self._keep, self.step)

    def close(self) -> None:
        self.save()

    def release(self) -> None:
        """Nothing works for it."""


def settings_hash(config: EGGConfig, settings: VoteSettings, fingerprint: str) -> str:
    """SHA-256 (16 hex digits) of all that the outcome depends on."""
    plain = {key: value for key, value in asdict(settings).items() if key != "chunk"}
    values = {"model": asdict(config), "settings": plain, "text": fingerprint}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
