import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from rivalry import FRESH, SOURCE, accuracies, same, settings_of, train, weights_of
from torch import Tensor, nn

from oneblock.condition import Frames
from oneblock.data import to_float
from oneblock.models.cnn import CNNConfig, NoisyCNN
from oneblock.rivals import NoPropCT, NoPropDT, train_rival, training_peak
from oneblock.rivals.base import draw
from oneblock.rivals.labels import (
    NoPropParts,
    coefficients,
    cosine_alpha_bar,
    cosine_snr_slope,
    noised,
    noprop_loss,
    prior_divergence,
    snr,
)
from oneblock.rivals.noprop import Solver, follow
from oneblock.table import random_unit

CNN = CNNConfig(image_size=8, channels=1, num_classes=3, label_width=3, depth=3, width=16, filters=4)
CT = replace(CNN, depth=1)
TIMES = torch.linspace(0, 1, 11, dtype=torch.float64)
PIXELS = to_float(FRESH.images[:8])


def test_the_schedule_rises_from_noise_to_label() -> None:
    alpha_bar = cosine_alpha_bar(TIMES)
    assert bool((alpha_bar.diff() > 0).all())
    assert float(alpha_bar[0]) == pytest.approx(0.0, abs=1e-30)
    assert float(alpha_bar[-1]) == pytest.approx(math.cos(math.pi / 2 * 0.008 / 1.008) ** 2)
    assert float(alpha_bar[5]) == pytest.approx(math.cos(math.pi / 2 * 0.508 / 1.008) ** 2)
    assert float(cosine_alpha_bar(TIMES, 0.2)[-1]) < float(alpha_bar[-1]) < 1.0


def test_coefficients_are_those_of_the_gaussian_posterior() -> None:
    """From the joint Gaussian of z_t and z_(t-1): mean and variance of the one given the other."""
    alpha_bar = cosine_alpha_bar(TIMES)
    found = coefficients(alpha_bar)
    for t in range(1, 11):
        before, after = float(alpha_bar[t - 1]), float(alpha_bar[t])
        alpha = before / after
        covariance = math.sqrt(alpha) * (1 - after)
        gain = covariance / (1 - before)
        a, b, c = (float(values[t - 1]) for values in found)
        assert b == pytest.approx(gain)
        assert a == pytest.approx(math.sqrt(after) - gain * math.sqrt(before))
        assert c == pytest.approx(1 - after - gain * covariance)
        # a step with the true class vector leads from q(z_(t-1) | y) to q(z_t | y), and its error costs what Eq. 8 says
        assert a + b * math.sqrt(before) == pytest.approx(math.sqrt(after))
        assert b * b * (1 - before) + c == pytest.approx(1 - after)
        assert a * a / c == pytest.approx(float(snr(alpha_bar)[t] - snr(alpha_bar)[t - 1]))


def test_the_posterior_by_simulation() -> None:
    """Of z_t given z_(t-1), by regression over many draws of the noising process."""
    alpha_bar = cosine_alpha_bar(TIMES)
    generator = torch.Generator().manual_seed(0)
    u, t = 1.5, 6
    z = math.sqrt(alpha_bar[t]) * u + (1 - alpha_bar[t]).sqrt() * torch.randn(200_000, generator=generator)
    alpha = alpha_bar[t - 1] / alpha_bar[t]
    before = alpha.sqrt() * z + (1 - alpha).sqrt() * torch.randn(200_000, generator=generator)
    slope = float(((before - before.mean()) * (z - z.mean())).mean() / before.var())
    a, b, c = (float(values[t - 1]) for values in coefficients(alpha_bar))
    assert slope == pytest.approx(b, abs=0.01)
    assert float(z.mean() - slope * before.mean()) == pytest.approx(a * u, abs=0.01)
    assert float((z - slope * before).var()) == pytest.approx(c, abs=0.01)


def test_noised_has_the_moments_of_equation_6() -> None:
    rows = torch.tensor([[3.0, -1.0]]).expand(100_000, 2)
    z = noised(rows, torch.tensor(0.36), torch.Generator().manual_seed(0))
    torch.testing.assert_close(z.mean(0), 0.6 * rows[0], atol=0.02, rtol=0)
    torch.testing.assert_close(z.var(0), torch.full((2,), 0.64), atol=0.02, rtol=0)


def test_prior_divergence_is_that_of_torch() -> None:
    rows, alpha_bar = torch.randn(4, 3), torch.tensor(0.3)
    q = torch.distributions.Normal(math.sqrt(0.3) * rows, math.sqrt(0.7))
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(prior_divergence(rows, alpha_bar), expected)


@pytest.mark.parametrize("t", [1, 2, 3])
def test_the_loss_by_hand(t: int) -> None:
    """Equation 8 at one t of T = 3, every number from plain formulas; errors of sign or index would show."""
    rival = NoPropDT(CNN, table=random_unit(3, 3, seed=1), eta=0.3, offset=0.1)
    torch.manual_seed(0)
    network, linear = NoisyCNN(rival.parts.config, range(t - 1, t)), nn.Linear(3, 3)
    nn.init.normal_(network.head.out.weight)
    settings = settings_of(1)
    batch = draw(SOURCE, settings, f"step-{t}", 0, None)
    inputs = rival._inputs(t, batch)
    learner, classifier = settings.learner("network", network, 1), settings.learner("classifier", linear, 1)
    found = rival.parts.losses(learner, classifier, batch.labels, inputs)
    signal = [math.cos(math.pi / 2 * (1 - i / 3 + 0.1) / 1.1) ** 2 for i in range(4)]
    ratio = [s / (1 - s) for s in signal]
    assert ratio[0] < 1e-30 < ratio[1] < ratio[2] < ratio[3]
    generator = draw(SOURCE, settings, f"step-{t}", 0, None).generator
    rows = random_unit(3, 3, seed=1)[batch.labels]
    z = signal[t - 1] ** 0.5 * rows + (1 - signal[t - 1]) ** 0.5 * torch.randn(16, 3, generator=generator)
    end = signal[3] ** 0.5 * rows + (1 - signal[3]) ** 0.5 * torch.randn(16, 3, generator=generator)
    probabilities = torch.exp(network(z, torch.zeros(16), Frames(batch.images))).detach()
    probabilities = probabilities / probabilities.sum(1, keepdim=True)
    answer = linear(end).detach()
    for i, label in enumerate(batch.labels.tolist()):
        prediction = sum(float(probabilities[i, k]) * random_unit(3, 3, seed=1)[k] for k in range(3))
        error = float((prediction - rows[i]).square().sum())
        entropy = float(answer[i].exp().sum().log() - answer[i, label])
        expected = entropy + 0.0 + 3 / 2 * 0.3 * (ratio[t] - ratio[t - 1]) * error
        assert found[i].item() == pytest.approx(expected, rel=1e-4)


def test_the_loss_adds_three_terms() -> None:
    answer, labels = torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([1])
    prediction, rows = torch.tensor([[0.5, 0.0]]), torch.tensor([[0.0, 1.0]])
    found = noprop_loss(answer, labels, prediction, rows, torch.tensor([2.0]), torch.tensor(0.5))
    divergence = 0.5 * (0.5 * (1 - 2) - 2 * math.log(0.5))
    torch.testing.assert_close(found, torch.tensor([math.log(4 / 3) + divergence + 2 * 1.25]))


def test_training_a_network_leaves_the_others_alone() -> None:
    rival = NoPropDT(CNN)
    kept: dict[int, Any] = {}
    for report in train_rival(rival, SOURCE, settings_of(16 * 3 * 4)):
        for i, network in enumerate(rival.networks):
            assert same(kept.setdefault(i, weights_of(network)), weights_of(network))
        assert len(rival.networks) == int(report.job.removeprefix("step-")) - 1
    assert len(kept) == 2


def test_a_network_does_not_depend_on_the_others() -> None:
    """The last of three is the same whatever the classifier has seen before: trained apart, in any order."""
    rival = NoPropDT(CNN)
    settings = settings_of(16 * 3 * 4)
    train(rival, settings)
    network = rival.parts.network(range(2, 3), settings.derive_seed("init", 3))
    learner = settings.learner("step-3", network, 4)
    for step in range(4):
        batch = draw(SOURCE, settings, "step-3", step, None)
        x = rival._inputs(3, batch)
        error = learner.module(x.z, x.time, Frames(x.images)).softmax(-1) - rival.parts.table[batch.labels]
        (error.square().sum(-1) * x.weight).mean().backward()
        learner.clip()
        learner.apply()
    learner.freeze()
    for name, p in weights_of(rival.networks[2]).items():
        torch.testing.assert_close(p, weights_of(learner.module)[name])


class Sure(nn.Module):
    """Always the same class."""

    def __init__(self, label: int) -> None:
        super().__init__()
        self.label = label

    def forward(self, z: Tensor, time: Tensor, images: Tensor) -> Tensor:
        return 100.0 * torch.eye(3)[self.label].expand(len(z), 3)


def test_prediction_follows_equation_3() -> None:
    rival = NoPropDT(CNN, offset=0.5, noise_seed=5)
    rival.networks = [Sure(0), Sure(2), Sure(1)]  # type: ignore[list-item]
    rival.classifier = nn.Linear(3, 3)
    generator = torch.Generator().manual_seed(5)
    z = torch.randn(8, 3, generator=generator)
    signal = [math.cos(math.pi / 2 * (1 - i / 3 + 0.5) / 1.5) ** 2 for i in range(4)]
    for t, label in ((1, 0), (2, 2), (3, 1)):
        after, alpha = signal[t], signal[t - 1] / signal[t]
        rest = 1 - signal[t - 1]
        z = after**0.5 * (1 - alpha) / rest * torch.eye(3)[label] + alpha**0.5 * (1 - after) / rest * z
        z = z + ((1 - after) * (1 - alpha) / rest) ** 0.5 * torch.randn(8, 3, generator=generator)
    found = rival.probabilities(PIXELS)
    assert found[:2].argmax(-1).unique(dim=1).tolist() == [[0], [2]]
    torch.testing.assert_close(found[2], rival.classifier(z).softmax(-1))


def test_layer_evaluations_are_the_budget() -> None:
    budget = 16 * 3 * 5 + 7
    rival = NoPropDT(CNN)
    reports = train(rival, settings_of(budget))
    assert abs(sum(report.layer_evaluations for report in reports) - budget) <= 16 * 3 // 2
    assert [report.job for report in reports] == [f"step-{t}" for t in (1, 2, 3) for _ in range(5)]
    assert [(report.step, report.num_steps) for report in reports] == [(i, 5) for i in range(1, 6)] * 3
    assert rival.evaluation_layers == 3


def test_dt_learns() -> None:
    rival = NoPropDT(CNN, offset=0.1)
    train(rival, settings_of(16 * 3 * 70))
    assert accuracies(rival)[-1] > 0.6


def test_dt_repeats_itself() -> None:
    one, two, other = NoPropDT(CNN), NoPropDT(CNN), NoPropDT(CNN)
    settings = settings_of(16 * 3 * 4)
    assert train(one, settings) == train(two, settings) != train(other, settings_of(16 * 3 * 4, seed=1))
    assert torch.equal(one.probabilities(PIXELS), two.probabilities(PIXELS))
    assert torch.equal(one.probabilities(PIXELS), one.probabilities(PIXELS))
    assert not torch.equal(one.probabilities(PIXELS), other.probabilities(PIXELS))


def test_the_peak_is_that_of_one_network() -> None:
    pytest.importorskip("torch.distributed._tools.mem_tracker")
    few, many = NoPropDT(CNN), NoPropDT(replace(CNN, depth=10))
    found = training_peak(many, settings_of(1))
    assert found == training_peak(few, settings_of(1)) == training_peak(few, settings_of(1), real=True)
    size = sum(p.numel() for p in NoisyCNN(few.parts.config, range(1)).parameters())
    assert found.by_kind["Parameter"] == 4 * (size + 12)


def test_the_slope_of_the_ratio_is_its_derivative() -> None:
    time = torch.linspace(0.05, 1.0, 9, dtype=torch.float64, requires_grad=True)
    snr(cosine_alpha_bar(time, 0.1)).sum().backward()
    torch.testing.assert_close(cosine_snr_slope(time.detach(), 0.1), time.grad)
    assert bool((cosine_snr_slope(TIMES[1:]) > 0).all())


def test_continuous_time_is_the_limit_of_discrete_time() -> None:
    """The weights of Equation 8 at T networks, divided by T, and those at one network that is told the time."""
    many = NoPropDT(replace(CNN, depth=2000), offset=0.1, eta=1.0).weights[999]
    torch.testing.assert_close(
        0.5 * cosine_snr_slope(torch.tensor(0.49975, dtype=torch.float64), 0.1), many, rtol=1e-5, atol=0
    )


def test_ct_inputs_by_hand() -> None:
    rival, settings = NoPropCT(CT, eta=0.7, offset=0.1), settings_of(1)
    found = rival._inputs(draw(SOURCE, settings, "network", 2, None))
    batch = draw(SOURCE, settings, "network", 2, None)
    time = torch.rand(16, generator=batch.generator, dtype=torch.float64)
    z, end = torch.randn(16, 3, generator=batch.generator), torch.randn(16, 3, generator=batch.generator)
    for i, t in enumerate(time.tolist()):
        row = torch.eye(3)[batch.labels[i]]
        signal, last = (math.cos(math.pi / 2 * (1 - at + 0.1) / 1.1) ** 2 for at in (t, 1.0))
        torch.testing.assert_close(found.z[i], signal**0.5 * row + (1 - signal) ** 0.5 * z[i])
        torch.testing.assert_close(found.end[i], last**0.5 * row + (1 - last) ** 0.5 * end[i])
        up, down = (math.cos(math.pi / 2 * (1 - at + 0.1) / 1.1) ** 2 for at in (t + 1e-6, t - 1e-6))
        slope = (up / (1 - up) - down / (1 - down)) / 2e-6
        assert float(found.weight[i]) == pytest.approx(0.7 / 2 * slope, rel=1e-3)
        assert float(found.time[i]) == pytest.approx(t)


def parts_of(offset: float) -> NoPropParts:
    return NoPropParts(CT, torch.eye(3).double(), 1.0, offset, 0)


def exact(parts: NoPropParts) -> Any:
    """The best answer there is without images: ``p(y | z_t)`` of equally likely classes."""

    def answer(z: Tensor, time: Tensor) -> Tensor:
        alpha_bar = parts.alpha_bar(time)
        return (alpha_bar.sqrt() / (1 - alpha_bar) * z @ parts.table.mT).softmax(-1)

    return answer


def test_the_flow_solves_its_equation() -> None:
    """Against small steps of ``dz/dt`` as it is printed, taken at their middles, where it is regular."""
    parts = parts_of(0.5)
    start = torch.randn(5, 3, dtype=torch.float64)
    answers, found = follow(exact(parts), start, parts.table, parts, 200, "heun")
    assert len(answers) == 200
    z, count = start.clone(), 2000
    for i in range(count):
        t = torch.tensor((i + 0.5) / count, dtype=torch.float64)
        signal = float(parts.alpha_bar(t))
        slope = math.pi / 1.5 * math.sqrt(signal * (1 - signal))
        u = exact(parts)(z, t) @ parts.table
        z = z + slope / (2 * (1 - signal)) * (u / math.sqrt(signal) - z) / count
    torch.testing.assert_close(found, z, atol=2e-3, rtol=0)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_the_measured_order_is_the_declared_one(solver: Solver, order: int) -> None:
    parts = parts_of(0.5)
    start = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    _, best = follow(exact(parts), start, parts.table, parts, 1024, "heun")
    errors = [float((follow(exact(parts), start, parts.table, parts, n, solver)[1] - best).norm()) for n in (32, 64)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


def test_the_flow_keeps_the_law() -> None:
    """Noise becomes class vectors with the last noise on them, each class as often as the others."""
    parts = parts_of(0.008)
    start = torch.randn(3000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    _, z = follow(exact(parts), start, parts.table, parts, 200, "heun")
    label = z.argmax(-1)
    torch.testing.assert_close(z, parts.table[label], atol=0.1, rtol=0)
    torch.testing.assert_close(label.bincount() / 3000, torch.full((3,), 1 / 3), atol=0.03, rtol=0)


@pytest.mark.parametrize(("solver", "cost"), [("euler", 5), ("heun", 10)])
def test_ct_counts(solver: Solver, cost: int) -> None:
    rival = NoPropCT(CT, num_steps=5, solver=solver)
    reports = train(rival, settings_of(16 * 5 + 7))
    assert sum(report.layer_evaluations for report in reports) == 16 * 5
    assert (reports[-1].step, reports[-1].num_steps) == (5, 5)
    assert rival.network is not None
    calls: list[float] = []
    rival.network.register_forward_hook(lambda module, inputs, output: calls.append(float(inputs[1][0])))
    assert rival.probabilities(PIXELS).shape == (5, 8, 3)
    assert len(calls) == cost == rival.evaluation_layers
    assert calls[0] == 0.0
    assert max(calls) == pytest.approx(0.8 if solver == "euler" else 1.0)


def test_ct_learns() -> None:
    rival = NoPropCT(CT, offset=0.3, num_steps=8)
    train(rival, settings_of(16 * 200))
    assert accuracies(rival)[-1] > 0.6


def test_ct_repeats_itself() -> None:
    one, two, other = (NoPropCT(CT, num_steps=4) for _ in range(3))
    settings = settings_of(16 * 4)
    assert train(one, settings) == train(two, settings) != train(other, settings_of(16 * 4, seed=1))
    assert torch.equal(one.probabilities(PIXELS), two.probabilities(PIXELS))
    assert not torch.equal(one.probabilities(PIXELS), other.probabilities(PIXELS))


def test_ct_errors() -> None:
    with pytest.raises(ValueError, match=r"depth=3: noprop-ct has a single network; use depth=1"):
        NoPropCT(CNN)
    with pytest.raises(ValueError, match=r"num_steps=0 is too small; use 1 or more"):
        NoPropCT(CT, num_steps=0)
    with pytest.raises(ValueError, match=r"solver='rk4' is unknown; use one of euler, heun"):
        NoPropCT(CT, solver="rk4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"noprop-ct has trained 0 of 1 parts"):
        NoPropCT(CT).probabilities(PIXELS)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"table has shape \(3, 5\); give \(3, 3\), label_width=3 numbers"):
        NoPropDT(CNN, table=random_unit(3, 5, seed=0))
    with pytest.raises(ValueError, match=r"eta=0.1, offset=0: both must be above 0"):
        NoPropDT(CNN, offset=0)
    with pytest.raises(ValueError, match=r"noprop-dt has trained 0 of 4 parts"):
        NoPropDT(CNN).probabilities(PIXELS)
    with pytest.raises(ValueError, match=r"budget=10 does not pay for one step"):
        train(NoPropDT(CNN), settings_of(10))
