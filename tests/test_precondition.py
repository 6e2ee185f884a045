import math

import pytest
import torch

from oneblock.precondition import Precondition

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
