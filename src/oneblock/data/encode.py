"""Texts as ids, piece by piece: the same ids as of the whole text, in the memory of a piece."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from .text8 import check_letters, count_letters, symbols, text8_form
from .vocabulary import BytePair, Bytes, Characters, Vocabulary

LONGEST = 2**20
"""Characters without a place to cut at, after which byte pairs are cut anyway."""
# a run of white space begins after a character that is none; no symbol of GPT-2's splitting reaches across
_CUT = re.compile(r"(?<=[^\s\x1c-\x1f])(?=[ \n])")
SHORT = 2**14
"""Characters after which a text is cut at the next place."""
START = 40
"""Characters that a message shows."""


def encode_pieces(vocabulary: Vocabulary, pieces: Iterable[str]) -> Iterator[Tensor]:
    """The ids of a text in pieces, integers (t,) each, t at least 1; errors of ``Vocabulary.encode``, those about the
    whole text at its end."""
    if isinstance(vocabulary, Bytes):
        return _bytes(vocabulary, pieces)
    if isinstance(vocabulary, Characters):
        return _characters(vocabulary, pieces)
    if isinstance(vocabulary, BytePair):
        return (vocabulary.encode(piece) for piece in cut_at_words(pieces))  # its library takes 100 bytes a token
    return iter([vocabulary.encode("".join(pieces))])


def cut_at_words(pieces: Iterable[str]) -> Iterator[str]:
    """The same text in short pieces, cut where byte pairs never join what is on the two sides: before the space or line
    feed that begins a run of white space. Never empty."""
    held = ""
    for piece in _short(pieces):
        known, held = max(len(held) - 1, 0), held + piece
        places = [match.start() for match in _CUT.finditer(held, known)]
        if places or len(held) >= LONGEST:
            cut = places[-1] if places else len(held)
            yield held[:cut]
            held = held[cut:]
    if held:
        yield held


def _short(pieces: Iterable[str]) -> Iterator[str]:
    for piece in pieces:
        yield from (piece[start : start + SHORT] for start in range(0, len(piece), SHORT))


def _bytes(vocabulary: Bytes, pieces: Iterable[str]) -> Iterator[Tensor]:
    filled = False
    for piece in filter(None, pieces):
        filled = True
        yield torch.frombuffer(bytearray(piece.encode()), dtype=torch.uint8)
    if not filled:
        vocabulary.encode("")


def _characters(vocabulary: Characters, pieces: Iterable[str]) -> Iterator[Tensor]:
    kept, lost, foreign, start, space, letters = 0, 0, "", "", False, False
    for piece in filter(None, pieces):
        start += piece[: START - len(start)]
        more_kept, more_lost, first = count_letters(piece)
        kept, lost, foreign = kept + more_kept, lost + more_lost, foreign or first
        plain = text8_form(piece)
        letters = letters or bool(plain.strip())
        if space and plain.startswith(b" "):
            plain = plain[1:]
        space = plain.endswith(b" ") if plain else space
        if plain:
            yield symbols(plain)
    check_letters(start, kept, lost, foreign)
    if not letters:
        vocabulary.encode(start)
