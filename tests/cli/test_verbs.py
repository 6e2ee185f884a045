import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from commands import TINY, WORK
from safetensors.torch import load_file

from oneblock.train.checkpoint import checkpoints, load_checkpoint

pytest.importorskip("sklearn")
Ok = Callable[..., list[dict[str, Any]]]


def final(run: Path, block: int) -> bytes:
    return checkpoints(run / f"block-{block}")[-1].read_bytes()


def test_train_status_merge_sample_evaluate(trained: Path, tmp_path: Path, ok: Ok) -> None:
    states = ok("status", trained, "--json")
    assert [(s["job"], s["step"], s["state"]) for s in states] == [("block-0", 4, "done"), ("block-1", 4, "done")]

    (merged,) = ok("merge", trained, "--json")
    assert merged["model"] == str(trained / "model")
    averages, _ = load_checkpoint(checkpoints(trained / "block-1")[-1], merged["plan"], "block-1")
    shard, _ = load_checkpoint(trained / "model" / "block-1.safetensors", merged["plan"], "block-1")
    assert shard["blocks.1.head.out.weight"].equal(averages["ema/head.out.weight"])

    grids = []
    for source, resident in ((trained, ()), (trained / "model", ("--resident", "1"))):
        picture = tmp_path / f"{source.name}.png"
        (row,) = ok(
            "sample", source, "--out", picture, "--per-class", "2", "--classes", "3", "7", "--steps", "4", "--json",
            *resident,
        )  # fmt: skip
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert row["images"] == 4
        assert row["layer_evaluations"] == 4 * 2
        grids.append(load_file(picture.with_suffix(".safetensors"))["images"])
    assert grids[0].equal(grids[1])

    (scores,) = ok("evaluate", trained / "model", "--num-samples", "60", "--steps", "2", "--json")
    assert len(scores["band_losses"]) == 2
    assert scores["extractor"] == "digits-cnn"
    assert scores["frechet"] > scores["frechet_floor"] > 0


def test_the_published_score_stands_beside_our_own(
    trained: Path, tmp_path: Path, ok: Ok, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("torch_fidelity")
    counts = {}

    def calculate_metrics(input1: Any, input2: Any, **_: Any) -> dict[str, float]:
        counts.update(fake=len(input1), real=len(input2))
        return {"frechet_inception_distance": 7.5}

    monkeypatch.setattr(module, "calculate_metrics", calculate_metrics, raising=False)
    monkeypatch.setitem(sys.modules, "torch_fidelity", module)
    (tmp_path / "weights.pth").touch()
    words = ("--num-samples", "60", "--steps", "2", "--fid-weights", tmp_path / "weights.pth", "--json")
    (scores,) = ok("evaluate", trained, *words)
    assert scores["fid"] == 7.5
    assert counts == {"fake": 60, "real": scores["num_reference"]}


def test_the_cost_of_a_sample_is_that_of_the_deepest_block(tmp_path: Path, ok: Ok) -> None:
    ok("train", "images", "--out", tmp_path, *TINY, *WORK, "--layers", "1", "3")
    (row,) = ok("sample", tmp_path, "--out", tmp_path / "x.png", "--per-class", "1", "--steps", "4", "--json")
    assert row["layer_evaluations"] == 4 * 3


def test_tensorboard_is_looked_for_before_any_work(
    tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    words = ("--data", "folder:/no/such/place", "--tensorboard")
    assert "--tensorboard needs tensorboard" in refused("train", "images", "--out", tmp_path / "run", *words)
    assert not (tmp_path / "run").exists()


def test_train_writes_rows_and_events(tmp_path: Path, ok: Ok) -> None:
    pytest.importorskip("tensorboard")
    rows = ok("train", "images", "--out", tmp_path, *TINY, *WORK, "--json", "--tensorboard")
    assert [row["job"] for row in rows[:-1]] == ["block-0", "block-1"]
    assert all(row["layer_evaluations"] == 4 * 16 * 2 for row in rows[:-1])
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_blocks_alone_and_in_turn_are_the_same_bytes(trained: Path, tmp_path: Path, ok: Ok) -> None:
    for block in ("1", "0"):
        ok("train", "images", "--out", tmp_path / "alone", *TINY, *WORK, "--strategy", "one-block", "--block", block)
    assert final(tmp_path / "alone", 0) == final(trained, 0)
    assert final(tmp_path / "alone", 1) == final(trained, 1)


def test_a_seed_block_is_a_job_like_any_other(tmp_path: Path, ok: Ok) -> None:
    words = ("train", "images", *TINY, *WORK, "--branch", "0.5", "--out")
    for block in ("-1", "1", "0"):
        ok(*words, tmp_path / "jobs", "--strategy", "one-block", "--block", block)
    ok(*words, tmp_path / "turns")
    assert [final(tmp_path / "jobs", b) for b in (0, 1)] == [final(tmp_path / "turns", b) for b in (0, 1)]


def test_end_to_end_is_a_plan_of_one_block(tmp_path: Path, ok: Ok) -> None:
    ok("train", "images", "--out", tmp_path, *TINY, *WORK, "--strategy", "end-to-end", "--checkpointing")
    (state,) = ok("status", tmp_path, "--json")
    assert (state["job"], state["num_steps"]) == ("block-0", 4)


def test_a_stream_trains_and_is_scored_without_being_held(
    tmp_path: Path, ok: Ok, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    image = pytest.importorskip("PIL.Image")

    def rows() -> Any:
        yield from ({"image": image.new("L", (8, 8), 10 * i), "label": i % 2} for i in range(60))

    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"]))
    stream = datasets.IterableDataset.from_generator(rows, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split, streaming: stream)
    data = ("--data", "hf:someone/set", "--image-size", "8")
    ok("train", "images", "--out", tmp_path, *TINY, *WORK, *data)
    (row,) = ok(
        "evaluate", tmp_path, *data, "--num-samples", "60", "--steps", "2", "--extractor", "digits-cnn", "--json"
    )
    assert len(row["band_losses"]) == 2


def test_tables_are_printed_without_json(trained: Path, capsys: pytest.CaptureFixture[str], ok: Ok) -> None:
    from oneblock.cli.__main__ import main

    assert main(["status", str(trained)]) == 0
    assert "block-1" in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert "compare images" in capsys.readouterr().out
