"""The noise levels of a batch: the band's, and a share of the whole range."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import last_files, tiny_plan, tiny_run

from oneblock.plan import Plan
from oneblock.presets import blockwise
from oneblock.tasks.base import Batch
from oneblock.tasks.image import ImageGeneration
from oneblock.train.levels import draw_levels, whole_samples
from oneblock.train.strategy import all_blocks, job_specs, one_block

COUNT = 1000


def drawn(plan: Plan, job: int, seed: int = 0, count: int = COUNT) -> torch.Tensor:
    return draw_levels(plan, job_specs(plan)[job], count, torch.Generator().manual_seed(seed))


def test_without_a_share_levels_are_those_of_the_band() -> None:
    plan = tiny_plan(branch=0.5)
    for job, spec in enumerate(job_specs(plan)):
        expected = plan.partition.levels(*spec.band, COUNT, torch.Generator().manual_seed(0))
        assert drawn(plan, job).equal(expected), spec.name


def test_a_share_of_the_samples_has_levels_of_the_whole_range() -> None:
    """Stratified: every slice of mass ``1 / n`` of the band has one of its n levels, and so has the whole range."""
    plan = tiny_plan(whole_share=0.3, overlap=0.0)
    law = plan.partition.law
    for block, spec in enumerate(job_specs(plan)):
        levels = drawn(plan, block)
        assert levels.shape == (COUNT,) and levels.dtype == torch.float32
        for part, (lower, upper) in ((levels[:700], spec.band), (levels[700:], (law.low, law.high))):
            low, high = law.cdf(torch.tensor([lower, upper], dtype=torch.float64))
            slices = ((law.cdf(part) - low) / (high - low) * len(part)).clamp(0, len(part) - 1e-3)
            right = slices.floor() == torch.arange(len(part))
            assert float(right.double().mean()) > 0.99, "but for rounding to float32"
        outside = (levels < spec.band[0]) | (levels > spec.band[1])
        assert float(outside.double().mean()) == pytest.approx(0.3 * (1 - 1 / plan.num_blocks), abs=0.01)


def test_the_trunk_draws_as_ever() -> None:
    plan, shared = tiny_plan(branch=0.5), tiny_plan(branch=0.5, whole_share=0.5)
    assert drawn(shared, 0).equal(drawn(plan, 0))
    assert not drawn(shared, 1).equal(drawn(plan, 1))
    assert [whole_samples(shared, spec, 8) for spec in job_specs(shared)] == [0, 4, 4]


def test_every_sample_can_be_drawn_from_the_whole_range_by_hand() -> None:
    plan = tiny_plan(whole_share=0.6)
    assert drawn(plan, 1, count=1).shape == (1,)


def test_training_draws_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int | None, torch.Tensor]] = []
    real = ImageGeneration.draw

    def draw(task: ImageGeneration, samples: Any, sigma: torch.Tensor, block: int | None, generator: Any) -> Batch:
        seen.append((block, sigma))
        return real(task, samples, sigma, block, generator)

    monkeypatch.setattr(ImageGeneration, "draw", draw)
    plan = tiny_plan(whole_share=0.25, budget=20 * 8 * 4)
    list(one_block(tiny_run(tmp_path, plan), "block-1"))
    lower, upper = plan.partition.training_band(1)
    assert all(block == 1 and bool(((lower <= sigma) & (sigma <= upper))[:6].all()) for block, sigma in seen)
    last = torch.stack([sigma[6:] for _, sigma in seen])
    assert bool((last[:, 1] > upper).any()), "of two slices of the whole range the upper one is block 0's"


def test_the_share_is_part_of_the_plan_only_where_it_is_used(tmp_path: Path) -> None:
    plain, shared = tiny_plan(), tiny_plan(whole_share=0.25)
    assert plain.hash == tiny_plan(whole_share=0.0).hash != shared.hash
    assert "whole_share" not in plain.recipe and shared.recipe["whole_share"] == 0.25
    for name, plan in (("plain", plain), ("shared", shared), ("again", shared)):
        list(all_blocks(tiny_run(tmp_path / name, plan)))
    assert last_files(tmp_path / "shared") == last_files(tmp_path / "again")
    plain_file, shared_file = (last_files(tmp_path / name)["block-0"] for name in ("plain", "shared"))
    assert plain_file != shared_file
    assert blockwise(shared).denoiser(0).num_layers == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"whole_share": 1.0}, r"whole_share=1\.0 is not allowed; use a number, 0 or more and below 1"),
        ({"whole_share": -0.1}, r"whole_share=-0\.1 is not allowed"),
        ({"whole_share": math.nan}, "whole_share=nan is not allowed"),
        ({"whole_share": 0.3, "blocks": 1}, r"whole_share=0\.3 needs two blocks or more: a single one has the whole"),
        ({"whole_share": 0.05}, r"whole_share=0\.05 of the 8 samples that a block has in a step are none of them; use"),
        ({"whole_share": 0.95}, r"whole_share=0\.95 of the 8 samples .* are all of them; use another share, or a larg"),
    ],
)
def test_shares_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        job_specs(tiny_plan(**changes))


def test_a_plan_by_hand_is_checked_too() -> None:
    plan = tiny_plan(whole_share=0.25)
    with pytest.raises(ValueError, match="are none of them"):
        job_specs(replace(plan, recipe={**plan.recipe, "whole_share": 0.01}))
