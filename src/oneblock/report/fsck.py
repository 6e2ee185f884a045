"""What is wrong with the files of a run, a model or a comparison, and what is good."""

from __future__ import annotations

import os

from oneblock.fsck import Findings
from oneblock.report.table import Report, Table


def findings_table(found: Findings) -> Report:
    """One row for each file; below it a line for everything that is wrong."""
    rows = [
        (os.path.relpath(file.path, found.directory), "good" if file.good else "WRONG", file.note)
        for file in found.files
    ]
    wrong = [file.problem for file in found.files if not file.good]
    summary = (
        f"{len(wrong)} of {len(found.files)} files are wrong" if wrong else f"all {len(found.files)} files are good"
    )
    return Report([Table(f"{found.directory}, a {found.kind}", ("file", "state", "content"), rows)], [*wrong, summary])
