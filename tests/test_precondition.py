import math

import pytest
import torch
from torch import Tensor

from oneblock.precondition import Evidence, Frame, Logits, MaskedTokens, Precondition
from oneblock.table import random_unit, simplex

SIGMA = torch.tensor([0.002, 0.1, 0.5, 3.0, 80.0], dtype=torch.float64)


def test_values_at_sigma_data_by_hand() -> None:
    p, at = Precondition(0.5), torch.tensor([0.5], dtype=torch.float64)
    assert p.c_skip(at).item() == pytest.approx(0.5)
    assert p.c_out(at).item() == pytest.approx(0.5 / math.sqrt(2))
    assert p.c_in(at).item() == pytest.approx(math.sqrt(2))
    assert p.c_noise(at).item() == pytest.approx(math.log(0.5) / 4)
    assert p.weight(at).item() == pytest.approx(8.0)


@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_input_and_target_of_the_network_have_unit_variance(sigma_data: float) -> None:
    p = Precondition(sigma_data)
    torch.testing.assert_close(p.c_in(SIGMA) ** 2 * (sigma_data**2 + SIGMA**2), torch.ones_like(SIGMA))
    # target (y - c_skip (y + sigma eps)) / c_out: coefficients of the independent y and eps
    of_y, of_noise = (1 - p.c_skip(SIGMA)) / p.c_out(SIGMA), p.c_skip(SIGMA) * SIGMA / p.c_out(SIGMA)
    torch.testing.assert_close(of_y**2 * sigma_data**2 + of_noise**2, torch.ones_like(SIGMA))


def test_weight_undoes_the_output_scale() -> None:
    p = Precondition(0.7)
    torch.testing.assert_close(p.weight(SIGMA) * p.c_out(SIGMA) ** 2, torch.ones_like(SIGMA))


def test_without_noise_the_answer_is_the_question() -> None:
    p, tiny = Precondition(), torch.tensor(1e-8, dtype=torch.float64)
    assert p.c_skip(tiny).item() == pytest.approx(1.0)
    assert p.c_out(tiny).item() == pytest.approx(0.0, abs=1e-7)


def test_wrong_sigma_data_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sigma_data=0.0 is not a standard deviation; use a number above 0"):
        Precondition(0.0)


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def labels(table: Tensor, sigma: Tensor) -> Tensor:
    """Noisy rows (n, d) of the classes 0, 1, ... in turn."""
    noise = torch.randn(len(sigma), table.shape[1], generator=torch.Generator().manual_seed(0), dtype=table.dtype)
    return table[torch.arange(len(sigma)) % len(table)] + sigma[:, None] * noise


def log_likelihoods(z: Tensor, sigma: Tensor, table: Tensor) -> Tensor:
    """(n, k): the log-density of each z (d,) under a Gaussian around each row."""
    rows = [torch.distributions.Normal(row, sigma[:, None]).log_prob(z).sum(-1) for row in table]
    return torch.stack(rows, -1)


def test_edm_frame_of_images() -> None:
    frame: Frame = Precondition(0.5)
    sigma = torch.tensor([0.1, 2.0])
    z, prediction = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    shown, answer = frame.inputs(z, sigma), frame.outputs(z, sigma, prediction)
    for i, s in enumerate((0.1, 2.0)):
        norm = math.sqrt(s**2 + 0.25)
        torch.testing.assert_close(shown[i], z[i] / norm)
        torch.testing.assert_close(answer[i], 0.25 / norm**2 * z[i] + 0.5 * s / norm * prediction[i])
    torch.testing.assert_close(frame.noise(sigma), torch.tensor([math.log(0.1) / 4, math.log(2.0) / 4]))
    assert frame.outputs(z, sigma, prediction.bfloat16()).dtype == torch.float32


def test_logits_are_shown_scaled_labels_and_answer_for_themselves() -> None:
    frame: Frame = Logits(Precondition(0.5))
    sigma = torch.tensor([0.1, 2.0])
    z, prediction = torch.randn(2, 6), torch.randn(2, 3)
    norms = torch.tensor([[math.sqrt(0.26)], [math.sqrt(4.25)]])
    torch.testing.assert_close(frame.inputs(z, sigma), z / norms)
    torch.testing.assert_close(frame.noise(sigma), torch.tensor([math.log(0.1) / 4, math.log(2.0) / 4]))
    assert frame.outputs(z, sigma, prediction).equal(prediction)
    assert frame.outputs(z, sigma, prediction.bfloat16()).dtype == torch.float32


def test_masked_tokens_are_shown_as_they_are_with_four_times_their_time() -> None:
    frame: Frame = MaskedTokens()
    z, prediction = torch.tensor([[0, 2, 1], [2, 2, 2]]), torch.randn(2, 3, 3)
    assert frame.inputs(z, SIGMA[:2]).equal(z)
    assert frame.outputs(z, SIGMA[:2], prediction).equal(prediction)
    assert frame.noise(double(0.0, 0.25, 1.0)).tolist() == [0.0, 1.0, 4.0]
    # all times span at least half of what EDM's conditioning spans over its usual levels, as networks need of either
    edm = Precondition().c_noise(double(0.002, 80.0))
    assert float(frame.noise(double(1.0)) - frame.noise(double(0.0))) > 0.5 * float(edm[1] - edm[0])


@pytest.mark.parametrize("table", [simplex(4).double(), random_unit(3, 5, seed=0).double()])
def test_evidence_is_the_difference_of_log_likelihoods(table: Tensor) -> None:
    z = labels(table, SIGMA)
    evidence, expected = Evidence(table, skip=False).evidence(z, SIGMA), log_likelihoods(z, SIGMA, table)
    torch.testing.assert_close(evidence, expected - expected.mean(-1, keepdim=True), rtol=1e-7, atol=1e-7)


def test_evidence_by_hand() -> None:
    # rows (m, -m) and (-m, m) with m = 1 / sqrt(2): z . T = +- m (z_0 - z_1)
    z, sigma = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([2.0, 0.5])
    first = [1 / math.sqrt(2) / 4, -3 / math.sqrt(2) * 4]
    expected = torch.tensor([[a, -a] for a in first])
    torch.testing.assert_close(Evidence(simplex(2), skip=True).evidence(z, sigma), expected)
    shown = Evidence(simplex(2), skip=True, limit=2.0).inputs(z, sigma)
    torch.testing.assert_close(shown, torch.tensor([[math.tanh(a / 2), -math.tanh(a / 2)] for a in first]))
    tokens = Evidence(simplex(2), skip=True).evidence(z[:, None].expand(-1, 3, -1), sigma)
    torch.testing.assert_close(tokens, expected[:, None].expand(-1, 3, -1))


def test_with_skip_the_answer_is_bayes_rule() -> None:
    table, sigma = random_unit(3, 5, seed=1).double(), torch.tensor([0.3, 0.6, 1.0, 4.0], dtype=torch.float64)
    z = labels(table, sigma)
    prior = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.4, 0.3], [0.05, 0.9, 0.05]], dtype=torch.float64)
    joint = prior * log_likelihoods(z, sigma, table).exp()
    answer = Evidence(table, skip=True).outputs(z, sigma, prior.log() + 5.0)
    torch.testing.assert_close(answer.softmax(-1), joint / joint.sum(-1, keepdim=True))
    plain = Evidence(table, skip=False).outputs(z, sigma, prior.log())
    assert plain.equal(prior.log())


@pytest.mark.parametrize("table", [simplex(5).double(), random_unit(5, 8, seed=2).double()])
def test_what_the_network_is_shown_is_bounded_and_begins_at_zero(table: Tensor) -> None:
    frame = Evidence(table, skip=True)
    shown = frame.inputs(labels(table, SIGMA), SIGMA)
    assert shown.shape == (5, 5)
    assert bool((shown.abs() <= 1).all())
    assert shown[0].argmax().item() == 0, "at low noise the evidence is for the label's own class"
    assert shown[0, 0].item() == pytest.approx(1.0)
    assert frame.inputs(torch.zeros(5, table.shape[1], dtype=table.dtype), SIGMA).abs().max() == 0
    torch.testing.assert_close(frame.noise(SIGMA), SIGMA.log() / 4)


def test_the_table_is_no_trained_part_and_in_no_checkpoint() -> None:
    frame = Evidence(simplex(3), skip=True)
    assert not list(frame.parameters())
    assert not frame.state_dict()
    assert [name for name, _ in frame.named_buffers()] == ["table"]


def test_evidence_is_not_rounded_under_autocast() -> None:
    frame, sigma = Evidence(simplex(10), skip=True), torch.full((10,), 0.05)
    z = labels(simplex(10), sigma)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = frame.evidence(z, sigma)
    assert rounded.equal(frame.evidence(z, sigma))


def test_each_frame_may_have_its_level() -> None:
    z, sigma = torch.randn(2, 3, 4, dtype=torch.float64), torch.tensor([[0.1, 1.0, 9.0], [2.0, 0.5, 4.0]]).double()
    frame = Precondition(0.5)
    answer = frame.outputs(z, sigma, 2 * frame.inputs(z, sigma))
    for i in range(3):
        one, level = z[:, i], sigma[:, i]
        torch.testing.assert_close(answer[:, i], frame.outputs(one, level, 2 * frame.inputs(one, level)))
