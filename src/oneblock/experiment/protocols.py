"""Rows are compared only where their scores were taken in the same way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from oneblock.checks import shown
from oneblock.evaluate.protocol import (
    FID_PROTOCOL,
    LOSS_PROTOCOL,
    PROTOCOL,
    RETRIEVAL_PROTOCOL,
    AnyProtocol,
    LossProtocol,
    Protocol,
    check_same,
    read_protocol,
)
from oneblock.experiment.curves import CURVE
from oneblock.experiment.results import RESULT_FILE
from oneblock.experiment.summary import Row
from oneblock.metrics.ranking import Better, Score

GUIDED = "guided"
"""Of a row: the scores of the same network under a second protocol."""


def check_protocols(rows: Sequence[Row]) -> None:
    """Refuse rows whose scores were taken by different protocols.

    Rows of tasks without protocols, and of versions that kept none, are taken as they are: of these the settings are
    compared when a comparison goes on (``experiment.results.recorded``).

    Raises:
        ValueError: names two runs, the field that differs and both values, and what to do.
    """
    places: dict[str, dict[str, AnyProtocol]] = {}
    for row in rows:
        for place, protocol in _protocols(row):
            places.setdefault(place, {})[row["run"]] = protocol
    for found in places.values():
        try:
            check_same(found)
        except ValueError as error:
            raise ValueError(f"{error}; delete {RESULT_FILE} of the older run, and it is scored again") from error


def score_of_arms(rows: Sequence[Row], key: str, better: Better) -> Score:
    """The score ``key`` of every arm, its mean over the seeds, for ``metrics.ranking.agreement``.

    Raises:
        ValueError: a row has no such number, an arm has two rows of one seed, arms have different seeds, or scores were
            taken by different protocols.
    """
    check_protocols(rows)
    arms: dict[str, dict[int, float]] = {}
    for row in rows:
        arm, seed, value = row["arm"], row["seed"], row.get(key)
        if not isinstance(value, int | float):
            raise ValueError(
                f"{key}={shown(value)} of {row['run']} is not a number; leave the run out, or score it again"
            )
        if seed in arms.setdefault(arm, {}):
            raise ValueError(f"arm {arm!r} has two rows of seed {seed}; give the rows of one budget, each run once")
        arms[arm][seed] = float(value)
    seeds = {arm: sorted(found) for arm, found in arms.items()}
    for arm, found in seeds.items():
        first = next(iter(seeds))
        if found != seeds[first]:
            raise ValueError(f"arm {arm!r} has the seeds {found}, but {first!r} {seeds[first]}; give the same for each")
    return Score(key, better, {arm: fmean(found.values()) for arm, found in arms.items()})


def _protocols(row: Row) -> Iterator[tuple[str, AnyProtocol]]:
    """What must be the same in every row -> its protocol in this one."""
    for place in (PROTOCOL, FID_PROTOCOL, RETRIEVAL_PROTOCOL):
        if place in row:
            yield place, read_protocol(row[place], Protocol, f"{place} of {row['run']}")
    if LOSS_PROTOCOL in row:
        yield LOSS_PROTOCOL, read_protocol(row[LOSS_PROTOCOL], LossProtocol, f"{LOSS_PROTOCOL} of {row['run']}")
    for place in (PROTOCOL, RETRIEVAL_PROTOCOL):
        if place in row.get(GUIDED, {}):
            guided = f"{GUIDED} {place}"
            yield guided, read_protocol(row[GUIDED][place], Protocol, f"{guided} of {row['run']}")
    for point in row.get(CURVE, ()):
        if PROTOCOL in point:
            place = f"{point['sampler']} with {point['steps']} steps"
            yield place, read_protocol(point[PROTOCOL], Protocol, f"{place} of {row['run']}")
