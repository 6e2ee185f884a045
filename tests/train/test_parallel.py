"""Two processes for one block, over gloo; one start of the two serves all tests, since it takes seconds."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import last_files, relay_plan, relay_run, tiny_plan, tiny_run
from torch import Tensor

from oneblock.plan import Plan
from oneblock.train.checkpoint import checkpoints, load_checkpoint
from oneblock.train.loop import train_job
from oneblock.train.parallel import ALONE, Kind, Ranks, process_group
from oneblock.train.step import OptimizerSettings, StepReport
from oneblock.train.strategy import job_specs

# With AdamW an element whose gradient is rounding noise moves by up to the learning rate, either way.
WEIGHTS = {"rtol": 1e-4, "atol": 2e-5}


def plan_of(accumulate: int = 1, precision: str = "fp32") -> Plan:
    return tiny_plan(optimizer=OptimizerSettings(accumulate=accumulate, precision=precision, clip=0.05))  # type: ignore[arg-type]


BY_CHANCE: dict[str, Any] = {"clip": 0.05, "policy": "schedule"}  # rounding must not decide what is revealed
RELAY = {"one": relay_plan(**BY_CHANCE), "micro": relay_plan(**BY_CHANCE, accumulate=2)}
ACROSS = {name: relay_plan(**BY_CHANCE, accumulate=n, relay_across=True) for name, n in (("one", 1), ("micro", 2))}
EVOLVING = tiny_plan(update="evolution", population=12, chunk=4)
PLANS = {"one": plan_of(), "micro": plan_of(2), "bf16": plan_of(precision="bf16")}
KINDS: tuple[Kind, ...] = ("ddp", "fsdp")


def train(folder: Path, plan: Plan, ranks: Ranks = ALONE, block: int = 1, steps: int | None = None) -> list[StepReport]:
    """Train a block, at most ``steps`` steps, from its newest checkpoint."""
    run = (tiny_run if plan.task == "image" else relay_run)(folder, plan, ranks=ranks, save_every=3)
    spec = job_specs(plan)[block]
    return list(islice(train_job(run, spec), steps))


def stored(folder: Path, plan: Plan, block: int = 1, newest: int = -1) -> dict[str, Tensor]:
    path = checkpoints(folder / f"block-{block}")[newest]
    return load_checkpoint(path, plan.hash, f"block-{block}")[0]


@contextmanager
def joined_as(rank: int, port: int) -> Iterator[Ranks]:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with process_group("ddp", torch.device("cpu")) as ranks:
        yield ranks


def work(rank: int, folder: Path, port: int) -> None:
    """What each of the two processes does: both blocks with every plan and kind, half and whole; reports are kept."""
    with joined_as(rank, port) as joined:
        train(folder / "ddp" / "evolving", EVOLVING, joined)
        for kind in KINDS:
            ranks = replace(joined, kind=kind)
            for name, plan in PLANS.items():
                reports = [train(folder / kind / name, plan, ranks, block) for block in (0, 1)]
                torch.save([vars(r) for r in reports[1]], folder / kind / name / f"reports-{rank}.pt")
            relayed = train(folder / kind / "relay", RELAY["one"], ranks, steps=4)
            torch.save([dict(r.more) for r in relayed], folder / kind / "relay" / f"more-{rank}.pt")
            train(folder / kind / "relay", RELAY["one"], ranks)
            for block in (0, 1):
                train(folder / kind / "across", ACROSS["one"], ranks, block)
            train(folder / kind / "half", PLANS["one"], ranks, steps=3)
            train(folder / kind / "resumed", PLANS["one"], ranks)
    os._exit(0)  # torch keeps the group of fully sharded weights, whose threads may abort a process that shuts down


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories of what the two processes have trained, and ``alone`` with the same from a single one."""
    folder = tmp_path_factory.mktemp("parallel")
    for name, plan in PLANS.items():
        train(folder / "alone" / name, plan, block=0)
        reports = train(folder / "alone" / name, plan)
        torch.save([vars(r) for r in reports], folder / "alone" / name / "reports-0.pt")
    train(folder / "alone" / "evolving", EVOLVING)
    train(folder / "alone" / "relay", RELAY["micro"])
    for block in (0, 1):
        train(folder / "alone" / "across", ACROSS["micro"], block=block)
    tiny_run(folder / "ddp" / "evolving", EVOLVING)
    for kind in KINDS:
        for name in (*PLANS, "half", "resumed"):
            tiny_run(folder / kind / name, PLANS.get(name, PLANS["one"]))  # writes the plan
        relay_run(folder / kind / "relay", RELAY["one"])
        relay_run(folder / kind / "across", ACROSS["one"])
        train(folder / kind / "resumed", PLANS["one"], steps=3)
    torch.multiprocessing.spawn(work, (folder, free_port()), nprocs=2)
    return folder


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_are_one_with_two_micro_batches(done: Path, kind: Kind, block: int) -> None:
    """Two blocks x two ranks, against one rank that accumulates; the batch is the same, so rounding is all that may
    differ."""
    for shared, alone in (("one", "micro"), ("one", "one"), ("micro", "micro")):
        ours = stored(done / kind / shared, PLANS[shared], block)
        theirs = stored(done / "alone" / alone, PLANS[alone], block)
        assert ours.keys() == theirs.keys()
        start = stored(done / kind / shared, PLANS[shared], block, newest=-2)
        assert any(not t.equal(start[name]) for name, t in ours.items() if name.startswith("weights/"))
        for name, t in ours.items():
            torch.testing.assert_close(t, theirs[name], **WEIGHTS, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("kind", KINDS)
def test_both_processes_report_the_whole_batch(done: Path, kind: Kind) -> None:
    first, second = (torch.load(done / kind / "one" / f"reports-{rank}.pt") for rank in (0, 1))
    alone = torch.load(done / "alone" / "one" / "reports-0.pt")
    assert first == second
    for ours, theirs in zip(first, alone, strict=True):
        assert ours.pop("more") == theirs.pop("more") == {}
        assert ours.pop("job") == theirs.pop("job")
        assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_two_goes_on_with_one_and_the_other_way_round(done: Path, kind: Kind) -> None:
    plan = PLANS["one"]
    whole = stored(done / kind / "one", plan)
    assert [path.name for path in checkpoints(done / kind / "half" / "block-1")] == ["step-000000003.safetensors"]
    train(done / kind / "half", plan)  # two, then one
    for name in ("half", "resumed"):  # resumed: one, then two
        found = stored(done / kind / name, plan)
        for key, t in whole.items():
            torch.testing.assert_close(found[key], t, **WEIGHTS, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_shards_train_like_bf16_alone(done: Path, kind: Kind) -> None:
    first = torch.load(done / kind / "bf16" / "reports-0.pt")
    for ours, theirs in zip(first, torch.load(done / "alone" / "bf16" / "reports-0.pt"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=2e-2)
    found = stored(done / kind / "bf16", PLANS["bf16"])
    assert {t.dtype for t in found.values()} == {torch.float32}


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_that_learn_from_rollouts_are_one_with_two_micro_batches(done: Path, kind: Kind) -> None:
    """Stopped on the way, so that the slots of both have been in a checkpoint."""
    ours = stored(done / kind / "relay", RELAY["one"])
    theirs = stored(done / "alone" / "relay", RELAY["micro"])
    assert ours.keys() == theirs.keys()
    assert len(ours["rollout/0/z"]) == 8
    assert int(ours["rollout/0/age"].max()) > 2
    for name, t in ours.items():
        torch.testing.assert_close(t, theirs[name], **WEIGHTS, msg=lambda text, name=name: f"{name}: {text}")
    for rank in (0, 1):
        *_, last = torch.load(done / kind / "relay" / f"more-{rank}.pt")  # the head begins with zeros
        assert 0 < last["state_gradient_share"] < 1
        assert last["state_opening"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_go_on_from_the_block_before_as_one_does(done: Path, kind: Kind) -> None:
    ours, theirs = stored(done / kind / "across", ACROSS["one"]), stored(done / "alone" / "across", ACROSS["micro"])
    assert ours.keys() == theirs.keys()
    for name, t in ours.items():
        torch.testing.assert_close(t, theirs[name], **WEIGHTS, msg=lambda text, name=name: f"{name}: {text}")


def test_two_processes_that_exchange_the_fitness_of_a_population_make_the_bytes_of_one(done: Path) -> None:
    found = last_files(done / "ddp" / "evolving")
    assert found == last_files(done / "alone" / "evolving")
    assert found.keys() == {"block-1"}


def test_a_batch_too_small_for_the_processes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="a batch of 8 cannot be cut for 5 processes x accumulate=2; use a batch of 10"
    ):
        train(tmp_path, PLANS["micro"], Ranks(None, 0, 5))


EIGHT_BITS = tiny_plan(width=32, optimizer=OptimizerSettings(optimizer="adamw8bit"))


def work_in_8_bits(rank: int, folder: Path, port: int) -> None:
    with joined_as(rank, port) as ranks:
        reports = train(folder / "whole", EIGHT_BITS, ranks)
        torch.save([vars(r) for r in reports], folder / f"reports-{rank}.pt")
        for steps in (4, None):  # the second time from the checkpoint of step 3
            train(folder / "parts", EIGHT_BITS, ranks, steps=steps)


@pytest.mark.slow
def test_two_processes_keep_equal_moments_of_8_bits(tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    for name in ("whole", "parts"):
        tiny_run(tmp_path / name, EIGHT_BITS)  # writes the plan
    torch.multiprocessing.spawn(work_in_8_bits, (tmp_path, free_port()), nprocs=2)
    whole, parts = (stored(tmp_path / name, EIGHT_BITS) for name in ("whole", "parts"))
    assert any(name.startswith("exp_avg.codes/") for name in whole)
    assert all(t.equal(parts[name]) for name, t in whole.items())
    first, second = (torch.load(tmp_path / f"reports-{rank}.pt") for rank in (0, 1))
    assert first == second
    for ours, alone in zip(first, train(tmp_path / "alone", EIGHT_BITS), strict=True):
        assert ours["loss"] == pytest.approx(alone.loss, rel=1e-3)
