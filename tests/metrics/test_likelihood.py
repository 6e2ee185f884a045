"""Perplexity and bits per character by hand, and the scorer made of any causal model."""

import json
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from oneblock.metrics.likelihood import CausalScorer, Likelihood, generative_perplexity


class Listed:
    """Gives the likelihoods that it was told."""

    name = "listed"

    def __init__(self, *likelihoods: Likelihood) -> None:
        self.likelihoods = list(likelihoods)

    def __call__(self, texts: Sequence[str]) -> list[Likelihood]:
        return self.likelihoods


def successors(ids: Tensor) -> Tensor:
    """Of 4 tokens: 3/4 for the one after the last id, 1/12 for each other; and 0 stands at the start."""
    logits = torch.full((len(ids), 4), math.log(1 / 12))
    return logits.scatter(1, ((ids + 1) % 4)[:, None], math.log(3 / 4)) + 5.0


def counting(window: int = 8) -> CausalScorer:
    return CausalScorer("counting", lambda text: [int(letter) for letter in text], successors, 0, window)


def test_sums_are_over_all_texts_before_the_exponent() -> None:
    scorer = Listed(Likelihood(6 * math.log(2), 2), Likelihood(0.0, 1), Likelihood(0.0, 0))
    found = generative_perplexity(["abcdef", "gh", ""], scorer)
    # 6 bits in 3 tokens and 8 characters
    assert found.perplexity == pytest.approx(4.0)
    assert found.bits_per_character == pytest.approx(6 / 8)
    assert (found.scorer, found.num_texts, found.num_tokens, found.num_characters) == ("listed", 3, 3, 8)
    assert json.loads(json.dumps(found.as_row()))["scorer"] == "listed"


def test_bits_per_byte_count_bytes_and_bits_per_character_characters() -> None:
    found = generative_perplexity(["天地", "é"], Listed(Likelihood(6 * math.log(2), 2), Likelihood(0.0, 1)))
    assert (found.num_characters, found.num_bytes) == (3, 8)
    assert (found.bits_per_character, found.bits_per_byte) == (pytest.approx(2.0), pytest.approx(0.75))


def test_every_token_is_predicted_from_those_before_it() -> None:
    # 1 after the start 0, 2 after 1; 1 after 2 is wrong
    [found] = counting()(["121"])
    assert found.num_tokens == 3
    assert found.nats == pytest.approx(-2 * math.log(3 / 4) - math.log(1 / 12))


def test_a_uniform_model_has_the_size_of_its_vocabulary_as_perplexity() -> None:
    flat = CausalScorer("flat", lambda text: [1] * len(text), lambda ids: torch.zeros(len(ids), 50), 0)
    found = generative_perplexity(["abc", "de"], flat)
    assert found.perplexity == pytest.approx(50)
    assert found.bits_per_character == pytest.approx(math.log2(50))


def test_a_piece_starts_afresh() -> None:
    seen: list[list[int]] = []

    def watched(ids: Tensor) -> Tensor:
        seen.append(ids.tolist())
        return successors(ids)

    scorer = CausalScorer("watched", lambda text: [int(letter) for letter in text], watched, 0, window=2)
    [found] = scorer(["12323"])
    # the last token of a piece is only predicted
    assert seen == [[0, 1], [0, 3], [0]]
    assert found == Likelihood(pytest.approx(-2 * math.log(3 / 4) - 3 * math.log(1 / 12)), 5)  # type: ignore[arg-type]


def test_an_empty_text_costs_nothing() -> None:
    assert counting()(["", "1"])[0] == Likelihood(0.0, 0)


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ValueError, match="texts has 0 texts, none with a character"):
        generative_perplexity([], counting())
    with pytest.raises(ValueError, match="texts is one string"):
        generative_perplexity("12", counting())
    with pytest.raises(ValueError, match="window=0 is too small; 1 or more are allowed"):
        counting(window=0)
