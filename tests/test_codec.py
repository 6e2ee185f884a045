"""Image generators of the components of patches: plan, data, samples, losses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import FACTS, IMAGES, TINY, tiny_plan
from torch import Tensor
from torch.utils.data import TensorDataset

import oneblock as ob
from oneblock.condition import Condition, Nothing
from oneblock.data import Samples, to_float
from oneblock.data.pca import fit_pca
from oneblock.evaluate.common import OnPixels, common_law, common_loss
from oneblock.evaluate.images import Sampling, sample_images
from oneblock.model import ImageModel
from oneblock.noise import LogNormal, LogUniform
from oneblock.precondition import Precondition
from oneblock.presets import ImageFacts, ImageRecipe, image_shape, image_task, training_peak
from oneblock.presets.codec import fitted_in, num_components
from oneblock.presets.door import check_plan
from oneblock.presets.image import data_shape, dit_config
from oneblock.state import START, State

FITTED = replace(FACTS, fit=lambda components, patch: fit_pca(IMAGES.images, components, patch))
DATA = TensorDataset(IMAGES.images, IMAGES.labels)


def test_a_codec_is_in_the_plan_with_its_numbers() -> None:
    plan = tiny_plan(facts=FITTED, codec="pca:3", patch=2)
    check_plan(ob.Plan.from_json(plan.to_json()))
    codec = fitted_in(plan)
    assert codec is not None and codec.fingerprint() == fit_pca(IMAGES.images, 3, 2).fingerprint()
    assert (image_shape(plan), data_shape(plan)) == ((3, 4, 4), (1, 8, 8))
    assert (dit_config(plan).patch, dit_config(plan).channels, dit_config(plan).image_size) == (1, 3, 4)
    assert plan.recipe["codec"] == "pca:3" and plan.recipe["autoencoder"] == ""
    half = tiny_plan(facts=FITTED, codec="pca:50%", patch=2)
    assert half.recipe["codec"] == "pca:2" == tiny_plan(facts=FITTED, codec="pca:30%", patch=2).recipe["codec"]


def test_plans_of_pixels_say_nothing_of_it() -> None:
    assert not any(key.startswith("codec") for key in tiny_plan(facts=FITTED).recipe)
    assert tiny_plan(facts=FITTED, codec="pixels").hash == tiny_plan().hash


def test_noise_is_added_to_components_and_samples_are_images() -> None:
    plan = tiny_plan(facts=FITTED, codec="pca:3", patch=2)
    task, codec = image_task(plan), fitted_in(plan)
    assert codec is not None
    values = to_float(IMAGES.images[:4])
    batch = task.draw(Samples(values, IMAGES.labels[:4]), torch.full((4,), 1e-6), 0, torch.Generator().manual_seed(0))
    assert batch.targets.equal(codec.encode(values))
    torch.testing.assert_close(batch.noised.z, batch.targets, rtol=0, atol=1e-4)

    def perfect(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return codec.encode(values)

    expected = ((codec.decode(codec.encode(values)) * 127.5 + 127.5).round().clamp(0, 255)).to(torch.uint8)
    found = sample_images(perfect, plan, IMAGES.labels[:4], Sampling(steps=2))
    assert (found.int() - expected.int()).abs().max() <= 1


def test_planned_bytes_are_counted_bytes_without_any_data() -> None:
    plan = tiny_plan(facts=ImageFacts(shape=(1, 8, 8), num_classes=3), codec="pca:4", patch=2)
    check_plan(plan)
    assert training_peak(plan).total == training_peak(plan, real=True).total


def test_a_run_needs_its_plan_and_pixels_alone(tmp_path: Path) -> None:
    recipe = ImageRecipe(**TINY | {"patch": 2, "codec": "pca:2", "branch": 0.5})
    ob.train(recipe, data=DATA, out=tmp_path / "run")
    ob.train(recipe, data=DATA, out=tmp_path / "jobs", strategy="plan-only")
    assert ob.read_plan(tmp_path / "run").hash == ob.read_plan(tmp_path / "jobs").hash
    for block in ("trunk", 1, 0):
        ob.run_job(tmp_path / "jobs", block, data=DATA)
    for path in (tmp_path / "run").glob("block-*/*.safetensors"):
        assert path.read_bytes() == (tmp_path / "jobs" / path.relative_to(tmp_path / "run")).read_bytes()
    model = ImageModel.open(tmp_path / "run")
    assert model.sample([0, 1], steps=2).shape == (2, 1, 8, 8)
    model.save(tmp_path / "model")
    assert ImageModel.open(tmp_path / "model").sample([2], steps=2).equal(model.sample([2], steps=2))
    row = model.evaluate(DATA, num_samples=0)
    assert row["loss"] > 0 and row["loss_protocol"]["held_out_hash"] != model.plan.recipe["fingerprint"]


def test_data_that_have_changed_are_said_and_may_be_accepted(tmp_path: Path) -> None:
    recipe = ImageRecipe(**TINY | {"patch": 2, "codec": "pca:2"})
    ob.train(recipe, data=DATA, out=tmp_path, strategy="one-block", block=0)
    other = TensorDataset(255 - IMAGES.images, IMAGES.labels)
    with pytest.raises(ValueError, match=r"is not what the plan was made for.* or go on with these"):
        ob.train(recipe, data=other, out=tmp_path)
    ob.train(recipe, data=other, out=tmp_path, accept_data=True)


class Doubled:
    """Answers with a multiple of z; keeps the levels it is asked at."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition, state: State | None = None) -> Any:
        self.asked += sigma.tolist()
        return 0.5 * z if state is None else (0.5 * z, START)


def test_a_denoiser_of_components_is_one_of_pixels_at_a_scaled_level() -> None:
    codec, images = fit_pca(IMAGES.images, 3, 2), to_float(IMAGES.images[:2])
    inner = Doubled()
    denoiser = OnPixels(inner, LogUniform(0.1, 10.0), codec)
    answer = denoiser(images, torch.tensor([1.0, 20.0]), Nothing(2))
    assert inner.asked == pytest.approx([codec.scale, 10.0])
    torch.testing.assert_close(answer, codec.decode(0.5 * codec.encode(images)))
    again, left = denoiser(images, torch.tensor([1.0, 20.0]), Nothing(2), START)
    assert again.equal(answer) and left is START


def test_losses_compare_on_pixels_with_edms_weights() -> None:
    plain, inner = tiny_plan(), Doubled()
    assert (
        common_loss(inner, plain, image_task(plain)) == (inner, image_task(plain))
        and common_law(plain) == plain.partition.law
    )
    flow = tiny_plan(objective="flow", shift=3.0, sigma_data=0.7)
    denoiser, task = common_loss(inner, flow, image_task(flow))
    assert task.frame == Precondition(0.7) and common_law(flow) == LogNormal()
    denoiser(torch.zeros(1, 1, 8, 8), torch.tensor([0.002]), Nothing(1))
    assert inner.asked == pytest.approx([3 / 999])
    coded = tiny_plan(facts=FITTED, codec="pca:3", patch=2)
    denoiser, task = common_loss(inner, coded, image_task(coded))
    assert isinstance(denoiser, OnPixels) and task.codec.fingerprint() == "" and task.frame == Precondition(0.5)


@pytest.mark.parametrize(
    ("codec", "facts", "message"),
    [
        ("jpeg", FITTED, "codec='jpeg' is unknown; use pixels, pca:K with K components"),
        ("pca:0", FITTED, "codec='pca:0' is unknown"),
        ("pca:17", FITTED, "patches of 4 x 4 pixels with 1 channels have 16 values; use 1 to 16 components"),
        ("pca:2", FACTS, "codec='pca:2' is fitted on training images, which these facts do not give"),
        ("pca:2", replace(FITTED, autoencoder="0" * 16), "encodes pixels, but the data are latents; leave one of them"),
        ("pca:2", replace(FITTED, shape=(5,)), r"encodes images .* but samples have shape \(5,\); leave it out"),
    ],
)
def test_codecs_that_do_not_fit_are_refused(codec: str, facts: ImageFacts, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_plan(facts=facts, codec=codec)


def test_components_are_a_number_or_a_share() -> None:
    assert [num_components(word, 12) for word in ("pixels", "pca:7", "pca:50%", "pca:1%")] == [0, 7, 6, 1]


def test_a_plan_whose_codec_is_damaged_is_refused() -> None:
    plan = tiny_plan(facts=FITTED, codec="pca:3", patch=2)
    for changes, message in (
        ({"codec_values": plan.recipe["codec_values"][:-1]}, "values are not those of 3 components"),
        ({"codec": "pixels"}, "goes with a recipe.codec that was fitted, not with 'pixels'"),
        ({"autoencoder": "0" * 16}, "recipe.codec='pca:3' does not fit a network of 3 channels, or an autoencoder"),
    ):
        with pytest.raises(ValueError, match=message):
            check_plan(replace(plan, recipe={**plan.recipe, **changes}))
