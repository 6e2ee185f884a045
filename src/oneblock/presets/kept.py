"""The network of a plan that is the user's own: given, or kept in the directory of the run or model."""

from __future__ import annotations

from pathlib import Path

from oneblock.backbone import BuildBackbone
from oneblock.convert.converted import Converted
from oneblock.convert.kept import RECORD_FILE, keep, rebuilt
from oneblock.plan import NETWORK_FOLDER, PLAN_FILE, Plan, check_place
from oneblock.presets.door import read_plan
from oneblock.presets.tasks import build_backbone


def keep_network(plan: Plan, directory: Path, backbone: BuildBackbone | None) -> None:
    """Keep the network of another library that a run starts from, so that the run needs nothing else.

    Raises:
        ValueError: ``directory`` holds something else, or the network has no weights to start from.
    """
    if isinstance(backbone, Converted):
        if backbone.hollow:
            raise ValueError(
                "the network is that of an opened model, without the weights that its run started from; leave backbone "
                "out to go on with the run, or convert the network again"
            )
        check_place(plan, directory)
        keep(backbone, directory / NETWORK_FOLDER)


def keeps_network(directory: Path) -> bool:
    """Whether a run or model keeps its network."""
    return (directory / NETWORK_FOLDER / RECORD_FILE).is_file()


def known_backbone(
    plan: Plan, directory: Path, backbone: BuildBackbone | None = None, *, weights: bool = False
) -> BuildBackbone | None:
    """``backbone``; where it is not given, the network that ``directory`` keeps, or None.

    Args:
        weights: with those that the run started from, which its blocks start with; otherwise with fresh ones.

    Raises:
        ValueError: what is kept is damaged, or is not the plan's.
        ImportError: its library is not installed.
    """
    if backbone is not None or ":" not in str(plan.architecture.get("name")) or not keeps_network(directory):
        return backbone
    found = rebuilt(directory / NETWORK_FOLDER, weights=weights)
    build_backbone(plan, found)
    return found


def started_backbone(directory: Path) -> BuildBackbone | None:
    """The network that the run in ``directory`` started from, if there is a run that keeps one."""
    if not (directory / PLAN_FILE).is_file():
        return None
    return known_backbone(read_plan(directory), directory, weights=True)
