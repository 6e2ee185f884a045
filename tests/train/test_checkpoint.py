import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import ENVIRONMENT
from safetensors.torch import save_file

from oneblock.train import checkpoint
from oneblock.train.checkpoint import (
    CheckpointError,
    Stamp,
    StorageError,
    checkpoint_path,
    checkpoints,
    keep_last,
    latest,
    load_checkpoint,
    save_checkpoint,
)

TENSORS = {
    "weights/a": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
    "weights/b": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "ema/c": torch.tensor(0.25, dtype=torch.float64),
}
STAMP = Stamp(plan="abc", job="block-1", step=7, num_steps=9)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Checkpoints of steps 7 and 8."""
    place = tmp_path / "block-1"
    for step in (7, 8):
        stamp = Stamp(plan="abc", job="block-1", step=step, num_steps=9)
        save_checkpoint(checkpoint_path(place, step), TENSORS, stamp)
    return place


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.safetensors"
    save_checkpoint(path, {**TENSORS, "view": torch.arange(6.0).view(2, 3).T}, STAMP)
    tensors, stamp = load_checkpoint(path, "abc", "block-1")
    assert stamp == STAMP
    assert all(tensors[name].equal(t) and tensors[name].dtype == t.dtype for name, t in TENSORS.items())
    assert tensors["view"].equal(torch.arange(6.0).view(2, 3).T)
    assert [p.name for p in path.parent.iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o775])
def test_who_may_read_the_directory_may_read_the_file(tmp_path: Path, mode: int) -> None:
    place = tmp_path / "block-1"
    place.mkdir()
    place.chmod(mode)
    save_checkpoint(place / "x", TENSORS, STAMP)
    assert (place / "x").stat().st_mode & 0o777 == mode & 0o666


def test_equal_states_are_equal_files(tmp_path: Path) -> None:
    for name, order in (("a", list(TENSORS)), ("b", list(reversed(TENSORS)))):
        save_checkpoint(tmp_path / name, {key: TENSORS[key] for key in order}, STAMP)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    save_checkpoint(path, TENSORS, STAMP)
    good = path.read_bytes()
    for place in range(0, len(good), 7):
        for bit in (0, 5):
            bad = bytearray(good)
            bad[place] ^= 1 << bit
            path.write_bytes(bytes(bad))
            try:
                tensors, stamp = load_checkpoint(path, "abc", "block-1")
            except CheckpointError as error:
                assert str(path) in str(error)
            else:  # padding of the header may change without meaning
                assert stamp == STAMP, place
                assert all(tensors[name].equal(t) for name, t in TENSORS.items()), place


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_files_are_refused(directory: Path, share: float) -> None:
    path = checkpoints(directory)[-1]
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"step-000000008.safetensors is damaged .*delete it to go on"):
        load_checkpoint(path, "abc", "block-1")


def test_files_of_others_are_refused(directory: Path, tmp_path: Path) -> None:
    path = checkpoints(directory)[-1]
    with pytest.raises(CheckpointError, match="belongs to plan abc, but this run has plan xyz; keep their files apart"):
        load_checkpoint(path, "xyz", "block-1")
    with pytest.raises(CheckpointError, match="holds block-1, not block-0; put every file back"):
        load_checkpoint(path, "abc", "block-0")
    with pytest.raises(CheckpointError, match=r"nothing.safetensors does not exist; train this block first"):
        load_checkpoint(tmp_path / "nothing.safetensors", "abc", "block-1")
    save_file(TENSORS, tmp_path / "plain.safetensors")
    with pytest.raises(CheckpointError, match=r"plain.safetensors is damaged"):
        load_checkpoint(tmp_path / "plain.safetensors", "abc", "block-1")


def test_the_newest_intact_one_is_taken_and_the_other_named(directory: Path) -> None:
    found = latest(directory, "abc")
    assert found is not None
    assert (found[1].step, found[2]) == (8, [])
    checkpoints(directory)[-1].write_bytes(b"")
    found = latest(directory, "abc")
    assert found is not None
    assert found[1].step == 7
    assert "step-000000008.safetensors is damaged" in found[2][0]
    checkpoints(directory)[0].write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"has no intact checkpoint: .*000000008.*000000007"):
        latest(directory, "abc")


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_what_cannot_be_read_is_not_called_damaged_and_not_passed_over(
    directory: Path, error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest, really = checkpoints(directory)[-1], checkpoint.safe_open

    def refusing(path: Path, *rest: str) -> object:
        if path == newest:
            raise error
        return really(path, *rest)

    monkeypatch.setattr(checkpoint, "safe_open", refusing)
    for read in (lambda: load_checkpoint(newest, "abc", "block-1"), lambda: latest(directory, "abc")):
        with pytest.raises(StorageError, match=r"000000008\.safetensors cannot be read .*; make it readable and start"):
            read()


def test_latest_refuses_other_plans_and_other_jobs(directory: Path) -> None:
    with pytest.raises(CheckpointError, match="belongs to plan abc, but this run has plan xyz"):
        latest(directory, "xyz")
    directory.rename(directory.with_name("block-0"))
    with pytest.raises(CheckpointError, match="holds block-1, not block-0"):
        latest(directory.with_name("block-0"), "abc")
    assert latest(directory, "abc") is None


def test_only_the_last_are_kept(directory: Path) -> None:
    save_checkpoint(checkpoint_path(directory, 10), TENSORS, STAMP)
    keep_last(directory, 2, 10)
    assert [path.stem for path in checkpoints(directory)] == ["step-000000008", "step-000000010"]


def test_a_damaged_newer_one_is_not_kept_in_the_place_of_the_last(directory: Path) -> None:
    """A job that went on from step 8, as the checkpoint of step 20 was damaged, is at step 10."""
    checkpoint_path(directory, 20).write_bytes(b"cut")
    save_checkpoint(checkpoint_path(directory, 10), TENSORS, STAMP)
    keep_last(directory, 1, 10)
    assert [path.stem for path in checkpoints(directory)] == ["step-000000010"]


def test_a_full_disk_leaves_what_was_there(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in directory.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(StorageError, match=r"could not write .*000000008.* earlier checkpoints are intact: free some"):
        save_checkpoint(checkpoints(directory)[-1], {"a": torch.zeros(5)}, STAMP)
    assert {path: path.read_bytes() for path in directory.iterdir()} == before


def test_a_real_limit_on_writing(directory: Path) -> None:
    """The kernel refuses to write beyond 64 KiB, as a quota would."""
    program = (
        "import resource, signal, sys, torch; from pathlib import Path; from oneblock.train.checkpoint import *;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536));"
        "save_checkpoint(Path(sys.argv[1]), {'a': torch.zeros(10**6)}, Stamp('abc', 'block-1', 8, 9))"
    )
    path = checkpoints(directory)[-1]
    before = path.read_bytes()
    done = subprocess.run([sys.executable, "-c", program, str(path)], env=ENVIRONMENT, capture_output=True, text=True)
    assert "StorageError" in done.stderr
    assert path.read_bytes() == before
    assert not list(directory.glob("*.partial"))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 65536


def test_nothing_is_pickled() -> None:
    source = Path(checkpoint.__file__).parents[1]
    for path in source.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not {"pickle", "dill", "joblib", "shelve"} & set(names), path
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node) not in ("torch.save", "torch.load"), path
