"""A trained network of diffusers keeps its schedule: its denoiser against its scheduler, its losses, plans and runs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("diffusers")

import diffusers
import own
from convert.networks import CLASSES, network

import oneblock as ob
from oneblock.blockwise import BlockDenoiser
from oneblock.condition import ClassIds
from oneblock.convert.converted import Converted
from oneblock.data import to_float
from oneblock.data.digits import load_digits
from oneblock.evaluate.images import Sampling
from oneblock.noise import LogNormal, law_to_dict
from oneblock.presets.base import ImageFacts
from oneblock.presets.cost import job_peaks
from oneblock.presets.door import check_plan
from oneblock.presets.frames import frame_values
from oneblock.presets.image import image_frame, image_task
from oneblock.presets.tasks import own_backbone
from oneblock.presets.teacher import taught, taught_task
from oneblock.sample.ode import euler
from oneblock.schedule import DiscreteBetas, FlowMatching, Parametrisation, VariancePreserving, frame_to_dict
from oneblock.tasks.distilled import Distilled
from oneblock.tasks.image import denoising_loss
from oneblock.train.drive import Watch

QUIET = Watch(bars=False)
LABELS = torch.tensor([0, 3, 7, 9, CLASSES])
STEPS = torch.tensor([1, 200, 500, 800, 980])
SMALL: dict[str, Any] = {
    "blocks": 2,
    "budget": 6 * 8 * 4,
    "batch_size": 8,
    "block_batch_size": 8,
    "learning_rate": 1e-4,
}
DDPM = diffusers.DDPMScheduler(clip_sample=False)
SCHEDULERS = {
    "epsilon": DDPM,
    "v": diffusers.DDPMScheduler(prediction_type="v_prediction", clip_sample=False, beta_schedule="scaled_linear"),
    "sample": diffusers.DDIMScheduler(prediction_type="sample", clip_sample=False),
    "flow": diffusers.FlowMatchEulerDiscreteScheduler(),
    "shifted flow": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
}
each_scheduler = pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)


def randn(seed: int) -> Tensor:
    return torch.randn(len(STEPS), 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def noised(scheduler: Any, y: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What diffusers shows its network, the times that it tells it, and the share of y in it."""
    if hasattr(scheduler, "scale_noise"):
        times = scheduler.timesteps[[1, 200, 500, 800, 990]]
        return scheduler.scale_noise(y, times, noise), times, (1 - times / 1000).view(-1, 1, 1, 1)
    kept = scheduler.alphas_cumprod[STEPS].sqrt().view(-1, 1, 1, 1)
    return scheduler.add_noise(y, noise, STEPS), STEPS, kept


def original(scheduler: Any, answer: Tensor, time: Tensor, x: Tensor) -> Tensor:
    """The target that a scheduler sees in the network's answer."""
    if hasattr(scheduler, "scale_noise"):
        t, shift = float(time) / 1000, scheduler.config.shift
        scheduler = type(scheduler).from_config(scheduler.config)
        scheduler.set_timesteps(sigmas=[t / (shift + (1 - shift) * t)])  # its next step goes to the target
        found: Tensor = scheduler.step(answer, scheduler.timesteps[0], x).prev_sample
        return found
    scheduler.set_timesteps(1000)
    found = scheduler.step(answer, int(time), x).pred_original_sample
    return found


def whole(scheduler: Any, made: nn.Module | None = None) -> tuple[nn.Module, BlockDenoiser]:
    """A DiT and what it is when it is converted."""
    made = (network("DiT") if made is None else made).eval()
    builder = ob.convert(made, outputs=1, scheduler=scheduler)
    assert builder.frame is not None
    return made, BlockDenoiser(builder(range(6)).eval(), builder.frame)


@each_scheduler
@torch.no_grad()
def test_the_denoiser_answers_what_the_scheduler_sees_in_the_networks_answer(scheduler: Any) -> None:
    made, denoiser = whole(scheduler)
    x, times, kept = noised(scheduler, randn(0), randn(1))
    answer = made(x, timestep=times, class_labels=LABELS).sample[:, :1]
    frame = denoiser.frame
    sigma = frame.level(times.double()).float()  # type: ignore[attr-defined]
    z = x / kept
    found = denoiser(z, sigma, ClassIds(LABELS, CLASSES))
    expected = torch.stack([original(scheduler, *one) for one in zip(answer, times, x, strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-3)
    scale = sigma.view(-1, 1, 1, 1)
    back = (expected - frame.c_skip(scale) * z) / frame.c_out(scale)  # type: ignore[attr-defined]
    torch.testing.assert_close(back, answer, rtol=1e-2, atol=1e-2)


def test_a_scheduler_its_settings_and_a_frame_are_the_same() -> None:
    made = network("DiT")
    expected = frame_to_dict(VariancePreserving(DiscreteBetas()))
    for given in (DDPM, {"_class_name": "DDPMScheduler", **DDPM.config}, VariancePreserving(DiscreteBetas())):
        assert frame_to_dict(cast(Parametrisation, ob.convert(made, outputs=1, scheduler=given).frame)) == expected
    assert ob.convert(made, outputs=1).frame is None


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A DiT after some steps of diffusers' own training on digits: noise at uniform steps, the squared error of eps."""
    made = network("DiT")
    digits = load_digits("train")
    images, labels = to_float(digits.images), digits.labels.long()
    optimizer = torch.optim.Adam(made.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(80):
        picked = torch.randint(len(images), (32,), generator=generator)
        y, steps = images[picked], torch.randint(1000, (32,), generator=generator)
        noise = torch.randn(y.shape, generator=generator)
        x = DDPM.add_noise(y, noise, steps)
        loss = F.mse_loss(made(x, timestep=steps, class_labels=labels[picked]).sample[:, :1], noise)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    return made.eval()


@torch.no_grad()
def test_the_losses_of_a_trained_network_are_its_own_at_every_level(trained: nn.Module) -> None:
    """The weighted error of the denoiser is the squared error of eps, and below that of a fresh network."""
    digits = load_digits("test")
    y, labels = to_float(digits.images[:64]), digits.labels[:64].long()
    fresh = whole(DDPM)[1]
    made, denoiser = whole(DDPM, trained)
    frame = VariancePreserving(DiscreteBetas())
    told = ClassIds(labels, CLASSES)
    for step in (20, 100, 300, 600, 900):
        steps = torch.full((64,), step)
        noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(step))
        x = DDPM.add_noise(y, noise, steps)
        theirs = F.mse_loss(made(x, timestep=steps, class_labels=labels).sample[:, :1], noise)
        ours = denoising_loss(denoiser, y, told, frame.level(steps.float()), torch.Generator().manual_seed(step))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
        start = denoising_loss(fresh, y, told, frame.level(steps.float()), torch.Generator().manual_seed(step))
        assert ours < 0.9 * start, (step, ours, start)


@torch.no_grad()
def test_our_sampler_and_theirs_draw_the_same_images(trained: nn.Module) -> None:
    """DDIM is Euler's method on ``dz / dsigma``, from the same noise."""
    theirs = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    theirs.set_timesteps(20)
    made, denoiser = whole(theirs, trained)
    frame = cast(Parametrisation, denoiser.frame)
    levels = frame.level(theirs.timesteps.double())
    x = randn(5)
    z = x * (1 + levels[0] ** 2).sqrt().float()
    for step in theirs.timesteps:
        answer = made(x, timestep=step.expand(len(x)), class_labels=LABELS).sample[:, :1]
        x = theirs.step(answer, step, x).prev_sample
    grid = torch.cat([levels, torch.zeros(1, dtype=torch.float64)])
    torch.testing.assert_close(euler(denoiser, z, grid, ClassIds(LABELS, CLASSES)), x, rtol=1e-3, atol=2e-3)


def train(out: Path, backbone: Converted | None, **changes: Any) -> ob.Plan:
    words = {word: changes.pop(word) for word in ("teacher", "strategy") if word in changes}
    recipe = ob.ImageRecipe(**{**SMALL, **changes})
    return ob.train(recipe, data="digits", backbone=backbone, out=out, watch=QUIET, **words).plan


@pytest.mark.parametrize("scheduler", [SCHEDULERS[name] for name in ("epsilon", "v", "flow")], ids=["eps", "v", "flow"])
def test_a_run_holds_the_frame_and_its_jobs_rebuild_it(scheduler: Any, tmp_path: Path, trained: nn.Module) -> None:
    builder = ob.convert(trained, outputs=1, scheduler=scheduler)
    plan = train(tmp_path / "run", builder)
    kept = frame_to_dict(cast(Parametrisation, builder.frame))
    assert {key: plan.recipe[key] for key in kept} == kept
    read = ob.read_plan(tmp_path / "run")
    frame = image_frame(read)
    assert isinstance(frame, Parametrisation)
    assert frame_to_dict(frame) == kept
    law = read.partition.law
    assert (law.low, law.high) == (max(frame.low, 0.002), min(frame.high, 80.0))
    assert Sampling().levels(read)[0] == law.high
    model = ob.Model.open(tmp_path / "run", backbone=builder)
    assert model.sample([0, 1], steps=4).shape == (2, 1, 8, 8)  # type: ignore[call-arg]
    assert model.evaluate(num_samples=0)["loss"] < 5  # type: ignore[call-arg]
    assert job_peaks(plan, backbone=builder) == job_peaks(plan, real=True, backbone=builder)
    train(tmp_path / "planned", builder, strategy="plan-only")
    for block in (0, 1):
        ob.run_job(tmp_path / "planned", block, data="digits", backbone=builder, watch=QUIET)
    ob.merge(tmp_path / "planned", out=tmp_path / "merged")
    assert ob.Model.open(tmp_path / "merged", backbone=builder).sample([3], steps=4).any()  # type: ignore[call-arg]
    for other in (ob.convert(trained, outputs=1), ob.convert(trained, outputs=1, scheduler=OTHER)):
        with pytest.raises(
            ValueError, match=r"the plan was made for a network with the schedule \(frame='.*, but this one"
        ):
            ob.Model.open(tmp_path / "run", backbone=other)
    with pytest.raises(ValueError, match=r"belongs to plan .*\(they differ in: .*recipe\.frame"):
        train(tmp_path / "run", ob.convert(trained, outputs=1))


OTHER = diffusers.DDPMScheduler(beta_start=0.002)
SHORT = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=50)


def test_the_noise_law_ends_where_the_schedule_does(tmp_path: Path) -> None:
    builder = ob.convert(network("DiT"), outputs=1, scheduler=SHORT)
    plan = train(tmp_path, builder, bands=(4.0,))
    assert plan.edges == pytest.approx((49.0, 4.0, 1 / 49))
    assert plan.noise == law_to_dict(LogNormal(sigma_min=plan.edges[-1], sigma_max=49.0))
    assert Sampling().levels(plan)[0] == 49.0
    assert ob.Model.open(tmp_path, backbone=builder).sample([0], steps=4).shape == (1, 1, 8, 8)  # type: ignore[call-arg]


def test_without_a_scheduler_a_plan_says_nothing_of_a_frame(tmp_path: Path) -> None:
    plan = train(tmp_path, ob.convert(network("DiT"), outputs=1), strategy="plan-only")
    assert not frame_values(plan)
    assert "frame" not in plan.recipe
    assert image_frame(plan) == ob.Precondition(0.5)


def test_edm_brings_its_standard_deviation_along(tmp_path: Path) -> None:
    scheduler = diffusers.EDMEulerScheduler(sigma_min=0.01, sigma_max=50.0, sigma_data=0.7)
    builder = ob.convert(network("DiT"), outputs=1, scheduler=scheduler)
    plan = train(tmp_path, builder, strategy="plan-only")
    assert (plan.sigma_data, plan.edges[0], plan.edges[-1]) == (0.7, 50.0, 0.01)
    assert image_frame(plan) == builder.frame
    assert "sigma_data" not in plan.recipe
    assert train(tmp_path, builder, strategy="plan-only", sigma_data=0.7).hash == plan.hash
    with pytest.raises(ValueError, match=r"sigma_data=0.6 does not fit the network, which was trained with 0.7"):
        train(tmp_path, builder, sigma_data=0.6)
    with pytest.raises(ValueError, match=r"sigma_data=0.6 does not fit the network, which keeps a frame without it"):
        train(tmp_path, ob.convert(network("DiT"), outputs=1, scheduler=DDPM), sigma_data=0.6)


def test_latents_have_half_the_size_of_those_that_diffusers_trains_on() -> None:
    builder = ob.convert(network("DiT"), outputs=1, scheduler=DDPM)
    facts = ImageFacts(shape=(1, 8, 8), num_classes=CLASSES, data="x", autoencoder="0" * 16)
    plan = ob.ImageRecipe(depth=6).plan(facts, own_backbone(builder))
    check_plan(plan)
    assert plan.recipe["target_scale"] == 0.5
    ours, theirs, sigma = image_frame(plan), cast(Parametrisation, builder.frame), torch.tensor([0.02, 1.0, 39.0])
    assert ours.noise(sigma).equal(theirs.noise(2 * sigma))
    assert plan.edges[-1] == pytest.approx(theirs.low / 2)
    whole = replace(facts, autoencoder="")
    assert "target_scale" not in ob.ImageRecipe(depth=6).plan(whole, own_backbone(builder)).recipe


def test_specialists_start_better_than_fresh_ones_and_keep_the_frame(tmp_path: Path, trained: nn.Module) -> None:
    recipe = ob.ImageRecipe(**SMALL)
    lines: dict[str, list[str]] = {"trained": [], "fresh": []}
    for name, made in (("trained", trained), ("fresh", network("DiT"))):
        builder = ob.convert(made, outputs=1, scheduler=DDPM)
        chosen = ob.choose_layers(builder, recipe, 5, "digits", samples=32, told=lines[name].append)
    losses = {name: [float(line.rpartition(" ")[2]) for line in told] for name, told in lines.items()}
    assert all(ours < 0.9 * theirs for ours, theirs in zip(losses["trained"], losses["fresh"], strict=True)), losses
    assert builder.pick(chosen).frame is builder.frame


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, trained: nn.Module) -> ob.Model:
    out = tmp_path_factory.mktemp("teacher")
    builder = ob.convert(trained, outputs=1, scheduler=DDPM)
    train(out, builder, strategy="end-to-end")
    return ob.Model.open(out, backbone=builder)


def test_a_teacher_under_one_frame_teaches_a_student_under_another(tmp_path: Path, teacher: ob.Model) -> None:
    """The student's levels are those that its teacher knows."""
    flow = ob.convert(network("DiT"), outputs=1, scheduler=SHORT)
    plan = train(tmp_path / "flow", flow, teacher=teacher)
    assert (plan.edges[0], plan.edges[-1]) == pytest.approx((49.0, 1 / 49))
    plan = train(tmp_path / "edm", None, teacher=teacher, size="nano", bands="log-uniform")
    low = teacher.plan.edges[-1]
    assert (plan.edges[0], plan.edges[-1]) == (80.0, low)
    assert plan.edges[1] == pytest.approx((80.0 * low) ** 0.5)
    assert not frame_values(plan)
    train(tmp_path / "plain", None, size="nano", strategy="end-to-end")
    taught = train(tmp_path / "back", flow, teacher=ob.Model.open(tmp_path / "plain"))
    assert frame_values(taught)["frame"] == "flow-matching"


@torch.no_grad()
def test_a_network_that_teaches_on_latents_answers_in_their_size(trained: nn.Module) -> None:
    facts = ImageFacts(shape=(1, 8, 8), num_classes=CLASSES, data="x", autoencoder="0" * 16)
    recipe, builder = (
        ob.ImageRecipe(size="nano", bands=(1.0,), blocks=2),
        ob.convert(trained, outputs=1, scheduler=DDPM),
    )
    plan = taught(recipe.plan(facts), recipe, builder)
    assert plan.edges == pytest.approx((157.407 / 2, 1.0, 0.0100005 / 2), rel=1e-4)
    task = taught_task(plan, image_task(plan), builder, torch.device("cpu"))
    assert isinstance(task, Distilled)
    z, sigma, told = randn(4), torch.tensor([0.01, 0.3, 1.0, 5.0, 70.0]), ClassIds(LABELS, CLASSES)
    torch.testing.assert_close(task.teacher(z, sigma, told), 0.5 * whole(DDPM, trained)[1](2 * z, 2 * sigma, told))
    other = ob.convert(trained, outputs=1, scheduler=OTHER)
    assert taught(recipe.plan(facts), recipe, other).recipe["teacher"] != plan.recipe["teacher"]
    with pytest.raises(ValueError, match=r"the run has the teacher .*, but .* is given"):
        taught_task(plan, image_task(plan), other, torch.device("cpu"))


def test_a_model_that_goes_on_keeps_its_frame(teacher: ob.Model) -> None:
    again = ob.convert(teacher.network)
    assert frame_to_dict(cast(Parametrisation, again.frame)) == frame_values(teacher.plan)
    z, sigma, told = randn(3), torch.tensor([0.05, 0.3, 1.0, 5.0, 70.0]), ClassIds(LABELS, CLASSES)
    with torch.no_grad():
        same = BlockDenoiser(again(range(6)).eval(), image_frame(teacher.plan))(z, sigma, told)
        assert same.equal(teacher.denoiser(z, sigma, told))


class Flowing(own.Own):
    """A user's own network, trained elsewhere as a flow."""

    frame = FlowMatching()


def test_a_network_of_ones_own_keeps_the_frame_that_it_names(tmp_path: Path) -> None:
    recipe = ob.ImageRecipe(**{**SMALL, "depth": 4})
    plan = ob.train(recipe, data="digits", backbone=Flowing, out=tmp_path / "run", watch=QUIET).plan
    assert frame_values(plan) == {"frame": "flow-matching", "shift": 1.0, "num_train_timesteps": 1000}
    with pytest.raises(ValueError, match=r"keeps the frame 'flow-matching' of images, and task 'classify' has none"):
        ob.train(
            ob.ClassifyRecipe(blocks=2, depth=4), data="digits", backbone=Flowing, out=tmp_path / "no", watch=QUIET
        )


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            lambda dit, out: train(out, ob.convert(dit, outputs=1, scheduler=SHORT), bands=(60.0,)),
            r"mismatched schedule: bands=\(60.0,\) cuts at 60, but the network's schedule has noise levels from "
            r"0.0204082 to 49, and the noise law from 0.0204082 to 49",
        ),
        (
            lambda dit, out: train(out, ob.convert(dit, outputs=1, scheduler=FlowMatching(1e7))),
            r"mismatched schedule: the network's schedule has noise levels from 10010 to 9.99e\+09, and the noise law "
            r"has others, from 0.002 to 80",
        ),
        (
            lambda dit, out: ob.convert(dit, outputs=1, scheduler=DDPM.config),
            r"settings without the name of their class \(_class_name\); give the scheduler itself",
        ),
        (
            lambda dit, out: ob.convert(dit, outputs=1, scheduler="ddpm"),
            r"scheduler='ddpm' is not a scheduler of diffusers; give one",
        ),
        (
            lambda dit, out: ob.convert(dit, outputs=1, scheduler={"_class_name": "KDPM2DiscreteScheduler"}),
            r"_class_name='KDPM2DiscreteScheduler' is not a scheduler with a known schedule",
        ),
        (
            lambda dit, out: ob.convert(network("ViT"), outputs=3, scheduler=FlowMatching()),
            r"ViTForImageClassification is told no time step, so that scheduler=FlowMatching\(.* has no part in it",
        ),
    ],
    ids=["bands", "law", "config", "no scheduler", "unknown", "classifier"],
)  # fmt: skip
def test_what_does_not_fit_a_schedule_is_refused(
    asked: Callable[[nn.Module, Path], Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        asked(network("DiT"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta_start": 0.01}, r"noise goes from 0.0100005 to 80, but the schedule of recipe.frame from 0.100504 to"),
        ({"frame": "cosine"}, r"frame='cosine' is unknown; use one of variance-preserving, flow-matching, edm"),
        ({"frame": None}, r"frame=None is unknown"),
        ({"shift": 2.0}, r"frame 'variance-preserving' has settings .*; it needs exactly \['beta_end', "),
        ({"target_scale": 0.0}, r"scale=0.0 is not allowed; use a number, above 0"),
        ({"prediction_type": "x"}, r"recipe.prediction_type='x' is not allowed"),
    ],
)
def test_a_plan_whose_frame_does_not_fit_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    plan = train(tmp_path, ob.convert(network("DiT"), outputs=1, scheduler=DDPM), strategy="plan-only")
    with pytest.raises(ValueError, match=message):
        check_plan(replace(plan, recipe={**plan.recipe, **changes}))
