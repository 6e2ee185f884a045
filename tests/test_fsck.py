"""``fsck`` names what is wrong and what is still good, and changes nothing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzzing import KEEP, QUIET, RECIPES, contents
from tiny import IMAGES

import oneblock as ob
from oneblock.data import MemorySource
from oneblock.experiment.results import RESULT_FILE, record, recorded
from oneblock.fsck import Findings
from oneblock.train.checkpoint import checkpoints
from oneblock.train.shards import CONFIG_FILE


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("fsck") / "run"
    ob.train(RECIPES["images"], data=MemorySource(IMAGES), out=place, machine=KEEP, watch=QUIET)
    ob.merge(place)
    return place


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def wrong(found: Findings) -> list[str]:
    return [str(file.path.relative_to(found.directory)) for file in found.files if not file.good]


def test_a_good_run_and_model(run: Path, ok: Callable[..., list[dict[str, Any]]]) -> None:
    before = contents(run)
    found = ob.fsck(run)
    assert (found.kind, found.good) == ("run", True)
    names = {str(file.path.relative_to(run)): file.note for file in found.files}
    assert names["block-1/step-000000009.safetensors"] == "step 9 of 9"
    assert names["trunk/step-000000006.safetensors"] == "step 6 of 6"
    assert names["block-0/heartbeat.json"] == "done"
    assert {"plan.json", "model/config.json", "model/block-0.safetensors", "block-0/metrics.jsonl"} < names.keys()
    assert ob.fsck(run / "model").kind == "model"
    assert all(row["good"] for row in ok("fsck", run, "--json"))
    assert contents(run) == before


def test_what_is_wrong_and_what_is_still_good(run: Path) -> None:
    newest = checkpoints(run / "block-1")[-1]
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    (run / "model" / "block-0.safetensors").unlink()
    before = contents(run)
    found = ob.fsck(run)
    assert wrong(found) == [str(newest.relative_to(run)), "model/block-0.safetensors"]
    assert "its digest does not match its contents" in next(file.problem for file in found.files if not file.good)
    assert any(file.path.parent == newest.parent and file.good for file in found.files)
    assert contents(run) == before


def test_without_its_plan_the_checkpoints_are_still_read(run: Path) -> None:
    hash = ob.read_plan(run).hash
    (run / "plan.json").write_text("{")
    found = ob.fsck(run)
    assert wrong(found) == ["plan.json"]
    assert f"step 9 of 9 of block-1, plan {hash}" in [file.note for file in found.files]
    (run / "model" / CONFIG_FILE).write_text("[]")
    assert wrong(ob.fsck(run / "model")) == [CONFIG_FILE]
    shutil.move(run / "plan.json", run / "lost")
    assert wrong(ob.fsck(run))[0] == "plan.json"


def test_a_comparison(run: Path, tmp_path: Path) -> None:
    comparison = tmp_path / "comparison"
    shutil.copytree(run, comparison / "blockwise-seed0")
    shutil.copytree(run, comparison / "ensemble-seed0" / "network-0")
    part = comparison / "rival-seed0" / "step-1"
    shutil.copytree(run / "block-0", part)
    for folder in comparison.iterdir():
        record(folder, {"arm": folder.name, "seed": 0})
    (comparison / "results.md").write_text("a report")
    assert (ob.fsck(comparison).kind, wrong(ob.fsck(comparison))) == ("comparison", [])
    files = [
        comparison / "ensemble-seed0" / "network-0" / "block-1" / "step-000000009.safetensors",
        part / "step-000000008.safetensors",
        comparison / "rival-seed0" / RESULT_FILE,
    ]
    for file in files:
        file.write_bytes(b"?")
    assert {comparison / name for name in wrong(ob.fsck(comparison))} == set(files)


@pytest.mark.parametrize("text", ["{", "[]", '{"answers": 3}', '{"arm": "a", "arm": "b"}', '{"loss": NaN}'])
def test_a_result_that_is_not_one_is_not_scored_over(text: str, tmp_path: Path) -> None:
    (tmp_path / RESULT_FILE).write_text(text)
    with pytest.raises(ValueError, match=r"result.json .*delete it, and the run is scored again"):
        recorded(tmp_path, "blockwise", {})
    assert (tmp_path / RESULT_FILE).read_text() == text


def test_results_may_hold_what_is_not_finite_by_name(tmp_path: Path) -> None:
    record(tmp_path, {"arm": "a", "answers": {"token_calls": 3, "calls": 3}, "loss": None})
    found = recorded(tmp_path, "a", {})
    assert found is not None and json.dumps(found)


def test_what_is_none_of_these(tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is neither a run, nor a merged model, nor a comparison; give"):
        ob.fsck(tmp_path)
    assert "is neither a run, nor a merged model" in refused("fsck", tmp_path / "absent")
