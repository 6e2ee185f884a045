"""The scores of one model as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from oneblock.evaluate.protocol import (
    FID_PROTOCOL,
    LOSS_PROTOCOL,
    PROTOCOL,
    RETRIEVAL_PROTOCOL,
    Protocol,
    read_protocol,
)
from oneblock.partition import Partition
from oneblock.report.captions import agreement_lines, is_agreement
from oneblock.report.table import Table

QUALITY = ("distinct_1", "distinct_2", "distinct_4", "repetition_4", "unigram_entropy", "bits_per_byte")


def image_tables(row: Mapping[str, Any], bands: Partition) -> list[Table]:
    """Of ``evaluate.images.evaluate_images``: losses by band, and the quality of generated images if there is any."""
    edges = bands.edges
    losses = [(f"{edges[b + 1]:.4g} to {edges[b]:.4g}", f"{loss:.4f}") for b, loss in enumerate(row["band_losses"])]
    protocols = (PROTOCOL, LOSS_PROTOCOL, FID_PROTOCOL, RETRIEVAL_PROTOCOL)
    unlisted = ("band_losses", "class_agreement_by_class", "other_data", *protocols)
    shown = [
        (name, f"{value:.4g}" if isinstance(value, float) else str(value))
        for name, value in row.items()
        if name not in unlisted and not is_agreement(name)
    ]
    shown += agreement_lines(row)
    shown += _classes("class_agreement", row)
    if PROTOCOL in row:  # all of it is in the JSON
        shown.append((PROTOCOL, read_protocol(row[PROTOCOL], Protocol).hash))
    title = "generated images" if "extractor" in row else "all bands"
    return [
        Table("held-out loss", ("band of sigma", "loss"), losses),
        Table(title, ("score", "value"), shown),
    ]


def label_table(row: Mapping[str, Any]) -> Table:
    """Of ``evaluate.labels.evaluate_labels``."""
    after = [(f"accuracy after call {i}", f"{value:.4f}") for i, value in enumerate(row["accuracies"], 1)]
    others = [(name, f"{row[name]:.4f}") for name in ("ece", "nll", "calls", "layers_per_image")]
    return Table("held-out images", ("score", "value"), [*after, *_classes("accuracy", row), *others])


def _classes(score: str, row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A line for each class that has a name."""
    shares: Mapping[str, float | None] = row.get(f"{score}_by_class", {})
    return [(f"{score} of {name}", "-" if share is None else f"{share:.4f}") for name, share in shares.items()]


def text_table(row: Mapping[str, Any]) -> Table:
    """Of ``evaluate.text.evaluate_text``: of masked text by band, of autoregressive text by call."""
    shown = [(name, row[name]) for name in ("bits_per_byte", "error", "nats_per_token")]
    bands = [(f"nats of band {b}", nats) for b, nats in enumerate(row.get("nats_per_band", ()))]
    calls = [(f"bits after call {i}", bits) for i, bits in enumerate(row.get("bits_after_calls", ()), 1)]
    copies = [(f"{what} near the training text", share) for what, share in row.get("near_copies", {}).items()]
    lines = [(name, _shown(value)) for name, value in [*shown, *bands, *calls, *copies]]
    return Table(f"held-out text, {row['tokens']:,} tokens", ("score", "value"), lines)


def quality_table(rows: Sequence[Mapping[str, Any]]) -> tuple[Table, list[str]]:
    """Of ``evaluate.text.written_quality``: a table, and what must be said beside it."""
    lines = [(str(row["texts"]), *(_shown(row[name]) for name in QUALITY)) for row in rows]
    title = f"{rows[0]['num_texts']} texts, by {rows[0]['unit']}; bits per byte under {rows[0]['scorer']}"
    last, notes = rows[-1], []
    if "mauve" in last:
        found = last["mauve"]
        seeds = f"over {len(found['seeds'])} seeds of its clustering"
        notes = [f"MAUVE {found['value']:.4f} ± {found['spread']:.4f} {seeds}, on {found['features']}"]
    return Table(title, ("texts", *QUALITY), lines), [*notes, *([last["note"]] if last["note"] else [])]


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
