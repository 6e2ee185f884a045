"""A benchmark of methods as tables and lines."""

from __future__ import annotations

from collections.abc import Sequence

from oneblock.evaluate.retrieval import RETRIEVAL
from oneblock.experiment.bench import GUIDANCES, SCORE, TASKS, Benchmark, Guidance, Task
from oneblock.experiment.summary import Row, summaries
from oneblock.metrics.ranking import Agreement, Correlation
from oneblock.report.captions import RANKED, percent
from oneblock.report.spread import cost_table, plus_minus, seeds_note
from oneblock.report.table import Report, Table

SAID: dict[Guidance, str] = {"none": "no guidance", "guided": "guided"}
HEADS: dict[Task, str] = {"classes": "Frechet distance", "captions": "attributes right"}


def report(found: Benchmark) -> Report:
    """Scores of all methods on both tasks, what they cost, and how far the two rankings agree."""
    tables = [_scores(found, task) for task in found.tasks]
    tables += [_costs(found, task) for task in found.tasks]
    if found.agreements:
        tables.append(_agreements(found))
    return Report(tables, lines(found))


def lines(found: Benchmark) -> list[str]:
    """What must be said beside the tables."""
    first = next(iter(found.tasks.values()))
    said = list(seeds_note(len({row["seed"] for row in first.rows})))
    if found.changed:
        said.append(f"{len(found.changed)} keys differ between the plans of the tasks: {', '.join(found.changed)}")
    if not found.agreements:
        return [*said, "rankings are compared of three methods or more on both tasks"]
    one = found.agreements["none", "none"]
    return [*said, one.explanation, *_small(one), *_alone(found)]


def _small(found: Agreement) -> list[str]:
    if not found.small:
        return []
    return [f"too few methods for a correlation of their own, counted in all: {', '.join(found.small)}"]


def _alone(found: Benchmark) -> list[str]:
    """Whether a single method makes a correlation."""
    said = []
    for (by_class, by_caption), one in found.agreements.items():
        lowest, highest = _extremes(one.pooled)
        said.append(
            f"without one method, classes {SAID[by_class]} and captions {SAID[by_caption]}: Pearson from "
            f"{lowest[1]:.2f} (without {lowest[0]}) to {highest[1]:.2f} (without {highest[0]})"
        )
    return said


def _extremes(found: Correlation) -> tuple[tuple[str, float], tuple[str, float]]:
    ordered = sorted(((name, pearson) for name, (pearson, _) in found.without.items()), key=lambda pair: pair[1])
    return ordered[0], ordered[-1]


def means(found: Benchmark, task: Task, guidance: Guidance) -> dict[str, Row]:
    """The summaries of a task under a protocol, by method."""
    return {row["arm"]: row for row in summaries(found.rows(task, guidance), found.tasks[task].scores)}


def _scores(found: Benchmark, task: Task) -> Table:
    by = {guidance: means(found, task, guidance) for guidance in GUIDANCES}
    more = ("chance", "real images") if task == "captions" else ("floor",)
    ranked = task == "captions" and any(RETRIEVAL in row for row in found.rows(task, "none"))
    columns = (
        "method",
        "layer evals",
        "loss",
        *(f"{HEADS[task]}, {SAID[guidance]}" for guidance in GUIDANCES),
        *more,
        *(_ranked_heads() if ranked else ()),
    )
    rows = [
        (
            method,
            f"{row['layer_evaluations']:,}",
            plus_minus(row["loss"], 4),
            *(_score(by[guidance][method], task) for guidance in GUIDANCES),
            *_controls(row, task),
            *(_ranked(row, by["guided"][method]) if ranked else ()),
        )
        for method, row in by["none"].items()
    ]
    data, better = TASKS[task].data, TASKS[task].better
    return Table(f"{task} ({data}); {better} is better; guidance {found.guided:g}", columns, rows)


def _score(row: Row, task: Task) -> str:
    return percent(row[SCORE]) if task == "captions" else plus_minus(row["frechet"], 2)


def _controls(row: Row, task: Task) -> Sequence[str]:
    if task == "captions":
        return [percent(row[f"{SCORE}_chance"]), percent(row[f"{SCORE}_real"])]
    return [plus_minus(row["frechet_floor"], 2)]


def _ranked_heads() -> Sequence[str]:
    name = RANKED[RETRIEVAL]
    return [*(f"{name}, {SAID[guidance]}" for guidance in GUIDANCES), "its chance", "its real images"]


def _ranked(row: Row, guided: Row) -> Sequence[str]:
    """Agreement by retrieval, beside the checker's."""
    shares = (row[RETRIEVAL], guided[RETRIEVAL], row[f"{RETRIEVAL}_chance"], row[f"{RETRIEVAL}_real"])
    return [percent(share) for share in shares]


def _costs(found: Benchmark, task: Task) -> Table:
    table = cost_table(list(means(found, task, "none").values()), {"images/s": "images_per_second"})
    return Table(f"{task}: {table.title}", table.columns, table.rows)


def _agreements(found: Benchmark) -> Table:
    columns = ("classes", "captions", "methods", "Pearson", "Spearman")
    rows = []
    for (by_class, by_caption), one in found.agreements.items():
        for name, correlation in {"all": one.pooled, **one.groups}.items():
            rows.append(
                (
                    SAID[by_class],
                    SAID[by_caption],
                    f"{name}, {correlation.num_methods}",
                    *(
                        f"{interval.value:.2f} ({interval.low:.2f} to {interval.high:.2f})"
                        for interval in (correlation.pearson, correlation.spearman)
                    ),
                )
            )
    return Table("do the tasks rank the methods alike? (95 % intervals over the methods)", columns, rows)
