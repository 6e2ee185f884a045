"""Runs of a byte model of whole numbers: one call trains, goes on, and is opened, scored and sampled."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import SENTENCES
from tiny import last_files

import oneblock as ob
from oneblock.data import Bytes, Characters, TextData
from oneblock.data.tokens import write_tokens
from oneblock.evaluate.bytes import score_bytes
from oneblock.model.bytes import spread_out
from oneblock.models.egg import EGG
from oneblock.presets.bytes import EGG_FILE, open_bytes, read_byte_plan, stream, train_bytes
from oneblock.train.drive import Watch
from oneblock.train.machine import Machine

TINY = ob.ByteRecipe(depth=1, width=16, steps=6, population=16, group_size=4, tokens=5)
QUIET = Watch(bars=False)
NUMBERS: Any = torch.zeros(3)
pytestmark = pytest.mark.filterwarnings("ignore:file.*passages")


@pytest.fixture
def run(tmp_path: Path, text: str) -> Path:
    train_bytes(TINY, out=tmp_path / "run", data=text, watch=QUIET)
    return tmp_path / "run"


def test_the_defaults_are_those_of_training_by_votes() -> None:
    recipe = ob.ByteRecipe()
    assert recipe.settings == replace(recipe.settings, population=1024, group_size=16, noise_shift=4, tokens=50)
    assert recipe.config.shapes["head"] == (256, 64)


def test_a_run_that_was_stopped_ends_in_the_same_bytes(run: Path, tmp_path: Path, text: str) -> None:
    rows: list[Any] = []
    told: list[str] = []

    def stop(job: str, over: bool) -> None:
        told.append(job)
        if len(told) == 3:
            raise KeyboardInterrupt

    parts, machine = tmp_path / "parts", Machine(save_every=2)
    with pytest.raises(KeyboardInterrupt):
        train_bytes(TINY, out=parts, data=text, machine=machine, watch=replace(QUIET, sent=stop))
    assert ob.ByteModel.open(parts).step == 3
    (state,) = ob.status(parts)
    assert (state.job, state.saved, state.num_steps, state.state) == ("egg", 3, 6, "stopped")
    train_bytes(replace(TINY, chunk=6), out=parts, data=text, watch=replace(QUIET, row=rows.append))
    assert last_files(parts) == last_files(run)
    assert [(row["job"], row["step"]) for row in rows] == [("egg", 6)]
    assert [json.loads(line)["step"] for line in (run / "egg" / "metrics.jsonl").read_text().splitlines()] == [6]
    assert ob.status(run)[0].state == "done"


def test_scores_are_of_the_held_out_text(run: Path, text: str) -> None:
    model = ob.ByteModel.open(run)
    row = model.evaluate(scored=64, pieces=4)
    held_out, train = (read(run, text, split) for split in ("test", "train"))
    expected = score_bytes(model.model, spread_out(held_out, 64, 4), train, 4)
    assert (row["bits_per_byte"], row["unigram"], row["bigram"], row["gzip"]) == (
        expected.model,
        expected.unigram,
        expected.bigram,
        expected.gzip,
    )
    assert (row["bytes"], row["step"], row["steps"]) == (60, 6, 6)
    assert "other_data" not in row


def read(run: Path, text: str, split: Any) -> torch.Tensor:
    return stream(open_bytes(run, text, split)[0])


def test_another_text_is_said(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "dogs.txt"
    other.write_text("the dog " + SENTENCES * 40)
    row = ob.ByteModel.open(run).evaluate(f"file:{other}", scored=64, pieces=4)
    assert row["other_data"].startswith(f"file:{other} (fingerprint ")


def test_a_run_knows_where_its_text_lies(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    place = Path(text.removeprefix("file:"))
    out = tmp_path / "near"
    monkeypatch.chdir(tmp_path)
    train_bytes(TINY, out=out, data=TextData(data=f"file:{place.name}", data_dir=place.parent), watch=QUIET)
    monkeypatch.chdir(run)
    assert ob.ByteModel.open(out).evaluate(scored=64, pieces=4)["bytes"] == 60
    assert last_files(out) == last_files(run), "the name of a text changes nothing"


def test_tokens_of_ones_own(tmp_path: Path) -> None:
    files = [
        write_tokens(tmp_path / f"{i}.tokens", [torch.tensor(list(SENTENCES.encode() * 9))] * 2, Bytes())
        for i in (0, 1)
    ]
    train_bytes(TINY, out=tmp_path / "run", data=files[0], watch=QUIET)
    model = ob.ByteModel.open(tmp_path / "run")
    with pytest.raises(ValueError, match="the text of this run is the user's own TokenFile"):
        model.evaluate(scored=64, pieces=4)
    characters = write_tokens(tmp_path / "c.tokens", [torch.zeros(9, dtype=torch.uint8)], Characters())
    with pytest.raises(ValueError, match="another vocabulary"):
        train_bytes(TINY, out=tmp_path / "other", data=characters, watch=QUIET)


def test_a_byte_of_zero_stands_before_every_document(tmp_path: Path) -> None:
    documents = [torch.tensor(list(words)) for words in (b"ab", b"c", b"def")]
    assert bytes(stream(write_tokens(tmp_path / "t.tokens", documents, Bytes())).tolist()) == b"\0ab\0c\0def"


def test_pieces_come_from_all_over_a_text() -> None:
    text = torch.arange(100)
    assert spread_out(text, 12, 3).tolist() == [0, 1, 2, 3, 48, 49, 50, 51, 96, 97, 98, 99]
    assert spread_out(text, 0, 3).equal(text)
    assert spread_out(text, 200, 3).equal(text)


def test_texts_go_on_from_their_prompt(run: Path) -> None:
    model = ob.ByteModel.open(run)
    texts = model.sample(2, "the cat", tokens=4)
    assert all(text.startswith("the cat") for text in texts)
    assert texts == model.sample(2, "the cat", tokens=4)
    assert texts != model.sample(2, "the cat", tokens=4, sample_seed=1)


def test_fsck_finds_a_flipped_bit(run: Path) -> None:
    assert ob.fsck(run).good
    (path,) = (run / "egg").glob("step-*")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    bad = [file for file in ob.fsck(run).files if not file.good]
    assert [file.path for file in bad] == [path]
    (run / EGG_FILE).write_text("{}")
    assert str(run / EGG_FILE) in ob.fsck(run).files[0].problem


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda run: train_bytes(TINY, out=run.parent, data=None, watch=QUIET), "is not empty and does not hold egg"),
        (
            lambda run: train_bytes(replace(TINY, tokens=4, width=64), out=run, data=None, watch=QUIET),
            r"differ in: model.width, settings.tokens\)",
        ),
        (lambda run: train_bytes(TINY, out=run / "new", data=NUMBERS, watch=QUIET), "data is a Tensor; a byte"),
        (lambda run: ob.Model.open(run), "a run of a byte model of whole numbers, which has no blocks"),
        (lambda run: ob.launch(run), "a run of a byte model of whole numbers, which has no blocks"),
        (lambda run: ob.ByteModel.open(run / "egg"), "has no egg.json; give the directory of a run"),
        (lambda run: ob.ByteModel.open(run).evaluate(pieces=0), "pieces=0 is not allowed"),
        (lambda run: ob.ByteModel.open(run).sample(0), "count=0, length=256 leave nothing to draw"),
        (lambda run: ob.ByteRecipe(width=32), "width=32: 32 inputs are not a power of 4"),
        (lambda run: ob.ByteRecipe(population=7), "population=7 is odd"),
        (lambda run: ob.ByteRecipe(steps=0), "steps=0 is not allowed"),
    ],
)
def test_refusals(run: Path, text: str, do: Callable[[Path], object], message: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("oneblock.presets.bytes.USUAL_DATA", text)
    with pytest.raises(ValueError, match=message):
        do(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema_version=2, and this version of oneblock reads 1"),
        ({"model": {"depth": 1}}, "model must have exactly the keys"),
        ({"model": {"depth": 1, "width": 15}}, "width=15: 15 inputs are not a power of 4"),
        ({"data": 3}, "data=3 is not text"),
        ({"more": 3}, "it must have exactly the keys"),
    ],
)
def test_plans_that_are_refused(run: Path, change: dict[str, Any], message: str) -> None:
    values = json.loads((run / EGG_FILE).read_text())
    (run / EGG_FILE).write_text(json.dumps(values | change))
    with pytest.raises(ValueError, match=message):
        read_byte_plan(run)


def test_weights_with_floating_point_are_refused(run: Path) -> None:
    weights = dict(ob.ByteModel.open(run).model.weights)
    with pytest.raises(ValueError, match=r"head is of torch.float32; every weight of an EGG is of torch.int8"):
        EGG(TINY.config, weights | {"head": weights["head"].float()})
