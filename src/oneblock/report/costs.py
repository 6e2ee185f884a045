"""What training costs, as a table and as bars."""

from __future__ import annotations

from pathlib import Path

from oneblock.presets.fit import Cost, Costs
from oneblock.report.picture import bars
from oneblock.report.table import Table

KINDS = {"Parameter": "weights", "Gradient": "gradients", "Optstate": "optimizer", "Activation": "activations"}


def costs_table(costs: Costs) -> Table:
    """Bytes and operations of every strategy."""
    whole = costs.rows[0].peak.total
    unit, size = _unit(costs)

    def row(cost: Cost) -> tuple[str, ...]:
        known = [cost.peak.by_kind.get(kind, 0) for kind in KINDS]
        return (
            cost.strategy,
            str(cost.blocks),
            "yes" if cost.checkpointing else "-",
            str(cost.samples_per_step),
            f"{cost.peak.total / size:.2f}",
            f"{whole / cost.peak.total:.1f}x",
            *(f"{share / size:.2f}" for share in (*known, cost.peak.total - sum(known))),
            f"{cost.step_flops / 1e9:.4g}",
            f"{cost.total_flops / 1e12:.4g}",
        )

    columns = (
        "strategy",
        "blocks",
        "ckpt",
        "samples",
        f"peak {unit}",
        "less",
        *KINDS.values(),
        "rest",
        "GFLOP",
        "TFLOP",
    )
    title = "one training process at the peak of a step; GFLOP of a step, TFLOP of the whole run"
    return Table(title, columns, [row(cost) for cost in costs.rows])


def costs_picture(costs: Costs, path: Path) -> Path:
    """Bytes by kind of every strategy as bars, and the limit as a line."""
    unit, size = _unit(costs)
    stacks = {cost.name: {kind: share / size for kind, share in cost.peak.by_kind.items()} for cost in costs.rows}
    return bars(stacks, path, f"{unit} at the peak of a step", None if costs.limit is None else costs.limit / size)


def _unit(costs: Costs) -> tuple[str, int]:
    return ("GiB", 2**30) if costs.rows[0].peak.total >= 2**30 else ("MiB", 2**20)
