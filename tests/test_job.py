"""One job from Python, and runs of a network or of data of one's own: what they work without, and what they ask for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import own
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from torch.utils.data import TensorDataset

from oneblock.job import run_job
from oneblock.launch.merge import merge
from oneblock.launch.mirror import send_plan
from oneblock.launch.status import status
from oneblock.presets import ImageRecipe, train
from oneblock.train.checkpoint import checkpoints
from oneblock.train.drive import Watch
from oneblock.train.machine import Machine

pytest.importorskip("sklearn")
RECIPE = ImageRecipe(depth=4, width=16, heads=2, blocks=2, batch_size=8, budget=6 * 8 * 4, branch=0.5)
ONE_THREAD = Machine(threads=1)
QUIET = Watch(bars=False)
Refused = Callable[..., str]


def files(run: Path) -> dict[str, bytes]:
    """The newest checkpoint of every job."""
    return {folder.name: checkpoints(folder)[-1].read_bytes() for folder in run.iterdir() if folder.is_dir()}


@pytest.fixture
def planned(tmp_path: Path) -> Path:
    """A branched run of a network of one's own, of which there is only the plan."""
    train(RECIPE, out=tmp_path / "planned", data="digits", backbone=own.Own, strategy="plan-only")
    return tmp_path / "planned"


def test_jobs_of_an_own_network_are_those_of_one_process(planned: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    for block in ("trunk", 1, "0"):
        done = run_job(planned, block, backbone=own.Own, machine=ONE_THREAD, watch=Watch(bars=False, row=rows.append))
        assert (done.run, done.first) == (str(planned), True)
        assert rows[-1]["job"] == done.job
    train(RECIPE, out=tmp_path / "turns", data="digits", backbone=own.Own, machine=ONE_THREAD, watch=QUIET)
    assert files(planned) == files(tmp_path / "turns")
    assert (
        run_job(planned, -1, backbone=own.Own, watch=QUIET).job
        == run_job(planned, "trunk", backbone=own.Own, watch=QUIET).job
    )


def test_a_network_of_ones_own_is_asked_for_only_where_it_is_built(planned: Path, refused: Refused) -> None:
    assert [job.state for job in status(planned)] == ["not started"] * 3
    with pytest.raises(ValueError, match=r"the network of this run is the user's own, own:Own; give it too"):
        run_job(planned, "trunk", watch=QUIET)
    assert "--backbone own:Own" in refused("job", planned, "--block", "trunk")
    assert "backbone='own:Missing' cannot be loaded" in refused(
        "job", planned, "--block", "trunk", "--backbone", "own:Missing"
    )
    assert [path.name for path in planned.iterdir()] == ["plan.json"]


def test_the_command_line_trains_a_network_of_ones_own(planned: Path, ok: Callable[..., list[dict[str, Any]]]) -> None:
    for block in ("trunk", "0", "1"):
        ok("job", planned, "--block", block, "--backbone", "own:Own", "--threads", "1")
    assert [row["state"] for row in ok("status", planned, "--json")] == ["done"] * 3
    made = merge(planned)
    assert (made.model, made.blocks, made.num_blocks, made.problems) == (planned / "model", 2, 2, ())
    assert made.plan == status(planned)[0].plan


def test_data_of_ones_own_are_given_again(tmp_path: Path) -> None:
    images = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    dataset = TensorDataset(images, torch.arange(32) % 3)
    train(RECIPE, out=tmp_path / "run", data=dataset, strategy="plan-only")
    with pytest.raises(ValueError, match=r"are the user's own \(dataset:TensorDataset.*\); give them again: data="):
        run_job(tmp_path / "run", "trunk", watch=QUIET)
    run_job(tmp_path / "run", "trunk", data=dataset, machine=ONE_THREAD, watch=QUIET)
    assert [job.state for job in status(tmp_path / "run")] == ["done", "not started", "not started"]


def test_a_job_at_an_address_tells_its_user_too(tmp_path: Path) -> None:
    memory = MemoryFileSystem()
    memory.store.clear()
    plan = train(RECIPE, out=tmp_path / "planned", data="digits", strategy="plan-only").plan
    send_plan(plan, "memory://told")
    told: list[tuple[str, bool]] = []
    watch = Watch(bars=False, sent=lambda job, last: told.append((job, last)))
    done = run_job("memory://told", "trunk", scratch=tmp_path / "here", machine=ONE_THREAD, watch=watch)
    steps = status("memory://told")[0].num_steps
    assert told == [(done.job, False)] * steps + [(done.job, True)]
    assert any("step-" in name for name in memory.find("/told"))
    memory.store.clear()
