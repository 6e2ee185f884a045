"""Objectives of image generators: what a network predicts, and the noise law that goes with it."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import FACTS, tiny_plan
from torch import Tensor, nn

import oneblock as ob
from oneblock.blockwise import BlockDenoiser
from oneblock.condition import Condition, Nothing
from oneblock.evaluate.images import Sampling
from oneblock.models.dit import DiTConfig
from oneblock.noise import LogNormal
from oneblock.precondition import Precondition
from oneblock.presets import ImageRecipe, blockwise, image_task
from oneblock.presets.base import OwnBackbone
from oneblock.presets.door import check_plan
from oneblock.presets.image import dit_config, image_frame, written
from oneblock.presets.objective import objective_frame
from oneblock.sample import flow_grid, karras_grid
from oneblock.schedule import SHORTEST_TIME, FlowMatching, frame_from_dict, frame_to_dict
from oneblock.tasks.image import denoising_loss


class Velocity(nn.Module):
    """A backbone that answers with any function of what it is shown and told."""

    def __init__(self, clean: bool) -> None:
        super().__init__()
        self.clean = clean
        self.layers = nn.ModuleDict()

    def stem(self, z: Tensor, noise: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        return z, noise

    def head(self, h: Tensor, noise: Tensor) -> Tensor:
        t = noise.view(-1, 1) / FlowMatching.num_train_timesteps
        velocity = torch.sin(3 * h) - t
        return h - t * velocity if self.clean else velocity


LEVELS = torch.tensor([0.002, 0.03, 0.2, 1.0, 7.0, 500.0], dtype=torch.float64)


def test_velocity_and_clean_image_are_the_same_denoiser_when_converted_into_each_other() -> None:
    z = torch.randn(len(LEVELS), 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    velocity = BlockDenoiser(Velocity(clean=False), FlowMatching())
    clean = BlockDenoiser(Velocity(clean=True), FlowMatching(prediction_type="sample"))
    told = Nothing(len(z))
    torch.testing.assert_close(velocity(z, LEVELS, told), clean(z, LEVELS, told), rtol=1e-12, atol=1e-12)


def test_both_losses_are_that_of_the_velocity_down_to_the_shortest_time() -> None:
    y = torch.randn(len(LEVELS), 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t = LEVELS / (1 + LEVELS)
    found = {}
    for clean in (False, True):
        denoiser = BlockDenoiser(Velocity(clean), FlowMatching(prediction_type="sample" if clean else "velocity"))
        losses = []
        for i in range(len(y)):
            generator = torch.Generator().manual_seed(i)
            losses.append(denoising_loss(denoiser, y[i : i + 1], None, LEVELS[i : i + 1], generator))
        found[clean] = torch.stack(losses)
    for i in range(len(y)):
        noise = torch.randn(1, 5, generator=torch.Generator().manual_seed(i)).double()[0]
        x_t = (1 - t[i]) * y[i] + t[i] * noise
        by_hand = (torch.sin(3 * x_t) - t[i] - (noise - y[i])).square().mean()
        torch.testing.assert_close(found[False][i], by_hand, rtol=1e-6, atol=0)
    floor = (t / SHORTEST_TIME).clamp(max=1) ** 2
    assert (floor < 1).sum() == 2
    torch.testing.assert_close(found[True], floor * found[False], rtol=1e-6, atol=0)


@pytest.mark.parametrize(("objective", "prediction"), [("flow", "velocity"), ("x", "sample")])
def test_an_objective_is_in_the_plan(objective: Any, prediction: Any) -> None:
    plan = tiny_plan(objective=objective, shift=3.0, time_mean=-0.5, time_std=0.8)
    law = plan.partition.law
    assert isinstance(law, LogNormal) and (law.p_std, law.low, law.high) == (0.8, 3 / 999, 3 * 999)
    assert law.p_mean == pytest.approx(-0.5 + math.log(3))
    frame = FlowMatching(3.0, prediction_type=prediction)
    assert objective_frame(plan) == image_frame(plan) == image_task(plan).frame == frame
    assert blockwise(plan).denoiser(0).frame == frame
    assert dit_config(plan).noise_scale == 0.004
    check_plan(ob.Plan.from_json(plan.to_json()))


def test_bands_are_cut_where_the_time_has_equal_mass() -> None:
    """Of the median, shifted: ``t = s t / (1 + (s - 1) t)`` at 1/2 has the level s, whatever the spread."""
    for shift in (1.0, 3.0):
        assert tiny_plan(objective="flow", shift=shift, time_std=1.7).edges[1] == pytest.approx(shift, rel=1e-3)
    assert tiny_plan(objective="x", time_mean=-1.1, time_std=0.8).edges[1] == pytest.approx(math.exp(-1.1), rel=1e-3)


def test_the_network_is_told_a_time_that_spans_as_much_as_edms_conditioning() -> None:
    told: list[Tensor] = []
    plan = tiny_plan(objective="flow")
    block = blockwise(plan).denoiser(0)
    block.backbone.get_submodule("stem.noise").register_forward_hook(lambda _, inputs, out: told.append(inputs[0]))
    block(torch.zeros(2, 1, 8, 8), torch.tensor([1.0, 3.0]), image_task(plan).condition(torch.tensor([0, 1])))
    torch.testing.assert_close(told[0], torch.tensor([2.0, 3.0]))


def test_plans_without_an_objective_say_nothing_of_it() -> None:
    plan = tiny_plan()
    assert {"objective", "shift"}.isdisjoint(plan.recipe) and "noise_scale" not in plan.architecture
    assert image_frame(plan) == Precondition(0.5) and plan.partition.law == LogNormal()
    assert tiny_plan(objective="edm").hash == plan.hash
    config = DiTConfig(image_size=8, channels=1, num_classes=3, depth=2, width=16, heads=2, patch=4)
    assert written(config)["mlp_ratio"] == 4.0 and "noise_scale" not in written(config)
    assert written(replace(config, noise_scale=0.5))["noise_scale"] == 0.5


def test_a_flow_of_clean_images_survives_a_file_and_others_are_written_as_ever() -> None:
    frame = FlowMatching(2.0, prediction_type="sample")
    assert frame_from_dict(frame_to_dict(frame)) == frame
    assert set(frame_to_dict(FlowMatching())) == {"frame", "shift", "num_train_timesteps"}
    with pytest.raises(ValueError, match="prediction_type='epsilon' is not allowed in FlowMatching; use one of vel"):
        frame_from_dict({**frame_to_dict(frame), "prediction_type": "epsilon"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"shift": 2.0},
            "shift=2.0 goes with an objective of a flow (flow, x, meanflow), not with objective='edm'; leave it",
        ),
        ({"time_mean": 1.0}, "time_mean=1.0 goes with an objective of a flow"),
        ({"objective": "flow", "time_std": 0.0}, "time_std=0.0 is not allowed; use a number, above 0"),
        ({"objective": "v"}, "objective='v' is not allowed in ImageRecipe; use one of edm, flow, x, meanflow"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refused:
        ImageRecipe(**changes)
    assert message in str(refused.value)


def test_a_network_with_a_schedule_of_its_own_keeps_it() -> None:
    backbone = OwnBackbone("mine:Mixer", frame_to_dict(FlowMatching()))
    with pytest.raises(ValueError, match="objective='x' does not fit a network that keeps its own schedule, flow-mat"):
        ImageRecipe(objective="x").plan(FACTS, backbone)


def test_a_plan_whose_parts_disagree_is_refused() -> None:
    plan = tiny_plan(objective="flow")
    for changed, message in (
        ({**plan.recipe, "frame": "flow-matching", "num_train_timesteps": 1000}, "does not go with recipe.frame="),
        ({k: v for k, v in plan.recipe.items() if k != "shift"}, "recipe.shift goes with an objective of a flow"),
        ({**plan.recipe, "objective": "edm"}, "recipe.shift goes with an objective of a flow"),
    ):
        with pytest.raises(ValueError, match=message):
            check_plan(replace(plan, recipe=changed))
    with pytest.raises(ValueError, match=r"architecture.noise_scale=1.0, but recipe.objective='flow' needs 0.004"):
        check_plan(replace(plan, architecture={**plan.architecture, "noise_scale": 1.0}))


def test_steps_lie_where_the_model_was_trained() -> None:
    edm, flow = tiny_plan(), tiny_plan(objective="flow", shift=2.0)
    assert Sampling(steps=8, grid="objective").levels(edm).equal(karras_grid(0.002, 80.0, 8))
    assert Sampling(steps=8, grid="objective").levels(flow).equal(flow_grid(2 / 999, 2 * 999, 8, 2.0))
    assert Sampling(steps=8, grid="flow").levels(flow).equal(flow_grid(2 / 999, 2 * 999, 8, 2.0))
    assert Sampling(steps=8, grid="flow").levels(edm).equal(flow_grid(0.002, 80.0, 8))
