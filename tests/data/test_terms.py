"""Captions as vectors of words and pairs of words, by hand."""

import math

import pytest

from oneblock.data.terms import known_terms

CAPTIONS = ("A red cat", "a red dog", "a dog, a cat")


def test_terms_are_all_words_and_the_pairs_that_several_captions_have() -> None:
    terms = known_terms(CAPTIONS)
    assert terms.terms == ((",",), ("a",), ("a", "red"), ("cat",), ("dog",), ("red",))
    assert ("a", "cat") in known_terms([*CAPTIONS, "a cat"]).terms


def test_rare_terms_weigh_more_and_vectors_have_length_one() -> None:
    terms = known_terms(CAPTIONS)
    (row,) = terms.vectors(["a cat and a dog"])
    everywhere, two = 1.0, 1 + math.log(4 / 3)
    length = math.sqrt(everywhere**2 + 2 * two**2)
    expected = [0, everywhere / length, 0, two / length, two / length, 0]
    assert row.tolist() == pytest.approx(expected)
    assert terms.vectors(["", "nothing known"]).tolist() == [[0.0] * 6] * 2


def test_who_stands_left_of_whom_is_kept() -> None:
    both = ("a red square left of a blue circle", "a blue circle left of a red square")
    one, other = known_terms([*both, *both]).vectors(both)
    assert not one.equal(other)


def test_of_too_many_the_most_frequent_ones_are_kept() -> None:
    assert known_terms(CAPTIONS, most=3).terms == (("a",), ("a", "red"), ("cat",))
