"""Frames against the schedulers of diffusers: levels, times, noised samples and the predicted original sample."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from oneblock.convert.schedulers import frame_of
from oneblock.schedule import EDM, DiscreteBetas, FlowMatching, Parametrisation, VariancePreserving

diffusers = pytest.importorskip("diffusers")
np = pytest.importorskip("numpy")

SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
CHAINS = ("DDPMScheduler", "DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler")
STEPS = [0, 1, 250, 600, 950]
each_prediction = pytest.mark.parametrize("prediction", PREDICTIONS)
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES)


def read(scheduler: Any, tmp_path: Path) -> Parametrisation:
    """The frame of the file that the scheduler writes."""
    scheduler.save_pretrained(tmp_path)
    return frame_of(json.loads((tmp_path / "scheduler_config.json").read_text()))


def randn(seed: int) -> Tensor:
    return torch.randn(len(STEPS), 4, 3, 3, generator=torch.Generator().manual_seed(seed))


def close(found: Tensor, expected: Tensor, rtol: float = 1e-4, atol: float = 1e-4) -> None:
    """Within what diffusers loses by its tables of float32."""
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol, check_dtype=False)


@each_schedule
@pytest.mark.parametrize("name", CHAINS)
def test_levels_and_steps_of_a_chain(name: str, schedule: str, tmp_path: Path) -> None:
    scheduler = getattr(diffusers, name)(beta_schedule=schedule, beta_start=0.00085, beta_end=0.012)
    frame = read(scheduler, tmp_path)
    kept = scheduler.alphas_cumprod.double()
    steps = torch.arange(1000, dtype=torch.float64)
    close(frame.level(steps), ((1 - kept) / kept).sqrt(), rtol=2e-3, atol=0)  # 1 - abar of float32 in the first steps
    close(1 / (1 + frame.level(steps) ** 2), kept, rtol=2e-5, atol=1e-7)
    levels = ((1 - kept) / kept).sqrt().clamp(frame.low, frame.high)
    close(frame.noise(levels), steps, rtol=0, atol=2e-3)


@each_schedule
def test_times_between_the_steps_are_those_of_euler_and_of_the_dpm_solver(schedule: str, tmp_path: Path) -> None:
    for name in ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler"):
        scheduler = getattr(diffusers, name)(beta_schedule=schedule, use_karras_sigmas=True)
        scheduler.set_timesteps(17)
        frame = read(scheduler, tmp_path)
        levels = scheduler.sigmas[:-1].double()
        if name == "DPMSolverMultistepScheduler":  # tells whole numbers
            close(frame.noise(levels.clamp(frame.low, frame.high)).round(), scheduler.timesteps, rtol=0, atol=1.01)
        else:
            close(frame.noise(levels.clamp(frame.low, frame.high)), scheduler.timesteps, rtol=0, atol=2e-2)


@each_prediction
@each_schedule
@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler"])
def test_a_chain_both_ways(name: str, schedule: str, prediction: str, tmp_path: Path) -> None:
    """What diffusers noises is what the network is shown of z, and what it predicts of y is what the frame answers."""
    scheduler = getattr(diffusers, name)(beta_schedule=schedule, prediction_type=prediction, clip_sample=False)
    frame, steps = read(scheduler, tmp_path), torch.tensor(STEPS)
    y, noise, answer = randn(0), randn(1), randn(2)
    sigma = frame.level(steps)
    z = y + sigma.view(-1, 1, 1, 1) * noise
    x = scheduler.add_noise(y, noise, steps)
    kept = scheduler.alphas_cumprod[steps].view(-1, 1, 1, 1)
    close(x / kept.sqrt(), z, rtol=1e-3)
    close(frame.inputs(z, sigma), x)
    assert frame.noise(sigma).equal(steps.float())
    targets = {"epsilon": noise, "v_prediction": scheduler.get_velocity(y, noise, steps), "sample": y}
    close(frame.outputs(z, sigma, targets[prediction]), y, rtol=1e-3, atol=3e-3)
    scheduler.set_timesteps(1000)
    for i, step in enumerate(STEPS):
        predicted = scheduler.step(answer[i], step, x[i]).pred_original_sample
        close(
            frame.outputs(x[i : i + 1] / kept[i].sqrt(), sigma[i : i + 1], answer[i : i + 1])[0], predicted, rtol=1e-3
        )


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_euler_both_ways(prediction: str, tmp_path: Path) -> None:
    """Its samples are z themselves, and it scales what the network is shown."""
    scheduler = diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear", prediction_type=prediction)
    frame = read(scheduler, tmp_path)
    scheduler.set_timesteps(5)
    z, answer = randn(3), randn(4)
    for i, step in enumerate(scheduler.timesteps):
        sigma = frame.level(step.view(1))
        close(sigma[0], scheduler.sigmas[i], rtol=1e-3)
        close(frame.inputs(z[i : i + 1], sigma)[0], scheduler.scale_model_input(z[i], step))
        predicted = scheduler.step(answer[i], step, z[i]).pred_original_sample
        close(frame.outputs(z[i : i + 1], sigma, answer[i : i + 1])[0], predicted, rtol=1e-3)


@each_prediction
def test_the_dpm_solver_both_ways(prediction: str, tmp_path: Path) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(beta_schedule="scaled_linear", prediction_type=prediction)
    frame = read(scheduler, tmp_path)
    scheduler.set_timesteps(5)
    x, answer = randn(5), randn(6)
    for i, step in enumerate(scheduler.timesteps):
        scheduler._init_step_index(step)
        sigma = frame.level(step.view(1))
        z = x[i : i + 1] * (1 + sigma**2).sqrt()
        predicted = scheduler.convert_model_output(answer[i], sample=x[i])
        close(frame.outputs(z, sigma, answer[i : i + 1])[0], predicted, rtol=1e-3, atol=1e-3)
        scheduler._step_index = None


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_flow_both_ways(shift: float, tmp_path: Path) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    frame = read(scheduler, tmp_path)
    times = scheduler.timesteps[1:].double()  # the first is pure noise
    levels = frame.level(times)
    close(levels[[0, -1]], torch.tensor([frame.high, frame.low]), rtol=1e-3)
    close(levels, (scheduler.sigmas / (1 - scheduler.sigmas))[1:], rtol=1e-3)
    close(frame.noise(levels), times)
    y, noise, answer = randn(7), randn(8), randn(9)
    told = scheduler.timesteps[[1, 2, 500, 900, 999]]
    sigma = frame.level(told)
    z = y + sigma.view(-1, 1, 1, 1) * noise
    x = scheduler.scale_noise(y, told, noise)
    close(frame.inputs(z, sigma), x)
    close(frame.outputs(z.double(), sigma.double(), (noise - y).double()), y, rtol=1e-3, atol=1e-3)
    for i, time in enumerate(told):
        scheduler.set_timesteps(sigmas=[float(time) / 1000 / (shift + (1 - shift) * float(time) / 1000)])
        close(scheduler.timesteps[0], time)
        predicted = scheduler.step(answer[i], scheduler.timesteps[0], x[i]).prev_sample  # a step to 0
        close(frame.outputs(z[i : i + 1], sigma[i : i + 1], answer[i : i + 1])[0], predicted, atol=1e-3)


def test_flows_of_the_dpm_solver(tmp_path: Path) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    frame = read(scheduler, tmp_path)
    assert frame == FlowMatching(shift=3.0)
    scheduler.set_timesteps(5)
    x, answer = randn(10), randn(11)
    for i, t in enumerate(scheduler.sigmas[:-1]):
        sigma = (t / (1 - t)).view(1)
        close(frame.noise(sigma)[0], scheduler.timesteps[i], rtol=0, atol=1.0)  # it tells whole numbers
        scheduler._step_index = i
        z = x[i : i + 1] * (1 + sigma)
        close(frame.outputs(z, sigma, answer[i : i + 1])[0], scheduler.convert_model_output(answer[i], sample=x[i]))


def test_edm_both_ways(tmp_path: Path) -> None:
    scheduler = diffusers.EDMEulerScheduler(sigma_min=0.01, sigma_max=50.0, sigma_data=0.6)
    frame = read(scheduler, tmp_path)
    assert isinstance(frame, EDM)
    levels = scheduler.sigmas[:-1]
    close(levels[[0, -1]], torch.tensor([frame.high, frame.low]))
    close(frame.noise(levels), scheduler.timesteps)
    close(frame.level(scheduler.timesteps), levels)
    z, answer = randn(12), randn(13)
    sigma = levels[STEPS]
    scale = sigma.view(-1, 1, 1, 1)
    close(frame.inputs(z, sigma), scheduler.precondition_inputs(z, scale))
    close(frame.outputs(z, sigma, answer), scheduler.precondition_outputs(z, answer, scale))


@pytest.mark.parametrize("name", [*CHAINS, "FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler"])
def test_missing_settings_have_the_values_of_diffusers(name: str, tmp_path: Path) -> None:
    full, bare = read(getattr(diffusers, name)(), tmp_path), frame_of({"_class_name": name})
    assert repr(full) == repr(bare)
    assert (full.low, full.high) == (bare.low, bare.high)


def test_what_only_steers_a_sampler_is_not_read() -> None:
    settings = {"skip_prk_steps": True, "clip_sample": False, "use_karras_sigmas": True, "prediction_type": "sample"}
    frame = frame_of({"_class_name": "EulerDiscreteScheduler", **settings})
    assert isinstance(frame, VariancePreserving)
    assert (frame.betas, frame.prediction_type) == (DiscreteBetas(), "sample")


FLOW, EULER = "FlowMatchEulerDiscreteScheduler", "EulerDiscreteScheduler"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {},
            r"_class_name=None is not a scheduler with a known schedule; use one of DDPMScheduler, .*EDMEulerScheduler",
        ),
        ({"_class_name": "KDPM2DiscreteScheduler"}, r"_class_name='KDPM2DiscreteScheduler' is not a scheduler with"),
        (
            {"_class_name": "DDPMScheduler", "trained_betas": [0.1]},
            r"trained_betas=\[0.1\] of DDPMScheduler .* use None",
        ),
        ({"_class_name": "DDPMScheduler", "trained_betas": np.full(2, 0.1)}, r"trained_betas=array.* of DDPMScheduler"),
        (
            {"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True},
            r"rescale_betas_zero_snr=True of DDIMScheduler is not allowed, as the last step is then pure noise, where "
            r"sigma is infinite; use False",
        ),
        ({"_class_name": "DDPMScheduler", "beta_schedule": "sigmoid"}, r"beta_schedule='sigmoid' is not allowed"),
        (
            {"_class_name": "DDPMScheduler", "prediction_type": "flow_prediction"},
            r"prediction_type='flow_prediction' is",
        ),
        (
            {"_class_name": EULER, "timestep_type": "continuous"},
            r"timestep_type='continuous' of EulerD.* use 'discrete'",
        ),
        (
            {"_class_name": FLOW, "use_dynamic_shifting": True},
            r"use_dynamic_shifting=True of .*FlowMatching with its shift",
        ),
        ({"_class_name": FLOW, "invert_sigmas": True}, r"invert_sigmas=True of .* told 1 - t instead of t; use False"),
        ({"_class_name": FLOW, "shift": "3"}, r"shift='3' is not allowed in FlowMatching; use a number"),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True},
            r"prediction_type='epsilon' of DPMSolverMultistepScheduler .* predicts a velocity; use 'flow_prediction'",
        ),
        (
            {"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction"},
            r"prediction_type='v_prediction' of EDMEulerScheduler .* opposite sign; use 'epsilon'",
        ),
    ],
)
def test_what_has_no_frame_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frame_of(config)
