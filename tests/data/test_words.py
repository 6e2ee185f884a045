"""Words of captions: which ones a table holds, and captions as their ids."""

import pytest
import torch

from oneblock.data.words import UNKNOWN, WordTable, known_words, longest, split_words


def test_captions_are_split_into_words_and_marks() -> None:
    found = split_words("Two RED squares, left-of a_b 3x!")
    assert found == ["two", "red", "squares", ",", "left", "-", "of", "a_b", "3x", "!"]
    assert longest(["a", "one two three", ""]) == 3


def test_the_most_frequent_words_are_known() -> None:
    captions = ["b a a a", "b c", "c b", "d"]
    assert known_words(captions) == ("a", "b", "c", "d")
    assert known_words(captions, most=2) == ("b", "c"), "by captions, not by words"
    assert known_words(captions, most=3) == ("a", "b", "c"), "of equal ones the first"


def test_a_caption_is_read_cut_and_told_apart_from_what_is_unknown() -> None:
    table = WordTable(("blue", "circle", "red"), 3)
    found = table.read(["red circle", "a blue red circle", "", "Purple blue"])
    assert table.size == 4
    assert torch.equal(found.ids, torch.tensor([[3, 2, 0], [0, 1, 3], [0, 0, 0], [0, 1, 0]]))
    assert torch.equal(found.mask.sum(1), torch.tensor([2, 3, 0, 2]))
    assert bool(found.mask[1, 0]) and int(found.ids[1, 0]) == UNKNOWN
    assert found.cut == 1
    assert found.unknown == ("a", "purple")
    with pytest.raises(ValueError, match="length=0"):
        WordTable((), 0)
