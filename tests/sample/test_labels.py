"""Classifying against an exact denoiser: log p(y | x) of the image, plus what the noisy label says."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.condition import Condition, Frames, Nothing, told
from oneblock.sample.calls import Calls
from oneblock.sample.labels import Answer, classify
from oneblock.table import random_unit, simplex

TABLE = simplex(3).double()
PRIOR = torch.tensor([[0.6, 0.3, 0.1], [0.05, 0.15, 0.8], [0.98, 0.01, 0.01], [0.2, 0.5, 0.3]], dtype=torch.float64)
LEVELS = (20.0, 0.8, 0.5)


def images(*kinds: int) -> Frames:
    """One pixel each, which says by its value which row of ``PRIOR`` holds for the image."""
    return Frames(torch.tensor(kinds, dtype=torch.float64).view(-1, 1, 1, 1))


def kind(condition: Condition) -> Tensor:
    return told(condition, Frames).values[:, 0, 0, 0].long()


class Oracle:
    """Bayes' rule; remembers what it was asked."""

    def __init__(self, table: Tensor = TABLE) -> None:
        self.table = table
        self.asked: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        assert not torch.is_grad_enabled()
        assert len(z) == len(sigma) == len(condition)
        self.asked.append((z.clone(), sigma, kind(condition)))
        return PRIOR.log()[kind(condition)] + z @ self.table.mT / sigma[:, None] ** 2 + 3.0  # logits have no zero


class Script:
    """Answers with one table of logits (n, k) after the other, whatever it is asked."""

    def __init__(self, *answers: list[list[float]]) -> None:
        self.answers = [torch.tensor(answer, dtype=torch.float64) for answer in answers]
        self.asked: list[tuple[Tensor, Tensor]] = []

    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        self.asked.append((z.clone(), sigma))
        return self.answers[len(self.asked) - 1]


def ask(
    denoiser: DenoiserLike,
    table: Tensor,
    condition: Condition,
    levels: Sequence[float],
    path: Any = "mean",
    pool: Any = "last",
    **options: Any,
) -> Answer:
    return classify(denoiser, table, condition, Calls(levels=tuple(levels), path=path, pool=pool), **options)


def softmax(*logits: float) -> list[float]:
    return [math.exp(v) / sum(map(math.exp, logits)) for v in logits]


def test_noisy_paths_end_at_classes_as_often_as_these_are_likely() -> None:
    levels = torch.logspace(math.log10(30.0), -1.5, 60).tolist()
    answer = ask(Oracle(), TABLE, images(*([0] * 4000 + [1] * 4000)), levels, path="euler", seed=1)
    last = answer.probabilities[-1]
    assert (last.amax(-1) > 0.99).double().mean().item() > 0.97
    for i, part in enumerate(last.split(4000)):
        shares = part.argmax(-1).bincount(minlength=3) / 4000
        assert shares.tolist() == pytest.approx(PRIOR[i].tolist(), abs=0.025)


def test_a_path_of_drawn_rows_ends_at_classes_as_often_as_these_are_likely() -> None:
    answer = ask(Oracle(), TABLE, images(*([0] * 4000)), (30.0, 2.0, 0.05), path="redraw", seed=1)
    shares = answer.probabilities[-1].argmax(-1).bincount(minlength=3) / 4000
    assert shares.tolist() == pytest.approx(PRIOR[0].tolist(), abs=0.025)


def test_a_path_may_hand_nothing_over() -> None:
    oracle = Oracle()
    ask(oracle, TABLE, images(0, 1), LEVELS, path="none")
    assert all(z.equal(TABLE.mean(0).expand(2, 3)) for z, _, _ in oracle.asked) and len(oracle.asked) == 3


def test_the_path_starts_from_noise_and_goes_by_eulers_step() -> None:
    oracle = Oracle()
    ask(oracle, TABLE, images(0, 1), LEVELS, path="euler", seed=5)
    z = 20.0 * torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(5))[0].double()
    for i, (level, after) in enumerate(((20.0, 0.8), (0.8, 0.5), (0.5, None))):
        seen, sigma, _ = oracle.asked[i]
        torch.testing.assert_close(seen, z, rtol=1e-6, atol=1e-6)
        assert sigma.tolist() == pytest.approx([level] * 2)
        if after is not None:
            expected = torch.stack(
                [sum(p * row for p, row in zip(ps, TABLE, strict=True)) for ps in posteriors(z, level)]
            )
            z = z + (after - level) * (z - expected) / level  # dz/dsigma = (z - D) / sigma


def posteriors(z: Tensor, level: float) -> list[list[float]]:
    """Of images 0 and 1, from Gaussian densities."""
    found = []
    for i in (0, 1):
        joint = [
            p * math.exp(-float((z[i] - row).square().sum()) / (2 * level**2))
            for p, row in zip(PRIOR[i].tolist(), TABLE, strict=True)
        ]
        found.append([p / sum(joint) for p in joint])
    return found


def test_the_mean_path_of_two_classes_by_hand() -> None:
    # rows at +1 and -1 on a line; the network says [a, -a], so p_0 = sigmoid(2 (a + x / sigma^2)), expected 2 p_0 - 1
    table, a = torch.tensor([[1.0], [-1.0]]), 0.3
    asked = []

    def denoiser(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        asked.append((z.item(), sigma.item()))
        half = a + z / sigma[:, None] ** 2
        return torch.cat([half, -half], 1)

    answer = ask(denoiser, table, Nothing(1), (10.0, 2.0, 0.5))
    first = math.tanh(a)
    second = math.tanh(a + first / 4)
    third = math.tanh(a + second / 0.25)
    assert asked == [pytest.approx(pair, abs=1e-6) for pair in ((0.0, 10.0), (first, 2.0), (second, 0.5))]
    assert answer.probabilities[:, 0, 0].tolist() == pytest.approx([(1 + x) / 2 for x in (first, second, third)])
    assert answer.calls.tolist() == [3]


def test_the_mean_path_starts_at_the_mean_of_the_rows() -> None:
    table, script = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]], dtype=torch.float64), Script([[0.0, 0.0, 0.0]])
    ask(script, table, images(0), [5.0])
    assert script.asked[0][0][0].tolist() == pytest.approx([0.6, 1.6 / 3])


TWO = ([[1.0, 0.0, -1.0]], [[-0.5, 0.5, 0.0]])


def test_the_last_call_or_the_mean_of_all() -> None:
    first, second = softmax(1.0, 0.0, -1.0), softmax(-0.5, 0.5, 0.0)
    last = ask(Script(*TWO), TABLE, images(0), (2.0, 1.0)).probabilities[:, 0]
    assert last.tolist() == [pytest.approx(first), pytest.approx(second)]
    mean = ask(Script(*TWO), TABLE, images(0), (2.0, 1.0), pool="mean").probabilities[:, 0]
    assert mean.tolist() == [
        pytest.approx(first),
        pytest.approx([(a + b) / 2 for a, b in zip(first, second, strict=True)]),
    ]


def test_evidence_is_taken_out_by_hand() -> None:
    answer = ask(Script(*TWO), TABLE, images(0), (2.0, 1.0), pool="evidence").probabilities[:, 0]
    # the first call sees z = 0: no evidence; the second sees the row expected after the first, at level 1
    first = softmax(1.0, 0.0, -1.0)
    z = [sum(first[k] * TABLE[k, d].item() for k in range(3)) for d in range(3)]
    evidence = [sum(z[d] * TABLE[k, d].item() for d in range(3)) for k in range(3)]
    logs = [[math.log(p) for p in first], [math.log(p) for p in softmax(-0.5, 0.5, 0.0)]]
    rest = [(logs[0][k] + logs[1][k] - evidence[k]) / 2 for k in range(3)]
    assert answer.tolist() == [pytest.approx(first), pytest.approx(softmax(*rest))]


@pytest.mark.parametrize("table", [TABLE, random_unit(3, 5, seed=0).double()])
@pytest.mark.parametrize("path", ["euler", "mean"])
def test_without_evidence_the_oracle_says_what_it_thinks_of_the_image(table: Tensor, path: Any) -> None:
    answer = ask(Oracle(table), table, images(0, 1, 2, 3), LEVELS, path=path, pool="evidence")
    torch.testing.assert_close(answer.probabilities, PRIOR.expand(3, 4, 3))


def test_noisy_paths_are_averaged() -> None:
    oracle = Oracle()
    answer = ask(oracle, TABLE, images(0, 1), LEVELS, path="euler", draws=3)
    assert [len(z) for z, _, _ in oracle.asked] == [6, 6, 6]
    for i, (z, sigma, kinds) in enumerate(oracle.asked):
        assert kinds.tolist() == [0, 1] * 3
        paths = (PRIOR.log()[kinds] + z @ TABLE.mT / sigma[:, None] ** 2).softmax(-1).view(3, 2, 3)
        assert (paths[0] - paths[1]).abs().max() > 0.001, "each path has its own noise"
        torch.testing.assert_close(answer.probabilities[i], paths.mean(0))


def test_answers_follow_from_the_seed() -> None:
    one, again, other = (
        ask(Oracle(), TABLE, images(0, 1), LEVELS, path="euler", seed=seed).probabilities for seed in (0, 0, 1)
    )
    assert one.equal(again)
    assert not torch.allclose(one[1], other[1])


def early(confident: float, **options: Any) -> tuple[Answer, list[Counter[int]]]:
    """The answer for images of all kinds, and how often each kind was asked about in each call."""
    oracle = Oracle()
    answer = ask(oracle, TABLE, images(0, 1, 2, 3), LEVELS, confident=confident, **options)
    return answer, [Counter(kinds.tolist()) for _, _, kinds in oracle.asked]


@pytest.mark.parametrize("pool", ["last", "mean", "evidence"])
def test_who_is_sure_is_asked_no_more(pool: Any) -> None:
    answer, asked = early(0.75, pool=pool)
    whole, _ = early(1.0, pool=pool)
    # at the first level z says nothing: PRIOR decides, and the images 1 and 2 are sure
    assert asked[0] == {0: 1, 1: 1, 2: 1, 3: 1}
    assert answer.calls[1:3].tolist() == [1, 1]
    expected = [Counter(i for i in range(4) if answer.calls[i] > call) for call in range(3)]
    assert asked == [count for count in expected if count]
    assert (answer.calls[0] > 1, answer.calls[3] > 1) == (True, True)
    for i in range(4):
        calls = int(answer.calls[i])
        torch.testing.assert_close(answer.probabilities[:calls, i], whole.probabilities[:calls, i])
        assert bool((answer.probabilities[calls - 1 :, i] == answer.probabilities[calls - 1, i]).all()), "it stays"
        sure = answer.probabilities[:calls, i].amax(-1) >= 0.75
        assert sure[:-1].any().item() is False
        assert sure[-1].item() or calls == 3


def test_with_several_draws_an_image_leaves_with_all_of_them() -> None:
    answer, asked = early(0.75, path="euler", draws=4)
    whole, _ = early(1.0, path="euler", draws=4)
    assert asked[0] == {0: 4, 1: 4, 2: 4, 3: 4}
    assert asked[1] == {0: 4, 3: 4}
    torch.testing.assert_close(answer.probabilities[:, 3], whole.probabilities[:, 3])


def test_when_all_are_sure_nobody_is_asked() -> None:
    answer, asked = early(0.3)
    assert asked == [{0: 1, 1: 1, 2: 1, 3: 1}]
    assert answer.calls.tolist() == [1] * 4
    torch.testing.assert_close(answer.probabilities, PRIOR.expand(3, 4, 3))


def test_by_default_no_call_is_left_out() -> None:
    answer = ask(Script([[100.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]]), TABLE, images(0), (2.0, 1.0), pool="mean")
    assert answer.probabilities[0, 0, 0] == 1.0
    assert answer.calls.tolist() == [2]
    assert answer.probabilities[1, 0].tolist() == pytest.approx([2 / 3, 1 / 6, 1 / 6])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": []}, r"levels=\(\) do not descend; give at least one level, the noisiest first"),
        ({"levels": [1.0, 1.0]}, r"levels=\(1.0, 1.0\) do not descend"),
        ({"levels": [0.5, 1.0]}, r"levels=\(0.5, 1.0\) do not descend"),
        ({"draws": 0, "path": "euler"}, "draws=0 with path='euler'"),
        ({"draws": 2}, "draws=2 with path='mean': only noisy paths differ; use draws=1 or path='euler' or 'redraw'"),
    ],
)
def test_wrong_questions_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ask(Oracle(), TABLE, images(0), **{"levels": LEVELS, **options})
