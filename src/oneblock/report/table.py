"""Tables as data: whoever shows them decides how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table of text; the first column names the rows.

    Args:
        rows: as many cells each as there are ``columns``.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Report:
    """What there is to say of a comparison: tables, then lines."""

    tables: Sequence[Table]
    lines: Sequence[str]
