"""A network of another library as a teacher, under the schedule that it was trained with."""

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")

from convert.networks import network
from convert.test_converted import QUIET

import oneblock as ob
from oneblock.condition import ClassIds
from oneblock.presets.image import image_task
from oneblock.presets.teacher import taught_task
from oneblock.tasks.distilled import Distilled
from oneblock.train.checkpoint import checkpoints

pytest.importorskip("sklearn")
RECIPE = ob.ImageRecipe(blocks=2, budget=16 * 6 * 4, batch_size=16, block_batch_size=16)


def test_its_clean_images_are_what_is_learned(tmp_path: Path) -> None:
    """The scheduler's own x0 of the network's answer, and the specialists' plan names it."""
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler()
    made = network("DiT").eval()
    whole = ob.convert(made, outputs=1, scheduler=scheduler)
    done = ob.train(
        RECIPE, backbone=whole.pick((0, 5, 0, 3)), data="digits", out=tmp_path / "run", teacher=whole, watch=QUIET
    )
    assert done.plan.partition.law.low >= 0.01, "the levels that the teacher knows"
    task = taught_task(done.plan, image_task(done.plan), whole, torch.device("cpu"))
    assert isinstance(task, Distilled)
    step = torch.tensor([400, 400, 400])
    kept = scheduler.alphas_cumprod[400]
    x, labels = torch.randn(3, 1, 8, 8), torch.tensor([0, 3, 7])
    with torch.no_grad():
        eps = made(x, timestep=step, class_labels=labels).sample[:, :1]
        expected = (x - (1 - kept).sqrt() * eps) / kept.sqrt()
        sigma = ((1 - kept) / kept).sqrt().expand(3)
        found = task.teacher(x / kept.sqrt(), sigma, ClassIds(labels, 10))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_job_has_it_from_its_run_and_without_a_schedule_it_cannot_teach(tmp_path: Path) -> None:
    from diffusers import DDPMScheduler

    whole = ob.convert(network("DiT"), outputs=1, scheduler=DDPMScheduler())
    words: dict[str, Any] = {"data": "digits", "watch": QUIET}
    for strategy, out in (("plan-only", "run"), ("all", "whole")):
        ob.train(RECIPE, backbone=whole, teacher=whole, out=tmp_path / out, strategy=strategy, **words)
    ob.run_job(tmp_path / "run", 0, watch=QUIET)
    last = [checkpoints(tmp_path / out / "block-0")[-1].read_bytes() for out in ("run", "whole")]
    assert last[0] == last[1], "the network that the run keeps is the teacher"
    ob.train(RECIPE, teacher=whole, out=tmp_path / "fresh", strategy="plan-only", **words)
    with pytest.raises(ValueError, match=r"has the teacher [0-9a-f]{16}, but none is given"):
        ob.run_job(tmp_path / "fresh", 0, watch=QUIET)
    plain = ob.convert(network("DiT"), outputs=1)
    with pytest.raises(ValueError, match=r"without a schedule.*convert\(network, scheduler=...\)"):
        ob.train(RECIPE, teacher=plain, out=tmp_path / "other", **words)
