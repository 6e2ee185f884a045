"""Blocks never touch each other, and come out the same however they are trained."""

import gc
import multiprocessing
from pathlib import Path

import pytest
import torch
from tiny import last_files, tiny_classify_plan, tiny_plan, tiny_run, turns

from oneblock.presets import blockwise
from oneblock.train.block import BlockLearner, block_learner
from oneblock.train.checkpoint import checkpoints
from oneblock.train.learner import Learner
from oneblock.train.loop import Idle
from oneblock.train.strategy import Turns, all_blocks, job_specs, one_block, plan_optimizer

JOBS = ("trunk", "block-0", "block-1")


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("step-*.safetensors")}


def train_alone(directory: Path, branch: float, job: str) -> None:
    run = tiny_run(directory, tiny_plan(branch=branch))
    list(one_block(run, job))


def test_a_step_on_one_block_leaves_the_other_blocks_files_alone(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, save_every=1)
    list(one_block(run, "block-0"))
    before = files(tmp_path / "block-0")
    reports = one_block(run, "block-1")
    next(reports)
    reports.close()
    assert files(tmp_path / "block-0") == before
    assert len(checkpoints(tmp_path / "block-1")) == 1


def test_a_classifiers_block_needs_nothing_of_another_and_leaves_it_alone(tmp_path: Path) -> None:
    plan = tiny_classify_plan()
    other = blockwise(plan).denoiser(1)
    before = {name: t.clone() for name, t in (*other.named_parameters(), *other.named_buffers())}
    asked: list[range] = []
    run = tiny_run(tmp_path / "alone", plan)
    build = run.blockwise.build
    run.blockwise.build = lambda layers: asked.append(layers) or build(layers)  # type: ignore[func-returns-value]
    list(one_block(run, "block-0"))
    assert asked == [range(0, 2)]
    assert [path.name for path in (tmp_path / "alone").iterdir() if path.is_dir()] == ["block-0"]
    assert all(p.grad is None for p in other.parameters())
    for found in (other, run.blockwise.denoiser(1)):
        now = dict((*found.named_parameters(), *found.named_buffers()))
        assert now.keys() == before.keys()
        assert all(t.equal(before[name]) for name, t in now.items())

    together = tiny_run(tmp_path / "together", plan)
    list(all_blocks(together, turns(1)))
    assert files(tmp_path / "together" / "block-0") == files(tmp_path / "alone" / "block-0")
    assert files(tmp_path / "alone" / "block-0")


@pytest.mark.parametrize("branch", [0.0, 0.5])
def test_in_turn_one_by_one_and_in_separate_processes_give_the_same_bytes(tmp_path: Path, branch: float) -> None:
    jobs = JOBS if branch else JOBS[1:]
    for name, order in (("sequential", None), ("turns of 1", turns(1)), ("turns of a time", Turns(seconds=0.01))):
        list(all_blocks(tiny_run(tmp_path / name, tiny_plan(branch=branch)), order))
    for job in (jobs[0], *reversed(jobs[1:])):
        torch.manual_seed(hash(job))  # the global generator must not matter
        torch.rand(3)
        train_alone(tmp_path / "alone", branch, job)
    context = multiprocessing.get_context("spawn")
    separate = [context.Process(target=train_alone, args=(tmp_path / "apart", branch, job)) for job in jobs]
    if branch:  # the trunk comes before those that copy it
        separate[0].start()
        separate.pop(0).join()
    for process in separate:
        process.start()
    for process in separate:
        process.join()
    ways = ["turns of 1", "turns of a time", "alone", "apart"]
    idles: tuple[Idle, ...] = ("device", "disk")
    for idle in idles:
        run = tiny_run(tmp_path / idle, tiny_plan(branch=branch))
        list(all_blocks(run, turns(2, idle)))
        ways.append(idle)
    expected = last_files(tmp_path / "sequential")
    assert len(expected) == len(jobs)
    for way in ways:
        assert last_files(tmp_path / way) == expected, way


def test_another_seed_gives_other_bytes(tmp_path: Path) -> None:
    for seed in (0, 1):
        run = tiny_run(tmp_path / str(seed), tiny_plan(seed=seed))
        list(one_block(run, "block-0"))
    assert files(tmp_path / "0") != files(tmp_path / "1")


def test_blocks_start_as_copies_of_the_trunk(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    run = tiny_run(tmp_path, tiny_plan(branch=0.5))
    list(one_block(run, "trunk"))
    reports = one_block(run, "block-1")
    first = next(reports)
    assert first.step == 7  # counts on from the trunk's 6 steps
    reports.close()
    trunk = load_file(checkpoints(tmp_path / "trunk")[-1])
    block = load_file(checkpoints(tmp_path / "block-1")[-1])
    for name, tensor in trunk.items():
        mine = block[name.replace("layers.0.", "layers.2.").replace("layers.1.", "layers.3.")]
        if name.startswith("exp_avg_sq"):  # one step of AdamW with beta2 0.99 after the copy
            assert bool((mine >= 0.99 * tensor * (1 - 1e-5)).all())
        if name.startswith("weights"):
            assert float((mine - tensor).abs().max()) < 0.01


def alive(shape: torch.Size) -> int:
    """Tensors of ``shape`` in this process that no view or other tensor shares."""
    found = (o for o in gc.get_objects() if type(o) in (torch.Tensor, torch.nn.Parameter))
    return len({t.untyped_storage().data_ptr() for t in found if t.shape == shape})


def test_blocks_idle_on_disk_or_trained_leave_nothing_in_memory(tmp_path: Path) -> None:
    shape = next(p.shape for n, p in tiny_run(tmp_path).blockwise.denoiser(0).named_parameters() if "qkv.weight" in n)
    before = alive(shape)
    most = {}
    for name, order in {"device": turns(2, "device"), "disk": turns(2, "disk"), "sequential": None}.items():
        reports = all_blocks(tiny_run(tmp_path / name), order)
        most[name] = max(alive(shape) - before for _ in reports)
    one_block = 2 * 4  # two layers; weights, average and two moments
    assert most == {"device": 2 * one_block, "disk": one_block, "sequential": one_block}


def test_blocks_idle_on_the_host_leave_the_device_before_the_next_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves: list[tuple[str, int]] = []
    real = Learner.to

    def to(learner: BlockLearner, device: torch.device) -> None:
        moves.append((learner.course.name, learner.step))
        real(learner, device)

    monkeypatch.setattr(Learner, "to", to)
    run = tiny_run(tmp_path, save_every=100)
    reports = all_blocks(run, turns(2, "host"))
    for _ in range(5):
        next(reports)
    # block 0 left after its turn and is back for its next; block 1 left in between
    assert moves == [("block-0", 2), ("block-1", 2), ("block-0", 2)]
    assert len(list(reports)) == 2 * 6 - 5
    both = [("block-0", 4), ("block-1", 2), ("block-1", 4), ("block-0", 4), ("block-1", 4)]
    assert moves[3:] == both, "a block that is trained to its end does not wait for another turn"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second kind of device")
def test_moving_a_learner_keeps_everything_the_next_step_needs() -> None:
    plan = tiny_plan()
    spec = job_specs(plan)[1]
    learner = block_learner(spec, blockwise(plan).denoiser(1).to("cuda"), plan_optimizer(plan))
    for p in learner.weights.values():
        p.grad = torch.ones_like(p)
    learner.apply()
    before = {name: t.cpu() for name, t in learner.tensors().items()}
    learner.to(torch.device("cpu"))
    assert {t.device.type for t in (*learner.tensors().values(), *learner.module.buffers())} == {"cpu"}
    learner.to(torch.device("cuda"))
    assert {t.device.type for t in (*learner.tensors().values(), *learner.module.buffers())} == {"cuda"}
    assert all(before[name].equal(t.cpu()) for name, t in learner.tensors().items())
    assert all(p in learner.optimizer.state for p in learner.module.parameters())
