import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny import tiny_plan, tiny_run

from oneblock.condition import ClassIds
from oneblock.plan import read_plan
from oneblock.presets import blockwise
from oneblock.train.checkpoint import CheckpointError, checkpoints, load_checkpoint
from oneblock.train.shards import CONFIG_FILE, INDEX_FILE, merge, open_denoiser, open_plan
from oneblock.train.strategy import all_blocks, one_block

CPU = torch.device("cpu")
LAST = 6


@pytest.fixture
def run(tmp_path: Path) -> Path:
    ready = tiny_run(tmp_path / "run")
    list(all_blocks(ready))
    return tmp_path / "run"


def answers(directory: Path, resident: int | None = None) -> torch.Tensor:
    plan = open_plan(directory)
    denoiser = open_denoiser(directory, blockwise(plan), CPU, resident)
    z = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return denoiser(z, torch.tensor([5.0, 0.05, 1.0, 0.01]), ClassIds(torch.arange(4)))


def test_shards_are_the_blocks_and_the_index_names_them(run: Path) -> None:
    model, plan = run / "model", read_plan(run)
    assert merge(run, model, LAST) == []
    files = {"block-0.safetensors", "block-1.safetensors", CONFIG_FILE, INDEX_FILE}
    assert {path.name for path in model.iterdir()} == files
    assert open_plan(model) == plan
    index = json.loads((model / INDEX_FILE).read_text())
    size = 0
    for block in (0, 1):
        job = f"block-{block}"
        shard, stamp = load_checkpoint(model / f"{job}.safetensors", plan.hash, job)
        trained, _ = load_checkpoint(checkpoints(run / job)[-1], plan.hash, job)
        averages = {n.removeprefix("ema/"): t for n, t in trained.items() if n.startswith("ema/")}
        assert set(shard) == {f"blocks.{block}.{name}" for name in averages}
        assert all(shard[f"blocks.{block}.{name}"].equal(t) for name, t in averages.items())
        assert stamp.step == LAST
        assert {name for name, file in index["weight_map"].items() if file == f"{job}.safetensors"} == set(shard)
        size += sum(t.nbytes for t in shard.values())
    assert index["metadata"]["total_size"] == size


def test_run_and_model_answer_alike_with_one_block_in_memory_too(run: Path) -> None:
    model = run / "model"
    merge(run, model, LAST)
    assert answers(model).equal(answers(run))
    assert answers(model, resident=1).equal(answers(run))
    assert answers(run).abs().max() > 0


def test_merging_again_is_fine_over_another_model_is_not(run: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    merge(run, model, LAST)
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    merge(run, model, LAST)
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before
    other = tiny_run(tmp_path / "other", tiny_plan(seed=1))
    list(all_blocks(other))
    with pytest.raises(ValueError, match="holds a model of another plan; use another directory"):
        merge(tmp_path / "other", model, LAST)


def test_all_that_is_wrong_is_named_and_nothing_written(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "block-0")
    path = checkpoints(run / "block-1")[-1]
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match=r"block 0 has no checkpoint .*--block 0.*block 1: .* is damaged"):
        merge(run, tmp_path / "model", LAST)
    assert not (tmp_path / "model").exists()


def test_an_unfinished_block_is_named(tmp_path: Path) -> None:
    ready = tiny_run(tmp_path / "run", save_every=2)
    reports = one_block(ready, "block-0")
    next(reports)
    reports.close()
    list(one_block(ready, "block-1"))
    with pytest.raises(CheckpointError, match=r"block 0 stands at step 1 of 6 \(resume it\)$"):
        merge(tmp_path / "run", tmp_path / "model", LAST)


def test_a_block_in_another_blocks_place_is_refused(run: Path) -> None:
    shutil.copy(checkpoints(run / "block-0")[-1], checkpoints(run / "block-1")[-1])
    with pytest.raises(CheckpointError, match=r"block 1: .*holds block-0, not block-1"):
        merge(run, run / "model", LAST)
    with pytest.raises(CheckpointError, match="holds block-0, not block-1"):
        answers(run)


def test_damaged_and_absent_shards_are_refused(run: Path) -> None:
    model = run / "model"
    merge(run, model, LAST)
    shard = model / "block-1.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"block-1.safetensors is damaged"):
        answers(model)
    shard.unlink()
    with pytest.raises(CheckpointError, match=r"block-1.safetensors does not exist"):
        answers(model)


def test_places_that_are_neither(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is neither a run nor a merged model; give a directory with plan.json or"):
        open_plan(tmp_path)
