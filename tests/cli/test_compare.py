"""The command line of comparisons: the words arrive, tables and JSON leave."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import TINY, WORK

from oneblock.cli.__main__ import main

pytest.importorskip("sklearn")
Ok = Callable[..., list[dict[str, Any]]]
Refused = Callable[..., str]
SHORT = (*TINY, *WORK, "--seeds", "1")
TEXT = ("--length", "16", "--windows", "6", "--count", "2")


def printed(words: tuple[str | Path, ...], capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """Standard output and standard error of a comparison that has been made before."""
    assert main([str(word) for word in words]) == 0
    return capsys.readouterr()


def names(found: dict[str, Any]) -> set[str]:
    """Of the pictures, which are there."""
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in found["pictures"])
    return {Path(path).name for path in found["pictures"]}


def test_images(tmp_path: Path, ok: Ok, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("compare", "images", "--out", tmp_path, *SHORT, "--budgets", "128, 256", "--arms", "shallow", "blockwise")
    words = (*words, "--num-samples", "60", "--steps", "2", "--report-bands", "2", "--resident", "1")
    (found,) = ok(*words, "--json")
    assert [row["run"] for row in found["runs"]] == [
        f"{arm}-{budget}-seed0" for budget in (128, 256) for arm in ("shallow", "blockwise")
    ]
    assert found["runs"][0]["sampling"]["steps"] == 2
    assert len(found["summary"][0]["band_losses"]) == 2
    assert names(found) == {"training.png", "loss.png", "frechet.png", "samples.png"}
    out, err = printed(words, capsys)
    assert "quality, held out (seeds: 1, features: digits-cnn)" in out
    assert "blockwise against shallow: lower loss in " in out
    assert "loss of blockwise against shallow:" in out
    assert "4/4 blockwise-256-seed0: loss " in err and "picture: " in err


def test_quality_against_sampling_work(tmp_path: Path, ok: Ok, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("compare", "images", "--out", tmp_path, *SHORT, "--arms", "shallow", "blockwise", "--num-samples", "0")
    words = (*words, "--sampling-steps", "2", "3", "--sampling-images", "20")
    (found,) = ok(*words, "--json")
    assert [len(row["sampling_curve"]) for row in found["runs"]] == [4, 4]
    assert [(row["arm"], row["sampler"], row["steps"]) for row in found["curves"]] == [
        (arm, solver, steps) for arm in ("shallow", "blockwise") for solver in ("euler", "dpm++2m") for steps in (2, 3)
    ]
    assert "sampling.png" in names(found)
    assert "Frechet distance against sampling work" in printed(words, capsys)[0]


def test_classify(tmp_path: Path, ok: Ok, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("compare", "classify", "--out", tmp_path, *SHORT, "--budgets", "128,256", "--calls", "3")
    words = (*words, "--arms", "shallow", "blockwise", "--seed", "2")
    (found,) = ok(*words, "--json")
    assert [row["seed"] for row in found["runs"]] == [2] * 4
    assert len(found["runs"][1]["accuracies"]) == 3
    assert names(found) == {"accuracy.png", "training.png", "budgets.png"}
    assert "blockwise against shallow: right more often in" in printed(words, capsys)[0]


def test_masked_text(tmp_path: Path, text: str, ok: Ok, capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        "compare",
        "masked-text",
        "--out",
        tmp_path,
        "--data",
        text,
        *SHORT,
        *TEXT,
        "--times",
        "2",
        "--reveals",
        "2",
    )
    words = (*words, "--budgets", "256,512", "--arms", "ensemble", "blockwise")
    (found,) = ok(*words, "--json")
    assert names(found) == {"nats_per_band.png", "training.png", "budgets.png"}
    out, _ = printed(words, capsys)
    assert "blockwise against ensemble: fewer bits in" in out
    assert "bits_per_byte of blockwise against ensemble:" in out


def test_arms_of_one_plan_are_scored_again(tmp_path: Path, text: str, ok: Ok) -> None:
    words = ("compare", "masked-text", "--out", tmp_path, "--data", text, *SHORT, *TEXT, "--weighting", "bound")
    words = (*words, "--arms", "mdlm", "end-to-end", "--times", "1", "--reveals", "2", "--json")
    for windows in (4, 5):
        (found,) = ok(*words, "--windows", str(windows))
        assert [(row["arm"], row["windows"]) for row in found["runs"]] == [("mdlm", windows), ("end-to-end", windows)]


def test_text(tmp_path: Path, text: str, ok: Ok, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("compare", "text", "--out", tmp_path, "--data", text, *SHORT, *TEXT, "--tokens", "4", "--calls", "3")
    words = (*words, "--arms", "shallow", "blockwise", "n-gram")
    (found,) = ok(*words, "--json")
    assert [len(row["bits_after_calls"]) for row in found["runs"]] == [1, 3, 1]
    assert [len(one) for one in found["runs"][0]["samples"]] == [4, 4]
    assert names(found) == {"bits_after_calls.png", "training.png"}
    assert found["runs"][1]["samples"][0] in printed(words, capsys)[0]


def test_recurrent_text(tmp_path: Path, text: str, ok: Ok) -> None:
    words = ("compare", "recurrent-text", "--out", tmp_path, "--data", text, *TEXT, "--tokens", "4", "--seeds", "1")
    words = (*words, "--depth", "1", "--width", "16", "--heads", "2", "--batch-size", "4", "--budget", "480")
    words = (*words, "--iterations", "4", "--back", "2", "--calls", "3", "--bptt-batch-size", "4", "--threads", "1")
    (found,) = ok(*words, "--json")
    assert [len(row["bits_after_calls"]) for row in found["runs"]] == [3, 1, 3]


def test_json_is_strict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("compare", "images", "--out", tmp_path, *SHORT, "--arms", "shallow", "--num-samples", "60", "--steps", "2")
    assert main([str(word) for word in (*words, "--json")]) == 0

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    json.loads(capsys.readouterr().out, parse_constant=refuse)


def test_evolve(tmp_path: Path, ok: Ok, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("compare", "evolve", "--out", tmp_path, "--seeds", "1", "--arms", "backpropagation", "rank-1-timed")
    words = (*words, "--population", "4", "--chunk", "4", "--budget", "384", "--cpu-seconds", "0.05", "--threads", "1")
    (found,) = ok(*words, "--json")
    assert [row["arm"] for row in found["runs"]] == ["backpropagation", "rank-1-timed"]
    assert (found["runs"][0]["steps"], found["runs"][1]["population"]) == (2, 4)
    out, err = printed(words, capsys)
    assert "held-out images at equal steps" in out and "held-out images at equal processor time" in out
    assert "1/2 backpropagation-384-seed0: accuracy " in err


@pytest.mark.parametrize(
    ("task", "words", "message"),
    [
        ("evolve", ["--noise-rank", "2"], "noise_rank=2 means nothing here"),
        ("images", ["--seeds", "0"], "seeds=0 is not allowed; use a whole number, 1 or more"),
        ("images", ["--steps", "25", "--grid", "equal-mass"], "steps=25 is not a multiple of the 2 blocks"),
        ("images", ["--report-bands", "0"], "report_bands=0 is not a number of bands"),
        ("images", ["--extractor", "cats"], "extractor name='cats' is unknown"),
        ("images", ["--num-samples", "-1"], "num_samples=-1 is not allowed; use a whole number, 0 or more"),
        ("images", ["--arms", "shallow", "shallow"], "arms: 'shallow' is named twice"),
        ("images", ["--budgets", ","], "budgets=',' names no budget; write e.g. 200k,800k"),
        ("classify", ["--arms", "blockwise", "--draws", "2"], "draws=2 with path='mean'"),
        ("text", ["--top-p", "0"], "top_p=0.0: use a temperature of 0 or more"),
        ("recurrent-text", ["--temperature", "-1"], "temperature=-1.0"),
        ("classify", ["--branch", "0"], "arm 'branched' needs --branch above 0"),
        ("masked-text", ["--report-bands", "0"], "report_bands=0"),
        ("text", ["--calls", "-2"], "calls=-2"),
        ("recurrent-text", ["--bptt-batch-size", "0"], "batch_size=0 is not a batch size"),
    ],
)
def test_bad_options_are_refused_before_any_work(
    tmp_path: Path, text: str, refused: Refused, task: str, words: list[str], message: str
) -> None:
    own = () if task in ("images", "classify", "evolve") else ("--data", text, *TEXT)
    sizes = {"recurrent-text": ("--depth", "1", "--width", "16", "--heads", "2"), "evolve": ()}
    size = sizes.get(task, SHORT)
    assert message in refused("compare", task, "--out", tmp_path / "out", *size, *own, *words)
    assert not (tmp_path / "out").exists()


def test_the_demo_makes_a_model_and_a_picture(tmp_path: Path, ok: Ok, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("demo", "--out", tmp_path, "--budget", "3k", "--num-samples", "60", "--threads", "1")
    (row,) = ok(*words, "--json")
    assert [run["arm"] for run in row["runs"]] == ["end-to-end", "branched"]
    assert Path(row["picture"]).read_bytes().startswith(b"\x89PNG")
    shards = sorted(path.name for path in Path(row["model"]).glob("*.safetensors"))
    assert shards == [f"block-{b}.safetensors" for b in range(3)]
    out, _ = printed(words, capsys)
    assert "3 blocks, one at a time" in out
    assert f"model: {row['model']}" in out


def test_the_demo_shows_losses_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("demo", "--out", tmp_path, "--budget", "1k", "--num-samples", "0", "--threads", "1")
    out, _ = printed(words, capsys)
    assert "held-out denoising loss" in out and "Frechet" not in out
