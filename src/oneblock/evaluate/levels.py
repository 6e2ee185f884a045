"""Samples on their way through the noise levels: what each block answers at the levels of its band."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.condition import Condition
from oneblock.data import Codec, to_uint8
from oneblock.evaluate.captions import captions_in_turn
from oneblock.evaluate.device import device_of
from oneblock.evaluate.images import asked_labels
from oneblock.evaluate.reference import PIXELS, makes_images
from oneblock.plan import Plan
from oneblock.presets.captions import is_captioned
from oneblock.presets.codec import plan_codec
from oneblock.presets.image import image_shape, image_task
from oneblock.sample import equal_mass_grid
from oneblock.sample.generate import generate
from oneblock.sample.ode import SAMPLERS


@dataclass(frozen=True, kw_only=True)
class Passage:
    """Samples on their way from noise.

    Args:
        sigmas: the k noise levels at which the denoiser was asked, descending; ``blocks`` are those that own them.
        answers: the clean images that it gave there, uint8 (k, n, c, h, w).
        labels: classes int64 (n,) of the samples; None of a plan without classes.
        captions: of the samples, of a plan that is told such.
    """

    sigmas: tuple[float, ...]
    blocks: tuple[int, ...]
    answers: Tensor
    labels: Tensor | None
    captions: tuple[str, ...] = ()


def passage(
    denoiser: DenoiserLike, plan: Plan, count: int, levels_per_block: int, codec: Codec = PIXELS, seed: int = 0
) -> Passage:
    """Draw ``count`` samples, the plan's classes or captions in turn, by Euler's method with as many levels of equal
    mass in every band.

    Raises:
        ValueError: the targets of the plan are not images.
    """
    if not makes_images(plan, codec):
        raise ValueError("the targets are not images; there is nothing to look at without their autoencoder")
    grid = equal_mass_grid(plan.partition, levels_per_block * plan.num_blocks)
    asked, device = asked_labels(plan, count=count), device_of(denoiser)
    told = asked
    if not isinstance(told, Condition):
        told = image_task(plan).condition(torch.zeros(count, dtype=torch.int64) if told is None else told)
    watched = _Watched(denoiser)
    with torch.no_grad():
        generate(watched, SAMPLERS["euler"], grid.to(device), told.to(device), image_shape(plan), seed)
    answers = [to_uint8(codec.decode(plan_codec(plan).decode(answer))) for answer in watched.answers]
    owners = plan.partition.block_at(torch.tensor(watched.sigmas)).tolist()
    return Passage(
        sigmas=tuple(watched.sigmas),
        blocks=tuple(owners),
        answers=torch.stack(answers),
        labels=asked if isinstance(asked, Tensor) else None,
        captions=tuple(captions_in_turn(plan, count)) if is_captioned(plan) else (),
    )


@dataclass(frozen=True)
class _Watched:
    """A denoiser whose answers are kept, float32 on the CPU."""

    denoiser: DenoiserLike
    sigmas: list[float] = field(default_factory=list)
    answers: list[Tensor] = field(default_factory=list)

    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        answer = self.denoiser(z, sigma, condition)
        self.sigmas.append(float(sigma[0]))
        self.answers.append(answer.float().cpu())
        return answer
