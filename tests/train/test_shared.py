import os
import socket
from itertools import islice
from pathlib import Path

import pytest
import torch
from tiny import tiny_plan, tiny_run
from torch import Tensor

from oneblock.plan import Plan
from oneblock.train.checkpoint import CheckpointError, checkpoints, load_checkpoint
from oneblock.train.parallel import group_of_blocks
from oneblock.train.strategy import all_blocks, one_block

SYNCED = tiny_plan(shared="synced", sync_every=2)
JOINT = tiny_plan(shared="joint")
LAST = 6


def train(folder: Path, plan: Plan, steps: int | None = None) -> None:
    """Train both blocks in this process; with ``steps`` until the report of that number."""
    reports = all_blocks(tiny_run(folder, plan, save_every=1, keep=9))
    list(islice(reports, steps))


def stored(folder: Path, plan: Plan, block: int, step: int = LAST) -> dict[str, Tensor]:
    path = folder / f"block-{block}" / f"step-{step:09d}.safetensors"
    return load_checkpoint(path, plan.hash, f"block-{block}")[0]


def shared(tensors: dict[str, Tensor], kind: str = "weights") -> dict[str, Tensor]:
    return {n: t for n, t in tensors.items() if n.startswith(f"{kind}/") and "layers." not in n}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(t.equal(b[name]) for name, t in a.items())


def test_synced_parts_are_the_mean_every_two_steps_and_private_between(tmp_path: Path) -> None:
    train(tmp_path, SYNCED)
    for step in range(1, LAST + 1):
        first, second = (shared(stored(tmp_path, SYNCED, block, step)) for block in (0, 1))
        assert first
        assert equal(first, second) == (step % 2 == 0), step


def test_the_mean_is_that_of_what_the_blocks_would_have(tmp_path: Path) -> None:
    train(tmp_path / "apart", tiny_plan(shared="synced", sync_every=99))
    train(tmp_path / "synced", SYNCED, steps=4)  # two rounds
    alone = [shared(stored(tmp_path / "apart", tiny_plan(shared="synced", sync_every=99), b, 2)) for b in (0, 1)]
    found = shared(stored(tmp_path / "synced", SYNCED, 1, 2))
    for name, t in found.items():
        torch.testing.assert_close(t, (alone[0][name] + alone[1][name]) / 2, msg=name)


def test_joint_parts_are_one_with_moments_and_averages_and_layers_are_not(tmp_path: Path) -> None:
    train(tmp_path, JOINT)
    for step in (1, 3, LAST):
        first, second = (stored(tmp_path, JOINT, block, step) for block in (0, 1))
        for kind in ("weights", "ema", "exp_avg", "exp_avg_sq"):
            assert equal(shared(first, kind), shared(second, kind)), (step, kind)
    assert not first["weights/layers.0.qkv.weight"].equal(second["weights/layers.2.qkv.weight"])


def test_a_joint_part_moves_with_every_block_a_layer_with_its_own(tmp_path: Path) -> None:
    """A round of two blocks is two AdamW steps for what they share, whose first, with moments at zero, moves every
    element by the learning rate; so two differ from one."""
    train(tmp_path / "joint", JOINT, steps=2)
    train(tmp_path / "synced", tiny_plan(shared="synced", sync_every=99), steps=2)
    joint = stored(tmp_path / "joint", JOINT, 0, 1)
    alone = stored(tmp_path / "synced", tiny_plan(shared="synced", sync_every=99), 0, 1)
    assert joint["weights/layers.0.qkv.weight"].equal(alone["weights/layers.0.qkv.weight"])
    assert not joint["weights/head.out.weight"].equal(alone["weights/head.out.weight"])


@pytest.mark.parametrize("plan", [SYNCED, JOINT], ids=["synced", "joint"])
@pytest.mark.parametrize("reports", [5, 6])
def test_a_stopped_run_ends_in_the_same_bytes(tmp_path: Path, plan: Plan, reports: int) -> None:
    train(tmp_path / "whole", plan)
    train(tmp_path / "stopped", plan, steps=reports)  # in the middle of a round, and after one
    for path in (tmp_path / "stopped" / "block-0").glob("step-*3.safetensors"):
        path.unlink()  # as if killed before it was written: block 1 is a step ahead
    train(tmp_path / "stopped", plan)
    for block in (0, 1):
        assert equal(stored(tmp_path / "whole", plan, block), stored(tmp_path / "stopped", plan, block))


def test_checkpoints_without_a_common_step_are_refused(tmp_path: Path) -> None:
    train(tmp_path, JOINT, steps=6)
    for block, kept in ((0, 1), (1, 3)):
        for path in checkpoints(tmp_path / f"block-{block}"):
            if not path.stem.endswith(str(kept)):
                path.unlink()
    with pytest.raises(ValueError, match=r"no step in common \(they have 1, 3\); restore the checkpoints of one step"):
        train(tmp_path, JOINT)
    (tmp_path / "block-0" / "step-000000001.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="no intact checkpoint"):
        train(tmp_path, JOINT)


def test_a_block_that_shares_cannot_be_trained_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for plan, way in ((JOINT, "train all in one process$"), (SYNCED, "or all at once with oneblock launch")):
        with pytest.raises(ValueError, match=rf"block-1 shares stem and head .*shared='{plan.shared}'.*{way}"):
            list(one_block(tiny_run(tmp_path / plan.shared, plan), "block-1"))
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ValueError, match="must meet: set MASTER_ADDR and MASTER_PORT"):
        with group_of_blocks(0, 2, torch.device("cpu")):
            pass


def work(block: int, folder: Path, port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with group_of_blocks(block, 2, torch.device("cpu")):
        for steps in (3, None):  # stopped once; the blocks are apart, so what is not saved is lost
            run = tiny_run(folder, SYNCED, save_every=2, keep=2)
            list(islice(one_block(run, f"block-{block}"), steps))
    # a thread of the group that lives on can abort the process while Python shuts down
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    assert not [name for name in threads if "gloo" in name], threads


def test_synced_blocks_in_processes_of_their_own_equal_those_in_one(tmp_path: Path) -> None:
    train(tmp_path / "one", SYNCED)
    tiny_run(tmp_path / "apart", SYNCED)  # writes the plan
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(work, (tmp_path / "apart", port), nprocs=2)
    for block in (0, 1):
        ours, theirs = stored(tmp_path / "apart", SYNCED, block), stored(tmp_path / "one", SYNCED, block)
        for name, t in theirs.items():
            torch.testing.assert_close(ours[name], t, msg=name)
