"""Images sampled and scored with states: where they go, and what that costs."""

from typing import Any

import pytest
import torch
from relay import shaken
from tiny import IMAGES, tiny_plan
from torch import Tensor

from oneblock.blockwise import Denoiser
from oneblock.data import EncodedSource, MemorySource, Pixels, to_float
from oneblock.evaluate.bands import band_losses
from oneblock.evaluate.curves import layer_evaluations, state_distances
from oneblock.evaluate.images import Sampling, evaluate_images, sample_images
from oneblock.guidance import Averaged
from oneblock.plan import Plan
from oneblock.presets import blockwise, image_task
from oneblock.sample.carry import Carry

PLAN = tiny_plan(carry=0.9, branch=0.5)
PLAIN = tiny_plan(branch=0.5)
LABELS = torch.arange(3)


def opened(plan: Plan, work: list[int] | None = None) -> Denoiser:
    """The denoiser of a plan with random weights; counts the samples that go through its layers."""

    def load(block: int) -> Any:
        made = blockwise(plan).denoiser(block).eval()
        shaken(made, block, 0.2)
        for layer in made.layers.values():
            layer.register_forward_hook(lambda layer, given, h: work.append(len(h)) if work is not None else None)
        return made

    return Denoiser(plan.partition, load)


def sampled(plan: Plan, state: Carry = "private", **settings: Any) -> Tensor:
    return sample_images(opened(plan), plan, LABELS, Sampling(steps=6, state=state, **settings))


def test_without_states_it_is_the_sampler_of_the_network_alone() -> None:
    """A plan without a way for states has the same weights, those of the way apart."""
    states = opened(PLAN)

    def load(block: int) -> Any:
        made = blockwise(PLAIN).denoiser(block).eval()
        made.load_state_dict(states.block(block).state_dict(), strict=False)
        return made

    plain = sample_images(Denoiser(PLAIN.partition, load), PLAIN, LABELS, Sampling(steps=6))
    off = sample_images(states, PLAN, LABELS, Sampling(steps=6, state="off"))
    assert torch.equal(off, plain)
    assert not torch.equal(sample_images(states, PLAN, LABELS, Sampling(steps=6)), plain)


def test_every_way_gives_other_images() -> None:
    ways: tuple[Carry, ...] = ("private", "twice", "across", "off")
    found = [sampled(PLAN, state) for state in ways]
    for i, one in enumerate(found):
        assert not any(torch.equal(one, other) for other in found[:i])


@pytest.mark.parametrize("settings", [{}, {"guidance": 2.0, "guidance_interval": (0.1, 1.0)}])
@pytest.mark.parametrize("state", ["private", "twice", "across", "off"])
def test_the_work_is_that_of_the_layers_that_are_called(state: Carry, settings: dict[str, Any]) -> None:
    work: list[int] = []
    sampling = Sampling(steps=6, state=state, **settings)
    sample_images(opened(PLAN, work), PLAN, LABELS[:1], sampling)
    assert layer_evaluations([PLAN], sampling) == sum(work) > 0
    assert sampling.layer_evaluations(PLAN) >= sum(work)


def test_members_of_an_ensemble_carry_their_own() -> None:
    members = [opened(PLAN), opened(tiny_plan(carry=0.9, branch=0.5, seed=1))]
    found = sample_images(Averaged(members), PLAN, LABELS, Sampling(steps=4, state="across"))
    assert not torch.equal(found, sample_images(Averaged(members), PLAN, LABELS, Sampling(steps=4, state="off")))


def test_ways_that_were_not_trained_for_are_refused() -> None:
    with pytest.raises(ValueError, match="state='twice' is for models that hand states on"):
        sampled(PLAIN, "twice")
    with pytest.raises(ValueError, match="these blocks have no common trunk"):
        sampled(tiny_plan(carry=0.9), "across")
    assert len(sampled(tiny_plan(carry=0.9, blocks=1), "across")) == 3


def test_held_out_losses_with_a_state_are_scored_beside_those_without() -> None:
    source = EncodedSource(MemorySource(IMAGES), Pixels())
    scores = evaluate_images(opened(PLAN), PLAN, None, source, num_samples=0)
    task, images = image_task(PLAN), to_float(IMAGES.images)
    losses = [
        band_losses(opened(PLAN), task, PLAN.partition, images, IMAGES.labels, owners=one)
        for one in (None, PLAN.partition)
    ]
    assert scores["band_losses"] == pytest.approx(losses[0])
    assert scores["band_losses_with_state"] == pytest.approx(losses[1])
    assert scores["loss_with_state"] == pytest.approx(sum(losses[1]) / 2)
    assert losses[0] != pytest.approx(losses[1])
    assert "loss_with_state" not in evaluate_images(opened(PLAIN), PLAIN, None, source, num_samples=0)


def test_the_same_noise_with_and_without_a_state() -> None:
    """A network whose way is shut loses the same."""

    def load(block: int) -> Any:
        made = blockwise(PLAN).denoiser(block).eval()
        shaken(made, block, 0.2)
        torch.nn.init.zeros_(made.backbone.relay.map.weight)
        torch.nn.init.zeros_(made.backbone.relay.map.bias)
        return made

    task, images = image_task(PLAN), to_float(IMAGES.images)
    without, with_state = (
        band_losses(Denoiser(PLAN.partition, load), task, PLAN.partition, images, IMAGES.labels, owners=one)
        for one in (None, PLAN.partition)
    )
    assert without == pytest.approx(with_state)


def test_each_way_has_its_distance() -> None:
    source = EncodedSource(MemorySource(IMAGES), Pixels())
    asked: dict[str, Any] = {"num_samples": 24, "sampling": Sampling(steps=4), "extractor": "digits-cnn"}
    rows = state_distances(opened(PLAN), [PLAN], source, source, **asked)
    assert [row["state"] for row in rows] == ["private", "twice", "across", "off"]
    assert [row["layer_evaluations"] for row in rows] == [8, 12, 8, 8]
    assert len({row["frechet"] for row in rows}) == 4
    alone = tiny_plan(carry=0.9)
    assert [row["state"] for row in state_distances(opened(alone), [alone], source, source, **asked)] == [
        *("private", "twice", "off")
    ]
    assert state_distances(opened(PLAIN), [PLAIN], source, source, **asked) == []
