"""Metrics as JSON lines, one file per job; a resumed job forgets the rows that lie after its checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from oneblock.train.step import StepReport


class Recorder:
    """Averages step reports over ``every`` steps and appends them to ``directory/<job>/metrics.jsonl``.

    Args:
        directory: of the run.
        every: steps per row.
    """

    def __init__(self, directory: Path, every: int = 50) -> None:
        self.directory = directory
        self.every = every
        self._sums: dict[str, list[StepReport]] = {}
        self._started: set[str] = set()

    def add(self, report: StepReport) -> dict[str, float | str] | None:
        """Take a report; returns the row when one is written."""
        path = self.directory / report.job / "metrics.jsonl"
        if report.job not in self._started:
            self._started.add(report.job)
            forget_after(path, report.step - 1)
        pending = self._sums.setdefault(report.job, [])
        pending.append(report)
        if report.step % self.every and report.step != report.num_steps:
            return None
        row: dict[str, float | str] = {
            "job": report.job,
            "step": report.step,
            "num_steps": report.num_steps,
            "learning_rate": report.learning_rate,
        }
        for name in ("loss", "plain", "grad_norm"):
            row[name] = sum(getattr(r, name) for r in pending) / len(pending)
        row["layer_evaluations"] = (report.step - report.first_step) * report.layer_evaluations
        with open(path, "a") as file:
            file.write(json.dumps(row) + "\n")
        pending.clear()
        return row


def read_rows(path: Path) -> Iterator[dict[str, float | str]]:
    """Rows of a metrics file; a last line that a kill cut short is left out."""
    if not path.is_file():
        return
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


def forget_after(path: Path, step: int) -> None:
    """Drop rows with a step beyond ``step``: they will be written again."""
    if path.is_file():
        rows = [row for row in read_rows(path) if float(row["step"]) <= step]
        partial = path.with_name(path.name + ".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
        partial.replace(path)
