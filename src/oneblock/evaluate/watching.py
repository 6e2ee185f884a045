"""A small audit while a generator trains: a row beside the loss, and a warning when cycles find copies of training
images that one-shot samples do not show."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from oneblock.backbone import BuildBackbone
from oneblock.checks import check_count
from oneblock.evaluate.auditing import Auditing, Compared, audit_splits, check_held_out, compared
from oneblock.evaluate.chains import Chains, Row
from oneblock.plan import Plan
from oneblock.presets.data import Data
from oneblock.presets.door import read_plan
from oneblock.presets.tasks import blockwise
from oneblock.train.checkpoint import checkpoints, job_folder
from oneblock.train.drive import BARS, Watch
from oneblock.train.machine import HERE, Machine
from oneblock.train.shards import open_denoiser

AUDITS_FILE = "audits.jsonl"
"""In the directory of a run: a JSON row for each audit."""
SMALL = Auditing(chains=64)
PARTS = (1 / 8, 1 / 4)
"""Amplitudes, in units of the median distance of a training image from its nearest other one."""


def audited(
    out: str | Path,
    every: int,
    data: Data | None = None,
    *,
    held_out: Data | None = None,
    backbone: BuildBackbone | None = None,
    machine: Machine = HERE,
    watch: Watch = BARS,
    told: Callable[[str], None] | None = None,
) -> Watch:
    """``watch``, with a small audit of the run in ``out`` after ``every`` steps of a job: 64 chains of 20 cycles at two
    amplitudes, and one-shot samples for the same calls.

        ob.train(recipe, data="digits", out="runs/digits", watch=ob.audited("runs/digits", 500, "digits"))

    It looks at the newest checkpoints, which are written at least as often. All blocks must have one: of blocks that
    train one after the other audits begin with the last one, of blocks that take turns early. The blocks are on the
    device one at a time, beside the one that trains.

    Args:
        data, held_out: see ``ImageModel.audit``.
        backbone: the user's own network, where it has one.
        machine: where it trains.
        told: called with a line for each audit; None warns, and only of copies that one-shot samples do not show.

    Raises:
        ValueError: nothing is held out.
    """
    check_count("audit_every", every)
    check_held_out(data, held_out)
    small = _Small(Path(out), data, held_out, backbone, machine, told)
    return replace(watch, every=every, at=small)


class _Small:
    """Audits a run when it is called with a job and its step."""

    def __init__(
        self,
        directory: Path,
        data: Data | None,
        held_out: Data | None,
        backbone: BuildBackbone | None,
        machine: Machine,
        told: Callable[[str], None] | None,
    ) -> None:
        self.directory = directory
        self.data = data
        self.held_out = held_out
        self.backbone = backbone
        self.machine = machine
        self.told = told
        self._compared: tuple[Plan, Compared] | None = None
        self._seen: list[Path] = []

    def __call__(self, job: str, step: int) -> None:
        plan, known = self._opened()
        newest = [checkpoints(job_folder(self.directory, f"block-{b}"))[-1:] for b in range(plan.num_blocks)]
        files = [path for found in newest for path in found]
        if len(files) < plan.num_blocks or files == self._seen:
            return
        self._seen = files
        row = self._row(plan, known)
        with open(self.directory / AUDITS_FILE, "a") as file:
            file.write(json.dumps({"job": job, "step": step, **row}) + "\n")
        self._tell(job, step, row)

    def _opened(self) -> tuple[Plan, Compared]:
        if self._compared is None:
            plan = read_plan(self.directory)
            self._compared = plan, compared(plan, audit_splits(plan, self.data, self.held_out, self.directory))
        return self._compared

    def _row(self, plan: Plan, known: Compared) -> Row:
        device = self.machine.torch_device()
        denoiser = open_denoiser(self.directory, blockwise(plan, self.backbone), device, resident=1)
        chains = Chains(denoiser, plan, known, SMALL)
        one_shot = chains.one_shot(SMALL.reverse)
        cycles = [chains.cycles(part * known.gap) for part in PARTS]
        kept = ("sigma", "copies", "false_copies", "distinct", "degenerate")
        return {
            "one_shot": {name: one_shot[name] for name in kept[1:]},
            "cycles": [{name: one[name] for name in kept} for one in cycles],
            "warning": _are_copies(max(cycles, key=_share)) and not _are_copies(one_shot),
        }

    def _tell(self, job: str, step: int, row: Row) -> None:
        best, one_shot = max(row["cycles"], key=_share), row["one_shot"]
        ends = f"{100 * _share(best):.1f} % of the ends of cycles (sigma {best['sigma']:.3g})"
        line = f"audit after step {step} of {job}: {100 * _share(one_shot):.1f} % of one-shot samples and {ends} are "
        line += "copies of training images"
        if row["warning"]:
            line += ": the model has begun to memorise, and one-shot samples do not show it"
        if self.told is not None:
            self.told(line)
        elif row["warning"]:
            warnings.warn(line, stacklevel=2)


def _share(row: Any) -> float:
    return float(row["copies"][0])


def _are_copies(row: Any) -> bool:
    """More than chance gives."""
    return bool(row["copies"][1] > row["false_copies"][2])
