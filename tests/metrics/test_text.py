"""Diversity by hand, its properties, and perplexities read at one entropy."""

import json
import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oneblock.metrics.likelihood import Likelihood
from oneblock.metrics.text import (
    SamplingPoint,
    distinct,
    matched_perplexity,
    repetition,
    text_quality,
    unigram_entropy,
)

TEXTS = ["the cat saw the cat", "the dog"]
# token lists with at least one text of four tokens
TOKEN_LISTS = st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=12), min_size=1, max_size=4)


class Constant:
    """Charges one nat for each token, and finds a token in every two characters."""

    name = "constant"

    def __call__(self, texts: Sequence[str]) -> list[Likelihood]:
        return [Likelihood(float(len(text) // 2), len(text) // 2) for text in texts]


def test_distinct_by_hand() -> None:
    # 7 words, 4 different
    assert distinct(TEXTS, 1) == pytest.approx(4 / 7)
    # the-cat, cat-saw, saw-the, the-cat; the-dog: nothing joins the two texts
    assert distinct(TEXTS, 2) == pytest.approx(4 / 5)
    assert distinct(TEXTS, 4) == 1.0
    # a text that is too short adds nothing
    assert distinct(TEXTS, 3) == distinct(TEXTS[:1], 3) == 1.0


def test_distinct_counts_a_text_and_its_copy_as_one() -> None:
    assert distinct(["a b c"] * 4, 2) == pytest.approx(2 / 8)


def test_repetition_by_hand() -> None:
    # words: 3 of 5 are new, and 2 of 2; bigrams: 3 of 4, and 1 of 1
    assert repetition(TEXTS, 1) == pytest.approx((2 / 5 + 0) / 2)
    assert repetition(TEXTS, 2) == pytest.approx((1 / 4 + 0) / 2)
    # the second text has no trigram and is left out of the mean
    assert repetition(["a a a a", "a b"], 3) == pytest.approx(1 / 2)
    # a copy of a text is no repetition within one
    assert repetition(["a b c d"] * 3) == 0.0


def test_entropy_by_hand() -> None:
    # 1/2, 1/4, 1/4: 1.5 bits; 1, 1: 1 bit
    assert unigram_entropy(["a b a c", "x y"]) == pytest.approx((1.5 + 1) / 2)
    assert unigram_entropy(["a a a", "", "  "]) == 0.0
    assert unigram_entropy([list(range(8))]) == pytest.approx(3.0)


def test_words_characters_and_tokens() -> None:
    assert distinct(["aab b"], 1, "words") == 1.0
    assert distinct(["aab b"], 1, "characters") == pytest.approx(3 / 5)
    assert repetition(["abab"], 2, "characters") == pytest.approx(1 / 3)
    # runs of white space are one cut
    assert distinct([" a\n\nb  a "], 1) == pytest.approx(2 / 3)
    for unit in ("words", "characters"):
        assert unigram_entropy([[5, 5, 7, 7]], unit) == pytest.approx(1.0)


@given(TOKEN_LISTS, st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_bounds_and_relations_of_any_texts(texts: list[list[int]], n: int) -> None:
    assert 0 < distinct(texts, n) <= 1
    assert 0 <= repetition(texts, n) < 1
    # of a single text the two are complements
    assert repetition(texts[:1], n) == pytest.approx(1 - distinct(texts[:1], n))
    # the more context, the rarer a repeat
    assert n == 1 or repetition(texts, n) <= repetition(texts, n - 1) + 1e-12
    kinds = max(len(set(text)) for text in texts)
    assert 0 <= unigram_entropy(texts) <= math.log2(kinds) + 1e-12


@given(TOKEN_LISTS)
@settings(max_examples=50, deadline=None)
def test_names_and_order_of_words_do_not_matter(texts: list[list[int]]) -> None:
    renamed = [["abcd"[token] for token in text] for text in texts]
    backwards = [text[::-1] for text in texts]
    for other in (renamed, backwards, texts[::-1]):
        assert distinct(other, 2) == pytest.approx(distinct(texts, 2))
        assert repetition(other, 2) == pytest.approx(repetition(texts, 2))
        assert unigram_entropy(other) == pytest.approx(unigram_entropy(texts))


def test_texts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"texts is one string of 5 characters; .*: pass \[text\]"):
        distinct("a b c", 1)
    with pytest.raises(ValueError, match="texts has 2 texts, none with a character"):
        unigram_entropy(["", ""])
    with pytest.raises(ValueError, match="n=0 counts nothing"):
        repetition(["a b"], 0)
    with pytest.raises(ValueError, match="texts has 2 texts of at most 2 words; 3 or more are allowed"):
        distinct(["a b", "c"], 3)
    with pytest.raises(ValueError, match="unit='letters' is unknown; words, characters are allowed"):
        distinct(["a b"], 1, "letters")  # type: ignore[arg-type]


def test_quality_is_made_of_its_parts() -> None:
    texts = ["a b a b a b", "a b c d e f"]
    found = text_quality(texts, Constant())
    assert (found.distinct_1, found.distinct_2, found.distinct_4) == tuple(distinct(texts, n) for n in (1, 2, 4))
    assert found.repetition_4 == repetition(texts, 4) == pytest.approx(1 / 6)
    assert found.unigram_entropy == unigram_entropy(texts)
    assert found.perplexity == pytest.approx(math.e)
    assert found.bits_per_character == pytest.approx(10 / 22 / math.log(2))
    assert (found.num_texts, found.num_characters, found.note) == (2, 22, "")
    letters = text_quality(texts, Constant(), "characters")
    assert letters.unigram_entropy == unigram_entropy(texts, "characters") != found.unigram_entropy
    assert letters.repetition_4 == repetition(texts, 4, "characters")


def test_short_texts_are_scored_by_what_they_have() -> None:
    found = text_quality(["天地玄黄", "宇宙 洪"], Constant())
    assert (found.distinct_1, found.distinct_2, found.distinct_4, found.repetition_4) == (1.0, 1.0, None, None)
    assert found.note == "no text has 4 words or more: what counts 4 of them is not known"
    assert text_quality(["天地玄黄"], Constant(), "characters").distinct_4 == 1.0
    assert text_quality(["  "], Constant()).unigram_entropy is None


def test_a_row_is_plain_json_and_names_scorer_and_unit() -> None:
    row = json.loads(json.dumps(text_quality(["a b c d"], Constant()).as_row()))
    assert (row["scorer"], row["unit"], row["distinct_4"]) == ("constant", "words", 1.0)


def test_notes_name_short_texts_and_unequal_lengths() -> None:
    found = text_quality(["a b c d", "a b c"], Constant())
    assert found.note == "1 of 2 texts have fewer than 4 words; repetition_4 leaves them out"
    found = text_quality(["a b c d", "a b c d", "a b c d e f g h i"], Constant())
    assert found.note == "texts of 4 to 9 words differ in length, which moves the diversity"


def test_a_perplexity_between_two_points_is_linear_in_the_entropy() -> None:
    arms = {
        # in no order; entropy 5 is a quarter of the way from 4.5 to 6.5
        "a": [SamplingPoint(1.0, 6.5, 90.0), SamplingPoint(0.5, 2.0, 10.0), SamplingPoint(0.7, 4.5, 30.0)],
        "b": [SamplingPoint(0.8, 4.0, 50.0), SamplingPoint(1.2, 6.0, 110.0)],
    }
    found = matched_perplexity(arms, 5.0)
    assert list(found) == ["a", "b"]
    assert found["a"].perplexity == pytest.approx(45.0)
    assert found["a"].temperature == pytest.approx(0.775)
    assert found["b"] == SamplingPoint(pytest.approx(1.0), 5.0, pytest.approx(80.0))  # type: ignore[arg-type]


def test_a_measured_point_is_read_as_it_is() -> None:
    points = [SamplingPoint(0.1, 1.0, 7.0), SamplingPoint(0.2, 2.0, 9.0), SamplingPoint(0.4, 3.0, 10.0)]
    for point in points:
        assert matched_perplexity({"a": points, "alone": [point]}, point.entropy) == {"a": point, "alone": point}


def test_nothing_is_extrapolated() -> None:
    arms = {
        "low": [SamplingPoint(0.5, 1.0, 5.0), SamplingPoint(1.0, 4.0, 9.0)],
        "high": [SamplingPoint(0.5, 3.0, 5.0), SamplingPoint(1.0, 6.0, 9.0)],
    }
    with pytest.raises(ValueError, match=r"entropy=2 is outside 3\.\.6 of arm 'high'; 3\.\.4 is allowed, which every"):
        matched_perplexity(arms, 2.0)
    with pytest.raises(ValueError, match=r"entropy=5 is outside 1\.\.4 of arm 'low'; 3\.\.4 is allowed"):
        matched_perplexity(arms, 5.0)
    with pytest.raises(ValueError, match=r"outside 1\.\.4 of arm 'low'; no entropy is in all"):
        matched_perplexity({**arms, "far": [SamplingPoint(1.0, 7.0, 1.0)]}, 7.0)
    with pytest.raises(ValueError, match="entropy=nan is outside"):
        matched_perplexity(arms, math.nan)


def test_arms_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(ValueError, match="arms is empty"):
        matched_perplexity({}, 1.0)
    with pytest.raises(ValueError, match="arm 'a' has no points"):
        matched_perplexity({"a": []}, 1.0)
    flat = [SamplingPoint(1.0, 2.0, 3.0), SamplingPoint(0.5, 2.0, 4.0)]
    with pytest.raises(ValueError, match=r"entropy 2 at temperature 0\.5 and 2 at 1; it must rise"):
        matched_perplexity({"a": flat}, 2.0)
