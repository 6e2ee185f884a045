"""What pages of runs, comparisons and audits have in common."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from oneblock.backbone import BuildBackbone
from oneblock.evaluate.levels import Passage, passage
from oneblock.model import ImageModel, Model
from oneblock.plan import Plan
from oneblock.presets.names import class_names
from oneblock.report.html.page import Bar, Bars, Code, Command, Facts, Part, Picture, Pictures, Section, Words, picture
from oneblock.report.html.svg import Line
from oneblock.report.status import duration
from oneblock.train import record
from oneblock.train.checkpoint import job_folder
from oneblock.train.machine import Machine
from oneblock.train.session import Session
from oneblock.train.strategy import job_specs

SAMPLES = 6
"""Samples that a page shows on their way through the noise levels."""
LEVELS = 8
"""Noise levels at which they are shown, about; the same number in every band."""
LISTED = 20
"""Values of a list in a plan that a page shows."""
EXPLAINED = (
    "Each column is a noise level, from noise on the left to the sample on the right: the clean images that the block "
    "which owns the level sees in what it is given."
)
ABSENT = "This was not recorded: the directory was made by an earlier version of oneblock."
Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What is asked of a page, and what it finds on the way.

    Args:
        samples: to be shown on their way through the noise levels; 0 opens no model.
        backbone: the user's own network, of a run that trains one.
        missing, warnings: of the page; filled as it is made.
    """

    samples: int = SAMPLES
    device: str = Machine.device
    backbone: BuildBackbone | None = None
    missing: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def tried(self, what: str, found: Callable[[], Found]) -> Found | None:
        """What a function finds; if it cannot, None, and a line that says what is missing and why."""
        try:
            return found()
        except (ValueError, OSError, ImportError) as error:
            self.missing.append(f"{what}: {error}")
            return None


def asked(plan: Plan) -> Facts:
    """What a plan asks for, in a few lines."""
    recipe, network = plan.recipe, dict(plan.architecture)
    name = network.pop("name", "?")
    rows = [
        ("task", plan.task),
        ("data", f"{recipe.get('data')} (fingerprint {recipe.get('fingerprint') or 'none'})"),
        ("network", f"{name}: {', '.join(f'{key} {value}' for key, value in network.items())}"),
        ("blocks", f"{plan.num_blocks}, of {' + '.join(map(str, plan.layers))} layers; stem and head {plan.shared}"),
        ("work", f"{recipe.get('layer_evaluations', 0):,} layer evaluations"),
        *((name, str(recipe[name])) for name in ("branch", "hold", "teacher") if recipe.get(name)),
        ("batch", f"{recipe.get('batch_size')}{_of_blocks(plan)}"),
        ("optimizer", f"{recipe.get('optimizer')}, learning rate {recipe.get('learning_rate')}"),
        ("precision", str(recipe.get("precision"))),
        ("seed", str(plan.seed)),
        ("plan", plan.hash),
    ]
    return Facts(rows)


def _of_blocks(plan: Plan) -> str:
    own = plan.recipe.get("block_batch_size")
    return f", of a block {own}" if own else ""


def plan_code(plan: Plan, title: str = "the plan") -> Code:
    """A plan as it is kept, long lists cut."""
    return Code(f"{title}, {plan.hash}", json.dumps(_short(json.loads(plan.to_json())), indent=2))


def _short(value: object) -> object:
    if isinstance(value, dict):
        return {key: _short(inner) for key, inner in value.items()}
    if isinstance(value, list) and len(value) > LISTED:
        return [*value[:LISTED], f"... and {len(value) - LISTED} more"]
    return value


def made_by(sessions: Sequence[Session]) -> Section:
    """The commands, and with what they ran."""
    title = "How it was made"
    if not sessions:
        return Section(title, [Facts([("command", ABSENT)])])
    commands = list(dict.fromkeys(session.command or "(an interactive Python)" for session in sessions))
    machines = dict.fromkeys(
        f"{session.host}, {session.gpu or 'CPU'}, {session.threads} CPU thread{'s' * (session.threads != 1)}"
        for session in sessions
    )
    versions = dict.fromkeys(", ".join(f"{k} {v}" for k, v in one.versions.items()) for one in sessions)
    began = min(session.began for session in sessions)
    facts = Facts(
        [
            ("machines", "; ".join(machines)),
            ("versions", "; ".join(versions)),
            ("begun", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(began))),
            ("processes", str(len({(one.host, one.process) for one in sessions}))),
        ]
    )
    return Section(title, [*map(Command, commands), facts])


def measured(sessions: Sequence[Session]) -> list[tuple[str, str]]:
    """What processes took, as facts: memory of a GPU's tensors where there was one, and of the whole process."""
    tensors = [one.gpu_bytes for one in sessions if one.gpu_bytes is not None]
    whole = [one.resident_bytes for one in sessions if one.resident_bytes is not None]
    facts = [("measured, tensors on the GPU", size(max(tensors)) if tensors else "no GPU was used")]
    said = f"{size(max(whole))}, with Python, torch and the data" if whole else ABSENT
    return [*facts, ("measured, the largest process", said)]


def took(sessions: Sequence[Session]) -> str:
    """Seconds of some sessions together, as far as they have ended."""
    known = [one.seconds for one in sessions if one.seconds is not None]
    if not known:
        return "-"
    cut = len(sessions) - len(known)
    return duration(sum(known)) + (f" and {cut} that did not end" if cut else "")


def size(count: float) -> str:
    """``12.3 MB``, in powers of ten."""
    for unit, word in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.3g} {word}"
    return f"{count:.0f} bytes"


def memory_bars(title: str, kinds: Sequence[str], stacks: Mapping[str, Sequence[float]]) -> Bars:
    """Bars of bytes."""
    return Bars(title, kinds, [Bar(name, parts, size(sum(parts))) for name, parts in stacks.items()])


def block_lines(plan: Plan, directory: Path, key: str = "loss") -> list[Line]:
    """The loss of every job of a run against its work, from its metrics."""
    found = []
    for color, spec in enumerate(job_specs(plan)):
        rows = record.read_rows(job_folder(directory, spec.name) / record.METRICS_FILE)
        points = [(float(row["layer_evaluations"]), float(row[key])) for row in rows]
        found.append(Line(f"{spec.name}{band_words(plan, spec.block)}", points, color))
    return found


def band_words(plan: Plan, block: int | None) -> str:
    """`` (sigma 0.5 to 0.18)``; of the trunk nothing."""
    if block is None:
        return ""
    return f" ({noise(plan)} {plan.edges[block]:.3g} to {plan.edges[block + 1]:.3g})"


def noise(plan: Plan) -> str:
    """What the levels of a plan are."""
    return "masked share" if plan.task == "masked-text" else "sigma"


def levels_section(directory: Path, plan: Plan, shown: Shown, title: str) -> list[Part]:
    """Samples on their way through the noise levels, block by block; nothing of other tasks than images."""
    if plan.task != "image" or not shown.samples:
        return []
    found = shown.tried("samples through the noise levels", lambda: _passage(directory, shown))
    if found is None:
        return []
    names = class_names(plan)
    told = "" if found.labels is None else f"rows: {', '.join(names[label] for label in found.labels.tolist())}"
    blocks = dict.fromkeys(found.blocks)
    pictures = [_of_block(found, block, plan) for block in blocks]
    return [Pictures(title, pictures, told)]


def levels_parts(pictures: Sequence[Part]) -> list[Part]:
    """Samples on their way through the noise levels, below what they show."""
    return [Words([EXPLAINED]), *pictures] if pictures else []


def _passage(directory: Path, shown: Shown) -> Passage:
    model = Model.open(directory, device=shown.device, resident=1, backbone=shown.backbone)
    assert isinstance(model, ImageModel), "the task is image"
    plan = model.plan
    if plan.recipe.get("autoencoder"):
        raise ValueError("the run denoises latents, and its directory does not hold their autoencoder")
    return passage(model.denoiser, plan, shown.samples, max(2, round(LEVELS / plan.num_blocks)))


def _of_block(found: Passage, block: int, plan: Plan) -> Picture:
    at = [i for i, owner in enumerate(found.blocks) if owner == block]
    images = found.answers[at].transpose(0, 1).flatten(0, 1)
    levels = ", ".join(f"{found.sigmas[i]:.3g}" for i in at)
    return picture(images, len(at), f"block {block}, {noise(plan)} {levels}")
