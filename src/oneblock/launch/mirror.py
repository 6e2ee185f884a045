"""A run's directory on any file system that fsspec knows (s3://, gs://, sftp://, ...), and its copy on this machine.

A job trains in its local copy and sends what is new after each checkpoint. Checkpoints carry a digest, so one that was
cut short on its way is found damaged, and the one before it, which is deleted only afterwards, takes its place.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from oneblock.backbone import BuildBackbone
from oneblock.convert.kept import is_setting
from oneblock.data.places import DATA_FILE, DataRecord, write_record
from oneblock.plan import NETWORK_FOLDER, PLAN_FILE, Plan, write_plan
from oneblock.presets.kept import keep_network
from oneblock.train.checkpoint import checkpoints, folder_name, job_folder
from oneblock.train.record import HEARTBEAT_FILE, METRICS_FILE, NOTES_FILE
from oneblock.train.session import SESSIONS_FILE

SMALL = (HEARTBEAT_FILE, METRICS_FILE, NOTES_FILE, SESSIONS_FILE)
MOST_HEADER = 2**25
"""Bytes of the header of a checkpoint."""


def is_remote(run_dir: str) -> bool:
    """Whether ``run_dir`` is an fsspec address rather than a path."""
    return "://" in run_dir


class Mirror:
    """The remote directory ``address`` and its local copy.

    Args:
        address: e.g. ``s3://bucket/runs/one``; the file system's own package (s3fs, gcsfs) must be installed.
        local: directory of the copy; None chooses one for this address and its plan in the temporary directory.
        every_seconds: at most so often are files sent between two checkpoints.

    Raises:
        ValueError: nothing here can speak the address's protocol, or there is no plan and ``local`` is None.
    """

    def __init__(self, address: str, local: Path | None = None, every_seconds: float = 30.0) -> None:
        from fsspec.core import url_to_fs

        try:
            found = url_to_fs(address)
        except (ImportError, ValueError) as error:
            raise ValueError(f"cannot open {address} ({error}); install what is named, or use a local path") from error
        self._files: Any = found[0]
        self._root = str(found[1]).rstrip("/")
        self.local = local or Path(tempfile.gettempdir()) / f"oneblock-{self._name(address)}"
        self.every_seconds = every_seconds
        self._sent: dict[Path, tuple[int, int]] = {}
        self._sent_at = time.perf_counter()

    def pull(self, *jobs: str) -> Path:
        """Fetch the plan, what is kept of the network but its weights, and all files of ``jobs``; what only the copy
        holds is left alone. Returns the copy."""
        self._fetch(PLAN_FILE)
        self._fetch(DATA_FILE)
        self.pull_network(weights=False)
        for job in jobs:
            folder = folder_name(job, lambda name: self._files.isdir(f"{self._root}/{name}"))
            for name in self._names(folder):
                if not name.endswith(".partial"):
                    self._fetch(f"{folder}/{name}")
        return self.local

    def pull_network(self, weights: bool = True) -> None:
        """Fetch the network that the run started from, if it keeps one."""
        for name in self._names(NETWORK_FOLDER):
            if weights or is_setting(name):
                self._fetch(f"{NETWORK_FOLDER}/{name}")

    def push(self, job: str) -> None:
        """Send what is new in the copy of ``job``; then delete the checkpoints older than those in the copy.

        Newer ones are another process's, which has taken the job over from one that was thought dead.
        """
        folder = job_folder(self.local, job)
        self._send(folder)
        kept = [path.name for path in checkpoints(folder)]
        for name in self._names(folder.name):
            if kept and name.startswith("step-") and name < kept[0]:
                self._files.rm(f"{self._root}/{folder.name}/{name}")

    def push_if_due(self, job: str, last: bool = False) -> None:
        """``push``, when a checkpoint is new, the last push is long ago, or nothing more will come (``last``)."""
        newest = checkpoints(job_folder(self.local, job))[-1:]
        new = any(self._sent.get(path) != _version(path) for path in newest)
        if last or new or time.perf_counter() - self._sent_at > self.every_seconds:
            self.push(job)

    def push_plan(self) -> None:
        """Send the plan, unless it is there; ``ValueError`` if another plan is."""
        target = f"{self._root}/{PLAN_FILE}"
        mine = (self.local / PLAN_FILE).read_bytes()
        if self._files.isfile(target) and self._files.cat_file(target) != mine:
            raise ValueError(f"{self._root} belongs to another plan; use another address")
        self._files.makedirs(self._root, exist_ok=True)
        network = self.local / NETWORK_FOLDER
        if network.is_dir():  # before the plan, which says that all is there
            self._files.makedirs(f"{self._root}/{NETWORK_FOLDER}", exist_ok=True)
            for path in sorted(network.iterdir()):
                self._files.put_file(str(path), f"{self._root}/{NETWORK_FOLDER}/{path.name}")
        self._files.put_file(str(self.local / PLAN_FILE), target)
        if (self.local / DATA_FILE).is_file():
            self._files.put_file(str(self.local / DATA_FILE), f"{self._root}/{DATA_FILE}")

    def list_into(self, directory: Path) -> None:
        """Make ``directory`` look like the run to one who reads progress: its plan, metrics and heartbeats, and of
        checkpoints the headers, in files of the same size."""
        self._fetch(PLAN_FILE, directory)
        for folder in self._names(""):
            for name in self._names(folder):
                if name in SMALL:
                    self._fetch(f"{folder}/{name}", directory)
                elif name.startswith("step-"):
                    (directory / folder).mkdir(exist_ok=True)
                    self._fetch_header(f"{folder}/{name}", directory / folder / name)
                    os.utime(directory / folder / name, (0, 0))  # only heartbeats tell when a job was seen

    def _name(self, address: str) -> str:
        if not self._files.isfile(f"{self._root}/{PLAN_FILE}"):
            raise ValueError(f"{address} has no {PLAN_FILE}; give the directory of a run (its --out)")
        return hashlib.sha256(address.encode() + self._files.cat_file(f"{self._root}/{PLAN_FILE}")).hexdigest()[:16]

    def _names(self, folder: str) -> list[str]:
        path = f"{self._root}/{folder}".rstrip("/")
        if not self._files.isdir(path):
            return []
        return sorted(str(name).rstrip("/").rsplit("/", 1)[-1] for name in self._files.ls(path, detail=False))

    def _fetch(self, name: str, directory: Path | None = None) -> None:
        target = (directory or self.local) / name
        source = f"{self._root}/{name}"
        if not self._files.isfile(source):
            return
        if target.suffix == ".safetensors" and target.is_file():
            if target.stat().st_size == self._files.size(source):
                return
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        self._files.get_file(source, str(partial))
        partial.replace(target)
        self._sent[target] = _version(target)  # it is already there

    def _fetch_header(self, name: str, target: Path) -> None:
        """The beginning of a safetensors file, which says what is in it; the rest of ``target`` takes no room."""
        source = f"{self._root}/{name}"
        size = int(self._files.size(source) or 0)
        length = int.from_bytes(self._files.cat_file(source, start=0, end=8), "little") if size > 8 else 0
        known = length < min(size, MOST_HEADER)
        target.write_bytes(self._files.cat_file(source, start=0, end=8 + length) if known else b"")
        os.truncate(target, size if known else 0)

    def _send(self, folder: Path) -> None:
        self._files.makedirs(f"{self._root}/{folder.name}", exist_ok=True)
        for path in sorted([*checkpoints(folder), *(folder / name for name in SMALL if (folder / name).is_file())]):
            version = _version(path)
            if self._sent.get(path) != version:
                self._files.put_file(str(path), f"{self._root}/{folder.name}/{path.name}")
                self._sent[path] = version
        self._sent_at = time.perf_counter()


def send_plan(
    plan: Plan, address: str, record: DataRecord | None = None, backbone: BuildBackbone | None = None
) -> None:
    """Write ``plan`` at the fsspec ``address``, unless it is there, with the ``record`` of its data and a ``backbone``
    that runs keep; ``ValueError`` if another plan is."""
    with tempfile.TemporaryDirectory() as folder:
        keep_network(plan, Path(folder), backbone)
        write_plan(plan, Path(folder))
        if record is not None:
            write_record(record, Path(folder))
        Mirror(address, Path(folder)).push_plan()


def _version(path: Path) -> tuple[int, int]:
    """A value that changes when the file does."""
    return path.stat().st_mtime_ns, path.stat().st_size


@contextmanager
def listing(run_dir: str) -> Iterator[Path]:
    """A local directory in which the progress of the run at ``run_dir`` can be read; nothing large is fetched."""
    if not is_remote(run_dir):
        yield Path(run_dir)
        return
    with tempfile.TemporaryDirectory() as folder:
        Mirror(run_dir, Path(folder)).list_into(Path(folder))
        yield Path(folder)
