import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oneblock.data import BytePair, Bytes, Characters, Vocabulary
from oneblock.data import encode as module
from oneblock.data.encode import cut_at_words, encode_pieces

CHARACTERS = "ab Z0 9.'\n\r\t\x1c天é\u3000\u00a0"


def vocabularies() -> list[Vocabulary]:
    pytest.importorskip("tokenizers")
    return [Bytes(), Characters(), BytePair.train(["ab ab 00 99 \n\n \n\n 天天 'a 'a ab. ab."] * 3, 268)]


def pieces_of(text: str, sizes: list[int]) -> list[str]:
    found, start = [], 0
    for size in sizes:
        found.append(text[start : start + size])
        start += size
    return [*found, text[start:]]


@settings(max_examples=150)
@given(st.text(st.sampled_from(CHARACTERS), min_size=1, max_size=60), st.lists(st.integers(0, 9), max_size=20))
def test_pieces_have_the_ids_of_the_whole(text: str, sizes: list[int]) -> None:
    for vocabulary in vocabularies():
        try:
            whole = vocabulary.encode(text)
        except ValueError as error:
            with pytest.raises(ValueError) as refused:
                list(encode_pieces(vocabulary, pieces_of(text, sizes)))
            assert str(refused.value) == str(error)
            continue
        found = list(encode_pieces(vocabulary, pieces_of(text, sizes)))
        assert all(len(ids) for ids in found)
        assert torch.cat([ids.long() for ids in found]).equal(whole)


def test_words_are_cut_off_as_soon_as_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(cut_at_words(["one tw", "o three\n", "\nfour"])) == ["one", " two three", "\n\nfour"]
    monkeypatch.setattr(module, "LONGEST", 4)
    assert list(cut_at_words(["天地", "玄黄", "宇"])) == ["天地玄黄", "宇"]


def test_an_empty_text_is_refused() -> None:
    for vocabulary in (Bytes(), Characters()):
        with pytest.raises(ValueError, match="has no symbol of the vocabulary"):
            list(encode_pieces(vocabulary, ["", ""]))
