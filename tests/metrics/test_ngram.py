"""The n-gram model: by hand, against a slow twin, and that its probabilities sum to one."""

import math
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oneblock.metrics.likelihood import Likelihood, generative_perplexity
from oneblock.metrics.ngram import CODE_POINTS, NGramScorer

TEXTS = st.lists(st.text("abc", max_size=9), min_size=1, max_size=3).filter(any)


def twin(texts: Sequence[str], order: int, history: str, following: str) -> float:
    """p(following | history) by the formula, one n-gram at a time."""
    p = 1 / CODE_POINTS
    for length in range(min(order, len(history) + 1)):
        h = history[len(history) - length :]
        counts = Counter(
            text[i + length] for text in texts for i in range(len(text) - length) if text[i : i + length] == h
        )
        if counts:
            p = (counts[following] + len(counts) * p) / (counts.total() + len(counts))
    return p


def probability(scorer: NGramScorer, history: str, following: str) -> float:
    return scorer.log_probabilities([history + following])[-1].exp().item()


def test_two_characters_by_hand() -> None:
    scorer = NGramScorer(["ab"], order=2)
    first = (1 + 2 / CODE_POINTS) / (2 + 2)
    # a stood once before something, always b
    second = (1 + 1 * first) / (1 + 1)
    # b stood at the end alone, so b a falls back; a a was not seen
    expected = [first, second, first, (0 + 1 * first) / (1 + 1), (0 + 1 * 2 / CODE_POINTS / 4) / (1 + 1)]
    found = scorer.log_probabilities(["abaa" + "z"])
    torch.testing.assert_close(found.exp(), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


@given(TEXTS, TEXTS, st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_it_is_its_slow_twin(train: list[str], texts: list[str], order: int) -> None:
    texts = [*texts, "adcb"]  # d is never seen in training
    expected = [twin(train, order, text[:i], text[i]) for text in texts for i in range(len(text))]
    found = NGramScorer(train, order).log_probabilities(texts)
    torch.testing.assert_close(found.exp(), torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=0)


@pytest.mark.parametrize("history", ["", "b", "ba", "ban", "banan", "zzz", "nz", "anaz"])
@pytest.mark.parametrize("order", [1, 3, 6])
def test_probabilities_of_the_next_character_sum_to_one(history: str, order: int) -> None:
    scorer = NGramScorer(["bananas are banned", "a ban"], order)
    seen = sorted(set("bananas are banned"))
    unseen = probability(scorer, history, "☃")
    assert unseen == pytest.approx(probability(scorer, history, "\0"))
    total = sum(probability(scorer, history, each) for each in seen) + (CODE_POINTS - len(seen)) * unseen
    assert total == pytest.approx(1.0, abs=1e-9)


def test_no_ngram_reaches_over_the_end_of_a_text() -> None:
    scorer = NGramScorer(["ab", "", "ca"], order=3)
    # b was never followed by c
    assert probability(scorer, "b", "c") == probability(scorer, "", "c")
    # and a text is scored alone
    alone, together = scorer(["ca"]), scorer(["ab", "", "ca"])
    assert together[2] == alone[0]
    assert together[1] == Likelihood(0.0, 0)


def test_bits_are_the_logarithm_of_the_perplexity_and_near_the_entropy_of_coin_flips() -> None:
    draw = torch.Generator().manual_seed(0)
    flips = "".join("ht"[flip] for flip in torch.randint(2, (20_000,), generator=draw).tolist())
    found = generative_perplexity([flips[:10_000]], NGramScorer([flips[10_000:]], order=4))
    assert found.bits_per_character == pytest.approx(1.0, abs=0.01)
    assert found.perplexity == pytest.approx(2**found.bits_per_character)
    assert (found.num_tokens, found.scorer) == (10_000, "witten-bell-4gram")


def test_context_helps_up_to_the_order() -> None:
    # what follows "a" or "b" depends on two characters before
    text = "aabb" * 50
    by_order = [generative_perplexity([text], NGramScorer([text], order)).perplexity for order in (1, 2, 3)]
    assert by_order[0] == pytest.approx(2, abs=0.05)
    assert by_order[1] == pytest.approx(2, abs=0.05)
    assert by_order[2] < 1.1


def test_texts_shorter_than_the_order_and_any_characters() -> None:
    scorer = NGramScorer(["é\U0001f600"], order=8)
    assert probability(scorer, "é", "\U0001f600") > 0.5 > probability(scorer, "\U0001f600", "é")
    assert scorer(["\ud800"])[0].nats > math.log(CODE_POINTS)
    assert len(scorer.log_probabilities([""])) == 0


def test_arguments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="order=0 counts nothing"):
        NGramScorer(["a"], order=0)
    with pytest.raises(ValueError, match="none with a character"):
        NGramScorer([""])
    with pytest.raises(ValueError, match="texts is one string"):
        NGramScorer("abc")
