import math
from typing import Any

import pytest
import torch
from torch import Tensor

from oneblock.condition import ClassIds, Condition, Frames, Tokens, told
from oneblock.evaluate.device import device_of
from oneblock.guidance import Averaged, ClassifierFree, Ensemble

NULL = 9


class Recorder:
    """The label's number everywhere, 0.5 for the null class; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Tensor] = []

    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        ids = told(condition, ClassIds).ids
        self.asked.append(ids)
        value = torch.where(ids == NULL, 0.5, ids.float())
        return value.view(-1, 1).expand_as(z) + 0.01 * sigma.view(-1, 1)


Z, SIGMA, LABELS = torch.zeros(3, 2), torch.tensor([10.0, 1.0, 0.1]), ClassIds(torch.tensor([1, 2, 3]), null_id=NULL)


def test_the_formula() -> None:
    out = ClassifierFree(Recorder(), 3.0)(Z, SIGMA, LABELS)
    expected = [0.5 + 3 * (label - 0.5) for label in (1, 2, 3)]
    torch.testing.assert_close(out[:, 0], torch.tensor(expected) + 0.01 * SIGMA)
    torch.testing.assert_close(out[:, 1], out[:, 0])


def test_scale_one_is_a_single_plain_call() -> None:
    inner = Recorder()
    out = ClassifierFree(inner, 1.0)(Z, SIGMA, LABELS)
    torch.testing.assert_close(out[:, 0], LABELS.ids + 0.01 * SIGMA)
    assert [asked.tolist() for asked in inner.asked] == [[1, 2, 3]]


def test_outside_the_interval_there_is_no_guidance() -> None:
    out = ClassifierFree(Recorder(), 3.0, (0.5, 1.0))(Z, SIGMA, LABELS)
    torch.testing.assert_close(out[:, 0], torch.tensor([1.0, 0.5 + 3 * 1.5, 3.0]) + 0.01 * SIGMA)
    inner = Recorder()
    ClassifierFree(inner, 3.0, (20.0, 30.0))(Z, SIGMA, LABELS)
    assert len(inner.asked[0]) == 3  # nobody is asked for the null class


@pytest.mark.parametrize("scale", [0.0, 2.5])
def test_scale_zero_is_the_null_class_alone(scale: float) -> None:
    out = ClassifierFree(Recorder(), scale)(Z, SIGMA, LABELS.null())
    torch.testing.assert_close(out[:, 0], 0.5 + 0.01 * SIGMA)


@pytest.mark.parametrize("scale", [-1.0, math.nan, math.inf])
def test_scales_that_guide_nowhere_are_refused(scale: float) -> None:
    with pytest.raises(ValueError, match=f"guidance={scale} is not allowed; use a number, 0 or more"):
        ClassifierFree(Recorder(), scale)


@pytest.mark.parametrize("interval", [(5.0, 0.5), (1.0, 1.0), (-1.0, 2.0), (math.nan, 2.0), (0.0, math.nan)])
def test_intervals_that_are_upside_down_or_empty_are_refused(interval: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"guidance_interval=\(.*\) is not an interval; .*, the lower one first"):
        ClassifierFree(Recorder(), 2.0, interval)


def test_an_ensemble_answers_with_the_mean_of_probabilities() -> None:
    p = torch.tensor([[0.5, 0.25, 0.25], [0.9, 0.05, 0.05]])
    members = [lambda z, sigma, condition, row=row: (row.log() + sigma[0]).expand(3, 3) for row in p]
    out = Ensemble(members)(Z, SIGMA, LABELS)
    torch.testing.assert_close(out.exp(), p.mean(0).expand(3, 3))  # of logits it would be the geometric mean
    torch.testing.assert_close(Ensemble(members[:1])(Z, SIGMA, LABELS).exp(), p[0].expand(3, 3))


def test_averaged_denoisers_answer_with_the_mean_and_can_be_guided() -> None:
    answers = torch.randn(3, 3, 2)
    members = [lambda z, sigma, condition, row=row: row + sigma[0] for row in answers]
    torch.testing.assert_close(Averaged(members)(Z, SIGMA, LABELS), answers.mean(0) + SIGMA[0])
    torch.testing.assert_close(Averaged(members[1:2])(Z, SIGMA, LABELS), answers[1] + SIGMA[0])
    elsewhere: list[Any] = [torch.nn.Linear(1, 1, device="meta")]
    assert device_of(ClassifierFree(Averaged(elsewhere), 2.0)) == torch.device("meta")


def test_what_has_no_null_cannot_be_guided() -> None:
    for told_of, message in (
        (ClassIds(torch.arange(3)), "null_id=None"),
        (Frames(torch.zeros(3, 1)), "cannot be nulled"),
    ):
        with pytest.raises(ValueError, match=message):
            ClassifierFree(Recorder(), 2.0)(Z, SIGMA, told_of)


def test_any_condition_with_a_null_can_be_guided() -> None:
    def denoiser(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        mask = told(condition, Tokens).mask
        assert mask is not None
        return mask.float().mean(1, keepdim=True).expand_as(z)

    words = Tokens(torch.arange(6).view(3, 2), torch.tensor([[True, True], [True, False], [False, False]]))
    out = ClassifierFree(denoiser, 3.0)(Z, SIGMA, words)
    torch.testing.assert_close(out[:, 0], torch.tensor([3.0, 1.5, 0.0]))
