"""Quality against sampling work over the seeds (``evaluate.curves``)."""

from __future__ import annotations

from collections.abc import Sequence

from oneblock.experiment.summary import Row, spread

CURVE = "sampling_curve"
"""Of a row: the Frechet distance at several numbers of steps, if they were asked for."""
_POINT = ("sampler", "steps", "layer_evaluations")


def curve_summaries(rows: Sequence[Row]) -> list[Row]:
    """The ``Spread`` of the Frechet distance over the seeds; one row for each arm, budget, solver and number of steps,
    with the layer evaluations of one sample. Empty if no run has a curve."""
    groups: dict[tuple[object, ...], list[float]] = {}
    for row in rows:
        for point in row.get(CURVE, ()):
            key = (row["arm"], row["budget"], *(point[name] for name in _POINT))
            groups.setdefault(key, []).append(point["frechet"])
    return [
        {**dict(zip(("arm", "budget", *_POINT), key, strict=True)), "seeds": len(found), "frechet": spread(found)}
        for key, found in groups.items()
    ]
