"""``fsck``: what is wrong with the files of a run, a merged model or a comparison, and what is still good.

Every file is read to its end; nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from oneblock.backbone import BuildBackbone
from oneblock.data.places import DATA_FILE, check_record
from oneblock.experiment.results import RESULT_FILE, read_result
from oneblock.plan import NETWORK_FOLDER, PLAN_FILE, Plan
from oneblock.presets.bytes import EGG_FILE, is_byte_run, read_byte_plan
from oneblock.presets.door import open_plan, read_plan
from oneblock.presets.kept import keeps_network, known_backbone
from oneblock.presets.tasks import block_parameters
from oneblock.train.checkpoint import ASIDE, NAME, checkpoints, job_folder, load_checkpoint, open_intact
from oneblock.train.integer import JOB
from oneblock.train.loop import check_stamp
from oneblock.train.record import HEARTBEAT_FILE, METRICS_FILE, check_heartbeat, foreign_lines
from oneblock.train.shards import CONFIG_FILE, INDEX_FILE, Parameters, read_block, read_index, read_shard, shard_name
from oneblock.train.step import JobSpec
from oneblock.train.strategy import job_specs

Kind = Literal["run", "model", "comparison"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found at a file.

    Args:
        path: of the file, or of the directory that lacks it.
        note: what is in it, where it is good.
        problem: what is wrong with it, and what to do; empty where it is good.
    """

    path: Path
    note: str = ""
    problem: str = ""

    @property
    def good(self) -> bool:
        return not self.problem


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was found in a directory, which is a run, a merged model or a comparison."""

    directory: Path
    kind: Kind
    files: list[Finding]

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return all(file.good for file in self.files)


def fsck(directory: str | Path, backbone: BuildBackbone | None = None) -> Findings:
    """Read every file of a run, a merged model or a comparison, with all that lies in it.

    Args:
        backbone: the user's own network, of a run that trains one; without it the files are compared with each other
            alone.

    Raises:
        ValueError: the directory is none of these.
    """
    place = Path(directory)
    kind = kind_of(place)
    files: Iterator[Finding]
    if is_byte_run(place):
        files = _byte_run(place)
    elif kind == "run":
        files = _run(place, backbone)
    elif kind == "model":
        files = _model(place, backbone)
    else:
        files = (one for folder in _runs(place) for one in _compared(folder, backbone))
    return Findings(directory=place, kind=kind, files=list(files))


def kind_of(place: Path) -> Kind:
    """What a directory is; ``ValueError`` for none of these."""
    for name, kind in ((PLAN_FILE, "run"), (EGG_FILE, "run"), (CONFIG_FILE, "model")):
        if (place / name).exists():
            return kind  # type: ignore[return-value]
    if place.is_dir() and _runs(place):
        return "comparison"
    if any(place.glob("block-*")):
        return "model" if any(path.is_file() for path in place.glob("block-*.safetensors")) else "run"
    raise ValueError(
        f"{place} is neither a run, nor a merged model, nor a comparison; give a directory with {PLAN_FILE}, "
        f"{CONFIG_FILE} or runs in it"
    )


def _runs(place: Path) -> list[Path]:
    """Directories of the runs of a comparison."""
    folders = [path for path in sorted(place.iterdir()) if path.is_dir()]
    return [path for path in folders if any((path / name).exists() for name in (PLAN_FILE, RESULT_FILE))]


def _found(path: Path, look: Callable[[], str]) -> Finding:
    """What ``look`` says of a file, or why it cannot."""
    try:
        return Finding(path=path, note=look())
    except (ValueError, OSError) as error:
        return Finding(path=path, problem=str(error))


def _compared(place: Path, backbone: BuildBackbone | None) -> Iterator[Finding]:
    """A run of a comparison: its result, and its files or those of its networks."""
    if (place / RESULT_FILE).exists():
        yield _found(place / RESULT_FILE, lambda: f"arm {read_result(place / RESULT_FILE).get('arm')}")
    if (place / PLAN_FILE).exists():
        yield from _run(place, backbone)
        return
    for folder in sorted(path for path in place.rglob("*") if path.is_dir()):
        if (folder / PLAN_FILE).exists():  # of an ensemble
            yield from _run(folder, backbone)
        elif not (folder.parent / PLAN_FILE).exists():  # a part of a rival
            yield from _checkpoints(folder, _intact)
            yield from _records(folder)


def _run(place: Path, backbone: BuildBackbone | None) -> Iterator[Finding]:
    path = place / PLAN_FILE
    try:
        plan = read_plan(place)
    except (ValueError, OSError) as error:
        yield Finding(path=path, problem=str(error))
        for folder in sorted(path for path in place.iterdir() if path.is_dir()):
            yield from _checkpoints(folder, _intact)
        return
    yield Finding(path=path, note=f"plan {plan.hash}, task {plan.task}")
    yield from _data(place)
    found, backbone = _network(place, plan, backbone, weights=True)
    yield from found
    parameters = block_parameters(plan, backbone)
    for spec in job_specs(plan):
        folder = job_folder(place, spec.name)
        yield from _checkpoints(folder, partial(_of_job, plan=plan, spec=spec, parameters=parameters))
        yield from _records(folder)
    if (place / "model" / CONFIG_FILE).exists():
        yield from _model(place / "model", backbone)


def _byte_run(place: Path) -> Iterator[Finding]:
    look, folder = _intact, place / JOB
    try:
        plan = read_byte_plan(place)
    except (ValueError, OSError) as error:
        yield Finding(path=place / EGG_FILE, problem=str(error))
    else:
        yield Finding(path=place / EGG_FILE, note=f"plan {plan.hash}, bytes")
        look = partial(_of_bytes, plan=plan.hash)
    yield from _data(place)
    yield from _checkpoints(folder, look)
    yield from _records(folder)


def _of_bytes(path: Path, plan: str) -> str:
    _, stamp = load_checkpoint(path, plan, JOB)
    return f"step {stamp.step} of {stamp.num_steps}"


def _network(
    place: Path, plan: Plan, backbone: BuildBackbone | None, weights: bool
) -> tuple[list[Finding], BuildBackbone | None]:
    """The network that is kept in a run or model, and the user's own or this one."""
    path = place / NETWORK_FOLDER
    if not keeps_network(place):
        return [], backbone
    try:
        found = known_backbone(plan, place, weights=weights)
    except ImportError as error:
        return [Finding(path=path, note=f"not compared: {error}")], backbone
    except (ValueError, OSError) as error:
        return [Finding(path=path, problem=str(error))], backbone
    return [Finding(path=path, note="the network that the run started from")], backbone or found


def _data(place: Path) -> Iterator[Finding]:
    if (place / DATA_FILE).exists():
        yield _found(place / DATA_FILE, lambda: f"data {check_record(place).data}")


def _checkpoints(folder: Path, look: Callable[[Path], str]) -> Iterator[Finding]:
    known = checkpoints(folder)
    for path in known:
        yield _found(path, partial(look, path))
    for path in sorted(folder.glob("step-*")):
        if path.name.partition(".safetensors")[2].startswith(ASIDE):
            yield Finding(path=path, note="was passed over, and is not used")
        elif path not in known and not path.name.endswith(".partial"):
            allowed = "a file" if NAME.fullmatch(path.name) else "named after a step: step-000000500.safetensors"
            yield Finding(path=path, problem=f"{path} is not a checkpoint, which is {allowed}; move it away")


def _intact(path: Path) -> str:
    """A checkpoint whose plan cannot be read."""
    _, stamp = open_intact(path)
    return f"step {stamp.step} of {stamp.num_steps} of {stamp.job}, plan {stamp.plan}"


def _of_job(path: Path, plan: Plan, spec: JobSpec, parameters: Parameters | None) -> str:
    wanted = parameters(spec.block or 0) if parameters else None
    _, stamp = read_block(path, plan, spec.block or 0, wanted, job=path.parent.name)
    wrong = check_stamp(stamp, spec)
    if wrong:
        raise ValueError(f"{path}: {wrong}; delete it to go on from an earlier checkpoint")
    return f"step {stamp.step} of {spec.last_step}"


def _records(folder: Path) -> Iterator[Finding]:
    if (folder / METRICS_FILE).exists():
        yield _found(folder / METRICS_FILE, partial(_metrics, folder / METRICS_FILE))
    if (folder / HEARTBEAT_FILE).exists():
        yield _found(folder / HEARTBEAT_FILE, lambda: check_heartbeat(folder).state)


def _metrics(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"{path} is not a file; move it away")
    foreign = foreign_lines(path)
    if foreign:
        raise ValueError(
            f"{path}: line {foreign[0]} and {len(foreign) - 1} others are not rows of metrics; they are left out"
        )
    return "metrics"


def _model(place: Path, backbone: BuildBackbone | None) -> Iterator[Finding]:
    path = place / CONFIG_FILE
    try:
        plan = open_plan(place)
    except (ValueError, OSError) as error:
        yield Finding(path=path, problem=str(error))
        for shard in sorted(place.glob("block-*.safetensors")):
            yield _found(shard, partial(_intact, shard))
        return
    yield Finding(path=path, note=f"plan {plan.hash}, task {plan.task}")
    yield from _data(place)
    yield _found(place / INDEX_FILE, partial(_index, place, plan))
    found, backbone = _network(place, plan, backbone, weights=False)
    yield from found
    parameters = block_parameters(plan, backbone)
    for block in range(plan.num_blocks):
        yield _found(place / shard_name(block), partial(_shard, place, plan, block, parameters))


def _index(place: Path, plan: Plan) -> str:
    listed = read_index(place, plan)
    if listed is None:
        raise ValueError(f"{place / INDEX_FILE} is missing, which other programs need; merge the run again")
    return f"{len(listed)} tensors"


def _shard(place: Path, plan: Plan, block: int, parameters: Parameters | None) -> str:
    weights = read_shard(place, plan, block, parameters(block) if parameters else None)
    return f"block {block}, {len(weights)} tensors"
