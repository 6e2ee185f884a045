"""Checkpoints and shards with a right digest that are not of the plan's network, or not finite: nobody takes them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from own import Own
from tiny import IMAGES, last_files, tiny_plan, tiny_run
from torch import Tensor

import oneblock as ob
from oneblock.data import MemorySource
from oneblock.presets.tasks import block_parameters
from oneblock.train.checkpoint import (
    CheckpointError,
    Stamp,
    checkpoint_path,
    checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from oneblock.train.drive import Watch
from oneblock.train.learner import NonFiniteError
from oneblock.train.loop import BlockJob
from oneblock.train.shards import CONFIG_FILE, INDEX_FILE, merge
from oneblock.train.step import OptimizerSettings
from oneblock.train.strategy import all_blocks, job_specs, one_block

Tensors = dict[str, Tensor]
LAST = 6


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("layout") / "run"
    list(all_blocks(tiny_run(place, save_every=2)))
    return place


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def rewritten(path: Path, plan: str, job: str, change: Callable[[Tensors], Any]) -> None:
    """The same checkpoint with other tensors and the right digest."""
    tensors, stamp = load_checkpoint(path, plan, job)
    change(tensors)
    save_checkpoint(path, tensors, stamp)


def put(name: str, make: Callable[[Tensor], Tensor], to: str = "") -> Callable[[Tensors], Any]:
    return lambda tensors: tensors.update({to or name: make(tensors.pop(name) if to else tensors[name])})


def poisoned(value: float) -> Callable[[Tensor], Tensor]:
    def make(tensor: Tensor) -> Tensor:
        tensor.view(-1)[3] = value
        return tensor

    return make


NAME = "head.out.weight"
CHANGES: list[tuple[Callable[[Tensors], Any], str]] = [
    (put(f"ema/{NAME}", poisoned(float("nan"))), r"\['ema/head.out.weight'\] hold numbers that are not finite"),
    (put(f"weights/{NAME}", poisoned(float("inf"))), r"\['weights/head.out.weight'\] hold numbers that are not finite"),
    (put(f"exp_avg/{NAME}", poisoned(-float("inf"))), "hold numbers that are not finite"),
    (lambda t: t.pop(f"ema/{NAME}"), "it lacks ema/head.out.weight"),
    (lambda t: t.pop(f"exp_avg_sq/{NAME}"), "it lacks exp_avg_sq/head.out.weight"),
    (lambda t: t.update({"ema/more": torch.zeros(2)}), "only it has ema/more"),
    (put(f"ema/{NAME}", lambda t: t[:3]), r"its ema/head.out.weight is torch.float32 \(3, 16\), that of the network"),
    (put(f"ema/{NAME}", Tensor.double), "its ema/head.out.weight is torch.float64"),
    (put(f"exp_avg/{NAME}", Tensor.bfloat16), "its exp_avg/head.out.weight is torch.bfloat16"),
    (put(f"ema/{NAME}", lambda t: t, to="ema/tail.out.weight"), "it lacks ema/head.out.weight; only it has ema/tail"),
    (lambda t: t.clear(), "it lacks .* more"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_merge_and_open_refuse_them(change: Callable[[Tensors], Any], message: str, run: Path) -> None:
    plan = ob.read_plan(run)
    rewritten(checkpoints(run / "block-1")[-1], plan.hash, "block-1", change)
    with pytest.raises(CheckpointError, match=f"block 1: .*block-1/step-000000006.safetensors .*{message}"):
        merge(run, run / "model", LAST, parameters=block_parameters(plan))
    assert not (run / "model").exists()
    with pytest.raises(CheckpointError, match=message):
        ob.Model.open(run).denoiser.block(1)
    assert not ob.fsck(run).good


@pytest.mark.parametrize(("change", "message"), [CHANGES[i] for i in (0, 3, 5, 7)])
def test_resuming_passes_over_them_and_keeps_them(
    change: Callable[[Tensors], Any], message: str, run: Path, finished: Path
) -> None:
    newest = checkpoints(run / "block-1")[-1]
    rewritten(newest, ob.read_plan(run).hash, "block-1", change)
    bad, told = newest.read_bytes(), list[str]()
    list(one_block(tiny_run(run, save_every=2, warn=told.append), "block-1"))
    assert len(told) == 1 and message.replace("\\", "") in told[0].replace("\\", "")
    assert last_files(run) == last_files(finished), "the steps that were lost are trained again"
    assert newest.with_name(f"{newest.name}.damaged").read_bytes() == bad


def test_a_checkpoint_of_a_step_that_the_job_does_not_have(run: Path) -> None:
    tensors, stamp = load_checkpoint(checkpoints(run / "block-1")[-1], ob.read_plan(run).hash, "block-1")
    save_checkpoint(checkpoint_path(run / "block-1", 60), tensors, Stamp(stamp.plan, stamp.job, 60, stamp.num_steps))
    told: list[str] = []
    list(one_block(tiny_run(run, warn=told.append), "block-1"))
    assert "it is of step 60 of 6, and block-1 goes from 0 to 6" in told[0]
    shutil.copy(checkpoints(run / "block-0")[-1], checkpoint_path(run / "block-0", 7))
    with pytest.raises(CheckpointError, match="its name says step 7, its stamp step 6"):
        merge(run, run / "model", LAST)


def test_a_trunk_that_is_another_network_is_not_started_from(tmp_path: Path) -> None:
    plan = tiny_plan(branch=0.5)
    ready = tiny_run(tmp_path, plan)
    list(one_block(ready, "trunk"))
    rewritten(
        checkpoints(tmp_path / "trunk")[-1],
        plan.hash,
        "trunk",
        put("ema/layers.0.up.bias", lambda t: t, to="ema/layers.x.up.bias"),
    )
    with pytest.raises(CheckpointError, match=r"trunk has no intact checkpoint: .*it lacks ema/layers.0.up.bias; only"):
        list(one_block(ready, "block-0"))


@pytest.mark.parametrize(("change", "message"), [CHANGES[i] for i in (0, 3, 5, 6, 7, 10)])
def test_shards(change: Callable[[Tensors], Any], message: str, run: Path, tmp_path: Path) -> None:
    ob.merge(run)
    plan, shard = ob.read_plan(run), run / "model" / "block-1.safetensors"

    def inside(tensors: Tensors) -> None:
        found = {name.replace("blocks.1.", "ema/"): t for name, t in tensors.items()}
        tensors.clear()
        change(found)
        tensors.update({name.replace("ema/", "blocks.1."): t for name, t in found.items()})

    rewritten(shard, plan.hash, "block-1", inside)
    message = message.replace("ema/", "blocks.1.")
    model = ob.Model.open(run / "model")
    with pytest.raises(CheckpointError, match=message):
        model.denoiser.block(1)
    with pytest.raises(CheckpointError, match=message):
        model.save(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert [file.path for file in ob.fsck(run / "model").files if not file.good] == [shard]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON as oneblock writes it"),
        ("[]", "is not the index of this model of 2 shards"),
        ('{"metadata": {}, "weight_map": {"blocks.0.a": "../secret.safetensors"}}', "is not the index of this model"),
        ('{"metadata": {}, "weight_map": {"blocks.0.a": "block-1.safetensors"}}', "is not the index of this model"),
        ('{"metadata": {}, "weight_map": {}}', "names other tensors than block-0.safetensors has"),
    ],
)
def test_an_index_of_something_else(text: str, message: str, run: Path) -> None:
    ob.merge(run)
    (run / "model" / INDEX_FILE).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        ob.Model.open(run / "model").denoiser.block(0)
    assert message in "".join(file.problem for file in ob.fsck(run).files)


def test_a_model_whose_plan_was_changed_is_not_opened(run: Path) -> None:
    ob.merge(run)
    config = run / "model" / CONFIG_FILE
    config.write_text(config.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(CheckpointError, match=r"block-0.safetensors belongs to plan .*, but this run has plan"):
        ob.Model.open(run / "model")


def test_a_model_without_an_index_opens_and_its_copy_has_one(run: Path, tmp_path: Path) -> None:
    ob.merge(run)
    index = json.loads((run / "model" / INDEX_FILE).read_text())
    (run / "model" / INDEX_FILE).unlink()
    ob.Model.open(run / "model").save(tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / INDEX_FILE).read_text()) == index
    assert "is missing, which other programs need" in "".join(one.problem for one in ob.fsck(run).files)


def test_a_place_that_holds_something_else_is_not_merged_into(run: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "place" / "block-0.safetensors"
    foreign.parent.mkdir()
    foreign.write_bytes(b"not ours")
    with pytest.raises(ValueError, match=r"holds something other than a model .*; give the model a directory"):
        ob.merge(run, foreign.parent)
    assert [path.read_bytes() for path in foreign.parent.iterdir()] == [b"not ours"]
    with pytest.raises(ValueError, match="holds a run; give the model a directory of its own"):
        ob.merge(run, run)
    with pytest.raises(ValueError, match="is a file; give the model a directory of its own"):
        ob.merge(run, foreign)


def test_the_users_own_network_is_compared_where_it_is_given(tmp_path: Path) -> None:
    recipe = ob.ImageRecipe(depth=2, width=8, heads=1, blocks=2, budget=64, batch_size=16, block_batch_size=16)
    ob.train(recipe, backbone=Own, data=MemorySource(IMAGES), out=tmp_path, watch=Watch(bars=False))
    plan, path = ob.read_plan(tmp_path), checkpoints(tmp_path / "block-1")[-1]

    def wider(tensors: Tensors) -> None:  # as whole as it was, yet another head
        tensors.update({name: torch.cat([t, t]) for name, t in tensors.items() if name.endswith("head.out.bias")})

    rewritten(path, plan.hash, "block-1", wider)
    with pytest.raises(CheckpointError, match="has another stem or head than the first block"):
        ob.merge(tmp_path)
    with pytest.raises(CheckpointError, match=r"its ema/head.out.bias is torch.float32 \(128,\), that of the network"):
        ob.merge(tmp_path, backbone=Own)
    rewritten(path, plan.hash, "block-1", lambda t: t.pop("ema/head.out.bias"))
    with pytest.raises(CheckpointError, match=r"it lacks ema/head.out.bias"):
        ob.merge(tmp_path)


def test_moments_of_8_bits_belong_to_their_optimizer(tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    plan = tiny_plan(OptimizerSettings(optimizer="adamw8bit"), width=64)
    ready = tiny_run(tmp_path, plan, save_every=2)
    list(one_block(ready, "block-0"))
    list(one_block(ready, "block-1"))
    names = load_checkpoint(checkpoints(tmp_path / "block-0")[-1], plan.hash, "block-0")[0].keys()
    assert any(".codes/" in name for name in names) and any(name.startswith("exp_avg/") for name in names)
    assert ob.fsck(tmp_path).good
    codes = next(name for name in names if ".scale/" in name)
    rewritten(checkpoints(tmp_path / "block-0")[-1], plan.hash, "block-0", lambda t: t.pop(codes))
    with pytest.raises(CheckpointError, match=f"it lacks {codes}"):
        ob.merge(tmp_path)


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    ready = tiny_run(tmp_path)
    block = BlockJob(ready, job_specs(ready.plan)[0])
    block.restore()
    block.advance()
    block.save()
    before = last_files(tmp_path)
    block.advance()
    with torch.no_grad():
        next(iter(block.learner.weights.values())).view(-1)[0] = float("inf")
    with pytest.raises(NonFiniteError, match=r"block-0: weights .* are not finite after step 2, which is not saved"):
        block.save()
    assert last_files(tmp_path) == before
