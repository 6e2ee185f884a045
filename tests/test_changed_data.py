"""Runs whose data have changed, moved, or are spelled otherwise."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import SENTENCES
from folders import SMALL, WORDS, class_folders

import oneblock as ob
from oneblock.data import ImageData, TextData
from oneblock.evaluate.protocol import LOSS_PROTOCOL, LossProtocol, read_protocol
from oneblock.launch.start import commands
from oneblock.plan import read_plan
from oneblock.train.checkpoint import checkpoints

Image = pytest.importorskip("PIL.Image")
Ok = Callable[..., list[dict[str, Any]]]
Refused = Callable[..., str]
TEXT = ("--length", "8", *WORDS)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with images and a text."""
    class_folders(tmp_path / "imgs", ["cat", "dog"], count=6)
    (tmp_path / "texts").mkdir()
    for i in range(8):
        (tmp_path / "texts" / f"{i}.txt").write_text(SENTENCES * (i + 3))
    monkeypatch.setenv("ONEBLOCK_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(out: object = "run", data: str = "folder:imgs", *more: str) -> tuple[object, ...]:
    return ("train", "images", "--data", data, "--image-size", "8", "--out", out, *WORDS, *more)


def steps(rows: list[dict[str, Any]]) -> int:
    return sum("loss" in row for row in rows)


def change(place: Path) -> None:
    Image.new("RGB", (8, 8), "white").save(place / "imgs/train/cat/03.png")
    (place / "imgs/train/dog/05.png").unlink()


CHANGED = "changed train/cat/03.png, missing train/dog/05.png"


@pytest.mark.parametrize("spelling", ["folder:imgs/", "folder:./imgs", "folder:{place}/imgs", "folder:~/imgs"])
def test_the_same_folder_written_otherwise(place: Path, ok: Ok, monkeypatch: pytest.MonkeyPatch, spelling: str) -> None:
    monkeypatch.setenv("HOME", str(place))
    ok(*train())
    before = (place / "run" / "plan.json").read_bytes()
    assert steps(ok(*train("run", spelling.format(place=place), "--json"))) == 0
    assert (place / "run" / "plan.json").read_bytes() == before
    assert json.loads(before)["recipe"]["data"] == "folder:imgs", "as it was given"
    assert json.loads((place / "run" / "data.json").read_text())["place"] == str(place / "imgs")


def test_a_comparison_goes_on_under_the_former_name(place: Path, ok: Ok) -> None:
    pytest.importorskip("matplotlib")
    words = ("--image-size", "8", "--out", "cmp", *WORDS, "--budget", "640", "--seeds", "1", "--json")
    compare = ("compare", "classify", *words, "--arms", "shallow", "greedy")
    (first,) = ok(*compare, "--data", "folder:imgs")
    (again,) = ok(*compare, "--data", "folder:imgs/")
    assert [row["train_seconds"] for row in again["runs"]] == [row["train_seconds"] for row in first["runs"]]


def test_another_working_directory_finds_the_folder(place: Path, ok: Ok, monkeypatch: pytest.MonkeyPatch) -> None:
    ok(*train("run", "folder:imgs", "--strategy", "plan-only"))
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    run = place / "run"
    assert steps(ok("job", run, "--block", "0", "--threads", "1", "--json")) > 0
    ok(*train(run))
    (scores,) = ok("evaluate", run, "--num-samples", "0", "--json")
    ok("merge", run, "--out", place / "model")
    assert ok("evaluate", place / "model", "--num-samples", "0", "--json") == [scores]
    assert "other_data" not in scores
    os.rename(place / "imgs", place / "moved")
    with pytest.raises(ValueError, match="imgs does not exist"):
        ob.Model.open(run).evaluate()
    words = ("--data", f"folder:{place}/moved", "--num-samples", "0", "--json")
    (moved,) = ok("evaluate", run, *words)
    ours, theirs = (read_protocol(row.pop(LOSS_PROTOCOL), LossProtocol) for row in (moved, scores))
    assert (moved, ours) == (scores, theirs), "the same files elsewhere are the same data"


def test_files_that_changed_are_named_and_accepted(place: Path, ok: Ok, refused: Refused) -> None:
    ok(*train("run", "folder:imgs", "--strategy", "one-block", "--block", "0"))
    change(place)
    for words in (train(), ("job", "run", "--block", "1"), train("run", "folder:imgs/", "--strategy", "plan-only")):
        said = refused(*words)
        assert "has changed since the plan was made (fingerprint" in said
        assert f"{CHANGED}; use the same files, size and channels, or go on with these: --accept-data" in said
    assert not checkpoints(place / "run" / "block-1")
    ok(*train("run", "folder:imgs", "--accept-data"))
    assert checkpoints(place / "run" / "block-1")
    notes = [json.loads(line) for line in (place / "run/block-1/notes.jsonl").read_text().splitlines()]
    assert [(note["job"], note["step"], CHANGED in note["note"]) for note in notes] == [("block-1", 0, True)]
    assert not (place / "run/block-0/notes.jsonl").exists(), "it was trained before"
    assert [len(row["notes"]) for row in ok("status", "run", "--json")] == [0, 1]
    assert CHANGED in refused(*train()), "the plan is still that of the old files"
    ok("merge", "run")
    (scores,) = ok("evaluate", "run", "--num-samples", "0", "--json")
    assert CHANGED in scores["other_data"]


def test_jobs_and_launch_accept_changed_data(place: Path, ok: Ok) -> None:
    ok(*train("run", "folder:imgs", "--strategy", "plan-only"))
    change(place)
    with pytest.raises(ValueError, match=CHANGED):
        ob.run_job("run", 0)
    ob.run_job("run", 0, accept_data=True)
    assert CHANGED in (place / "run/block-0/notes.jsonl").read_text()
    assert all(command.words[-1] == "--accept-data" for command in commands("run", accept_data=True))
    assert not any("--accept-data" in command.words for command in commands("run"))


def test_the_same_note_is_not_written_twice(place: Path, ok: Ok) -> None:
    ok(*train("run", "folder:imgs", "--strategy", "plan-only"))
    change(place)
    for _ in range(2):
        ok(*train("run", "folder:imgs", "--accept-data"))
        checkpoints(place / "run/block-1")[-1].unlink()
    assert len((place / "run/block-1/notes.jsonl").read_text().splitlines()) == 1


def test_other_settings_are_not_accepted(place: Path, refused: Refused, ok: Ok) -> None:
    ok(*train())
    change(place)
    said = refused(*train("run", "folder:imgs", "--accept-data", "--seed", "1"))
    assert "belongs to plan" in said and "which differs in seed and in its data" in said and CHANGED in said


def test_other_classes_are_not_accepted(place: Path, refused: Refused, ok: Ok) -> None:
    """Labels would mean something else."""
    ok(*train())
    for split in ("train", "test"):
        os.rename(place / "imgs" / split / "cat", place / "imgs" / split / "zebra")
    said = refused(*train("run", "folder:imgs", "--accept-data"))
    assert "the data have other classes than the plan: 0 is 'dog', not 'cat', 1 is 'zebra', not 'dog'" in said
    for words in (("job", "run", "--block", "0", "--accept-data"), ("evaluate", "run", "--num-samples", "0")):
        assert "other classes than the plan" in refused(*words)


def test_a_run_without_a_list_of_files(place: Path, refused: Refused, ok: Ok) -> None:
    """As earlier versions left it: it goes on, and the list is made then."""
    ok(*train("run", "folder:imgs", "--strategy", "plan-only"))
    (place / "run/data.json").unlink()
    change(place)
    assert "folder:imgs has changed since the plan was made" in refused(*train())
    for more in ((), ("--strategy", "plan-only")):
        ok(*train("run", "folder:imgs", "--accept-data", *more))
        assert not (place / "run/data.json").exists(), "the files are not those of the plan"
    ok(*train("new"))
    (place / "new/data.json").unlink()
    ok(*train("new"))
    assert (place / "new/data.json").exists()


@pytest.mark.parametrize("task", ["text", "masked-text"])
def test_texts_that_changed(place: Path, refused: Refused, ok: Ok, task: str) -> None:
    words = ("train", task, "--out", "run", *TEXT, "--vocabulary", "bpe:270")
    ok(*words, "--data", "file:texts", "--strategy", "plan-only")
    before = read_plan(place / "run")
    assert steps(ok(*words, "--data", f"file:{place}/texts/", "--strategy", "one-block", "--block", "0", "--json")) > 0
    for i in range(8):
        (place / f"texts/{i}.txt").write_text(SENTENCES.replace("cat", "mouse") * (i + 3))
    (place / "texts/1.txt").unlink()
    for again in (words, ("job", "run", "--block", "1")):
        said = refused(*again, *(("--data", "file:texts") if again is words else ()))
        assert "changed 0.txt, missing 1.txt, changed 2.txt, changed 3.txt, changed 4.txt and 3 more" in said
    ok(*words, "--data", "file:texts", "--accept-data")
    assert read_plan(place / "run").hash == before.hash, "with the vocabulary that was learned from the former text"
    (row,) = ok("evaluate", "run", "--windows", "2", "--json")
    assert "changed 0.txt" in row["other_data"]
    for part in (data for data in ("file:texts", TextData(data="file:texts"))):
        assert "changed 0.txt" in ob.Model.open("run").evaluate(part, windows=2)["other_data"]  # type: ignore[call-arg]


def test_another_text_is_scored_and_named(place: Path, ok: Ok) -> None:
    ok("train", "text", "--out", "run", *TEXT, "--data", "file:texts")
    other = place / "mats.txt"
    other.write_text(SENTENCES.replace("cat", "mat") * 60)
    (scores,) = ok("evaluate", "run", "--data", f"file:{other}", "--windows", "4", "--json")
    assert f"file:{other} (fingerprint " in scores["other_data"]
    assert "is not what the plan was made for, file:texts (" in scores["other_data"]
    assert "other_data" not in ok("evaluate", "run", "--windows", "4", "--json")[0]


def test_a_run_at_an_address_takes_its_list_along(place: Path, ok: Ok, refused: Refused) -> None:
    pytest.importorskip("fsspec")
    ok(*train("memory://changed", "folder:imgs", "--strategy", "plan-only"))
    change(place)
    job = ("job", "memory://changed", "--block", "0", "--threads", "1", "--scratch", place / "scratch")
    assert CHANGED in refused(*job)
    ok(*job, "--accept-data")
    assert [len(row["notes"]) for row in ok("status", "memory://changed", "--json")] == [1, 0]


def test_a_dataset_that_changed(tmp_path: Path) -> None:
    def items(value: int) -> torch.utils.data.TensorDataset:
        return torch.utils.data.TensorDataset(torch.full((8, 1, 8, 8), value).byte(), torch.arange(8) % 2)

    recipe = ob.ImageRecipe(**SMALL)
    ob.train(recipe, data=items(3), out=tmp_path, strategy="one-block", block=0)
    with pytest.raises(ValueError, match=r"dataset:TensorDataset.*go on with these: --accept-data"):
        ob.train(recipe, data=items(4), out=tmp_path)
    ob.train(recipe, data=items(4), out=tmp_path, accept_data=True)
    assert "dataset:TensorDataset" in (tmp_path / "block-1/notes.jsonl").read_text()
    assert not (tmp_path / "data.json").exists()


def test_a_data_dir_is_kept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = ob.ImageRecipe(**SMALL)
    chosen = ImageData(data="folder:imgs", data_dir=Path("."), image_size=8)
    monkeypatch.chdir(place)
    ob.train(recipe, data=chosen, out="run")
    run = place / "run"
    monkeypatch.chdir("/")
    assert "other_data" not in ob.Model.open(run).evaluate(num_samples=0)  # type: ignore[call-arg]
