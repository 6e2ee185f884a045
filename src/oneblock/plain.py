"""Plain values from JSON files, which anyone may have written, cut short or damaged, and text written whole.

A file is refused, with the reason, if it is too large or too deep, is not UTF-8, names a key twice, or holds a number
that is not finite or needs more than 64 bits: such values cannot be meant, and Python would take them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MOST_BYTES = 2**30
"""Largest file that is read: a plan of 50,000 token vectors of width 500 has 0.5 GB."""
MOST = 2**63 - 1
"""Largest whole number; -MOST - 1 is the smallest."""


def read_plain(path: Path, most_bytes: int = MOST_BYTES) -> Any:
    """The value of a JSON file.

    Raises:
        ValueError: the content is not one plain value; names the file and what is wrong.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"{path} has more than {most_bytes} bytes; it must be another file")
    return parse_plain(content, str(path))


def write_whole(path: Path, text: str, together: bool = False) -> None:
    """Write a text file whole or not at all.

    Args:
        together: several processes may write the file at the same time.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial" if together else f"{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


def parse_plain(content: bytes | str, where: str) -> Any:
    """The value of JSON text; ``where`` names it in the ``ValueError``."""
    try:
        text = content.decode() if isinstance(content, bytes) else content
        return json.loads(
            text, object_pairs_hook=_once, parse_int=_whole, parse_float=_finite, parse_constant=_not_finite
        )
    except RecursionError:
        reason = "it is nested too deeply"
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is not UTF-8"
    except ValueError as error:
        reason = str(error)
    raise ValueError(f"{where} is not JSON as oneblock writes it ({reason})")


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice")
    return values


def _whole(text: str) -> int:
    if len(text) > 20 or not -MOST - 1 <= int(text) <= MOST:
        raise ValueError(f"the number {text[:20]}... has more than 64 bits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _not_finite(text)


def _not_finite(text: str) -> float:
    raise ValueError(f"{text[:40]} is not a finite number")
