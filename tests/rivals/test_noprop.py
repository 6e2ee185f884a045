import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from rivalry import FRESH, SOURCE, accuracies, same, settings_of, train, weights_of
from torch import Tensor, nn

from oneblock.data import to_float
from oneblock.models.cnn import CNNConfig, NoisyCNN
from oneblock.rivals import NoPropDT, training_peak
from oneblock.rivals.base import Learner, draw
from oneblock.rivals.noprop import (
    coefficients,
    cosine_alpha_bar,
    noised,
    noprop_loss,
    prior_divergence,
    snr,
)
from oneblock.table import random_unit

CNN = CNNConfig(image_size=8, channels=1, num_classes=3, label_width=3, depth=3, width=16, filters=4)
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
    network, linear = NoisyCNN(rival.recipe.config, range(t - 1, t)), nn.Linear(3, 3)
    nn.init.normal_(network.head.out.weight)
    settings = settings_of(1)
    batch = draw(SOURCE, settings, f"step-{t}", 0, None)
    inputs = rival._inputs(t, batch)
    found = rival.recipe.losses(
        Learner("network", network, settings, 1), Learner("classifier", linear, settings, 1), batch.labels, inputs
    )
    signal = [math.cos(math.pi / 2 * (1 - i / 3 + 0.1) / 1.1) ** 2 for i in range(4)]
    ratio = [s / (1 - s) for s in signal]
    assert ratio[0] < 1e-30 < ratio[1] < ratio[2] < ratio[3]
    generator = draw(SOURCE, settings, f"step-{t}", 0, None).generator
    rows = random_unit(3, 3, seed=1)[batch.labels]
    z = signal[t - 1] ** 0.5 * rows + (1 - signal[t - 1]) ** 0.5 * torch.randn(16, 3, generator=generator)
    end = signal[3] ** 0.5 * rows + (1 - signal[3]) ** 0.5 * torch.randn(16, 3, generator=generator)
    probabilities = torch.exp(network(z, torch.zeros(16), batch.images)).detach()
    probabilities = probabilities / probabilities.sum(1, keepdim=True)
    answer = linear(end)
    for i, label in enumerate(batch.labels.tolist()):
        prediction = sum(float(probabilities[i, k]) * random_unit(3, 3, seed=1)[k] for k in range(3))
        error = float((prediction - rows[i]).square().sum())
        entropy = float(answer[i].exp().sum().log() - answer[i, label])
        expected = entropy + 0.0 + 3 / 2 * 0.3 * (ratio[t] - ratio[t - 1]) * error
        assert float(found[i]) == pytest.approx(expected, rel=1e-4)


def test_the_loss_adds_three_terms() -> None:
    answer, labels = torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([1])
    prediction, rows = torch.tensor([[0.5, 0.0]]), torch.tensor([[0.0, 1.0]])
    found = noprop_loss(answer, labels, prediction, rows, torch.tensor([2.0]), torch.tensor(0.5))
    divergence = 0.5 * (0.5 * (1 - 2) - 2 * math.log(0.5))
    torch.testing.assert_close(found, torch.tensor([math.log(4 / 3) + divergence + 2 * 1.25]))


def test_training_a_network_leaves_the_others_alone() -> None:
    rival = NoPropDT(CNN)
    kept: dict[int, Any] = {}
    for report in rival.steps(SOURCE, settings_of(16 * 3 * 4)):
        for i, network in enumerate(rival.networks):
            assert same(kept.setdefault(i, weights_of(network)), weights_of(network))
        assert len(rival.networks) == int(report.part.removeprefix("step-")) - 1
    assert len(kept) == 2


def test_a_network_does_not_depend_on_the_others() -> None:
    """The last of three is the same whatever the classifier has seen before: trained apart, in any order."""
    rival = NoPropDT(CNN)
    settings = settings_of(16 * 3 * 4)
    train(rival, settings)
    learner = Learner("step-3", rival.recipe.network(range(2, 3), settings.derive_seed("init", 3)), settings, 4)
    for step in range(4):
        batch = draw(SOURCE, settings, "step-3", step, None)
        x = rival._inputs(3, batch)
        error = learner.module(x.z, x.time, x.images).softmax(-1) - rival.recipe.table[batch.labels]
        (error.square().sum(-1) * x.weight).mean().backward()
        learner.clip()
        learner.update()
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
    assert [report.part for report in reports] == [f"step-{t}" for t in (1, 2, 3) for _ in range(5)]
    assert (reports[-1].step, reports[-1].num_steps) == (15, 15)
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
    size = sum(p.numel() for p in NoisyCNN(few.recipe.config, range(1)).parameters())
    assert found.by_kind["Parameter"] == 4 * (size + 12)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"table has shape \(3, 5\); give \(3, 3\), label_width=3 numbers"):
        NoPropDT(CNN, table=random_unit(3, 5, seed=0))
    with pytest.raises(ValueError, match=r"eta=0.1, offset=0: both must be above 0"):
        NoPropDT(CNN, offset=0)
    with pytest.raises(ValueError, match=r"noprop-dt has trained 0 of 4 parts"):
        NoPropDT(CNN).probabilities(PIXELS)
    with pytest.raises(ValueError, match=r"budget=10 does not pay for one step"):
        train(NoPropDT(CNN), settings_of(10))
