"""The page of a run, or of a merged model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from oneblock.evaluate.watching import AUDITS_FILE
from oneblock.experiment.results import RESULT_FILE, read_result
from oneblock.launch.status import JobStatus, status
from oneblock.plan import PLAN_FILE, Plan
from oneblock.presets.cost import job_peaks
from oneblock.presets.door import open_plan
from oneblock.presets.kept import known_backbone
from oneblock.report.audit import JSON_FILE
from oneblock.report.costs import KINDS
from oneblock.report.html.audit import audit_parts, audits_chart
from oneblock.report.html.page import Bars, Facts, Page, Part, Section, Words, lines_chart
from oneblock.report.html.parts import (
    Shown,
    asked,
    block_lines,
    levels_parts,
    levels_section,
    made_by,
    measured,
    memory_bars,
    noise,
    plan_code,
    took,
)
from oneblock.report.table import Table
from oneblock.train.checkpoint import job_folder
from oneblock.train.session import Session, read_sessions
from oneblock.train.strategy import job_specs

WORK = "layer evaluations of the job"


def run_page(directory: Path, shown: Shown) -> Page:
    """A run or a merged model: what was asked, how far it is, loss, samples, memory, seconds.

    Raises:
        ValueError: its plan cannot be read.
    """
    plan = open_plan(directory)
    jobs = status(directory) if (directory / PLAN_FILE).is_file() else []
    sessions = {job.job: read_sessions(job_folder(directory, job.job)) for job in jobs}
    shown.missing.extend(_unfinished(jobs))
    shown.warnings.extend(f"{job.job}, {said}" for job in jobs for said in (*job.notes, *job.problems))
    sections = [
        Section("What was asked", [asked(plan)]),
        Section("Blocks", [_jobs_table(plan, jobs, sessions)]),
        *_training(plan, directory, jobs),
        *_section("Samples through the noise levels", levels_parts(levels_section(directory, plan, shown, ""))),
        *_scores(directory, shown),
        *_audit(directory, shown),
        Section("Memory and time", _memory(plan, directory, sessions, shown)),
        *([made_by(list(chain(*sessions.values())))] if jobs else []),
        Section("Plan", [plan_code(plan)]),
    ]
    return Page(
        kind="a run" if jobs else "a model",
        directory=directory,
        summary=_summary(plan, jobs),
        sections=sections,
        missing=shown.missing,
        warnings=shown.warnings,
    )


def _summary(plan: Plan, jobs: Sequence[JobStatus]) -> list[str]:
    parts = f"{plan.num_blocks} block{'s' * (plan.num_blocks > 1)} of task {plan.task}, data {plan.recipe.get('data')}."
    done = sum(job.state == "done" for job in jobs)
    return [parts, f"{done} of {len(jobs)} jobs are trained to their end."] if jobs else [parts]


def _unfinished(jobs: Sequence[JobStatus]) -> list[str]:
    return [
        f"{job.job} is not trained to its end: step {job.step} of {job.num_steps}, {job.state}"
        for job in jobs
        if job.state != "done"
    ]


def _jobs_table(plan: Plan, jobs: Sequence[JobStatus], sessions: Mapping[str, Sequence[Session]]) -> Table:
    """What each job trains, and how far it is; of a merged model its blocks alone."""
    known = {job.job: job for job in jobs}
    rows = []
    for spec in job_specs(plan):
        if jobs or spec.block is not None:
            high, low = (plan.edges[0], plan.edges[-1]) if spec.block is None else plan.edges[spec.block :][:2]
            where = (spec.name, f"{high:.4g} to {low:.4g}", str(len(spec.layers)))
            rows.append((*where, *(_job_cells(known[spec.name], sessions[spec.name]) if jobs else ())))
    ours = ("steps", "last loss", "state", "took") if jobs else ()
    return Table("", ("job", noise(plan), "layers", *ours), rows)


def _job_cells(job: JobStatus, sessions: Sequence[Session]) -> tuple[str, ...]:
    loss = "-" if job.loss is None else f"{job.loss:.4f}"
    return f"{job.step:,} of {job.num_steps:,}", loss, job.state, took(sessions)


def _training(plan: Plan, directory: Path, jobs: Sequence[JobStatus]) -> list[Section]:
    if not jobs:
        return []
    weighted = lines_chart("as it is trained on", block_lines(plan, directory), WORK, "loss")
    plain = lines_chart("without weights", block_lines(plan, directory, "plain"), WORK, "loss", log_y=True)
    empty = Words(["No job has written a row of metrics yet."])
    return [Section("Training loss of each band", [*weighted, *plain] or [empty])]


def _section(title: str, parts: Sequence[Part]) -> list[Section]:
    return [Section(title, parts)] if parts else []


def _scores(directory: Path, shown: Shown) -> list[Section]:
    """The scores that a comparison has taken of this run."""
    if not (directory / RESULT_FILE).is_file():
        shown.missing.append(
            f"scores on held-out data: none are kept in this directory; oneblock evaluate {directory} takes them"
        )
        return []
    row = shown.tried("scores on held-out data", lambda: read_result(directory / RESULT_FILE))
    return [] if row is None else [Section("Scores on held-out data", [Facts(score_rows(row))])]


def score_rows(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Numbers, short texts and short lists of a result, as they stand."""
    return [(key.replace("_", " "), said) for key, value in row.items() if (said := _said(value))]


def _said(value: Any) -> str:
    if isinstance(value, bool | int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, str):
        return value[:400]
    if isinstance(value, list) and value and all(isinstance(one, int | float) for one in value):
        return " / ".join(f"{one:.5g}" for one in value[:12]) + (" ..." if len(value) > 12 else "")
    return ""


def _audit(directory: Path, shown: Shown) -> list[Section]:
    """The audit that lies in the run, and the small ones that were made while it trained."""
    parts = list[Part]()
    if (directory / JSON_FILE).is_file():
        parts += shown.tried("the audit", lambda: audit_parts(directory)) or []
    if (directory / AUDITS_FILE).is_file():
        parts += shown.tried("audits while it trained", lambda: audits_chart(directory)) or []
    return [Section("Audit", parts)] if parts else []


def _memory(plan: Plan, directory: Path, sessions: Mapping[str, Sequence[Session]], shown: Shown) -> list[Part]:
    bars = shown.tried("memory by plan", lambda: [_planned(plan, directory, shown)])
    every = list(chain(*sessions.values()))
    facts = [Facts([*measured(every), ("seconds of all jobs", took(every))])] if sessions else []
    return [*(bars or []), *facts]


def _planned(plan: Plan, directory: Path, shown: Shown) -> Bars:
    """Bytes of a training step of every job, counted from the plan."""
    peaks = job_peaks(plan, backbone=known_backbone(plan, directory, shown.backbone))
    stacks = {}
    for name, peak in peaks.items():
        known = [float(peak.by_kind.get(kind, 0)) for kind in KINDS]
        stacks[name] = [*known, peak.total - sum(known)]
    kinds = ("weights", "gradients", "optimizer state", "activations", "rest")
    return memory_bars("counted from the plan: bytes at the peak of a training step", kinds, stacks)
