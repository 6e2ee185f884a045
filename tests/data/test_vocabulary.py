import json
import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oneblock.data.errors import MissingExtraError
from oneblock.data.vocabulary import BytePair, Bytes, Characters, Vocabulary, vocabulary_from_dict

SONG = "the cat and the hat and the bat sat; the rat, that fat cat, sat there. " * 3
# as GPT-2 writes the space
SPACE = "Ġ"
MERGES = ("t h", "th e", f"{SPACE} the", "a t")


def restored(vocabulary: Vocabulary) -> Vocabulary:
    return vocabulary_from_dict(json.loads(json.dumps(vocabulary.to_dict())))


@settings(max_examples=50)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_bytes_keep_every_text(text: str) -> None:
    ids = Bytes().encode(text)
    assert ids.dtype == torch.int64
    assert bytes(ids.tolist()) == text.encode()
    assert Bytes().decode(ids) == text


def test_cut_characters_are_marked() -> None:
    assert Bytes().decode(Bytes().encode("né")[:2]) == "n\ufffd"


# by hand from the last lines of Mahoney's script: lower case, digits spelled between spaces, all else one space
@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("Hello, World", "hello world"),
        ("12", " one two "),
        ("a0b", "a zero b"),
        ("0123456789", " zero one two three four five six seven eight nine "),
        ("café au lait", "caf au lait"),
        ("\n\n  x -- (y)\t", " x y "),
        ("don't", "don t"),
        ("in 1790: 3.5 per cent", "in one seven nine zero three five per cent"),
        ("\u212aelvin scale", " elvin scale"),
    ],
)
def test_the_rule_of_text8(text: str, form: str) -> None:
    ids = Characters().encode(text)
    assert Characters().decode(ids) == form
    assert ids.tolist() == [0 if symbol == " " else ord(symbol) - 96 for symbol in form]


@settings(max_examples=50)
@given(st.text(st.sampled_from("aZ 9-.\n"), min_size=1).filter(lambda text: any(c.isalnum() for c in text)))
def test_characters_are_stable(text: str) -> None:
    ids = Characters().encode(text)
    assert torch.equal(Characters().encode(Characters().decode(ids)), ids)


def test_byte_pairs_by_hand() -> None:
    vocabulary = BytePair(merges=MERGES)
    # "the" starts without a space and is one symbol; " the" is another; "cat" is "c" and "at"
    expected = [257, 32, ord("c"), 259, 258]
    assert vocabulary.size == 260
    assert vocabulary.decode(torch.tensor(expected)) == "the cat the"
    assert vocabulary.decode(torch.arange(33, 127)) == "".join(map(chr, range(33, 127)))


def test_byte_pairs_encode_by_hand() -> None:
    pytest.importorskip("tokenizers")
    assert BytePair(merges=MERGES).encode("the cat the").tolist() == [257, 32, ord("c"), 259, 258]
    assert BytePair(merges=()).encode("né").tolist() == list("né".encode())


def test_two_ways_to_the_same_bytes_are_one_symbol() -> None:
    vocabulary = BytePair(merges=("a a", "aa a", "a aa"))
    assert vocabulary.size == 258
    assert vocabulary.decode(torch.tensor([257, 256])) == "aaaaa"


@settings(max_examples=50)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_byte_pairs_keep_every_text(text: str) -> None:
    pytest.importorskip("tokenizers")
    vocabulary = BytePair(merges=MERGES)
    ids = vocabulary.encode(text)
    assert ids.dtype == torch.int64
    assert vocabulary.decode(ids) == text


def test_learned_byte_pairs() -> None:
    pytest.importorskip("tokenizers")
    learned = BytePair.train([SONG, "and a dog"], 270)
    assert learned == BytePair.train(["and a dog", SONG], 270)
    assert (learned.size, len(learned.merges)) == (270, 14)
    assert learned.merges[0] == "a t"
    ids = learned.encode(SONG)
    assert learned.decode(ids) == SONG
    assert len(ids) < len(SONG) / 2
    assert torch.equal(restored(learned).encode(SONG), ids)


@pytest.mark.parametrize("vocabulary", [Bytes(), Characters(), BytePair(merges=MERGES)])
def test_plain_values_restore_a_vocabulary(vocabulary: Vocabulary) -> None:
    assert restored(vocabulary) == vocabulary
    assert restored(vocabulary).fingerprint() == vocabulary.fingerprint()


def test_fingerprints_differ_and_stay() -> None:
    vocabularies = [Bytes(), Characters(), BytePair(merges=MERGES), BytePair(merges=MERGES[:3])]
    assert len({vocabulary.fingerprint() for vocabulary in vocabularies}) == 4
    assert [Bytes().fingerprint(), Characters().fingerprint()] == ["c3461f5a07a908d4", "c1e431aa84d27c4d"]


@pytest.mark.parametrize("vocabulary", [Bytes(), Characters(), BytePair(merges=MERGES)])
@pytest.mark.parametrize("wrong", [-1, "size"])
def test_ids_outside_are_refused(vocabulary: Vocabulary, wrong: int | str) -> None:
    number = vocabulary.size if wrong == "size" else -1
    message = rf"id {number} at position 2 is outside the vocabulary; 0..{vocabulary.size - 1} is allowed"
    with pytest.raises(ValueError, match=message):
        vocabulary.decode(torch.tensor([0, 1, number]))


@pytest.mark.parametrize("ids", [torch.zeros(2, 3, dtype=torch.int64), torch.zeros(3)])
def test_only_rows_of_integers_are_decoded(ids: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"integers \(t,\) are allowed"):
        Bytes().decode(ids)


@pytest.mark.parametrize(
    ("vocabulary", "text"), [(Bytes(), ""), (Characters(), ""), (Characters(), " -- "), (BytePair(merges=()), "")]
)
def test_texts_without_symbols_are_refused(vocabulary: Vocabulary, text: str) -> None:
    with pytest.raises(ValueError, match=f"text='{text}' has no symbol of the vocabulary"):
        vocabulary.encode(text)


def test_other_alphabets_are_refused() -> None:
    with pytest.raises(ValueError, match=r"keeps 2 of its 5 letters \(lost: 'м' and others\).*use bytes or byte pairs"):
        Characters().encode("мир ok")
    assert Characters().decode(Characters().encode("мир yes")) == " yes"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vocabulary": "words"}, "vocabulary='words' is unknown; bytes, characters, byte-pair are allowed"),
        ({}, "vocabulary=None is unknown"),
        ({"vocabulary": "bytes", "size": 3}, r"'bytes' has settings \['size'\]; exactly \[\] are allowed"),
        ({"vocabulary": "byte-pair"}, r"has settings \[\]; exactly \['merges'\]"),
        ({"vocabulary": "byte-pair", "merges": "a b"}, "merges='a b' is not a list of merges"),
        ({"vocabulary": "byte-pair", "merges": ["a b", "ab x y"]}, r"merges\[1\]='ab x y' is not a merge"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vocabulary_from_dict(values)


def test_wrong_sizes_are_refused() -> None:
    pytest.importorskip("tokenizers")
    with pytest.raises(ValueError, match="size=256 is too small; 257 or more"):
        BytePair.train([SONG], 256)
    with pytest.raises(
        ValueError, match=r"size=300 is more than the 257 symbols that these texts give; at most 257 is"
    ):
        BytePair.train(["ab ab"], 300)


@pytest.mark.parametrize("use", [lambda: BytePair.train([SONG], 260), lambda: BytePair(merges=()).encode("a")])
def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, use: Callable[[], object]) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtraError, match=r"needs the package tokenizers; .*'oneblock\[text\]'"):
        use()
