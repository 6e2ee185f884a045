"""Distillation: blocks learn what a teacher answers, and nothing else of a run changes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import IMAGES, TINY, last_files, tiny_plan
from torch import Tensor

import oneblock as ob
from oneblock.condition import ClassIds, Condition
from oneblock.data import MemorySource, Samples, to_float
from oneblock.presets import ImageRecipe, image_task
from oneblock.tasks.distilled import Distilled
from oneblock.train.drive import Watch
from oneblock.train.record import read_rows

QUIET = Watch(bars=False)
DATA = MemorySource(IMAGES)


def half(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
    return z / 2 + sigma.view(-1, 1, 1, 1)


def test_the_target_is_the_teachers_answer() -> None:
    task = image_task(tiny_plan())
    generator = torch.Generator().manual_seed(0)
    sigma = torch.tensor([0.1, 0.5, 2.0, 9.0])
    samples = Samples(to_float(IMAGES.images[:4]), IMAGES.labels[:4])
    batch = task.draw(samples, sigma, 0, generator)
    taught = Distilled(task, half)
    same = taught.draw(samples, sigma, 0, torch.Generator().manual_seed(0))
    assert all(one.equal(other) for one, other in zip(batch.tensors(), same.tensors(), strict=True))

    def denoiser(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        assert isinstance(condition, ClassIds)
        return z * 0.3

    found = taught.loss(denoiser, batch.noised, batch.targets, batch.condition)
    error = (batch.noised.z * 0.3 - half(batch.noised.z, sigma, batch.condition)).square().mean((1, 2, 3))
    torch.testing.assert_close(found.plain, error)
    torch.testing.assert_close(found.weighted, (4 + 1 / sigma**2) * error)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> ob.Model:
    out = tmp_path_factory.mktemp("teacher")
    recipe = ImageRecipe(**{**TINY, "budget": 8 * 4 * 100, "learning_rate": 3e-3})
    ob.train(recipe, data=DATA, out=out, strategy="end-to-end", watch=QUIET)
    return ob.Model.open(out)


def train(out: Path, teacher: ob.Model | None, **changes: Any) -> Any:
    return ob.train(ImageRecipe(**{**TINY, **changes}), data=DATA, out=out, teacher=teacher, watch=QUIET)


def test_a_student_comes_closer_to_its_teacher(tmp_path: Path, teacher: ob.Model) -> None:
    """Its loss against the teacher falls below what any network has against the data."""
    budget = {"budget": 8 * 4 * 200, "learning_rate": 3e-3}
    before = {name: p.detach().clone() for name, p in teacher.network.named_parameters()}
    for name, model in (("taught", teacher), ("data", None)):
        train(tmp_path / name, model, **budget)
    last = {
        name: [float(list(read_rows(path))[-1]["loss"]) for path in sorted((tmp_path / name).glob("*/metrics.jsonl"))]
        for name in ("taught", "data")
    }
    assert all(one < 0.7 * other for one, other in zip(last["taught"], last["data"], strict=True)), last
    assert all(p.equal(before[name]) and p.grad is None for name, p in teacher.network.named_parameters())


def test_a_taught_run_goes_on_to_the_byte_and_with_its_teacher_alone(tmp_path: Path, teacher: ob.Model) -> None:
    machine = ob.Machine(save_every=2, keep=9)
    recipe = ImageRecipe(**TINY)
    done = ob.train(recipe, data=DATA, out=tmp_path / "run", teacher=teacher, watch=QUIET, machine=machine)
    whole = last_files(tmp_path / "run")
    assert done.plan.recipe["teacher"] == teacher.plan.hash
    assert "teacher" not in train(tmp_path / "untaught", None).plan.recipe
    for path in (tmp_path / "run").glob("*/step-000000006.safetensors"):
        path.unlink()
    with pytest.raises(ValueError, match=r"they differ in: recipe\.teacher"):
        train(tmp_path / "run", None)
    with pytest.raises(ValueError, match=r"has the teacher .*, but none is given; give the same as when"):
        ob.run_job(tmp_path / "run", 1, data=DATA, watch=QUIET)
    for block in (0, 1):
        ob.run_job(tmp_path / "run", block, data=DATA, teacher=teacher, watch=QUIET)
    assert last_files(tmp_path / "run") == whole
    with pytest.raises(ValueError, match=r"the run has no teacher, but .* is given"):
        ob.run_job(tmp_path / "untaught", 1, data=DATA, teacher=teacher, watch=QUIET)
    assert ob.Model.open(tmp_path / "run").evaluate(DATA, num_samples=0)["loss"] > 0  # type: ignore[call-arg]


def other_classes(teacher: ob.Model, folder: Path) -> None:
    data = MemorySource(IMAGES.__class__(IMAGES.images, IMAGES.labels, ("a", "b", "c", "d"), "four"))
    ob.train(ImageRecipe(**TINY), data=data, out=folder, teacher=teacher, watch=QUIET)


def other_task(teacher: ob.Model, folder: Path) -> None:
    ob.train(ob.ClassifyRecipe(**TINY), data=DATA, out=folder, teacher=teacher, watch=QUIET)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (other_classes, r"the teacher knows images \(1, 8, 8\) of 3 classes, but the run has \(1, 8, 8\) of 4"),
        (other_task, "task 'classify' has no teachers; an ImageRecipe has"),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused(
    asked: Callable[[ob.Model, Path], None], message: str, teacher: ob.Model, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        asked(teacher, tmp_path / "run")
    assert not (tmp_path / "run").exists()
