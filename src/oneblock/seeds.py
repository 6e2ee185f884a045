"""Seeds that follow from others: every random number of a run follows from one."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *parts: int | str) -> int:
    """A 63-bit seed from ``seed`` and any names and numbers: the head of their SHA-256."""
    digest = hashlib.sha256("/".join(map(str, (seed, *parts))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def nth_seed(seed: int, index: int, *parts: int | str) -> int:
    """The seed of one of several draws that are alike: ``seed`` itself for the first, and for the others one that is
    derived from it, so that the draws of neighbouring seeds have none in common."""
    return seed if index == 0 else derive_seed(seed, *parts, index)
