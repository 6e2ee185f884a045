"""A run of long ago is still trained, merged, sampled and scored by the same commands."""

from pathlib import Path
from typing import Any

import pytest
import torch
from frozen import old, training
from frozen.machinery import Ok, load, on_purpose, same_arithmetic
from safetensors.torch import load_file

pytest.importorskip("sklearn")


@pytest.fixture
def run(desk: Path) -> Path:
    """The old run, in a directory that may be written to."""
    return old.copy(desk)[0]


def files(run: Path) -> dict[str, tuple[bytes, int]]:
    """Checkpoints and metrics of a run, and when they were written."""
    return {
        str(path.relative_to(run)): (path.read_bytes(), path.stat().st_mtime_ns)
        for directory in training.jobs(run).values()
        for path in directory.iterdir()
        if path.suffix in (".safetensors", ".jsonl")
    }


def steps(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that tell of training."""
    return [row for row in rows if "loss" in row]


def test_its_jobs_are_done(run: Path, ok: Ok) -> None:
    states = ok("status", run, "--json")
    assert [(state["job"].replace("seed", "trunk"), state["step"], state["state"]) for state in states] == [
        ("trunk", 8, "done"),
        ("block-0", 12, "done"),
        ("block-1", 12, "done"),
    ]


def test_it_merges_into_the_model_of_then(run: Path, ok: Ok) -> None:
    (row,) = ok("merge", run, "--json")
    assert (row["blocks"], row["problems"]) == (2, [])
    found, frozen = run / "model", old.MODEL
    names = sorted(path.name for path in frozen.glob("*.safetensors"))
    assert (
        sorted(path.name for path in found.glob("*.safetensors"))
        == names
        == [
            "block-0.safetensors",
            "block-1.safetensors",
        ]
    )
    for name in names:
        ours, theirs = training.tensors(found / name), training.tensors(frozen / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_run_and_model_give_the_images_of_then(run: Path, ok: Ok) -> None:
    images = old.sample(ok, run)
    assert torch.equal(images, old.sample(ok, run.parent / "old-model"))
    frozen = load_file(old.IMAGES)["images"]
    if not torch.equal(images, frozen):
        assert not same_arithmetic(load(old.FILE)), on_purpose("old-images")
        # a value at the edge between two of the 256 grey levels may fall on either side
        assert (images.int() - frozen.int()).abs().max() <= 1, on_purpose("old-images")


def test_run_and_model_have_the_same_scores(run: Path, ok: Ok) -> None:
    words = ("--num-samples", "20", "--steps", "4", "--threads", "1", "--json")
    (first,), (second,) = (ok("evaluate", model, *words) for model in (run, run.parent / "old-model"))
    timed = ("sampling_seconds", "images_per_second")
    assert {k: v for k, v in first.items() if k not in timed} == {k: v for k, v in second.items() if k not in timed}
    assert len(first["band_losses"]) == 2
    assert first["loss"] == pytest.approx(load(old.FILE)["results"]["loss"], rel=1e-4)


def test_the_same_command_finds_nothing_left_to_train(run: Path, ok: Ok) -> None:
    before = files(run)
    rows = ok("train", "images", "--data", "digits", "--out", run, "--json", *old.WORDS)
    assert not steps(rows) and rows[-1]["out"] == str(run)
    assert files(run) == before


@pytest.mark.parametrize("block", [-1, 0, 1])
def test_its_jobs_have_nothing_left_to_do(run: Path, ok: Ok, block: int) -> None:
    before = files(run)
    assert not steps(ok("job", run, "--block", str(block), "--threads", "1", "--json"))
    assert files(run) == before


def test_a_lost_block_is_trained_again_from_the_old_seed_block(run: Path, ok: Ok) -> None:
    path = training.final(run / "block-1")
    path.unlink()
    assert steps(ok("job", run, "--block", "1", "--threads", "1", "--json"))
    found, frozen = training.digest(path), training.digest(old.RUN / "block-1" / path.name)
    assert found == frozen or not same_arithmetic(load(old.FILE)), "its start or its random numbers are others"
