"""The page of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from oneblock.experiment.curves import curve_summaries
from oneblock.experiment.images import SAMPLES_FILE
from oneblock.experiment.reopened import Reopened, reopen
from oneblock.experiment.summary import Row, Spread, summaries
from oneblock.plan import PLAN_FILE, Plan
from oneblock.presets.names import class_names
from oneblock.report.comparison import report
from oneblock.report.curves import WORK
from oneblock.report.html.page import (
    Dot,
    Dots,
    Facts,
    Page,
    Part,
    Picture,
    Pictures,
    Section,
    Words,
    lines_chart,
    picture,
)
from oneblock.report.html.parts import (
    Shown,
    asked,
    block_lines,
    made_by,
    measured,
    memory_bars,
    plan_code,
)
from oneblock.report.html.samples import drawn_samples, explained
from oneblock.report.html.svg import Line
from oneblock.report.spread import plus_minus, several_budgets
from oneblock.report.training import training_curve
from oneblock.train.record import NOTES_FILE, read_notes
from oneblock.train.session import Session, read_sessions

COLUMNS, OF_CLASS = 10, 4
"""Of a picture of an arm's samples: classes, and samples of each."""
LABELS = {
    "loss": "held-out loss",
    "frechet": "Frechet distance",
    "accuracy": "held-out accuracy",
    "bits_per_byte": "held-out bits per byte",
    "bits_in_calls": "held-out bits per byte, revealed in calls",
    "place_far": "pixels off the true places, last third of a rollout",
    "cycled": "share of copies after cycles",
    "auc": "AUC of membership",
    "band_losses": "held-out loss of each band, noisiest first",
    "accuracies": "held-out accuracy after each call",
    "bits_after_calls": "held-out bits per byte after each call",
}
"""Of scores."""


def comparison_page(directory: Path, shown: Shown) -> Page:
    """A comparison of any task, as far as it has come.

    Raises:
        ValueError: the directory holds no run of a comparison.
    """
    found = reopen(directory)
    shown.missing.extend(f"{name} has begun, and has no result yet" for name in found.unfinished)
    shown.missing.extend(f"{name} has not begun" for name in found.absent)
    shown.warnings.extend([*found.problems, *_notes(found)])
    sections = [Section("What was asked", _asked(found))]
    if found.comparison.rows:
        sections += _finished(found, shown)
    else:
        shown.missing.append("results: no run has one yet")
    sessions = [*found.sessions, *_sessions(directory)]
    sections += [Section("Measured memory", [Facts(measured(sessions))]), made_by(found.sessions or sessions)]
    sections += [Section("Plans", [plan_code(plan, name) for name, plan in found.plans.items()])]
    return Page(
        kind=f"a comparison, {found.comparison.task}",
        directory=directory,
        summary=_summary(found),
        sections=sections,
        missing=shown.missing,
        warnings=shown.warnings,
    )


def _summary(found: Reopened) -> list[str]:
    rows, waits = found.comparison.rows, len(found.unfinished) + len(found.absent)
    return [f"{len(rows)} of {len(rows) + waits} runs have a result."]


def _asked(found: Reopened) -> list[Part]:
    rows = found.comparison.rows
    cells = [tuple(str(row[key]) for key in ("arm", "budget", "seed")) for row in rows]
    arms, budgets, seeds = (", ".join(dict.fromkeys(values)) for values in zip(*cells, strict=True)) if cells else "---"
    facts = Facts(
        [("task", found.comparison.task), ("arms with results", arms), ("budgets", budgets), ("seeds", seeds)]
    )
    plans = list(found.plans.items())
    if not plans:
        return [facts]
    name, plan = next(((n, p) for n, p in plans if p.num_blocks > 1), plans[0])
    return [facts, Words([f"Of one of its runs, {name}:"]), asked(plan)]


def _finished(found: Reopened, shown: Shown) -> list[Section]:
    """What the results show."""
    out, rows, scores = found.comparison.out, found.comparison.rows, found.comparison.scores
    told = shown.tried("tables", lambda: report(found.comparison))
    means = shown.tried("means over the seeds", lambda: summaries(rows, scores)) or []
    first = [row for row in rows if row["seed"] == rows[0]["seed"] and row["budget"] == rows[-1]["budget"]]
    charts = [*_against_work(found, means), *_listed(found, means)]
    parts: list[tuple[str, list[Part]]] = [
        ("Results", [*told.tables, Words(told.lines)] if told else []),
        ("Quality", charts),
        ("Quality against sampling work", _sampling(rows)),
        (f"Training, seed {rows[0]['seed']}, budget {rows[-1]['budget']}", _training(out, first, found)),
        ("Samples", sample_parts(out, first, found.plans)),
        ("Samples, drawn for this page", explained(_drawn(out, first, found, shown))),
        ("Memory by plan", _memory(first)),
    ]
    return [Section(title, of_it) for title, of_it in parts if of_it]


def _colors(rows: Sequence[Row]) -> dict[str, int]:
    """A colour for every arm, the same in all charts."""
    return {arm: color for color, arm in enumerate(dict.fromkeys(row["arm"] for row in rows))}


def _against_work(found: Reopened, means: Sequence[Row]) -> list[Part]:
    """Every judged score: with several budgets against the work of training, means and ranges over the seeds."""
    parts = list[Part]()
    for key, better in found.comparison.scores.judged.items():
        label = LABELS.get(key, key)
        title, known = f"{label} ({better} is better)", [row for row in means if row[key] is not None]
        if several_budgets(found.comparison.rows):
            lines = _score_lines(known, key, _colors(means))
            parts += lines_chart(title, lines, "layer evaluations of training", label, log_x=True)
        elif known:
            dots = [
                Dot(row["arm"], row[key].mean, row[key].low, row[key].high, plus_minus(row[key], 4)) for row in known
            ]
            parts.append(Dots(title, dots))
    return parts


def _score_lines(means: Sequence[Row], key: str, colors: Mapping[str, int]) -> list[Line]:
    lines = []
    for arm, color in colors.items():
        mine = [(row["layer_evaluations"], row[key]) for row in means if row["arm"] == arm]
        points: list[tuple[float, Spread]] = sorted(mine)
        ranges = [(work, value.low, value.high) for work, value in points]
        lines.append(Line(arm, [(work, value.mean) for work, value in points], color, color // 8, ranges))
    return lines


def _listed(found: Reopened, means: Sequence[Row]) -> list[Part]:
    """The listed score of every arm at the last budget."""
    scores, rows = found.comparison.scores, found.comparison.rows
    places = {row["arm"]: row["listed_at"] for row in rows if "listed_at" in row}
    lines = []
    for arm, color in _colors(means).items():
        for row in means:
            if row["arm"] == arm and row["budget"] == rows[-1]["budget"]:
                items: list[Spread] = [one for one in row[scores.listed] if one is not None]
                at = places.get(arm, range(1, len(items) + 1))
                points = [(float(i), one.mean) for i, one in zip(at, items, strict=False)]
                lines.append(Line(arm, points, color, color // 8))
    label = LABELS.get(scores.listed, scores.listed.replace("_", " "))
    return list(lines_chart(label, lines, "place in the list", "mean over the seeds", whole_x=True))


def _sampling(rows: Sequence[Row]) -> list[Part]:
    """Quality against sampling work at every budget: a colour for each arm, a dash for each solver."""
    curves, colors, charts = curve_summaries(rows), _colors(rows), list[Part]()
    solvers = list(dict.fromkeys(row["sampler"] for row in curves))
    for budget in dict.fromkeys(row["budget"] for row in curves):
        lines = []
        for arm, color in colors.items():
            for dash, solver in enumerate(solvers):
                mine = [r for r in curves if (r["arm"], r["sampler"], r["budget"]) == (arm, solver, budget)]
                points = sorted((float(r["layer_evaluations"]), *r["frechet"]) for r in mine)
                lines.append(
                    Line(
                        f"{arm}, {solver}",
                        [(x, mean) for x, mean, *_ in points],
                        color,
                        dash,
                        [(x, low, high) for x, _, _, low, high in points],
                    )
                )
        charts += lines_chart(f"trained with {budget}", lines, WORK, "Frechet distance", log_x=True, log_y=True)
    return charts


def _training(out: Path, rows: Sequence[Row], found: Reopened) -> list[Part]:
    """Training loss of every arm, and of each block of those that have several."""
    colors = _colors(found.comparison.rows)
    lines = [Line(row["arm"], training_curve(out / row["run"]), colors[row["arm"]]) for row in rows]
    charts: list[Part] = [*lines_chart("all arms, mean over the bands", lines, "layer evaluations", "training loss")]
    for row in rows:
        plan = found.plans.get(row["run"])
        if plan is not None and plan.num_blocks > 1 and (out / row["run"] / PLAN_FILE).is_file():
            own = block_lines(plan, out / row["run"])
            charts += lines_chart(f"each band of {row['arm']}", own, "layer evaluations of the job", "training loss")
    return charts


def sample_parts(out: Path, rows: Sequence[Row], plans: Mapping[str, Plan]) -> list[Part]:
    """Samples of every arm that has kept some, and the beginnings of texts are in the tables."""
    pictures = [_picture(out, row, plans.get(row["run"])) for row in rows]
    shown = [one for one in pictures if one is not None]
    return [Pictures("", shown, "Columns are classes or captions, where there are any.")] if shown else []


def _picture(out: Path, row: Row, plan: Plan | None) -> Picture | None:
    path = out / row["run"] / SAMPLES_FILE
    if plan is None or not path.is_file():
        return None
    images = load_file(path)["images"]
    if images.dtype != torch.uint8:
        return None
    classes = len(class_names(plan))
    if classes and len(images) % classes == 0:
        images = images.unflatten(0, (classes, -1))[:COLUMNS, :OF_CLASS].transpose(0, 1)
        return picture(images.flatten(0, 1), images.shape[1], row["arm"])
    return picture(images[: COLUMNS * OF_CLASS], COLUMNS, row["arm"])


def _drawn(out: Path, rows: Sequence[Row], found: Reopened, shown: Shown) -> list[Part]:
    """Images of every arm on their way through the noise levels; what arms of text write is in the tables."""
    parts = list[Part]()
    for row in rows:
        plan = found.plans.get(row["run"])
        if plan is not None and plan.task == "image" and (out / row["run"] / PLAN_FILE).is_file():
            parts += drawn_samples(out / row["run"], plan, shown, row["arm"])
    return parts


def _memory(rows: Sequence[Row]) -> list[Part]:
    """Bytes at the peak of a training step of every arm, as counted before it was trained."""
    titles = {
        "peak_bytes": "counted from the plan: bytes at the peak of a training step",
        "peak_bytes_checkpointing": "the same with activation checkpointing",
    }
    return [
        memory_bars(title, ("bytes",), {row["arm"]: [float(row[key])] for row in rows if row.get(key)})
        for key, title in titles.items()
        if any(row.get(key) for row in rows)
    ]


def _sessions(directory: Path) -> list[Session]:
    """Those of the jobs of every run."""
    folders = sorted({path.parent for path in directory.rglob("sessions.jsonl")} - {directory})
    return [session for folder in folders for session in read_sessions(folder)]


def _notes(found: Reopened) -> list[str]:
    """What results and the records of jobs say beside their numbers, each once."""
    out = found.comparison.out
    said = [str(row[key]) for row in found.comparison.rows for key in ("note", "other_data") if row.get(key)]
    for path in sorted(out.rglob(NOTES_FILE)):
        said += [f"{path.parent.relative_to(out)}, after step {note.step}: {note.note}" for note in read_notes(path)]
    return list(dict.fromkeys(said))
