"""Runs that learn from rollouts: their slots, their work, and that stopping changes nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tiny import Texts, last_files, relay_plan, relay_run, tiny_run, turns
from torch import Tensor

from oneblock.condition import Nothing
from oneblock.plan import Plan
from oneblock.presets import MaskedRecipe, blockwise, plan_task
from oneblock.presets.cost import training_flops, training_peak
from oneblock.presets.door import check_plan
from oneblock.presets.relay import hands_on, plan_policy
from oneblock.relay import RelayAdapter
from oneblock.sample.policy import Schedule, Uncertainty
from oneblock.state import Hidden
from oneblock.tasks.masked import MaskedText
from oneblock.tasks.relay import RelayLoss, RelayText
from oneblock.train.block import block_learner
from oneblock.train.checkpoint import checkpoints, load_checkpoint
from oneblock.train.drive import Watch, drive
from oneblock.train.loop import BlockJob
from oneblock.train.parallel import Ranks
from oneblock.train.record import METRICS_FILE, NUMBERS, read_rows
from oneblock.train.rollout import Rollouts
from oneblock.train.shards import merge, open_denoiser
from oneblock.train.strategy import all_blocks, job_specs, plan_optimizer

MASK = 27


def slots(directory: Path, job: str, plan: Plan) -> dict[str, Tensor]:
    tensors, _ = load_checkpoint(checkpoints(directory / job)[-1], plan.hash, job)
    return {name.removeprefix("rollout/0/"): t for name, t in tensors.items() if name.startswith("rollout/0/")}


@pytest.mark.parametrize(
    "changes",
    [{}, {"relay": "relay-sg", "branch": 0.5, "accumulate": 2}, {"relay": "rollout"}, {"relay_slots": 9}],
)
def test_a_run_in_pieces_equals_a_run_in_one(tmp_path: Path, changes: dict[str, Any]) -> None:
    plan = relay_plan(**changes)
    list(all_blocks(relay_run(tmp_path / "whole", plan)))
    for pieces in (1, 4, 99):
        reports = all_blocks(relay_run(tmp_path / "parts", plan, save_every=2), turns(2, "disk"))
        for _, _report in zip(range(pieces), reports, strict=False):
            pass
        reports.close()
    assert last_files(tmp_path / "parts") == last_files(tmp_path / "whole")
    found = slots(tmp_path / "whole", "block-0", plan)
    assert ("hidden" in found) == (plan.recipe["relay"] != "rollout")
    assert int(found["age"].max()) > 2  # slots have gone on from step to step
    names = load_checkpoint(checkpoints(tmp_path / "whole" / "block-0")[-1], plan.hash, "block-0")[0]
    assert {name.split("/")[1] for name in names if name.startswith("rollout/")} == set(
        "01" if plan.recipe["relay_slots"] == 9 else "0"
    )


def test_a_plan_without_rollouts_says_nothing_of_them() -> None:
    plain = relay_plan("mlm")
    assert not {"relay", "relay_calls", "relay_slots", "policy", "policy_at"} & plain.recipe.keys()
    assert plain.hash == relay_plan("mlm", relay_calls=3, relay_slots=5, policy="schedule").hash
    assert isinstance(plan_task(plain), MaskedText)
    assert not hands_on(plain)
    assert plan_policy(plain) == Uncertainty()


def test_a_plan_holds_what_its_steps_are_made_of() -> None:
    plan = relay_plan("relay-sg", relay_calls=3, policy="schedule", policy_at=20)
    check_plan(plan)
    assert plan.recipe["policy_at"] == 20.0
    assert relay_plan().recipe["policy_at"] == Uncertainty().tau
    task = plan_task(plan)
    assert isinstance(task, RelayText)
    assert task.relay == RelayLoss(
        mask=MASK, law=plan.partition.law, policy=Schedule(steps=20), calls=3, carry=True, detach=True
    )
    assert task.of(1).band == plan.partition.training_band(1)
    assert (task.slots(0).low, task.slots(0).high) == pytest.approx((0.475, 1.0))
    assert (task.slots(1).low, task.slots(1).high) == pytest.approx((0.0, 0.525))
    assert (task.slots(None).low, task.slots(None).high) == (0.0, 1.0)
    assert (task.at_once, cast(RelayText, plan_task(relay_plan(relay_slots=7))).at_once) == (1, 7)
    for name in ("policy", "relay_slots"):
        with pytest.raises(
            ValueError, match=r"recipe.relay goes with relay, relay_calls, relay_slots, policy, policy_at;"
        ):
            check_plan(replace(plan, recipe={k: v for k, v in plan.recipe.items() if k != name}))


def test_networks_that_start_from_nothing_have_the_way_open() -> None:
    found = {kind: blockwise(relay_plan(kind)).denoiser(0).backbone for kind in ("rollout", "relay", "relay-sg")}
    assert not isinstance(found["rollout"], RelayAdapter)
    for kind in ("relay", "relay-sg"):
        backbone = found[kind]
        assert isinstance(backbone, RelayAdapter)
        assert (backbone.opening, backbone.inject) == (1.0, "all")
    plain = dict(found["rollout"].named_parameters())
    assert all(torch.equal(p, plain[name]) for name, p in found["relay"].named_parameters() if name in plain)
    extra = [p.numel() for name, p in found["relay"].named_parameters() if name not in plain]
    assert sum(extra) == 2 * 16


@pytest.mark.parametrize(("relay", "calls"), [("mlm", 1), ("rollout", 2), ("relay", 2), ("relay", 3)])
def test_every_call_of_a_step_is_paid_for(relay: str, calls: int) -> None:
    plan = relay_plan(relay, relay_calls=calls)
    counted: list[int] = []
    spec = job_specs(plan)[0]
    assert spec.step_evaluations == 8 * calls
    assert sum(job.evaluations for job in job_specs(plan)) == 192
    denoiser = blockwise(plan).denoiser(0)
    denoiser.register_forward_hook(lambda module, inputs, output: counted.append(len(inputs[0])))
    learner = block_learner(spec, denoiser, plan_optimizer(plan))
    task = plan_task(plan)
    if isinstance(task, RelayText):
        batch = task.draw(Texts().batch(0, 8, 0), torch.full((8,), 0.7), 0, torch.Generator().manual_seed(0))
        for losses in Rollouts(plan, spec, task, Ranks()).losses(learner, batch):
            losses()
        assert counted == [8] * calls


def test_rollouts_cost_their_calls_in_operations() -> None:
    plain, twice = (training_flops(relay_plan(kind, blocks=1)) for kind in ("mlm", "rollout"))
    assert twice.layer == 2 * plain.layer
    assert twice.ends == 2 * plain.ends


def test_the_activations_of_all_calls_live_together() -> None:
    plain, relay = (training_peak(relay_plan(kind, blocks=1)).by_kind["Activation"] for kind in ("mlm", "relay"))
    assert 1.5 * plain < relay < 3 * plain


def test_slots_of_a_block_stay_in_its_band(tmp_path: Path) -> None:
    """Block 1 has the lower half of the masked shares: its slots begin there, whatever block 0 does."""
    plan = relay_plan(overlap=0.0)
    list(all_blocks(relay_run(tmp_path, plan)))
    noisy, quiet = (slots(tmp_path, f"block-{b}", plan) for b in (0, 1))
    shares = [(one["z"] == MASK).double().mean(1) for one in (noisy, quiet)]
    assert float(shares[0].mean()) > 0.4 > float(shares[1].mean())
    for one in (noisy, quiet):
        shown = one["z"] != MASK
        assert torch.equal(one["z"][shown], one["tokens"][shown])


def test_blocks_begin_as_copies_of_the_trunk_with_slots_of_their_own(tmp_path: Path) -> None:
    plan = relay_plan(branch=0.5)
    run = relay_run(tmp_path, plan)
    list(all_blocks(run))
    spec = job_specs(plan)[1]
    (tmp_path / "block-0").rename(tmp_path / "gone")
    job = BlockJob(run, spec, tmp_path / "trunk")
    job.restore()
    assert job._rollouts is not None
    assert job._rollouts.tensors() == {}
    trunk, _ = load_checkpoint(checkpoints(tmp_path / "trunk")[-1], plan.hash, "trunk")
    assert torch.equal(job.learner.weights["relay.norm.weight"], trunk["weights/relay.norm.weight"])


def test_a_merged_model_hands_states_on(tmp_path: Path) -> None:
    plan = relay_plan()
    list(all_blocks(relay_run(tmp_path / "run", plan)))
    merge(tmp_path / "run", tmp_path / "model", job_specs(plan)[-1].last_step)
    z, time = torch.full((2, 16), MASK), torch.full((2,), 0.9)
    for path in ("run", "model"):
        denoiser = open_denoiser(tmp_path / path, blockwise(plan), torch.device("cpu"))
        first, left = denoiser(z, time, Nothing(2), Hidden(torch.zeros(2, 16, 16), torch.full((2,), -1)))
        assert isinstance(left, Hidden)
        assert not torch.equal(denoiser(z, time, Nothing(2), left)[0], first)


def test_calls_and_numbers_of_a_recipe_are_checked() -> None:
    with pytest.raises(ValueError, match="relay_calls=0 is not allowed"):
        MaskedRecipe(relay_calls=0)
    with pytest.raises(ValueError, match="relay_slots=0 is not allowed"):
        MaskedRecipe(relay_slots=0)
    with pytest.raises(ValueError, match=r"probability=1.5 is not allowed"):
        MaskedRecipe(policy="threshold", policy_at=1.5)
    with pytest.raises(ValueError, match="relay='more' is not allowed"):
        MaskedRecipe(relay="more")  # type: ignore[arg-type]


def test_what_is_random_follows_from_the_step() -> None:
    plan = relay_plan()
    task, spec = plan_task(plan), job_specs(plan)[0]
    assert isinstance(task, RelayText)
    batch = task.draw(Texts().batch(0, 8, 0), torch.full((8,), 0.7), 0, torch.Generator().manual_seed(0))
    found = []
    for step in (0, 0, 3):
        learner = block_learner(spec, blockwise(plan).denoiser(0), plan_optimizer(plan))
        learner.step = step
        rollouts = Rollouts(plan, spec, task, Ranks())
        rollouts.losses(learner, batch)[0]()
        found.append(rollouts.tensors()["rollout/0/z"])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_run_with_states_says_how_they_are_used(tmp_path: Path) -> None:
    """In every row of metrics; a run without states says nothing."""
    plan = relay_plan(budget=120 * 8 * 2 * 2, blocks=1)
    drive(relay_run(tmp_path / "relay", plan), watch=Watch(bars=False))
    rows = list(read_rows(tmp_path / "relay" / "block-0" / METRICS_FILE))
    assert len(rows) > 1
    for row in rows:
        assert 0 < float(row["masked_share"]) < 1
        assert 0 < float(row["revealed_share"]) < 1
        assert float(row["slot_age"]) > 0
        assert 0 < float(row["state_gradient_share"]) < 1
    first, *_, last = (float(row["state_opening"]) for row in rows)
    assert first != last
    drive(relay_run(tmp_path / "rollout", relay_plan("rollout")), watch=Watch(bars=False))
    found = next(read_rows(tmp_path / "rollout" / "block-0" / METRICS_FILE)).keys()
    assert {"masked_share", "slot_age", "revealed_share"} <= found
    assert not {"state_gradient_share", "state_opening"} & found
    drive(tiny_run(tmp_path / "plain"), watch=Watch(bars=False))
    assert next(read_rows(tmp_path / "plain" / "block-0" / METRICS_FILE)).keys() == {"job", *NUMBERS}


def test_standing_of_slots_is_counted_by_hand() -> None:
    plan = relay_plan("rollout", relay_calls=3)
    task, spec = plan_task(plan), job_specs(plan)[0]
    assert isinstance(task, RelayText)
    batch = task.draw(Texts().batch(0, 8, 0), torch.full((8,), 0.7), 0, torch.Generator().manual_seed(0))
    learner = block_learner(spec, blockwise(plan).denoiser(0), plan_optimizer(plan))
    rollouts = Rollouts(plan, spec, task, Ranks())
    rollouts.losses(learner, batch)
    before = rollouts.tensors()["rollout/0/z"]
    rollouts.losses(learner, batch)[0]()
    found, after = rollouts.diagnostics(), rollouts.tensors()["rollout/0/z"]
    masked, left = int((before == MASK).sum()), int((after == MASK).sum())
    assert found == pytest.approx({"masked_share": masked / 128, "slot_age": 0.0, "revealed_share": 1 - left / masked})
    rollouts.losses(learner, batch)
    ages = rollouts.tensors()["rollout/0/age"]
    rollouts.losses(learner, batch)[0]()
    assert 3 in ages.tolist()
    assert rollouts.diagnostics()["slot_age"] == pytest.approx(float(ages.double().mean()))


def test_steps_take_sets_of_slots_in_turn() -> None:
    """With three sets steps 0 and 3 learn from the same texts, and steps 1 and 2 from others."""
    plan = relay_plan(relay_slots=24)
    task, spec = plan_task(plan), job_specs(plan)[0]
    assert isinstance(task, RelayText)
    learner = block_learner(spec, blockwise(plan).denoiser(0), plan_optimizer(plan))
    rollouts, seen = Rollouts(plan, spec, task, Ranks()), list[dict[str, Tensor]]()
    for step in range(4):
        batch = task.draw(Texts().batch(step, 8, 0), torch.full((8,), 0.7), 0, torch.Generator().manual_seed(step))
        learner.step = step
        rollouts.losses(learner, batch)[0]()
        rollouts.diagnostics()
        seen.append({name: tensor.clone() for name, tensor in rollouts.tensors().items()})
    for step in range(3):
        assert {name.split("/")[1] for name in seen[step]} == set("012"[: step + 1]), (
            "a set is made when its turn comes"
        )
    assert all(torch.equal(seen[3][f"rollout/{i}/z"], seen[2][f"rollout/{i}/z"]) for i in (1, 2)), "others wait"
    goes_on = seen[2]["rollout/0/age"] + 2
    refilled = seen[3]["rollout/0/age"] == 2
    assert torch.equal(seen[3]["rollout/0/age"][~refilled], goes_on[~refilled])
    assert bool((~refilled).any())
    again = Rollouts(plan, spec, task, Ranks())
    again.load(seen[3], torch.device("cpu"))
    assert again.tensors().keys() == seen[3].keys()
    assert all(torch.equal(tensor, seen[3][name]) for name, tensor in again.tensors().items())
