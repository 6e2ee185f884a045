"""Vocabularies: text as a row of ids 0..v - 1, and back.

Bytes       the 256 bytes of UTF-8; any text, exactly
Characters  space and a-z: the 27 symbols of text8 (Mahoney, https://mattmahoney.net/dc/textdata.html)
BytePair    bytes and frequent runs of them (Sennrich et al., https://arxiv.org/abs/1508.07909), learned by the
            ``tokenizers`` library with the byte-level splitting of GPT-2; any text, exactly
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from .errors import MissingExtraError
from .text8 import LETTERS, check_letters, count_letters, symbols, text8_form

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VocabularyValue = str | list[str]

NUM_BYTES = 256
# a pair of symbols that stands only once is not worth a symbol of its own
MIN_FREQUENCY = 2


class Vocabulary(Protocol):
    """A map from text to ids and back that any machine can rebuild from plain values."""

    @property
    def size(self) -> int:
        """Number of symbols v."""

    def encode(self, text: str) -> Tensor:
        """The ids of a text: int64 (t,) in 0..v - 1, t at least 1.

        Raises:
            ValueError: no symbol is left of the text, or it is not in the vocabulary's alphabet.
        """

    def decode(self, ids: Tensor) -> str:
        """The text of ``ids``, integers (t,) in 0..v - 1; bytes that are not UTF-8 become U+FFFD.

        Raises:
            ValueError: an id lies outside the vocabulary.
        """

    def byte_counts(self) -> Tensor:
        """How many bytes of text each symbol stands for: int64 (v,), at least 1."""

    def fingerprint(self) -> str:
        """16 hex digits that tell this vocabulary from others; a plan holds them."""

    def to_dict(self) -> dict[str, VocabularyValue]:
        """Plain values that ``vocabulary_from_dict`` turns back into an equal vocabulary."""


@dataclass(frozen=True)
class Bytes:
    """The bytes of the text in UTF-8; the id of a byte is its value."""

    @property
    def size(self) -> int:
        return NUM_BYTES

    def encode(self, text: str) -> Tensor:
        _check_left(len(text), text, "character")
        return _to_ids(text.encode())

    def decode(self, ids: Tensor) -> str:
        return bytes(_checked(ids, self.size)).decode(errors="replace")

    def byte_counts(self) -> Tensor:
        return torch.ones(self.size, dtype=torch.int64)

    def fingerprint(self) -> str:
        return _fingerprint(self)

    def to_dict(self) -> dict[str, VocabularyValue]:
        return {"vocabulary": "bytes"}


@dataclass(frozen=True)
class Characters:
    """Space (id 0) and the letters a-z (ids 1..26), by the rule of text8.

    A-Z become a-z. Each digit becomes its English name with a space on both sides. Every other character, accented
    letters included, becomes a space. Every run of spaces then becomes one, also at the ends of the text.
    """

    @property
    def size(self) -> int:
        return 1 + len(LETTERS)

    def encode(self, text: str) -> Tensor:
        """As ``Vocabulary.encode``; also refuses a text less than half of whose letters are in A-Z and a-z."""
        check_letters(text, *count_letters(text))
        plain = text8_form(text)
        _check_left(len(plain.strip()), text, "letter or digit")
        return symbols(plain).long()

    def decode(self, ids: Tensor) -> str:
        return bytes(_checked(ids, self.size)).translate(b" " + LETTERS + bytes(NUM_BYTES - self.size)).decode()

    def byte_counts(self) -> Tensor:
        """A byte each, of the text that is left."""
        return torch.ones(self.size, dtype=torch.int64)

    def fingerprint(self) -> str:
        return _fingerprint(self)

    def to_dict(self) -> dict[str, VocabularyValue]:
        return {"vocabulary": "characters"}


@dataclass(frozen=True, kw_only=True)
class BytePair:
    """Bytes (ids 0..255, their values) and what merges of two symbols make (ids from 256, in order of the merges).

    Two ways to the same bytes share one id. Needs the ``tokenizers`` library to learn and to encode, not to decode.

    Args:
        merges: two symbols separated by a space, each a byte or made by an earlier merge, bytes written as the
            characters of GPT-2.

    Raises:
        ValueError: a merge is not of this form.
        MissingExtraError: on learning and encoding, ``tokenizers`` is not installed.
    """

    merges: tuple[str, ...]

    def __post_init__(self) -> None:
        _ = self._ids  # validates the merges

    @classmethod
    def train(cls, texts: Iterable[str], size: int) -> BytePair:
        """Learn ``size`` symbols (257 or more) from texts; the same texts in any order give the same vocabulary.

        Raises:
            ValueError: ``size`` leaves no room for a merge, or the texts have too few pairs that occur twice.
        """
        if size <= NUM_BYTES:
            raise ValueError(
                f"size={size} is too small; {NUM_BYTES + 1} or more is allowed, because bytes are {NUM_BYTES} of "
                "the symbols; use for example 4096, or the vocabulary of bytes"
            )
        learned = cls(merges=_learn(texts, size))
        if learned.size != size:
            raise ValueError(
                f"size={size} is more than the {learned.size} symbols that these texts give; at most "
                f"{learned.size} is allowed; use more text or a smaller size"
            )
        return learned

    @property
    def size(self) -> int:
        return len(self._ids)

    def encode(self, text: str) -> Tensor:
        _check_left(len(text), text, "character")
        return torch.tensor(self._tokenizer.encode(text).ids)

    def decode(self, ids: Tensor) -> str:
        return b"".join(self._bytes[number] for number in _checked(ids, self.size)).decode(errors="replace")

    def byte_counts(self) -> Tensor:
        return torch.tensor([len(symbol) for symbol in self._bytes])

    def fingerprint(self) -> str:
        return _fingerprint(self)

    def to_dict(self) -> dict[str, VocabularyValue]:
        return {"vocabulary": "byte-pair", "merges": list(self.merges)}

    @cached_property
    def _ids(self) -> dict[str, int]:
        """The id of each symbol, in order of the ids."""
        ids = {character: byte for byte, character in enumerate(_byte_characters())}
        for position, merge in enumerate(self.merges):
            left, _, right = merge.partition(" ")
            if left not in ids or right not in ids:
                raise ValueError(
                    f"merges[{position}]={merge!r} is not a merge; two earlier symbols separated by a space are "
                    "allowed; restore the vocabulary from a copy"
                )
            ids.setdefault(left + right, len(ids))
        return ids

    @cached_property
    def _bytes(self) -> list[bytes]:
        """The bytes of each id."""
        values = {character: byte for byte, character in enumerate(_byte_characters())}
        return [bytes(values[character] for character in symbol) for symbol in self._ids]

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        _require_tokenizers()
        from tokenizers import Tokenizer, models, pre_tokenizers

        pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in self.merges)]
        tokenizer = Tokenizer(models.BPE(vocab=self._ids, merges=pairs))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        return tokenizer


VOCABULARIES = ("bytes", "characters", "byte-pair")


KNOWN: dict[str, Vocabulary] = {"characters": Characters(), "bytes": Bytes()}
"""Vocabularies that need no text to learn from."""


def vocabulary_from_dict(values: Mapping[str, object]) -> Vocabulary:
    """Inverse of ``Vocabulary.to_dict``; an unknown name or setting is a ``ValueError``."""
    settings = dict(values)
    name = settings.pop("vocabulary", None)
    if name not in VOCABULARIES:
        raise ValueError(f"vocabulary={name!r} is unknown; {', '.join(VOCABULARIES)} are allowed; choose one of them")
    allowed = ["merges"] if name == "byte-pair" else []
    if sorted(settings) != allowed:
        raise ValueError(f"vocabulary={name!r} has settings {sorted(settings)}; exactly {allowed} are allowed")
    if name != "byte-pair":
        return Bytes() if name == "bytes" else Characters()
    merges = settings["merges"]
    if not isinstance(merges, list | tuple) or not all(isinstance(merge, str) for merge in merges):
        raise ValueError(
            f"merges={str(merges)[:40]!r} is not a list of merges; texts of two symbols and a space are allowed; "
            "restore the vocabulary from a copy"
        )
    return BytePair(merges=tuple(merges))


def vocabulary_size(name: str) -> int:
    """Symbols of the vocabulary of that name, which need not be learned yet.

    Args:
        name: ``characters``, ``bytes`` or ``bpe:SIZE``.

    Raises:
        ValueError: unknown name.
    """
    if name in KNOWN:
        return KNOWN[name].size
    kind, _, size = name.partition(":")
    if kind != "bpe" or not size.isdecimal() or int(size) <= NUM_BYTES:
        raise ValueError(
            f"vocabulary={name!r} is unknown; use characters, bytes or bpe:4096 (more than the {NUM_BYTES} bytes)"
        )
    return int(size)


def open_vocabulary(name: str, texts: Callable[[], Iterable[str]]) -> Vocabulary:
    """The vocabulary of that name; byte pairs are learned from ``texts``, which are asked for only then. Arguments and
    errors of ``vocabulary_size``."""
    size = vocabulary_size(name)
    return KNOWN[name] if name in KNOWN else BytePair.train(texts(), size)


def _learn(texts: Iterable[str], size: int) -> tuple[str, ...]:
    _require_tokenizers()
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=MIN_FREQUENCY,
        initial_alphabet=_byte_characters(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    # older releases write a merge as one text
    return tuple(merge if isinstance(merge, str) else " ".join(merge) for merge in merges)


def _require_tokenizers() -> None:
    try:
        import tokenizers  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("tokenizers", "text") from error


def _byte_characters() -> list[str]:
    """The visible character that stands for each byte: itself in Latin-1, else the next of those from U+0100 on
    (``bytes_to_unicode`` of GPT-2, https://github.com/openai/gpt-2/blob/master/src/encoder.py)."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in visible else next(hidden)) for byte in range(NUM_BYTES)]


def _to_ids(symbols: bytes) -> Tensor:
    return torch.frombuffer(bytearray(symbols), dtype=torch.uint8).long()


def _checked(ids: Tensor, size: int) -> list[int]:
    """``ids`` as plain numbers, each in 0..size - 1."""
    if ids.dim() != 1 or ids.dtype.is_floating_point:
        raise ValueError(
            f"ids has shape {tuple(ids.shape)} and dtype {ids.dtype}; integers (t,) are allowed; decode one row "
            "at a time"
        )
    numbers: list[int] = ids.tolist()
    for position, number in enumerate(numbers):
        if not 0 <= number < size:
            raise ValueError(
                f"id {number} at position {position} is outside the vocabulary; 0..{size - 1} is allowed; decode with "
                "the vocabulary that made the ids"
            )
    return numbers


def _check_left(num: int, text: str, needed: str) -> None:
    if num == 0:
        raise ValueError(
            f"text={text[:40]!r} has no symbol of the vocabulary; one {needed} or more is allowed; use another text"
        )


def _fingerprint(vocabulary: Vocabulary) -> str:
    """First 16 hex digits of the SHA-256 of the plain values."""
    return hashlib.sha256(json.dumps(vocabulary.to_dict(), sort_keys=True).encode()).hexdigest()[:16]
