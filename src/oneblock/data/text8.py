"""The form of text8: space and a-z (Mahoney, https://mattmahoney.net/dc/textdata.html)."""

from __future__ import annotations

import re

import torch
from torch import Tensor

DIGITS = (b"zero", b"one", b"two", b"three", b"four", b"five", b"six", b"seven", b"eight", b"nine")
LETTERS = b"abcdefghijklmnopqrstuvwxyz"


def text8_form(text: str) -> bytes:
    """The text as ``Characters`` sees it: bytes of a-z and single spaces, empty only for an empty text."""
    plain = text.encode("ascii", "replace").lower()
    spelled = re.sub(rb"[0-9]", lambda digit: b" " + DIGITS[int(digit.group())] + b" ", plain)
    return re.sub(rb"[^a-z]+", b" ", spelled)


def symbols(plain: bytes) -> Tensor:
    """The ids of a text in ``text8_form``, uint8 (t,)."""
    table = bytes.maketrans(b" " + LETTERS, bytes(range(1 + len(LETTERS))))
    return torch.frombuffer(bytearray(plain.translate(table)), dtype=torch.uint8)


def count_letters(text: str) -> tuple[int, int, str]:
    """How many letters of a text are in A-Z and a-z, how many are not, and the first of these."""
    if text.isascii():
        return len(re.findall("[A-Za-z]", text)), 0, ""
    foreign = [character for character in re.sub(r"[\x00-\x7f]+", "", text) if character.isalpha()]
    return len(re.findall("[A-Za-z]", text)), len(foreign), "".join(foreign[:1])


def check_letters(text: str, kept: int, lost: int, foreign: str) -> None:
    """Refuse a text that begins like ``text`` and less than half of whose letters are in A-Z and a-z."""
    if kept < lost:
        raise ValueError(
            f"text={text[:40]!r} keeps {kept} of its {kept + lost} letters (lost: {foreign!r} and others); "
            "half of them or more is allowed in a vocabulary of the letters a-z; use bytes or byte pairs"
        )
