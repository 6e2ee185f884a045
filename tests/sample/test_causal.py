from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from oneblock.blockwise import BlockDenoiser
from oneblock.condition import Condition, Tokens, told
from oneblock.models.cache import Cache
from oneblock.models.gpt import GPT, GPTConfig, Streams
from oneblock.precondition import Evidence
from oneblock.sample.calls import Calls, Path
from oneblock.sample.causal import predict, write
from oneblock.table import simplex

V, N, T = 4, 3, 5
TABLE = simplex(V)
LEVELS = (6.0, 0.9, 0.3)
ANSWER = torch.tensor([0.1, 0.2, 0.3, 0.4])


def tokens() -> Tensor:
    return torch.randint(V, (N, T), generator=torch.Generator().manual_seed(0))


class Fixed:
    """Answers the same to everything, and keeps what it was asked."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []
        self.levels: list[float] = []

    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        self.seen.append(z)
        self.levels.append(float(sigma[0]))
        return ANSWER.log().expand(*told(condition, Tokens).values.shape, V)


def test_the_mean_path_goes_over_expected_rows() -> None:
    denoiser = Fixed()
    steps = list(predict(denoiser, TABLE, tokens(), Calls(levels=LEVELS)))
    assert denoiser.levels == pytest.approx(list(LEVELS))
    torch.testing.assert_close(denoiser.seen[0], torch.zeros(N, T, V))
    for z in denoiser.seen[1:]:
        torch.testing.assert_close(z, (ANSWER @ TABLE).expand(N, T, V))
    for step in steps:
        torch.testing.assert_close(step, ANSWER.log().expand(N, T, V))


def test_a_path_may_hand_nothing_over() -> None:
    denoiser = Fixed()
    list(predict(denoiser, TABLE, tokens(), Calls(levels=LEVELS, path="none")))
    assert all(torch.equal(z, torch.zeros(N, T, V)) for z in denoiser.seen) and len(denoiser.seen) == 3


def test_euler_walks_from_noise_towards_the_expected_row() -> None:
    denoiser = Fixed()
    list(predict(denoiser, TABLE, tokens(), Calls(levels=LEVELS, path="euler")))
    first, second, third = denoiser.seen
    assert float(first.std()) == pytest.approx(LEVELS[0], rel=0.2)
    expected = ANSWER @ TABLE
    for before, after, a in ((first, second, LEVELS[1] / LEVELS[0]), (second, third, LEVELS[2] / LEVELS[1])):
        torch.testing.assert_close(after, a * before + (1 - a) * expected)


def test_redraw_puts_new_noise_on_tokens_drawn_from_the_answer() -> None:
    denoiser, many = Fixed(), torch.zeros(40, 50, dtype=torch.long)
    list(predict(denoiser, TABLE, many, Calls(levels=(6.0, 0.05), path="redraw")))
    z = denoiser.seen[1]
    drawn = (z @ TABLE.mT).argmax(-1)
    torch.testing.assert_close(drawn.flatten().bincount(minlength=V) / drawn.numel(), ANSWER, rtol=0, atol=0.04)
    assert float((z - TABLE[drawn]).std()) == pytest.approx(0.05, rel=0.05)


def test_pooled_answers_are_mean_probabilities() -> None:
    answers = iter([torch.tensor([0.7, 0.1, 0.1, 0.1]), torch.tensor([0.1, 0.7, 0.1, 0.1])])
    calls = Calls(levels=(2.0, 1.0), pool="mean")
    *_, last = predict(lambda z, s, x: next(answers).log().expand(N, T, V), TABLE, tokens(), calls)
    torch.testing.assert_close(last[0, 0].exp(), torch.tensor([0.4, 0.4, 0.1, 0.1]))


def test_evidence_is_what_the_text_says_without_what_z_told() -> None:
    """A denoiser that adds what z tells to logits of its own answers with the mean of those."""
    own = iter(torch.randn(3, V, generator=torch.Generator().manual_seed(3)))
    said: list[Tensor] = []

    def denoiser(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        said.append(next(own))
        return said[-1] + z @ TABLE.mT / sigma[:, None, None] ** 2

    calls = Calls(levels=LEVELS, path="euler", pool="evidence")
    for i, found in enumerate(predict(denoiser, TABLE, tokens(), calls), 1):
        expected = torch.stack([o.log_softmax(-1) for o in said]).mean(0).log_softmax(-1)
        assert len(said) == i
        torch.testing.assert_close(found, expected.expand(N, T, V), rtol=1e-4, atol=1e-4)


def test_places_that_are_read_carry_noisy_rows_of_their_tokens() -> None:
    denoiser = Fixed()
    list(predict(denoiser, TABLE, tokens(), Calls(levels=(2.0, 0.01)), carried=True))
    carried, asked = denoiser.seen[1].chunk(2, dim=1)
    torch.testing.assert_close(carried, TABLE[tokens()], rtol=0, atol=0.05)
    torch.testing.assert_close(asked, (ANSWER @ TABLE).expand(N, T, V))


def test_the_same_seed_gives_the_same_noise() -> None:
    calls = Calls(levels=LEVELS, path="redraw")
    seen = []
    for seed in (0, 0, 1):
        denoiser = Fixed()
        list(predict(denoiser, TABLE, tokens(), calls, seed=seed))
        seen.append(torch.stack(denoiser.seen))
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])


class Reader:
    """A block's cache behind the frame of its denoiser."""

    def __init__(self, denoiser: BlockDenoiser, count: int) -> None:
        gpt = denoiser.backbone
        assert isinstance(gpt, GPT)
        self.frame, self.cache = denoiser.frame, Cache(gpt, count)

    def ask(self, z: Tensor, sigma: Tensor) -> Tensor:
        return self.cache.ask(self.frame.inputs(z, sigma), self.frame.noise(sigma))

    def read(self, tokens: Tensor, z: Tensor, sigma: Tensor) -> None:
        self.cache.read(tokens, self.frame.inputs(z, sigma), self.frame.noise(sigma))


def randomised(streams: Streams) -> BlockDenoiser:
    torch.manual_seed(0)
    config = GPTConfig(vocabulary=V, context=T, label_width=V, depth=2, width=16, heads=4, streams=streams)
    gpt = GPT(config)
    with torch.no_grad():
        for p in gpt.parameters():
            p.normal_(std=0.4)
    return BlockDenoiser(gpt, Evidence(TABLE, skip=False))


def written(denoiser: BlockDenoiser, calls: Calls, **changes: float) -> Tensor:
    reader = Reader(denoiser, N)
    steps = write([reader] * len(calls.levels), TABLE, tokens()[:, :2], 3, calls, **changes)  # type: ignore[arg-type]
    return torch.stack(list(steps), dim=1)


@pytest.mark.parametrize("streams", ["two", "none"])
@pytest.mark.parametrize("pool", ["last", "mean", "evidence"])
def test_what_is_written_is_what_the_whole_text_predicts(streams: Streams, pool: str) -> None:
    denoiser, calls = randomised(streams), Calls(levels=LEVELS, pool=pool)  # type: ignore[arg-type]
    found = written(denoiser, calls, temperature=0.0)
    text = torch.cat([tokens()[:, :2], found], dim=1)
    *_, last = predict(denoiser, TABLE, text, calls)
    assert torch.equal(last.argmax(-1)[:, 2:], found)


@pytest.mark.parametrize("path", ["none", "mean", "euler", "redraw"])
def test_temperature_and_top_p_act(path: Path) -> None:
    denoiser = randomised("two")
    texts = {t: written(denoiser, Calls(levels=LEVELS, path=path), temperature=t, seed=1) for t in (0.0, 1.0, 50.0)}
    assert not torch.equal(texts[0.0], texts[50.0])
    nearly = written(denoiser, Calls(levels=LEVELS), temperature=1.0, top_p=1e-6)
    assert torch.equal(nearly, written(denoiser, Calls(levels=LEVELS), temperature=0.0))


class Counting:
    def __init__(self) -> None:
        self.texts: list[int] = []

    def ask(self, z: Tensor, sigma: Tensor) -> Tensor:
        return ANSWER.log().expand(len(z), V)

    def read(self, tokens: Tensor, z: Tensor, sigma: Tensor) -> None:
        self.texts.append(int(tokens[0]))


def test_each_denoiser_reads_every_token_once() -> None:
    shared, own = Counting(), Counting()
    prompt = torch.tensor([[3, 1]])
    found = list(write([shared, shared, own], TABLE, prompt, 2, Calls(levels=LEVELS)))
    assert shared.texts == own.texts == [3, 1, *(int(t[0]) for t in found)]


@pytest.mark.parametrize(
    ("levels", "count", "message"),
    [
        ((1.0, 1.0), 1, r"levels=\(1.0, 1.0\) do not descend"),
        ((), 1, r"levels=\(\) do not descend"),
        ((2.0, 1.0), 1, "1 readings for 2 levels; give one for each level"),
        ((2.0,), 0, "count=0 writes nothing; use 1 or more"),
    ],
)
def test_wrong_input_is_refused(levels: Sequence[float], count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(write([Counting()], TABLE, tokens(), count, Calls(levels=tuple(levels))))
