"""Schedules and parametrisations of pretrained networks: each against its definition in the papers."""

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from oneblock.noise import LogNormal
from oneblock.precondition import Precondition, Weighted
from oneblock.schedule import (
    EDM,
    BetaSchedule,
    DiscreteBetas,
    FlowMatching,
    Parametrisation,
    Scaled,
    VariancePreserving,
    frame_from_dict,
    frame_to_dict,
    logit_normal,
)

SCHEDULES: tuple[BetaSchedule, ...] = ("linear", "scaled_linear", "squaredcos_cap_v2")
BETAS = {name: DiscreteBetas(name) for name in SCHEDULES}
FRAMES: dict[str, Parametrisation] = {
    **{f"{name} epsilon": VariancePreserving(betas) for name, betas in BETAS.items()},
    "v": VariancePreserving(BETAS["scaled_linear"], "v_prediction"),
    "sample": VariancePreserving(BETAS["linear"], "sample"),
    "flow": FlowMatching(),
    "shifted flow": FlowMatching(shift=3.0),
    "edm": EDM(Precondition(0.7)),
}
each_frame = pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES.keys())
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spread(frame: Parametrisation, count: int) -> Tensor:
    """Levels from one end of the schedule to the other, both included."""
    levels = torch.logspace(math.log10(frame.low), math.log10(frame.high), count, dtype=torch.float64)
    levels[0], levels[-1] = frame.low, frame.high
    return levels


def noised(frame: Parametrisation, y: Tensor, noise: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """``x_t`` and what the network should predict, from the definitions in the papers, for y (n, d) and sigma (n,)."""
    if isinstance(frame, FlowMatching):
        t = (sigma / (1 + sigma))[:, None]
        return (1 - t) * y + t * noise, noise - y
    if isinstance(frame, VariancePreserving):
        abar = (1 / (1 + sigma**2))[:, None]
        a, s = abar.sqrt(), (1 - abar).sqrt()
        target = {"epsilon": noise, "v_prediction": a * noise - s * y, "sample": y}[frame.prediction_type]
        return a * y + s * noise, target
    sd, level = 0.7, sigma[:, None]
    z, norm = y + level * noise, (level**2 + sd**2).sqrt()
    return z / norm, (y - sd**2 / norm**2 * z) * norm / (level * sd)


@each_schedule
def test_levels_of_the_betas_by_their_definition(schedule: BetaSchedule) -> None:
    n, start, end = 50, 0.001, 0.3
    if schedule == "squaredcos_cap_v2":
        time = torch.arange(n + 1, dtype=torch.float64) / n
        f = torch.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    elif schedule == "linear":
        betas = torch.linspace(start, end, n, dtype=torch.float64)
    else:
        betas = torch.linspace(math.sqrt(start), math.sqrt(end), n, dtype=torch.float64) ** 2
    kept = (1 - betas).cumprod(0)
    frame = VariancePreserving(DiscreteBetas(schedule, start, end, n))
    torch.testing.assert_close(frame.sigmas, ((1 - kept) / kept).sqrt())
    assert (frame.low, frame.high) == (frame.sigmas[0].item(), frame.sigmas[-1].item())
    assert bool((frame.sigmas.diff() > 0).all())


@each_schedule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_of_the_table_are_told_exactly(schedule: BetaSchedule, dtype: torch.dtype) -> None:
    frame = VariancePreserving(BETAS[schedule])
    steps = torch.arange(1000, dtype=dtype)
    assert frame.level(steps).equal(frame.sigmas.to(dtype))
    assert frame.noise(frame.sigmas.to(dtype)).equal(steps)
    assert frame.noise(frame.sigmas.view(10, 100).to(dtype)).equal(steps.view(10, 100))
    assert frame.level(torch.arange(1000)).equal(frame.sigmas.float()), "steps may be whole numbers"


@each_schedule
def test_between_steps_time_is_linear_in_the_logarithm_of_the_level(schedule: BetaSchedule) -> None:
    frame = VariancePreserving(BETAS[schedule])
    for step in (0, 1, 500, 998):
        below, above = frame.sigmas[step].log(), frame.sigmas[step + 1].log()
        parts = torch.tensor([0.25, 0.5, 0.9], dtype=torch.float64)
        levels = (below + parts * (above - below)).exp()
        torch.testing.assert_close(frame.noise(levels), step + parts, rtol=0, atol=1e-8)
        torch.testing.assert_close(frame.level(step + parts), levels, rtol=1e-12, atol=0)


@each_frame
def test_what_is_told_and_the_level_undo_each_other(frame: Parametrisation) -> None:
    levels = spread(frame, 3001)
    told = frame.noise(levels)
    torch.testing.assert_close(frame.level(told), levels, rtol=1e-11, atol=0)
    assert bool((told.diff() > 0).all()), "more noise is told as more"
    again = torch.linspace(told[0].item(), told[-1].item(), 3001, dtype=torch.float64)
    torch.testing.assert_close(frame.noise(frame.level(again)), again, rtol=1e-11, atol=1e-9)


@each_frame
def test_the_network_is_shown_its_own_input_and_its_exact_answer_gives_the_target(frame: Parametrisation) -> None:
    sigma = spread(frame, 9)
    y, noise = randn(9, 5, seed=1), randn(9, 5, seed=2)
    z = y + sigma[:, None] * noise
    x, prediction = noised(frame, y, noise, sigma)
    torch.testing.assert_close(frame.inputs(z, sigma), x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(frame.outputs(z, sigma, prediction), y, rtol=1e-9, atol=1e-9)
    assert frame.outputs(z.float(), sigma.float(), prediction.bfloat16()).dtype == torch.float32


@each_frame
def test_the_weighted_loss_of_the_denoiser_is_the_plain_loss_of_the_network(frame: Parametrisation) -> None:
    sigma = spread(frame, 7)
    y, noise = randn(7, 4, seed=3), randn(7, 4, seed=4)
    z = y + sigma[:, None] * noise
    _, target = noised(frame, y, noise, sigma)
    guess = (target + randn(7, 4, seed=5)).requires_grad_()
    plain = ((guess - target) ** 2).sum(-1)
    weighted = frame.weight(sigma) * ((frame.outputs(z, sigma, guess) - y) ** 2).sum(-1)
    torch.testing.assert_close(weighted, plain, rtol=1e-6, atol=1e-6)
    ours, usual = (torch.autograd.grad(loss.sum(), guess)[0] for loss in (weighted, plain))
    torch.testing.assert_close(ours, usual, rtol=1e-6, atol=1e-6)


def test_weights_by_hand() -> None:
    at = torch.tensor([0.5, 2.0], dtype=torch.float64)
    betas = BETAS["linear"]
    assert VariancePreserving(betas).weight(at).tolist() == [4.0, 0.25]
    assert VariancePreserving(betas, "sample").weight(at).tolist() == [1.0, 1.0]
    torch.testing.assert_close(VariancePreserving(betas, "v_prediction").weight(at), at.new_tensor([5.0, 1.25]))
    torch.testing.assert_close(FlowMatching().weight(at), at.new_tensor([9.0, 2.25]))
    torch.testing.assert_close(EDM(Precondition(0.7)).weight(at), Precondition(0.7).weight(at))


def test_v_is_edm_for_data_of_standard_deviation_one_with_the_sign_turned() -> None:
    v, edm, at = VariancePreserving(BETAS["linear"], "v_prediction"), Precondition(1.0), torch.tensor([0.1, 3.0])
    assert v.c_in(at).allclose(edm.c_in(at))
    assert v.c_skip(at).allclose(edm.c_skip(at))
    assert v.c_out(at).allclose(-edm.c_out(at))


def test_a_flow_is_told_a_thousand_times_its_time_and_a_shift_multiplies_its_levels() -> None:
    flow, at = FlowMatching(), torch.tensor([1.0, 3.0, 0.25], dtype=torch.float64)
    torch.testing.assert_close(flow.noise(at), at.new_tensor([500.0, 750.0, 200.0]))
    assert flow.level(torch.tensor([0.0, 500.0, 1000.0])).tolist() == [0.0, 1.0, math.inf]
    shifted = FlowMatching(shift=3.0)
    assert shifted.noise(at).equal(flow.noise(at)), "the shift moves the schedule, not the meaning of a time"
    for t, level in ((1 / 1000, shifted.low), (999 / 1000, shifted.high)):
        moved = 3.0 * t / (1 + 2.0 * t)
        assert level == pytest.approx(moved / (1 - moved))


@each_frame
def test_a_noise_law_cut_to_the_schedule_draws_levels_that_it_has(frame: Parametrisation) -> None:
    law = LogNormal(sigma_min=frame.low, sigma_max=frame.high)
    levels = law.quantile(torch.linspace(0, 1, 101)).float()  # rounding may put an end beyond the table
    told = frame.noise(levels)
    assert told.dtype == torch.float32
    assert bool(told.isfinite().all())


def test_a_level_that_rounding_put_beyond_an_end_is_that_end() -> None:
    frame = VariancePreserving(DiscreteBetas())
    for dtype in (torch.float32, torch.float64):
        beyond = torch.tensor([0.0, 1e9], dtype=dtype)
        ends = torch.tensor([frame.low, frame.high], dtype=dtype).nextafter(beyond).nextafter(beyond)
        torch.testing.assert_close(frame.noise(ends), torch.tensor([0.0, 999.0], dtype=dtype), rtol=0, atol=0)


@pytest.mark.parametrize("level", [0.001, 200.0, -1.0, math.nan, math.inf])
def test_a_level_beyond_the_table_is_refused(level: float) -> None:
    frame = VariancePreserving(DiscreteBetas())
    with pytest.raises(ValueError, match=rf"^sigma={level:g} is outside of the schedule, 0.0100005 to 157.4\d*; draw"):
        frame.noise(torch.tensor([1.0, level]))


@pytest.mark.parametrize("step", [-1.0, 999.5, 1000.0])
def test_a_step_beyond_the_table_is_refused(step: float) -> None:
    with pytest.raises(ValueError, match=rf"^noise={step:g} is outside of the schedule, 0 to 999; give a step"):
        VariancePreserving(DiscreteBetas()).level(torch.tensor([step]))


@pytest.mark.parametrize("told", [-1.0, 1000.5])
def test_a_time_that_a_flow_does_not_have_is_refused(told: float) -> None:
    with pytest.raises(ValueError, match=rf"^noise={told:g} is outside of the schedule, 0 to 1000; give a time"):
        FlowMatching().level(torch.tensor([told]))


def test_where_values_are_not_at_hand_a_level_beyond_the_table_is_not_a_number() -> None:
    frame = VariancePreserving(DiscreteBetas())
    levels = torch.tensor([0.001, frame.low, 1.0, 200.0])
    told = torch.compile(frame.noise, backend="eager", fullgraph=True)(levels)
    assert told.isnan().tolist() == [True, False, False, True]
    assert told[1:3].equal(frame.noise(levels[1:3]))
    steps = torch.tensor([-1.0, 7.5, 2000.0])
    found = torch.compile(frame.level, backend="eager", fullgraph=True)(steps)
    assert found.isnan().tolist() == [True, False, True]
    with FakeTensorMode():
        planned = VariancePreserving(DiscreteBetas())
        assert planned.noise(torch.rand(3)).shape == (3,)
        assert planned.high == frame.high


def test_a_cast_and_a_copy_keep_the_table() -> None:
    frame, levels = VariancePreserving(DiscreteBetas()), torch.tensor([0.02, 1.0, 100.0])
    cast = copy.deepcopy(frame).bfloat16()
    assert cast.sigmas.equal(frame.sigmas)
    assert cast.noise(levels).equal(frame.noise(levels))
    assert not frame.state_dict(), "the table is no part of a checkpoint"
    assert repr(frame) == f"VariancePreserving({DiscreteBetas()}, 'epsilon')"


@each_frame
def test_a_network_that_knows_other_sizes_of_the_targets_answers_in_ours(frame: Parametrisation) -> None:
    ours, sigma, z, answer = Scaled(frame, 0.5), spread(frame, 5), randn(5, 3, seed=6), randn(5, 3, seed=7)
    at = 0.5 * sigma
    torch.testing.assert_close(ours.inputs(0.5 * z, at), frame.inputs(z, sigma))
    assert ours.noise(at).equal(frame.noise(sigma))
    torch.testing.assert_close(ours.outputs(0.5 * z, at, answer), 0.5 * frame.outputs(z, sigma, answer))
    torch.testing.assert_close(ours.weight(at) * 0.25, frame.weight(sigma))
    torch.testing.assert_close(ours.level(frame.noise(sigma)), at)
    assert (ours.low, ours.high) == (0.5 * frame.low, 0.5 * frame.high)


@each_frame
@pytest.mark.parametrize("scale", [None, 0.5])
def test_a_frame_survives_as_plain_values(frame: Parametrisation, scale: float | None) -> None:
    made = frame if scale is None else Scaled(frame, scale)
    values = frame_to_dict(made)
    assert all(type(value) in (str, int, float) for value in values.values())
    again, sigma = frame_from_dict(values), spread(made, 5)
    assert frame_to_dict(again) == values
    assert (again.low, again.high) == (made.low, made.high)
    for name in ("c_in", "c_skip", "c_out", "noise"):
        assert getattr(again, name)(sigma).equal(getattr(made, name)(sigma)), name


def test_each_is_a_frame_with_a_weight() -> None:
    frames: list[Weighted] = list(FRAMES.values())
    assert all(isinstance(frame, Weighted) for frame in frames)
    sigma = torch.tensor([0.5, 2.0])
    assert all(frame.inputs(torch.ones(2, 3, 4, 4), sigma).shape == (2, 3, 4, 4) for frame in frames)


def test_wrong_settings_are_refused() -> None:
    for wrong, message in (
        ({"beta_schedule": "sigmoid"}, r"beta_schedule='sigmoid' is not allowed .* linear, scaled_linear, squaredcos"),
        ({"beta_start": 0.0}, r"beta_start=0.0 is not allowed; use a number, above 0 and below 1"),
        ({"beta_start": 0.03}, r"beta_end=0.02 is not allowed; use a number, 0.03 or more and below 1"),
        ({"beta_end": 1.0}, r"beta_end=1.0 is not allowed"),
        ({"num_train_timesteps": 1}, r"num_train_timesteps=1 is not allowed; use a whole number, 2 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            DiscreteBetas(**wrong)  # type: ignore[arg-type]
    for start, end, steps in ((0.9, 0.99, 1000), (0.9, 0.99, 25), (1e-20, 0.02, 1000)):
        betas = DiscreteBetas("linear", start, end, steps)
        with pytest.raises(
            ValueError, match=r"has noise levels from .* to .*; use betas and a number of steps with lev"
        ):
            VariancePreserving(betas)
    with pytest.raises(
        ValueError, match=r"prediction_type='velocity' is not allowed; use one of epsilon, v_prediction"
    ):
        VariancePreserving(DiscreteBetas(), "velocity")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"shift=0.0 is not allowed; use a number, above 0"):
        FlowMatching(shift=0.0)
    with pytest.raises(ValueError, match=r"num_train_timesteps=2 is not allowed; use a whole number, 3 or more"):
        FlowMatching(num_train_timesteps=2)
    with pytest.raises(ValueError, match=r"sigma_max=0.001 is not allowed; use a number, above 0.002"):
        EDM(Precondition(), sigma_max=0.001)
    with pytest.raises(ValueError, match=r"scale=-1.0 is not allowed; use a number, above 0"):
        Scaled(FlowMatching(), -1.0)
    for values, message in (
        ({"frame": "cosine"}, r"frame='cosine' is unknown; use one of variance-preserving, flow-matching, edm"),
        ({"frame": "flow-matching", "shift": 1.0}, r"'flow-matching' has settings \['shift'\]; it needs exactly"),
        ({"frame": "edm", "sigma_data": "x", "sigma_min": 1.0, "sigma_max": 2.0}, r"sigma_data='x' is not allowed"),
    ):
        with pytest.raises(ValueError, match=message):
            frame_from_dict(values)


@pytest.mark.parametrize(("mean", "std", "shift"), [(0.0, 1.0, 1.0), (-0.5, 0.8, 3.0)])
def test_a_logit_normal_time_is_a_log_normal_level(mean: float, std: float, shift: float) -> None:
    t = torch.sigmoid(mean + std * randn(200_000))
    t = shift * t / (1 + (shift - 1) * t)  # Esser et al., Equation 23
    law = logit_normal(mean, std, shift)
    mass = torch.linspace(0.05, 0.95, 10, dtype=torch.float64)
    wanted = torch.quantile(t, mass)
    found = law.quantile(mass)
    torch.testing.assert_close(found / (1 + found), wanted, rtol=0, atol=5e-3)
    assert (law.low, law.high) == (shift / 999, shift * 999)


def test_a_flow_is_the_diffusion_of_edm_in_another_time() -> None:
    """``dx/dt`` = velocity, step by step, against EDM's equation in sigma, for targets that are normal."""
    spread, start = 0.7, 50.0

    def denoise(z: Tensor, sigma: float) -> Tensor:
        return z * spread**2 / (spread**2 + sigma**2)

    z = randn(8) * start
    x, steps = z / (1 + start), 4000
    times = torch.linspace(start / (1 + start), 0.2, steps + 1, dtype=torch.float64).tolist()
    for t, after in itertools.pairwise(times):

        def velocity(x: Tensor, t: float) -> Tensor:
            return (x - denoise(x / (1 - t), t / (1 - t))) / t

        middle = (t + after) / 2
        x = x + (after - t) * velocity(x + (middle - t) * velocity(x, t), middle)
    end = 0.2 / 0.8
    exact = z * math.sqrt((spread**2 + end**2) / (spread**2 + start**2))  # EDM's equation, solved
    torch.testing.assert_close(x, exact / (1 + end), rtol=1e-5, atol=1e-7)


def test_a_spread_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"std=0\.0 is not allowed; use a number, above 0"):
        logit_normal(std=0.0)
