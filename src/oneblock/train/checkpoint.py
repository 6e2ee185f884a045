"""Checkpoints: safetensors files that appear whole or not at all, and say which plan, block and step they belong to.

A file carries one JSON entry of metadata with the plan's hash and a SHA-256 over every tensor and the metadata, so a
flipped bit or a foreign file is refused by name. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from oneblock.checks import check_fields, check_least, shown
from oneblock.plain import parse_plain
from oneblock.train.layout import not_finite
from oneblock.train.step import OLD_TRUNK, TRUNK

METADATA_KEY = "oneblock"
MAPPED = 2**24
"""Bytes of a file that may stay in memory while it is read."""
NAME = re.compile(r"step-([0-9]{1,18})\.safetensors")
"""Of a checkpoint; it tells the step."""
ASIDE = ".damaged"
"""What the name of a checkpoint that was passed over gets at its end, so that nothing is written over it."""


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, or of another plan; the message names the file and the way out."""


class DamagedError(CheckpointError):
    """A checkpoint is missing or damaged, whatever it belongs to."""


class StorageError(OSError):
    """The disk refused to write (it may be full) or to read (permissions, a broken mount); what was written before is
    not known to be damaged, and stays."""


@dataclass(frozen=True)
class Stamp:
    """Where a checkpoint belongs: plan hash, job (``"block-0"``, ``"trunk"``), steps done, steps in all."""

    plan: str
    job: str
    step: int
    num_steps: int

    def __post_init__(self) -> None:
        check_fields(self)
        check_least(self, 0, "step", "num_steps")


class Stored(Mapping[str, Tensor]):
    """The tensors of a safetensors file, each mapped when it is asked for, so that they never lie in memory together.

    Copy what you keep: a tensor from here holds on to the file.

    Args:
        path: of the file, which must stay where it is.
        names: name in this mapping -> name in the file.
    """

    def __init__(self, path: Path, names: Mapping[str, str]) -> None:
        self._path = path
        self._names = dict(names)

    def __getitem__(self, name: str) -> Tensor:
        stored = self._names[name]
        # opened anew each time: pages of a mapped file stay in memory until the file is closed
        with safe_open(self._path, "pt") as file:
            return file.get_tensor(stored)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def each(self) -> Iterator[tuple[str, Tensor]]:
        """All of them in the order of their names; the file is opened anew after every ``MAPPED`` bytes."""
        names = sorted(self._names)
        while names:
            with safe_open(self._path, "pt") as file:
                seen = 0
                while names and seen < MAPPED:
                    tensor = file.get_tensor(self._names[names[0]])
                    seen += tensor.nbytes
                    yield names.pop(0), tensor

    def below(self, prefix: str) -> Stored:
        """Those whose names begin with ``prefix/``, without it."""
        start = f"{prefix}/"
        return Stored(
            self._path, {n.removeprefix(start): stored for n, stored in self._names.items() if n.startswith(start)}
        )

    def renamed(self, rename: Callable[[str], str]) -> Stored:
        """The same tensors under other names."""
        return Stored(self._path, {rename(name): stored for name, stored in self._names.items()})


def folder_name(job: str, exists: Callable[[str], bool]) -> str:
    """The folder of ``job`` in a run's directory: its name, or for the trunk its former name where that ``exists``."""
    return OLD_TRUNK if job == TRUNK and exists(OLD_TRUNK) else job


def job_folder(directory: Path, job: str) -> Path:
    """Where the files of ``job`` lie in a run's directory."""
    return directory / folder_name(job, lambda name: (directory / name).is_dir())


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], stamp: Stamp) -> None:
    """Write ``path`` atomically: a reader finds the old file or the new one, never a part.

    Raises:
        StorageError: when the disk refuses; the partial file is removed.
    """
    stored = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    values = {**stamp.__dict__, "digest": _digest(stored, stamp)}
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(stored, partial, metadata={METADATA_KEY: json.dumps(values, sort_keys=True)})
        # safetensors writes for the owner alone; who may read the directory may read its checkpoints, e.g. to merge
        partial.chmod(path.parent.stat().st_mode & 0o666)
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_directory(path.parent)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise StorageError(
            f"could not write {path} ({error}); earlier checkpoints are intact: free some space and start again"
        ) from error


def load_checkpoint(path: Path, plan: str, job: str) -> tuple[dict[str, Tensor], Stamp]:
    """Tensors and stamp of ``path``, which must belong to the plan with hash ``plan`` and to ``job``.

    Raises:
        CheckpointError: not there, truncated, changed since it was written, or of another plan or job.
        StorageError: it cannot be read.
    """
    stored, stamp = open_intact(path)
    _check_owner(path, stamp, plan, job)
    return {name: tensor.clone() for name, tensor in stored.each()}, stamp


def read_stamp(path: Path, plan: str, job: str) -> Stamp:
    """The stamp of a checkpoint, for which its header alone is read; errors as ``load_checkpoint``. A file that was cut
    is noticed, one whose bytes were changed is not."""
    with _reading(path):
        _, stamp, _ = _header(path)
    _check_owner(path, stamp, plan, job)
    return stamp


def open_intact(path: Path) -> tuple[Stored, Stamp]:
    """Tensors and stamp of a checkpoint of any plan and job, read to its end; errors as ``load_checkpoint``."""
    with _reading(path):
        tensors, stamp, digest = _header(path)
        bad: list[str] = []
        if digest != _digest(tensors, stamp, bad):
            raise ValueError("its digest does not match its contents")
        if bad:
            raise ValueError(f"{shown(bad)} hold numbers that are not finite")
    return tensors, stamp


def _header(path: Path) -> tuple[Stored, Stamp, object]:
    """The tensors of a checkpoint, not read yet, its stamp and its digest."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        names = list(file.keys())
    if METADATA_KEY not in metadata:
        raise ValueError("it is a safetensors file of another program")
    values = parse_plain(metadata[METADATA_KEY], "its stamp")
    if not isinstance(values, dict) or values.keys() != {"plan", "job", "step", "num_steps", "digest"}:
        raise ValueError(f"its stamp is {shown(values)}")
    digest = values.pop("digest")
    stamp = Stamp(**values)
    if NAME.fullmatch(path.name) and checkpoint_step(path) != stamp.step:
        raise ValueError(f"its name says step {checkpoint_step(path)}, its stamp step {stamp.step}")
    return Stored(path, {name: name for name in names}), stamp, digest


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Errors of reading a checkpoint as what they mean to its owner."""
    if not path.is_file():
        raise DamagedError(f"{path} does not exist; train this block first or give the run's directory")
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path} cannot be read ({error}), and nothing says that it is damaged; make it readable and start again"
        ) from error
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DamagedError(f"{path} is damaged ({error}); delete it to go on from an earlier checkpoint") from error


def _present(job: str) -> str:
    return TRUNK if job == OLD_TRUNK else job


def _check_owner(path: Path, stamp: Stamp, plan: str, job: str) -> None:
    if stamp.plan != plan:
        raise CheckpointError(
            f"{path} belongs to plan {stamp.plan}, but this run has plan {plan}; keep their files apart"
        )
    if _present(stamp.job) != _present(job):
        raise CheckpointError(f"{path} holds {stamp.job}, not {job}; put every file back into its own directory")


def checkpoints(directory: Path) -> list[Path]:
    """Checkpoint files of one job, oldest first; what only resembles one is left out."""
    found = [path for path in directory.glob("step-*.safetensors") if NAME.fullmatch(path.name) and path.is_file()]
    return sorted(found, key=checkpoint_step)


def checkpoint_path(directory: Path, step: int) -> Path:
    return directory / f"step-{step:09d}.safetensors"


def checkpoint_step(path: Path) -> int:
    """The step that a checkpoint's name tells."""
    name = NAME.fullmatch(path.name)
    if name is None:
        raise ValueError(f"{path} is not named after a step; a checkpoint is called step-000000500.safetensors")
    return int(name[1])


def keep_last(directory: Path, number: int, step: int) -> None:
    """Delete all checkpoints of one job but the last ``number`` up to ``step``, which was saved just now.

    Those of later steps were not gone on from: the blocks that share parts had another step in common.
    """
    found = checkpoints(directory)
    kept = [path for path in found if checkpoint_step(path) <= step][-number:]
    for path in found:
        if path not in kept:
            path.unlink(missing_ok=True)


def set_aside(path: Path) -> None:
    """Give a checkpoint that was passed over another name: its job will write one of its name again."""
    names = (path.with_name(f"{path.name}{ASIDE}{i or ''}") for i in count())
    with suppress(FileNotFoundError):  # another process of the job was faster
        path.rename(next(name for name in names if not name.exists()))


def newer(directory: Path, step: int) -> list[Path]:
    """Checkpoint files of one job after ``step``."""
    return [path for path in checkpoints(directory) if checkpoint_step(path) > step]


def latest(
    directory: Path, plan: str, step: int | None = None, misfit: Callable[[Stored, Stamp], str] | None = None
) -> tuple[Stored, Stamp, list[str]] | None:
    """The newest intact checkpoint of the job that ``directory`` is named after, and what is wrong with the newer ones
    that were passed over; None if none exists. With ``step``, only the checkpoint of that step counts.

    Args:
        misfit: says why the tensors of a file are not those of the network; such a file is passed over too.

    Raises:
        CheckpointError: checkpoints exist and not one is intact, or one belongs to another plan or job.
        StorageError: one cannot be read; it is not passed over, as training on would replace it.
    """
    problems: list[str] = []
    paths = checkpoints(directory) if step is None else [checkpoint_path(directory, step)]
    for path in reversed(paths):
        try:
            tensors, stamp = open_intact(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        _check_owner(path, stamp, plan, directory.name)
        wrong = misfit(tensors, stamp) if misfit is not None else ""
        if wrong:
            problems.append(f"{path} is not of this network ({wrong}); delete it to go on from an earlier checkpoint")
            continue
        return tensors, stamp, problems
    if problems:
        raise CheckpointError(f"{directory} has no intact checkpoint: {'; '.join(problems)}")
    return None


def _digest(tensors: Mapping[str, Tensor], stamp: Stamp, bad: list[str] | None = None) -> str:
    """SHA-256 over tensors and stamp; ``bad`` gets the names of tensors that are not finite."""
    sha = hashlib.sha256(json.dumps(stamp.__dict__, sort_keys=True).encode())
    pairs = tensors.each() if isinstance(tensors, Stored) else ((name, tensors[name]) for name in sorted(tensors))
    for name, tensor in pairs:
        if bad is not None:
            bad += not_finite([(name, tensor)])
        sha.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
