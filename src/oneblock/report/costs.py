"""What training costs, as a table and as bars."""

from __future__ import annotations

from pathlib import Path

from oneblock.presets.fit import Cost, Costs
from oneblock.report.picture import bars
from oneblock.report.table import Table

KINDS = {"Parameter": "weights", "Gradient": "grads", "Optstate": "states", "Activation": "activ."}


def costs_table(costs: Costs) -> Table:
    """Bytes and operations of every strategy: end-to-end, its rivals, blocks."""
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
            *(f"{share / size:.2f}" if share else "-" for share in (cost.host, cost.bus)),
            f"{cost.step_flops / 1e9:.4g}",
            f"{cost.total_flops / 1e12:.4g}",
        )

    columns = (
        "strategy",
        "blocks",
        "ckpt",
        "batch",
        f"peak {unit}",
        "less",
        *KINDS.values(),
        "rest",
        "host",
        "bus",
        "GFLOP",
        "TFLOP",
    )
    title = (
        f"in {costs.precision}; {unit} on the device at the peak of a step, in host memory, over the bus in a step; "
        "GFLOP of a step, TFLOP of the whole run"
    )
    return Table(title, columns, [row(cost) for cost in _all(costs)])


def costs_picture(costs: Costs, path: Path) -> Path:
    """Bytes by kind of every strategy as bars, and the limit as a line."""
    unit, size = _unit(costs)
    stacks = {cost.name: {kind: share / size for kind, share in cost.peak.by_kind.items()} for cost in _all(costs)}
    return bars(stacks, path, f"{unit} at the peak of a step", None if costs.limit is None else costs.limit / size)


def _all(costs: Costs) -> list[Cost]:
    whole = [cost for cost in costs.rows if cost.strategy == "end-to-end"]
    return [*whole, *costs.rivals, *(cost for cost in costs.rows if cost.strategy != "end-to-end")]


def _unit(costs: Costs) -> tuple[str, int]:
    return ("GiB", 2**30) if costs.rows[0].peak.total >= 2**30 else ("MiB", 2**20)
