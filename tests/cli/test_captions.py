"""Captions on the command line: from a folder of images with captions to a trained model and its report."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import TINY, WORK
from safetensors.torch import load_file

from oneblock.data.scenes import captioned_scenes

Image = pytest.importorskip("PIL.Image")
Ok = Callable[..., list[dict[str, Any]]]
Refused = Callable[..., str]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """24 pictures with captions, in a table."""
    scenes, place = captioned_scenes(24, 24, seed=3), tmp_path / "pictures"
    place.mkdir()
    rows = []
    for i, (image, label) in enumerate(zip(scenes.images, scenes.labels.tolist(), strict=True)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{i}.png")
        rows.append(json.dumps({"file_name": f"{i}.png", "text": scenes.classes[label]}))
    (place / "metadata.jsonl").write_text("\n".join(rows))
    return place


def test_from_a_folder_with_captions_to_a_model_and_its_report(pictures: Path, tmp_path: Path, ok: Ok) -> None:
    data, run = f"captions:{pictures}", tmp_path / "run"
    ok("plan", "images", "--data", data, "--image-size", "24", *TINY, "--json")
    ok("train", "images", "--data", data, "--image-size", "24", "--out", run, *TINY, *WORK)
    assert {row["state"] for row in ok("status", run, "--json")} == {"done"}
    assert all(row["good"] for row in ok("fsck", run, "--json"))
    picture = tmp_path / "samples.png"
    told = ["two red squares left of a blue circle", ""]
    words = [word for caption in told for word in ("--caption", caption)]
    (row,) = ok("sample", *words, run, "--out", picture, "--per-class", "2", "--steps", "2", "--json")
    assert row["captions"] == told and row["images"] == 4
    images = load_file(picture.with_suffix(".safetensors"))["images"]
    assert images.shape == (4, 3, 24, 24) and picture.read_bytes().startswith(b"\x89PNG")
    (row,) = ok("sample", run, "--out", picture, "--per-class", "1", "--steps", "2", "--json")
    assert len(row["captions"]) == row["images"] == 8, "captions of the training images"
    (scores,) = ok("evaluate", run, "--num-samples", "8", "--steps", "2", "--json")
    assert scores["caption_agreement_real"]["all_of_it"] == 1
    ok("report", run, "--out", tmp_path / "page.html", "--samples", "2", "--json")
    page = (tmp_path / "page.html").read_text()
    assert row["captions"][0] in page and "Traceback" not in page


def test_the_documented_commands_as_they_are_printed(
    pictures: Path, tmp_path: Path, ok: Ok, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With less work alone."""
    text = (Path(__file__).parents[2] / "docs" / "images.md").read_text()
    (block,) = re.findall(r"```\n(oneblock train images --data captions:photos.*?)```", text, flags=re.DOTALL)
    commands = [shlex.split(line)[1:] for line in block.splitlines()]
    assert [words[0] for words in commands] == ["train", "sample", "evaluate", "report"]
    pictures.rename(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    less = {"train": [*TINY, *WORK], "evaluate": ["--num-samples", "8", "--steps", "2"]}
    for words in commands:
        ok(*words, *less.get(words[0], []))
    assert {path.name for path in (tmp_path / "runs" / "told").iterdir()} >= {"plan.json", "report.html"}
    assert list(tmp_path.rglob("samples.png"))


def test_jobs_elsewhere_find_the_captions(pictures: Path, tmp_path: Path, ok: Ok) -> None:
    words = ("train", "images", "--data", f"captions:{pictures}", "--image-size", "24", *TINY, *WORK)
    ok(*words, "--out", tmp_path / "whole")
    ok(*words, "--out", tmp_path / "jobs", "--strategy", "plan-only")
    pictures.rename(tmp_path / "moved")
    for block in ("0", "1"):
        ok("job", tmp_path / "jobs", "--block", block, "--data", f"captions:{tmp_path / 'moved'}", "--threads", "1")
        last = sorted((tmp_path / "jobs" / f"block-{block}").glob("*.safetensors"))[-1]
        assert last.read_bytes() == (tmp_path / "whole" / f"block-{block}" / last.name).read_bytes()


def test_captions_and_classes_are_not_taken_for_each_other(
    trained: Path, tmp_path: Path, ok: Ok, refused: Refused
) -> None:
    said = refused("sample", trained, "--caption", "a cat", "--out", tmp_path / "cat.png")
    assert "captions=['a cat'" in said and "trained without captions; leave them out" in said
    ok("train", "images", "--data", "scenes,images=24", "--out", tmp_path / "told", *TINY, *WORK)
    said = refused("sample", tmp_path / "told", "--classes", "3", "--out", tmp_path / "three.png")
    assert "classes=['3']: the model is told captions, not classes; use --caption" in said
    said = refused("evaluate", tmp_path / "told", "--data", "digits", "--channels", "3", "--num-samples", "0")
    assert "the data have no captions, which the network is told" in said
    said = refused("train", "images", "--data", f"captions:{tmp_path / 'none'}", "--out", tmp_path / "run")
    assert "is not a folder; give one with images and their captions" in said
