"""Generation with a state: what the earlier pass has seen, what it costs, and what it must not tell."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from relay import shaken
from tiny import IMAGES, TINY, last_files, tiny_plan, tiny_run, turns
from torch import Tensor

import oneblock as ob
from oneblock.blockwise import BlockDenoiser
from oneblock.condition import ClassIds
from oneblock.data import MemorySource, Samples, to_float
from oneblock.presets import ImageRecipe, blockwise, image_task, plan_task
from oneblock.presets.cost import training_flops
from oneblock.presets.door import check_plan
from oneblock.presets.relay import empty_earlier, hands_on
from oneblock.relay import RelayAdapter
from oneblock.state import START, Hidden
from oneblock.tasks.base import Batch, Earlier, Noised, Task, add_noise
from oneblock.tasks.carry import SPREAD, WithState, noisier, same
from oneblock.tasks.distilled import Distilled
from oneblock.train.drive import Watch
from oneblock.train.strategy import all_blocks, job_specs

SAMPLES = Samples(to_float(IMAGES.images[:6]), IMAGES.labels[:6])
SIGMA = torch.tensor([0.05, 0.2, 0.5, 1.0, 2.0, 9.0])


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weight_of_second(x: Tensor, z: Tensor, other: Tensor) -> float:
    """Of the best linear prediction of x from z and another reading: what it makes of the other one."""
    inputs = torch.stack([z, other], 1).double()
    return float(torch.linalg.lstsq(inputs, x.double()[:, None]).solution[1])


def test_given_z_the_noisier_version_tells_nothing_of_the_target() -> None:
    """A Gaussian target: the best prediction from both is that from z alone, z / (1 + s^2)."""
    count, level = 200_000, 0.8
    x = torch.randn(count, generator=noise(1))
    eps = torch.randn(count, generator=noise(2))
    sigma = torch.full((count,), level)
    noised = Noised(x + level * eps, sigma, None)
    earlier = noisier(noised, 10.0, 1.0, noise())
    assert weight_of_second(x, noised.z, earlier.z) == pytest.approx(0.0, abs=0.01)
    whole = torch.stack([noised.z, earlier.z], 1).double()
    weights = torch.linalg.lstsq(whole, x.double()[:, None]).solution[:, 0]
    assert float(weights[0]) == pytest.approx(1 / (1 + level**2), abs=0.01)
    # it is as noisy as it says, and the same noise at two levels would have given the target away
    part = earlier.sigma > 1.5
    expected = (1 + earlier.sigma[part].double().square()).mean()
    assert float(earlier.z[part].double().var()) == pytest.approx(float(expected), rel=0.02)
    leaking = x + earlier.sigma * eps
    assert abs(weight_of_second(x, noised.z, leaking)) > 0.2


def test_levels_lie_above_by_the_spread_and_below_the_upper_one() -> None:
    sigma = torch.full((4000,), 0.5)
    noised = Noised(torch.zeros(4000, 2), sigma, 0)
    free = noisier(noised, 100.0, 0.25, noise())
    logs = (free.sigma / sigma).log()
    assert 0 <= float(logs.min()) < 0.01
    assert SPREAD - 0.01 < float(logs.max()) <= SPREAD + 1e-6
    assert float(logs.mean()) == pytest.approx(SPREAD / 2, abs=0.02)
    assert float(free.kept.float().mean()) == pytest.approx(0.25, abs=0.03)
    cut = noisier(noised, 0.6, 1.0, noise())
    assert float(cut.sigma.max()) == pytest.approx(0.6)
    assert bool(cut.kept.all())
    above = noisier(noised, torch.tensor([0.3]).expand(4000), 1.0, noise())
    assert torch.equal(above.sigma, sigma)
    assert torch.equal(above.z, noised.z)


def carry_plan(**changes: Any) -> Any:
    return tiny_plan(**{"carry": 0.5, **changes})


def drawn(task: Task, block: int | None = 0) -> Batch:
    return task.draw(SAMPLES, SIGMA, block, noise(4))


def test_the_noise_is_that_of_the_task_and_the_earlier_call_stays_in_the_band() -> None:
    plan = carry_plan()
    task, alone = plan_task(plan), image_task(plan)
    assert isinstance(task, WithState)
    ours, theirs = drawn(task, 1), drawn(alone, 1)
    for mine, plain in zip(ours.tensors(), theirs.tensors(), strict=False):
        assert torch.equal(mine, plain)
    earlier = ours.noised.earlier
    assert earlier is not None
    _, upper = plan.partition.training_band(1)
    assert torch.equal(earlier.sigma > SIGMA, SIGMA < upper)
    assert float(earlier.sigma[SIGMA < upper].max()) <= upper * (1 + 1e-6)
    trunk = drawn(task, None).noised.earlier
    assert trunk is not None
    assert bool((trunk.sigma > SIGMA).all())


def test_the_pass_of_rin_sees_the_same() -> None:
    task = plan_task(carry_plan(carry_from="same"))
    batch = drawn(task)
    earlier = batch.noised.earlier
    assert earlier is not None
    assert torch.equal(earlier.z, batch.noised.z)
    assert torch.equal(earlier.sigma, batch.noised.sigma)
    assert 0 < int(same(batch.noised, 0.5, noise()).kept.sum()) < 6


def block_with_state(plan: Any) -> BlockDenoiser:
    denoiser = blockwise(plan).denoiser(0)
    shaken(denoiser, 2)
    return denoiser


def test_the_loss_is_that_of_a_call_with_the_state_of_the_earlier_one() -> None:
    """No gradient goes through the state, and samples that are not kept do as without."""
    plan = carry_plan()
    task, batch, denoiser = plan_task(plan), drawn(plan_task(plan)), block_with_state(plan)
    earlier = batch.noised.earlier
    assert earlier is not None
    assert 0 < int(earlier.kept.sum()) < 6
    found = task.loss(denoiser, batch.noised, batch.targets, batch.condition)
    found.weighted.mean().backward()
    gradients = [p.grad for p in denoiser.parameters()]
    denoiser.zero_grad()
    _, state = denoiser(earlier.z, earlier.sigma, batch.condition, START)
    assert isinstance(state, Hidden)
    state = state.detach().only(earlier.kept)
    answer, _ = denoiser(batch.noised.z, SIGMA, batch.condition, state)
    error = (answer - batch.targets).square().mean((1, 2, 3))
    torch.testing.assert_close(found.plain, error)
    expected = (4 + 1 / SIGMA**2) * error
    torch.testing.assert_close(found.weighted, expected)
    expected.mean().backward()
    for ours, p in zip(gradients, denoiser.parameters(), strict=True):
        torch.testing.assert_close(ours, p.grad)
    plain = image_task(plan).loss(denoiser, batch.noised, batch.targets, batch.condition).plain
    torch.testing.assert_close(found.plain[~earlier.kept], plain[~earlier.kept])
    assert not torch.allclose(found.plain[earlier.kept], plain[earlier.kept])


def test_batches_take_the_earlier_pass_along() -> None:
    batch = drawn(plan_task(carry_plan()))
    parts = batch.split(4)
    assert [len(part) for part in parts] == [2, 2, 1, 1]
    for i, tensor in enumerate(batch.noised.tensors()):
        assert torch.equal(torch.cat([part.noised.tensors()[i] for part in parts]), tensor)
    assert len(batch.noised.tensors()) == 5
    copy = batch.clone()
    other = plan_task(carry_plan()).draw(SAMPLES, SIGMA, 0, noise(9))
    copy.copy_(other)
    assert all(torch.equal(a, b) for a, b in zip(copy.tensors(), other.tensors(), strict=True))
    assert not any(a.data_ptr() == b.data_ptr() for a, b in zip(copy.tensors(), other.tensors(), strict=True))
    moved = batch.to(torch.device("cpu")).noised.earlier
    assert isinstance(moved, Earlier)


def test_a_plan_without_states_says_nothing_of_them() -> None:
    plain = tiny_plan()
    assert not {"carry", "carry_from"} & plain.recipe.keys()
    assert plain.hash == tiny_plan(carry=0.0, carry_from="same").hash
    assert not hands_on(plain)
    assert plan_task(plain) == image_task(plain)
    noised = add_noise(SAMPLES.values, SIGMA, 0, noise())
    assert empty_earlier(plain, noised) is noised
    assert len(noised.tensors()) == 2


def test_a_network_with_states_starts_as_the_one_without() -> None:
    """The same weights, and a way that is shut."""
    plan = carry_plan(carry=0.9, carry_from="same")
    check_plan(plan)
    assert (plan.recipe["carry"], plan.recipe["carry_from"]) == (0.9, "same")
    with_state, plain = blockwise(plan).denoiser(1), blockwise(tiny_plan()).denoiser(1)
    assert isinstance(with_state.backbone, RelayAdapter)
    own = dict(plain.named_parameters())
    assert all(torch.equal(p, own[name]) for name, p in with_state.named_parameters() if name in own)
    assert {name for name, _ in with_state.named_parameters()} - own.keys() == {
        "backbone.relay.norm.weight",
        "backbone.relay.norm.bias",
        "backbone.relay.map.weight",
        "backbone.relay.map.bias",
    }
    assert with_state.backbone.opening == 0.0
    with pytest.raises(ValueError, match=r"carry=1.5 is not allowed"):
        ImageRecipe(carry=1.5)


def test_the_first_pass_is_paid_for_as_a_third_of_a_step() -> None:
    plan, plain = carry_plan(), tiny_plan()
    ours, theirs = job_specs(plan)[0], job_specs(plain)[0]
    assert theirs.step_evaluations == 8 * 2
    assert ours.step_evaluations == 8 * 2 * 4 // 3
    steps = [job.last_step for job in (ours, theirs)]
    assert steps == [round(6 * 3 / 4), 6]
    found, without = training_flops(plan), training_flops(plain)
    assert found.layer / without.layer == pytest.approx(4 / 3, abs=0.03)
    with pytest.raises(ValueError, match=r"at least 22 layer evaluations \(4 for a sample x batch 4 x 4/3 of a pass\)"):
        job_specs(carry_plan(budget=1, block_batch_size=4))


@pytest.mark.parametrize("changes", [{}, {"branch": 0.5, "accumulate": 2}])
def test_a_run_in_pieces_equals_a_run_in_one(tmp_path: Path, changes: dict[str, Any]) -> None:
    plan = carry_plan(**changes)
    list(all_blocks(tiny_run(tmp_path / "whole", plan)))
    for pieces in (1, 3, 99):
        reports = all_blocks(tiny_run(tmp_path / "parts", plan, save_every=2), turns(2))
        for _, _report in zip(range(pieces), reports, strict=False):
            pass
        reports.close()
    assert last_files(tmp_path / "parts") == last_files(tmp_path / "whole")


def test_a_student_may_have_states(tmp_path: Path) -> None:
    """What it learns is the teacher's answer, with the state of its own earlier call."""
    data, quiet = MemorySource(IMAGES), Watch(bars=False)
    ob.train(ImageRecipe(**TINY), data=data, out=tmp_path / "teacher", strategy="end-to-end", watch=quiet)
    teacher = ob.Model.open(tmp_path / "teacher")
    made = ob.train(ImageRecipe(**TINY, carry=0.9), data=data, out=tmp_path / "run", teacher=teacher, watch=quiet)
    from oneblock.presets.teacher import taught_task

    task = taught_task(made.plan, plan_task(made.plan), teacher, torch.device("cpu"))
    assert isinstance(task, WithState)
    assert isinstance(task.task, Distilled)
    batch = drawn(task)
    assert batch.noised.earlier is not None
    denoiser = block_with_state(made.plan)
    ours = task.loss(denoiser, batch.noised, batch.targets, batch.condition)
    elsewhere = task.loss(denoiser, batch.noised, batch.targets + 1, batch.condition)
    torch.testing.assert_close(ours.plain, elsewhere.plain)
    without = replace(batch.noised, earlier=None)
    assert not torch.allclose(ours.plain, task.loss(denoiser, without, batch.targets, batch.condition).plain)
    assert isinstance(batch.condition, ClassIds)
