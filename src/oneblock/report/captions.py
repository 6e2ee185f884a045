"""How far generated images agree with the captions that they were told, in tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from oneblock.evaluate.captions import AGREEMENT
from oneblock.evaluate.retrieval import AMONG, FRECHET, RETRIEVAL
from oneblock.experiment.summary import Row, Spread, spread
from oneblock.report.spread import plus_minus
from oneblock.report.table import Table

RANKED = {RETRIEVAL: "own caption nearest", f"{RETRIEVAL}_at_{AMONG}": f"own caption among {AMONG}"}
"""Scores by retrieval, and how a table calls them."""
NUMBER = f"{RETRIEVAL}_captions"
"""How many captions were ranked, in every row that has such scores."""
WHOLE = "all_of_it"
"""Of what a checker finds: the whole caption."""


def agreement_lines(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Of a row of scores: each share of the checker, and of retrieval with its interval, beside chance and real
    images."""
    kinds = (AGREEMENT, f"{AGREEMENT}_chance", f"{AGREEMENT}_real")
    lines = []
    for name in row.get(AGREEMENT, {}):
        shares = " / ".join(f"{row[kind][name]:.4f}" if name in row[kind] else "-" for kind in kinds)
        lines.append((f"{AGREEMENT} of {name} / by chance / of real images", shares))
    for score in RANKED:
        if score in row:
            ours, real = _with_interval(row, score), _with_interval(row, f"{score}_real")
            shares = f"{ours} / {row[f'{score}_chance']:.4f} / {real}"
            lines.append((f"{score} / by chance / of real images", shares))
    if NUMBER in row:
        lines.append((f"{RETRIEVAL}: captions that are ranked", f"{row[NUMBER]:,}"))
        lines.append((f"{RETRIEVAL}: captions are read by", row[f"{RETRIEVAL}_reader"]))
        lines += [(name, f"{row[name]:.4g}") for name in (FRECHET, f"{FRECHET}_floor") if row[name] is not None]
    return lines


def is_agreement(name: str) -> bool:
    """Whether a key of a row is shown by ``agreement_lines``."""
    return name.startswith((AGREEMENT, RETRIEVAL, FRECHET))


def agreement_table(rows: Sequence[Row], shown: Sequence[Row]) -> list[Table]:
    """Of a comparison, if its networks were told captions: a line for each of its summaries ``shown``."""
    by_retrieval = [row for row in rows if NUMBER in row]
    if not by_retrieval:
        return []
    checked = any(AGREEMENT in row for row in rows)
    heads = [head for name in RANKED.values() for head in (name, "chance", "real images")]
    columns = ("arm", "layer evals", *(["checked: all of it"] if checked else []), *heads, "Frechet", "floor")
    lines = []
    for row in shown:
        mine = [one for one in rows if (one["arm"], one["budget"]) == (row["arm"], row["budget"])]
        found = spread([one[AGREEMENT][WHOLE] for one in mine if AGREEMENT in one])
        cells = [percent(row[f"{name}{kind}"]) for name in RANKED for kind in ("", "_chance", "_real")]
        distances = [plus_minus(row[name], 4) for name in (FRECHET, f"{FRECHET}_floor")]
        work = f"{row['layer_evaluations']:,}"
        lines.append((row["arm"], work, *([percent(found)] if checked else []), *cells, *distances))
    ranked = ", ".join(dict.fromkeys(f"{row[NUMBER]:,}" for row in by_retrieval))
    readers = ", ".join(dict.fromkeys(row[f"{RETRIEVAL}_reader"] for row in by_retrieval))
    return [Table(f"agreement with captions ({ranked} different ones are ranked; read by {readers})", columns, lines)]


def percent(value: Spread | None) -> str:
    """A share as a percentage, with its deviation over the seeds."""
    return "-" if value is None else f"{plus_minus(value, 1, 100)} %"


def _with_interval(row: Mapping[str, Any], score: str) -> str:
    if f"{score}_low" not in row:
        return f"{row[score]:.4f}"
    return f"{row[score]:.4f} ({row[f'{score}_low']:.4f} to {row[f'{score}_high']:.4f})"
