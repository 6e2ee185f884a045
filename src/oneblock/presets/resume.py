"""A run that goes on: with the plan that it was started with, and with the data of that plan.

The plan of the same recipe may be another today: the name of the data is spelled otherwise, an earlier version knew no
names of classes, or a file has changed. Only the last is a matter for the user.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from oneblock.data import Batches, EncodedSource, TextBatches, TokenSource
from oneblock.plan import PLAN_FILE, Plan, differences
from oneblock.presets.base import ImageFacts, TextFacts
from oneblock.presets.captions import former_facts
from oneblock.presets.codec import fitted_in
from oneblock.presets.data import Data, check_codec, plan_images, plan_text
from oneblock.presets.door import read_plan
from oneblock.presets.image import check_shape
from oneblock.presets.masked import is_text, plan_length, plan_vocabulary
from oneblock.presets.names import without_names
from oneblock.presets.places import located, named_data, other_data
from oneblock.presets.splits import fitted

ACCEPT = "use the same files, size and channels, or go on with these: --accept-data (accept_data=True)"


def former_plan(plan: Plan, directory: Path) -> Plan:
    """``plan``; or that of the run in ``directory``, where it differs in nothing but names of classes, which an earlier
    version did not know."""
    if not (directory / PLAN_FILE).is_file():
        return plan
    found = read_plan(directory)
    return found if found.hash == without_names(plan).hash else plan


def former_name(directory: Path, fingerprint: str) -> str | None:
    """The name that the plans of a comparison in ``directory`` give to the data with this fingerprint, which the user
    may spell otherwise today; None if none does."""
    for path in sorted(directory.rglob(PLAN_FILE)):
        with suppress(ValueError):  # refused where it is needed
            recipe = read_plan(path.parent).recipe
            if recipe.get("fingerprint") == fingerprint:
                return cast(str, recipe["data"])
    return None


def going_on(
    plan: Plan,
    source: Batches,
    facts: ImageFacts | TextFacts,
    remade: Callable[[Any], Plan],
    data: Data,
    directory: Path,
    accept: bool = False,
) -> tuple[Plan, Batches, str]:
    """Plan and samples with which a run goes on: those given where it is a new one, else its own.

    Args:
        plan, source, facts: made of the data as they are now.
        remade: the plan of the same recipe for other facts.
        directory: of the run.
        accept: go on though the data have changed.

    Returns:
        Also what must be noted: how the data differ from those of the plan; empty where they are the same.

    Raises:
        ValueError: the data have changed, with the files that differ; or the run was started with other settings.
    """
    if not (directory / PLAN_FILE).is_file():
        return plan, source, ""
    found = read_plan(directory)
    again = remade(_former(found, facts))
    said = other_data(found, facts.fingerprint, named_data(found, data), directory)
    if again.hash != found.hash:
        if said and found.task == plan.task:
            raise ValueError(
                f"{directory} belongs to plan {found.hash}, which differs in {', '.join(differences(found, again))} "
                f"and in its data, {said}; use another directory, or the same settings and data"
            )
        return plan, source, ""  # refused where the plan is written
    if not said:
        return found, source, ""
    if not accept:
        raise ValueError(f"{said}; {ACCEPT}")
    return found, _read(found, data, source), said


def run_source(plan: Plan, directory: Path, data: Data | None = None, accept: bool = False) -> tuple[Batches, str]:
    """The training samples of a planned run, and what must be noted, as ``going_on`` does.

    Raises:
        ValueError: the data have changed since the plan was made, and are not accepted.
    """
    data = located(plan, directory, data)
    source = _read(plan, data)
    found = source.fingerprint() if isinstance(source, EncodedSource) else source.source.fingerprint()
    said = other_data(plan, found, named_data(plan, data), directory)
    if said and not accept:
        raise ValueError(f"{said}; {ACCEPT}")
    if not said and isinstance(source, EncodedSource):
        check_shape(plan, source.shape, len(source.classes))
    return (fitted(plan, source) if said and isinstance(source, EncodedSource) else source), said


def _former(plan: Plan, facts: ImageFacts | TextFacts) -> ImageFacts | TextFacts:
    """The facts of data as they were when ``plan`` was made."""
    recipe = plan.recipe
    known: dict[str, Any] = {"data": recipe["data"], "fingerprint": recipe["fingerprint"]}
    if isinstance(facts, TextFacts):
        vocabulary = plan_vocabulary(plan) if is_text(plan) else facts.vocabulary
        rows = tuple(cast(list[float], recipe.get("rows", ())))
        return replace(facts, vocabulary=vocabulary, rows=rows, **known)
    rows, codec = tuple(cast(list[float], recipe.get("prototypes", ()))), fitted_in(plan)
    fit = facts.fit if codec is None else lambda components, patch: codec
    captions = former_facts(plan, facts.captions)
    return replace(facts, classes=plan.classes, rows=rows, fit=fit, captions=captions, **known)


def _read(plan: Plan, data: Data | None, source: Batches | None = None) -> EncodedSource | TextBatches:
    """The training samples of a plan, whatever they are now; ``source`` are its images, if they are open already."""
    if is_text(plan):
        return TextBatches(TokenSource(plan_text(plan, "train", data), plan_length(plan)))
    images = source if isinstance(source, EncodedSource) else plan_images(plan, "train", data)
    check_codec(plan, images.codec)
    return images if source is None else fitted(plan, images)
