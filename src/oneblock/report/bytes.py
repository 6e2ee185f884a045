"""The scores of a byte model as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oneblock.report.table import Table

NAMES = {"bits_per_byte": "the model", "unigram": "unigram", "bigram": "bigram", "gzip": "gzip -9"}


def byte_table(row: Mapping[str, Any]) -> Table:
    """Of ``model.bytes.ByteModel.evaluate``."""
    lines = [(shown, f"{row[name]:.4f}") for name, shown in NAMES.items()]
    lines.append(("steps of the model", f"{row['step']} of {row['steps']}"))
    return Table(f"held-out text, {row['bytes']:,} bytes", ("", "bits per byte"), lines)
