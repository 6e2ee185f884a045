"""Token files, mapped into memory.

A file is the ids one after another, 1, 2 or 4 bytes each and little-endian, then a header and a footer:

    tokens   count ids, uint8 for up to 256 symbols, uint16 for up to 65536, else int32
    header   JSON: format, dtype (as numpy writes it), count, starts (of the documents), vocabulary, sha256 (of the ids)
    footer   SHA-256 of the header, its length in 8 bytes, ``MAGIC``

The footer comes last and the file gets its name when it is complete, so one that is cut or half-written is recognised.
``numpy.memmap(path, dtype, "r", shape=(count,))`` reads the ids too.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import struct
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from oneblock.checks import check_fields
from oneblock.plain import parse_plain

from .transforms import bytes_in_place
from .vocabulary import Vocabulary, VocabularyValue, vocabulary_from_dict

FORMAT = 1
MAGIC = b"oneblock tokens\n"
FOOTER = struct.Struct("<32sQ16s")
# tokens written on a machine of the other byte order have a name that is not here
ORDER = "<" if sys.byteorder == "little" else ">"
DTYPES = {"|u1": torch.uint8, f"{ORDER}u2": torch.uint16, f"{ORDER}i4": torch.int32}


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a token file says of itself; see the module."""

    format: int
    dtype: str
    count: int
    starts: list[int]
    vocabulary: dict[str, VocabularyValue]
    sha256: str

    def __post_init__(self) -> None:
        check_fields(self)


def write_tokens(path: Path, documents: Iterable[Tensor | Iterable[Tensor]], vocabulary: Vocabulary) -> TokenFile:
    """Write a token file, whole or not at all; several processes may write the same one.

    Args:
        path: the file; folders are made, and a file of that name is replaced.
        documents: ids (t,) in 0..v - 1, t at least 1, any integer type, each document as a whole or in pieces; taken
            one after another.
        vocabulary: the one that made the ids.

    Raises:
        ValueError: no documents, an empty one, or an id outside the vocabulary.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "wb") as file:
            _write(file, documents, vocabulary)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return TokenFile(path)


def _write(file: BinaryIO, documents: Iterable[Tensor | Iterable[Tensor]], vocabulary: Vocabulary) -> None:
    name = dtype_name(vocabulary.size)
    starts: list[int] = []
    count, digest = 0, hashlib.sha256()
    for document in documents:
        starts.append(count)
        for ids in [document] if isinstance(document, Tensor) else document:
            _check_document(ids, len(starts) - 1, vocabulary.size)
            plain = ids.cpu().to(DTYPES[name]).contiguous()
            content = bytes_in_place(plain)
            file.write(content)
            digest.update(content)
            count += len(ids)
        if count == starts[-1]:
            raise ValueError(f"document {len(starts) - 1} is empty; one token or more is allowed; leave it out")
    if not starts:
        raise ValueError("documents is empty; one document or more is allowed; give some text")
    header = Header(
        format=FORMAT,
        dtype=name,
        count=count,
        starts=starts,
        vocabulary=vocabulary.to_dict(),
        sha256=digest.hexdigest(),
    )
    text = json.dumps(asdict(header), sort_keys=True).encode()
    file.write(text + FOOTER.pack(hashlib.sha256(text).digest(), len(text), MAGIC))


def dtype_name(size: int) -> str:
    """The narrowest type for ``size`` symbols, as numpy writes it: a key of ``DTYPES``."""
    return "|u1" if size <= 2**8 else f"{ORDER}u2" if size <= 2**16 else f"{ORDER}i4"


def _check_document(ids: Tensor, number: int, size: int) -> None:
    if ids.dim() != 1 or ids.dtype.is_floating_point or not len(ids):
        raise ValueError(
            f"document {number} has shape {tuple(ids.shape)} and dtype {ids.dtype}; integers (t,) with t at least 1 "
            "are allowed; encode the text with the vocabulary"
        )
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= size:
        raise ValueError(
            f"document {number} has ids in {low}..{high}; 0..{size - 1} is allowed for this vocabulary; encode the "
            "text with the vocabulary that is stored with it"
        )


class TokenFile:
    """The ids of a token file, mapped and not read: only what is looked at enters memory.

    Attributes:
        path: the file.
        tokens: uint8, uint16 or int32 (num_tokens,), mapped; ``read`` and ``document`` give int64.
        starts: int64 (num_documents,), where each document begins; ascending from 0.
        vocabulary: the one that made the ids.

    Raises:
        ValueError: the file is missing, cut, damaged or not a token file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._header, self._digest = _read_header(path)
        dtype, count = DTYPES[self._header.dtype], self._header.count
        self.tokens = torch.from_file(str(path), shared=False, size=count, dtype=dtype)
        self.starts = torch.tensor(self._header.starts)
        self.vocabulary = vocabulary_from_dict(self._header.vocabulary)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def dtype(self) -> str:
        """Of a token, a key of ``DTYPES``."""
        return self._header.dtype

    @property
    def num_documents(self) -> int:
        """How many documents there are, at least 1."""
        return len(self.starts)

    @property
    def lengths(self) -> Tensor:
        """Tokens of each document: int64 (num_documents,), at least 1 each."""
        return torch.diff(self.starts, append=torch.tensor([len(self)]))

    def document(self, number: int) -> Tensor:
        """The ids of one document, 0..num_documents - 1: int64 (t,)."""
        if not 0 <= number < self.num_documents:
            raise ValueError(
                f"document={number} is not in {self.path}; 0..{self.num_documents - 1} is allowed; count from 0"
            )
        start = int(self.starts[number])
        return self.tokens[start : start + int(self.lengths[number])].long()

    def read(self, starts: Tensor, length: int) -> Tensor:
        """Windows of ``length`` tokens that begin at ``starts`` (n,), each in 0..num_tokens - length.

        Returns:
            int64 (n, length).
        """
        found = torch.stack([self.tokens[start : start + length].long() for start in starts.tolist()])
        self._check_ids(found)
        return found

    def check_range(self) -> None:
        """Refuse tokens beyond the vocabulary with a ``ValueError``; reads all of them."""
        for part in self.tokens.split(2**24):
            self._check_ids(part.long())

    def _check_ids(self, ids: Tensor) -> None:
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocabulary.size:
            raise _damaged(self.path, f"it has tokens beyond its {self.vocabulary.size} symbols")

    def windows(self, length: int, stride: int | None = None) -> tuple[Tensor, Tensor]:
        """Windows for an evaluation that counts every token exactly once, documents joined.

        Args:
            length: tokens of every window, in 1..num_tokens.
            stride: new tokens of every window but the first and the last, in 1..length; None is ``length``, windows
                side by side. A smaller one gives the new tokens more context before them, for more work.

        Returns:
            Starts int64 (n,) for ``read``, and int64 (n,) how many tokens at the end of each window are new: all of the
            first one, and what is left in the last one, which reaches back to be as long as the others. They sum to
            the number of tokens.
        """
        stride = length if stride is None else stride
        check_length(length, len(self), str(self.path))
        if not 1 <= stride <= length:
            raise ValueError(
                f"stride={stride} leaves gaps or stands still; 1..{length} is allowed; use for example {length}"
            )
        ends = torch.cat([torch.arange(length, len(self), stride), torch.tensor([len(self)])])
        return ends - length, torch.diff(ends, prepend=torch.tensor([0]))

    def fingerprint(self) -> str:
        """16 hex digits that tell these ids, documents and vocabulary from others, as the header records them."""
        return self._digest[:16]

    def verify(self) -> None:
        """Read all ids and refuse them with a ValueError if they are not those that were written."""
        if hashlib.sha256(bytes_in_place(self.tokens)).hexdigest() != self._header.sha256:
            raise _damaged(self.path, "its tokens have another SHA-256 than its header says")


def check_length(length: int, available: int, place: str) -> None:
    """Refuse windows of no tokens, or of more than there are, with a ValueError."""
    if not 1 <= length <= available:
        raise ValueError(
            f"length={length} does not fit {place} with {available} tokens; 1..{available} is allowed; use a shorter "
            "length or more text"
        )


def _read_header(path: Path) -> tuple[Header, str]:
    """The header of a whole token file and its SHA-256."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist; a token file is allowed; write it with write_tokens")
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - FOOTER.size))
        footer = file.read()
        digest, length, magic = FOOTER.unpack(footer.rjust(FOOTER.size, b"\0"))
        if magic != MAGIC or length > size - FOOTER.size:
            raise _damaged(path, "it is cut short, or a file of another kind")
        file.seek(size - FOOTER.size - length)
        text = file.read(length)
    if hashlib.sha256(text).digest() != digest:
        raise _damaged(path, "its header is damaged")
    header = _parsed(path, text)
    if size != header.count * DTYPES[header.dtype].itemsize + length + FOOTER.size:
        raise _damaged(path, f"it has {size} bytes, which do not fit {header.count} tokens")
    return header, digest.hex()


def _parsed(path: Path, text: bytes) -> Header:
    """The header that ``text`` says, every value of it checked."""
    try:
        values = parse_plain(text, "its header")
        if not isinstance(values, dict) or values.keys() != {field.name for field in fields(Header)}:
            raise ValueError("its header is another one")
        header = Header(**values)
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    if header.format != FORMAT or header.dtype not in DTYPES:
        raise _damaged(path, f"it has format {header.format} and dtype {header.dtype!r}")
    starts = header.starts
    if starts[:1] != [0] or any(a >= b for a, b in pairwise([*starts, header.count])):
        raise _damaged(path, "its documents do not follow each other")
    return header


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} is not a whole token file ({reason}); one of format {FORMAT} in this machine's byte order is allowed; "
        "delete it and write it again"
    )
