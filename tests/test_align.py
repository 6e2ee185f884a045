"""Representation alignment: the loss by its formula, and a projection that is no part of the generator."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tiny import IMAGES, TINY, tiny_plan
from torch import Tensor
from torch.utils.data import TensorDataset

import oneblock as ob
from oneblock.backbone import hidden
from oneblock.blockwise import BlockDenoiser
from oneblock.data import Samples, to_float, to_uint8
from oneblock.metrics.features import extractor_for, feature_maps, map_channels
from oneblock.model import ImageModel
from oneblock.presets import ImageRecipe, build_backbone, image_task, plan_task, training_peak
from oneblock.presets.door import check_plan
from oneblock.presets.tasks import training_backbone
from oneblock.projection import Projecting
from oneblock.state import START, Hidden
from oneblock.tasks.aligned import Aligned
from oneblock.train.checkpoint import checkpoints

CHANGES: dict[str, Any] = {"align": 0.5, "align_features": "digits-cnn", "patch": 2}
DATA = TensorDataset(IMAGES.images, IMAGES.labels)


def shake(module: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))


def batch_of(task: Aligned) -> Any:
    samples = Samples(to_float(IMAGES.images[:3]), IMAGES.labels[:3])
    return task.draw(samples, torch.tensor([0.3, 1.0, 2.0]), 0, torch.Generator().manual_seed(0))


def test_the_loss_is_the_tasks_and_one_minus_the_mean_cosine() -> None:
    plan = tiny_plan(**CHANGES)
    task = plan_task(plan)
    assert isinstance(task, Aligned)
    backbone = training_backbone(plan)(plan.layer_range(1))
    assert isinstance(backbone, Projecting) and backbone.after == 1
    shake(backbone)
    denoiser, batch = BlockDenoiser(backbone, plan.precondition), batch_of(task)
    z, sigma, told = batch.noised.z, batch.noised.sigma, batch.condition

    plain = image_task(plan).loss(denoiser, batch.noised, batch.targets, told)
    h, modulation = backbone.stem(plan.precondition.inputs(z, sigma), plan.precondition.noise(sigma), told)
    tokens = backbone.projection(backbone.layers["2"](h, modulation))
    maps = feature_maps("digits-cnn")(to_uint8(batch.targets))
    features = torch.nn.functional.interpolate(maps, size=(4, 4), mode="bilinear").flatten(2).mT
    cosines = (tokens * features).sum(-1) / (tokens.norm(dim=-1) * features.norm(dim=-1))

    loss = task.loss(denoiser, batch.noised, batch.targets, told)
    torch.testing.assert_close(loss.plain, plain.plain)
    torch.testing.assert_close(loss.weighted, plain.weighted + 0.5 * (1 - cosines.mean(1)))


def test_the_tokens_of_a_caption_are_not_aligned() -> None:
    """They stand behind the patches."""
    task = plan_task(tiny_plan(**CHANGES))
    assert isinstance(task, Aligned)
    batch = batch_of(task)
    tokens = torch.randn(3, 16 + 5, 64)

    class Told:
        def __init__(self, tokens: Tensor) -> None:
            self.tokens = tokens

        def __call__(self, z: Tensor, sigma: Tensor, told: object, state: object) -> tuple[Tensor, Hidden]:
            return z, Hidden(self.tokens, torch.zeros(3, dtype=torch.int64))

    both, patches = (
        task.loss(Told(one), batch.noised, batch.targets, batch.condition)  # type: ignore[arg-type]
        for one in (tokens, tokens[:, :16])
    )
    assert both.weighted.equal(patches.weighted)


def test_features_lie_where_the_tokens_are() -> None:
    task = plan_task(tiny_plan(**CHANGES))
    assert isinstance(task, Aligned)
    bright = torch.full((1, 1, 8, 8), -1.0)
    bright[..., 4:, :4] = 1.0
    row, column = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    seen = replace(task, maps=lambda images: (images + 1) * (10 * row + column))
    assert seen.features(bright).shape == (1, 16, 1)
    dark = seen.features(-torch.ones(1, 1, 8, 8))
    assert dark.abs().max() == 0
    lit = seen.features(bright)[0, :, 0].view(4, 4) > 0
    assert lit.nonzero().tolist() == [[2, 0], [2, 1], [3, 0], [3, 1]]


def test_a_projection_changes_nothing_of_the_network_and_its_initial_weights() -> None:
    plan = tiny_plan(**CHANGES)
    made = []
    for build in (build_backbone(plan), training_backbone(plan)):
        torch.manual_seed(3)
        made.append(build(plan.layer_range(1)))
    plain, projecting = made
    assert all(p.equal(projecting.get_parameter(name)) for name, p in plain.named_parameters())
    shake(projecting)
    plain.load_state_dict({k: v for k, v in projecting.state_dict().items() if not k.startswith("projection.")})
    batch = batch_of(plan_task(plan))  # type: ignore[arg-type]
    ask = batch.noised.z, batch.noised.sigma, batch.condition
    answers = [BlockDenoiser(one, plan.precondition)(*ask) for one in (plain, projecting)]
    assert answers[0].equal(answers[1])
    again, left = BlockDenoiser(projecting, plan.precondition)(*ask, START)
    assert again.equal(answers[0]) and isinstance(left, Hidden) and left.tokens.shape == (3, 16, 64)


@pytest.mark.parametrize(("layers", "layer", "after"), [(1, 0, 1), (2, 0, 1), (3, 0, 2), (3, 3, 3)])
def test_tokens_are_those_after_the_layer_that_is_named(layers: int, layer: int, after: int) -> None:
    plan = tiny_plan(**CHANGES | {"depth": 2 * layers, "align_layer": layer})
    backbone = training_backbone(plan)(plan.layer_range(0))
    assert isinstance(backbone, Projecting) and backbone.after == after


def test_the_last_layers_tokens_are_the_hidden_state() -> None:
    plan = tiny_plan(**CHANGES | {"align_layer": 2})
    backbone = training_backbone(plan)(plan.layer_range(0))
    shake(backbone)
    batch = batch_of(plan_task(plan))  # type: ignore[arg-type]
    frame = plan.precondition
    inputs = frame.inputs(batch.noised.z, batch.noised.sigma)
    h, _ = hidden(backbone, inputs, frame.noise(batch.noised.sigma), batch.condition)  # type: ignore[arg-type]
    _, left = BlockDenoiser(backbone, frame)(batch.noised.z, batch.noised.sigma, batch.condition, START)
    assert isinstance(left, Hidden)
    torch.testing.assert_close(left.tokens, backbone.get_submodule("projection")(h))


def test_planned_bytes_have_the_projection() -> None:
    plan, plain = tiny_plan(**CHANGES), tiny_plan(patch=2)
    found = training_peak(plan)
    assert found.total == training_peak(plan, real=True).total
    weights = 16 * 32 + 32 + 32 * 32 + 32 + 32 * 64 + 64
    assert found.by_kind["Parameter"] - training_peak(plain).by_kind["Parameter"] == 4 * weights


def test_a_model_has_no_projection_and_a_run_goes_on_with_it(tmp_path: Path) -> None:
    recipe = ImageRecipe(**TINY | CHANGES | {"branch": 0.5})
    machine = ob.Machine(save_every=1, keep=99)
    ob.train(recipe, data=DATA, out=tmp_path / "run", machine=machine)
    for block in (0, 1):
        with safe_open(checkpoints(tmp_path / "run" / f"block-{block}")[-1], "pt") as file:
            assert sum(name.startswith("weights/projection.") for name in file.keys()) == 6
    shown = ImageModel.open(tmp_path / "run")
    shown.save(tmp_path / "model")
    with safe_open(tmp_path / "model" / "block-0.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "projection" in name]
    assert ImageModel.open(tmp_path / "model").sample([0, 1], steps=2).equal(shown.sample([0, 1], steps=2))

    last = checkpoints(tmp_path / "run" / "block-1")[-1]
    trained = last.read_bytes()
    last.unlink()
    ob.train(recipe, data=DATA, out=tmp_path / "run", machine=machine)
    assert last.read_bytes() == trained


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"align": -1.0}, r"align=-1.0 is not allowed; use a number, 0 or more"),
        ({"align_layer": 1}, "align_layer=1 goes with align above 0; leave it out"),
        ({"align_features": "digits-cnn"}, "align_features='digits-cnn' goes with align above 0"),
        (CHANGES | {"align_features": "vgg"}, "extractor name='vgg' is unknown; use one of digits-cnn"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_plan(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"align_layer": 3}, r"align_layer=3 \(blocks have 2 layers; 0 is the middle one\)"),
        ({"carry": 0.5}, r"align=0.5 does not go with carry \(leave one of them out\)"),
        ({"update": "evolution", "population": 4}, r"does not go with update='evolution' \(use backpropagation\)"),
    ],
)
def test_plans_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_plan(tiny_plan(**CHANGES | changes))


def test_images_that_the_frozen_network_does_not_take_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="do not fit fashion-mnist-cnn"):
        ob.train(ImageRecipe(**TINY | CHANGES | {"align_features": "fashion-mnist-cnn"}), data=DATA, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_maps_are_what_features_are_made_of() -> None:
    extractor: Any = extractor_for("digits-cnn")
    maps: Tensor = extractor.maps(IMAGES.images[:3])
    assert maps.shape == (3, map_channels("digits-cnn"), 2, 2)
    with torch.no_grad():
        torch.testing.assert_close(extractor._network.neck(maps.flatten(1)), extractor(IMAGES.images[:3]))
