"""Methods of image generation: each is a change of a recipe, trains in the same loop, and is compared as arms are."""

from dataclasses import replace
from pathlib import Path

import pytest
from tiny import FACTS, IMAGES, TINY
from torch.utils.data import TensorDataset

import oneblock as ob
from oneblock.data.pca import fit_pca
from oneblock.evaluate.images import Sampling
from oneblock.experiment.images import ARMS, ImageExperiment
from oneblock.experiment.methods import METHODS, SHIFT, combined
from oneblock.plan import differences
from oneblock.presets import ImageRecipe
from oneblock.presets.door import check_plan

FITTED = replace(FACTS, fit=lambda components, patch: fit_pca(IMAGES.images, components, patch))
RECIPE = ImageRecipe(**TINY | {"patch": 2, "branch": 0.5})
SEEN = replace(FITTED, data="digits")  # whose frozen network is at hand
OF_BLOCKS = {"end-to-end", "shallow", "experts", "blockwise", "branched"}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_changes_its_own_settings_and_nothing_else(name: str) -> None:
    plan, usual = (method.plan(SEEN) for method in (METHODS[name](RECIPE), RECIPE))
    check_plan(plan)
    found = set(differences(usual, plan))
    flow = {"recipe.objective", "recipe.shift", "architecture.noise_scale", "edges"}
    flow |= {f"noise.{key}" for key in ("p_mean", "p_std", "sigma_min", "sigma_max")}
    wanted = {
        "edm": set(),
        "flow": flow,
        "flow-shifted": flow,
        "x": flow,
        "ddt": {"architecture.head_layers", "recipe.end_layers"},
        "pca": {f"recipe.codec{end}" for end in ("", "_patch", "_values")}
        | {f"architecture.{key}" for key in ("channels", "image_size", "patch")},
        "aligned": {f"recipe.align{end}" for end in ("", "_features", "_layer")},
        "meanflow": flow | {"architecture.jumps"},
        "branched": set(),
        "blockwise": {"recipe.branch"},
    }
    if name in wanted:
        assert found == wanted[name]
    else:
        assert name in OF_BLOCKS and found <= {"layers", "edges", "architecture.depth", "recipe.branch"}
    if name == "flow-shifted":
        assert plan.recipe["shift"] == SHIFT


def test_methods_are_combined_in_order() -> None:
    recipe = combined("flow-shifted", "ddt", "pca", "shallow")(RECIPE)
    assert (recipe.objective, recipe.shift, recipe.head, recipe.codec) == ("flow", SHIFT, "ddt", "pca:50%")
    assert (recipe.blocks, recipe.depth, recipe.branch) == (1, 2, 0.0)
    check_plan(recipe.plan(SEEN))
    assert combined()(RECIPE) == RECIPE
    with pytest.raises(ValueError, match="method 'flwo' does not exist; use some of edm, flow, "):
        combined("flow", "flwo")


def test_every_method_is_an_arm_and_none_is_trained_unasked() -> None:
    assert set(METHODS) <= set(ARMS)
    usual = {name for name, arm in ARMS.items() if arm.usual}
    assert usual == {"end-to-end", "shallow", "ensemble", "experts", "blockwise", "branched"}


def test_methods_are_compared_by_one_loss_and_one_protocol(tmp_path: Path) -> None:
    images = TensorDataset(IMAGES.images, IMAGES.labels)
    arms = ["edm", "flow-shifted", "x", "ddt", "pca"]
    found = ob.compare(
        ImageExperiment(num_samples=0, sampling=Sampling(steps=2)),
        recipe=RECIPE,
        data=images,
        held_out=images,
        out=tmp_path,
        arms=arms,
        seeds=1,
    )
    assert [row["arm"] for row in found.rows] == arms
    assert all(0 < row["loss"] < 100 for row in found.rows)
    assert len({str(row["loss_protocol"]) for row in found.rows}) == 1
