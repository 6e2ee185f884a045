from dataclasses import replace

import pytest
import torch
from tiny import IMAGES, tiny_plan
from torch import Tensor

from oneblock.blockwise import Denoiser
from oneblock.condition import Condition
from oneblock.data import EncodedSource, MemorySource, Pixels
from oneblock.evaluate.curves import SOLVERS, check_curve, layer_evaluations, sampling_curve
from oneblock.evaluate.images import Sampling, evaluate_images, sample_images
from oneblock.plan import Plan
from oneblock.presets import blockwise

SOURCE = EncodedSource(MemorySource(IMAGES), Pixels())
BLOCKS, WHOLE = tiny_plan(), tiny_plan(blocks=1)
UNEVEN = tiny_plan(layers=(3, 1))
KARRAS = Sampling()


class Counting:
    """The denoiser of a plan; counts the layer evaluations of one of its samples."""

    def __init__(self, plan: Plan) -> None:
        blocks, self.work = blockwise(plan), 0
        self.denoiser = Denoiser(plan.partition, lambda block: self._watched(blocks.denoiser(block).eval()))

    def _watched(self, block):  # type: ignore[no-untyped-def]
        for layer in block.layers.values():
            layer.register_forward_hook(lambda module, given, h: self._count(len(h)))
        return block

    def _count(self, samples: int) -> None:
        self.work += samples

    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return self.denoiser(z, sigma, condition)


def curve(plan: Plan, steps: tuple[int, ...], sampling: Sampling = KARRAS, samples: int = 24):  # type: ignore[no-untyped-def]
    asked = {"steps": steps, "num_samples": samples, "extractor": "digits-cnn", "sampling": sampling}
    denoiser = Counting(plan)
    return sampling_curve(denoiser.denoiser, [plan], SOURCE, SOURCE, **asked)


@pytest.mark.parametrize("plan", [BLOCKS, WHOLE, UNEVEN], ids=["blocks", "whole", "uneven"])
@pytest.mark.parametrize("guidance", [{}, {"guidance": 2.0}, {"guidance": 2.0, "guidance_interval": (0.1, 1.0)}])
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_work_is_that_of_the_layers_that_are_called(plan, guidance, solver) -> None:  # type: ignore[no-untyped-def]
    sampling, denoiser = Sampling(steps=4, sampler=solver, **guidance), Counting(plan)
    sample_images(denoiser, plan, torch.zeros(1, dtype=torch.long), sampling)
    assert layer_evaluations([plan], sampling) == denoiser.work > 0
    assert layer_evaluations([plan, BLOCKS], sampling) == denoiser.work + layer_evaluations([BLOCKS], sampling)


def test_every_solver_and_number_of_steps_has_a_row() -> None:
    rows = curve(BLOCKS, (6, 4, 4))
    assert [(row["sampler"], row["steps"], row["layer_evaluations"]) for row in rows] == [
        *(("euler", steps, 2 * steps) for steps in (4, 6)),
        *(("dpm++2m", steps, 2 * steps) for steps in (4, 6)),
    ]
    assert len({row["frechet"] for row in rows}) == 4


def test_the_distance_is_that_of_the_usual_scores() -> None:
    sampling = Sampling(sampler="euler", steps=4, guidance=1.5, sample_seed=3)
    asked = {"num_samples": 24, "extractor": "digits-cnn"}
    scores = evaluate_images(Counting(BLOCKS).denoiser, BLOCKS, SOURCE, SOURCE, sampling=sampling, **asked)
    euler, _ = curve(BLOCKS, (4,), replace(sampling, steps=7))
    assert euler["frechet"] == pytest.approx(scores["frechet"], rel=1e-6)


def test_steps_that_a_grid_does_not_allow_are_left_out() -> None:
    sampling = Sampling(grid="equal-mass")
    assert [row["steps"] for row in curve(BLOCKS, (3, 4), sampling)] == [4, 4]
    assert [row["steps"] for row in curve(WHOLE, (3, 4), sampling)] == [3, 4, 3, 4]


def test_what_no_arm_can_do_is_refused() -> None:
    check_curve([BLOCKS, WHOLE], Sampling(grid="equal-mass"), (3, 4), 24)
    for sampling, steps, samples, message in (
        (Sampling(grid="equal-mass"), (4, 3), 24, "sampling_steps: steps=3 is not a multiple of the 2 blocks"),
        (KARRAS, (1,), 24, "sampling_steps: steps=1 is too small for a grid; use 2 or more"),
        (KARRAS, (0,), 24, "sampling_steps=0 is not allowed; use a whole number, 1 or more"),
        (KARRAS, (4,), 3, "sampling_images=3 is not allowed; use a whole number, 6 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            check_curve([BLOCKS], sampling, steps, samples)
