"""Blocks some of whose parameters are frozen: no gradients, moments, averages or files of those."""

from pathlib import Path
from typing import Any

import own
import pytest
import torch
from safetensors.torch import load_file
from tiny import last_files

import oneblock as ob
from oneblock.presets.base import ImageFacts
from oneblock.presets.cost import all_resident, job_peaks
from oneblock.presets.counted import counted_plan
from oneblock.presets.tasks import blockwise
from oneblock.train.checkpoint import checkpoints
from oneblock.train.drive import Watch

QUIET = Watch(bars=False)
RECIPE: dict[str, Any] = {"depth": 2, "blocks": 2, "batch_size": 8, "block_batch_size": 8, "learning_rate": 1e-2}
FACTS = ImageFacts(shape=(1, 8, 8), num_classes=10)


class DrawnStem(own.Own):
    """What is not trained is drawn at random, for each block anew."""

    def __init__(self, layers: range) -> None:
        super().__init__(layers)
        self.stem.requires_grad_(False)


class FrozenStem(DrawnStem):
    """The same in all blocks."""

    def __init__(self, layers: range) -> None:
        super().__init__(layers)
        for p in self.stem.parameters():
            torch.nn.init.constant_(p, 0.1)


class AllFrozen(own.Own):
    def __init__(self, layers: range) -> None:
        super().__init__(layers)
        self.requires_grad_(False)


@pytest.mark.parametrize(
    "changes",
    [{}, {"shared": "joint"}, {"shared": "synced", "sync_every": 2}, {"branch": 0.5}, {"optimizer": "adamw8bit"}],
    ids=lambda changes: ", ".join(changes) or "private",
)
def test_files_hold_what_is_trained(changes: dict[str, Any], tmp_path: Path) -> None:
    recipe = ob.ImageRecipe(**RECIPE, budget=8 * 2 * 8, **changes)

    def train(out: Path) -> dict[str, bytes]:
        machine = ob.Machine(save_every=3, keep=9, threads=1)
        ob.train(recipe, backbone=FrozenStem, data="digits", out=out, machine=machine, watch=QUIET)
        return last_files(out)

    whole = train(tmp_path)
    for job in whole:
        tensors = load_file(checkpoints(tmp_path / job)[-1])
        assert not [name for name in tensors if "stem" in name]
        assert {name.split("/")[0].split(".")[0] for name in tensors} == {"weights", "ema", "exp_avg", "exp_avg_sq"}
    for path in tmp_path.glob("block-*/step-00000000[4-9].safetensors"):
        path.unlink()
    assert train(tmp_path) == whole, "it goes on to the byte"
    model = ob.Model.open(tmp_path, backbone=FrozenStem)
    model.save(tmp_path / "merged")
    assert ob.fsck(tmp_path, FrozenStem).good
    merged = ob.Model.open(tmp_path / "merged", backbone=FrozenStem)
    assert merged.sample([0, 1], steps=4).equal(model.sample([0, 1], steps=4))


def test_frozen_parameters_stay_and_others_move(tmp_path: Path) -> None:
    recipe = ob.ImageRecipe(**RECIPE, budget=8 * 2 * 8)
    done = ob.train(recipe, backbone=DrawnStem, data="digits", out=tmp_path, watch=QUIET)
    fresh: Any = blockwise(done.plan, DrawnStem).denoiser(1).backbone
    trained: Any = ob.Model.open(tmp_path, backbone=DrawnStem).denoiser.block(1).backbone
    assert trained.stem.pixels.weight.equal(fresh.stem.pixels.weight), "made again from the plan's seed"
    assert not trained.head.out.weight.equal(fresh.head.out.weight)


@pytest.mark.parametrize("changes", [{"shared": "joint"}, {"branch": 0.5}], ids=lambda changes: ", ".join(changes))
def test_trained_weights_never_come_beside_other_frozen_ones(changes: dict[str, Any], tmp_path: Path) -> None:
    recipe = ob.ImageRecipe(**RECIPE, budget=8 * 2 * 8, **changes)
    with pytest.raises(ValueError, match=r"frozen ones beside them differ \(stem.pixels.weight of blocks 0 and 1\)"):
        ob.train(recipe, backbone=DrawnStem, data="digits", out=tmp_path, watch=QUIET)


def test_the_planner_counts_them_as_weights_alone() -> None:
    plans = [counted_plan(ob.ImageRecipe(**RECIPE, budget="10k"), FACTS, one) for one in (FrozenStem, own.Own)]
    frozen, trained = (
        job_peaks(plan, backbone=one)["block-0"] for plan, one in zip(plans, (FrozenStem, own.Own), strict=True)
    )
    assert frozen == job_peaks(plans[0], real=True, backbone=FrozenStem)["block-0"]
    stem = 4 * sum(p.numel() for p in own.Stem().parameters())
    assert trained.by_kind["Optstate"] - frozen.by_kind["Optstate"] == 2 * stem + 4 * 5  # steps of five parameters
    assert frozen.by_kind["Parameter"] == trained.by_kind["Parameter"]
    waiting = all_resident(plans[0], backbone=FrozenStem)
    own_only = 4 * sum(p.numel() for p in FrozenStem(range(1)).parameters())
    assert waiting.by_kind["Parameter"] == frozen.by_kind["Parameter"] + own_only


def test_nothing_to_train_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="block-0: all parameters of BlockDenoiser are frozen"):
        ob.train(ob.ImageRecipe(**RECIPE), backbone=AllFrozen, data="digits", out=tmp_path, watch=QUIET)
