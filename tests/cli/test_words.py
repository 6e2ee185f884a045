"""Which options a verb that opens a model has depends on the model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import TINY, WORK

from oneblock.cli.__main__ import main
from oneblock.cli.evaluate import EVALUATE, EvaluateImages
from oneblock.cli.sample import SAMPLE, SampleImages
from oneblock.cli.train import TrainImages
from oneblock.cli.words import parse

Ok = Callable[..., list[dict[str, Any]]]
Refused = Callable[..., str]
TRAINED = {
    "image": ("images",),
    "classify": ("classify",),
    "masked-text": ("masked-text", "--length", "16"),
    "text": ("text", "--length", "16"),
}


def planned(ok: Ok, out: Path, task: str, text: str) -> Path:
    data = ("--data", text) if "text" in task else ()
    ok("train", *TRAINED[task], *data, "--out", out, *TINY, *WORK, "--strategy", "plan-only")
    return out


@pytest.mark.parametrize(
    ("task", "verb", "words", "message"),
    [
        (
            "image",
            "sample",
            ["--prompt", "a"],
            "--prompt is an option for masked-text, text, bytes; the task of this run is image",
        ),
        (
            "image",
            "evaluate",
            ["--windows=3"],
            "--windows is an option for masked-text, text; the task of this run is",
        ),
        ("text", "sample", ["--steps", "3"], "--steps is an option for image, video; the task of this run is text"),
        ("text", "sample", ["--reveals", "3"], "--reveals is an option for masked-text; the task of this run is text"),
        (
            "text",
            "evaluate",
            ["--confident", "1"],
            "--confident is an option for classify; the task of this run is text",
        ),
        (
            "text",
            "evaluate",
            ["--image-size", "8"],
            "--image-size is an option for image, classify; the task of this run is",
        ),
        (
            "masked-text",
            "evaluate",
            ["--calls", "3"],
            "--calls is an option for classify, text; the task of this run is",
        ),
        (
            "classify",
            "evaluate",
            ["--num-samples", "3"],
            "--num-samples is an option for image; the task of this run is",
        ),
        ("text", "evaluate", ["--data", "digits"], "text='digits' is unknown"),
    ],
)
def test_options_of_another_task_are_refused(
    tmp_path: Path, text: str, ok: Ok, refused: Refused, task: str, verb: str, words: list[str], message: str
) -> None:
    run = planned(ok, tmp_path / "run", task, text)
    assert message in refused(verb, run, *words)
    if "=" not in words[0]:
        assert message in refused(verb, *words, run), "wherever the directory stands"


def test_the_directory_may_stand_anywhere(tmp_path: Path, ok: Ok) -> None:
    run = str(planned(ok, tmp_path / "run", "image", ""))
    for words in (
        [run, "--steps", "3", "--json"],
        ["--steps", "3", "--json", run],
        ["--json", run, "--guidance-interval", "0.5", "2"],
        ["--guidance-interval", "0.5", "2", "--steps=3", run],
    ):
        found = parse(EVALUATE, "evaluate", words)
        assert isinstance(found, EvaluateImages) and str(found.model) == run


def test_an_option_of_any_number_of_values_ends_at_a_run(tmp_path: Path, ok: Ok, refused: Refused) -> None:
    run = str(planned(ok, tmp_path / "run", "image", ""))
    for words in (
        ["--classes", "1", "2", run, "--per-class", "1"],
        ["--per-class", "1", "--classes", "1", "2", run],
        [run, "--classes", "1", "2", "--per-class", "1"],
        ["--classes=1", run, "--per-class=1"],
    ):
        found = parse(SAMPLE, "sample", words)
        assert isinstance(found, SampleImages) and (str(found.model), found.per_class) == (run, 1)
        assert found.classes == (("1",) if "--classes=1" in words else ("1", "2"))
    assert "sample needs the directory of a run" in refused("sample", "--classes", "1", "2", tmp_path / "absent")


def test_help_beside_a_place_that_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(tmp_path / "absent"), "--help"])
    shown = capsys.readouterr().out
    assert not ended.value.code and all(f"of a run of task {task}\n" in shown for task in EVALUATE)


def test_help_beside_an_option_of_another_task(tmp_path: Path, ok: Ok, capsys: pytest.CaptureFixture[str]) -> None:
    run = planned(ok, tmp_path / "run", "image", "")
    with pytest.raises(SystemExit) as ended:
        main(["sample", str(run), "--reveals", "3", "--help"])
    assert not ended.value.code and "--steps" in capsys.readouterr().out


def test_help_shows_the_options_by_task(tmp_path: Path, ok: Ok, capsys: pytest.CaptureFixture[str], text: str) -> None:
    for verb, commands in (("sample", SAMPLE), ("evaluate", EVALUATE)):
        with pytest.raises(SystemExit) as ended:
            main([verb, "--help"])
        shown = capsys.readouterr().out
        assert not ended.value.code
        assert all(f"oneblock {verb} of a run of task {task}\n" in shown for task in commands)
    run = planned(ok, tmp_path / "run", "text", text)
    with pytest.raises(SystemExit):
        main(["sample", str(run), "--help"])
    shown = capsys.readouterr().out
    assert "--tokens" in shown and "--steps" not in shown and "--reveals" not in shown and "PATH" in shown


def test_without_a_directory_the_message_says_what_is_missing(refused: Refused) -> None:
    for verb in ("sample", "evaluate"):
        message = f"{verb} needs the directory of a run or of a merged model: oneblock {verb} DIR"
        assert message in refused(verb, "--json")


def test_an_option_that_no_task_has(tmp_path: Path, ok: Ok, refused: Refused) -> None:
    assert "--stepz" in refused("sample", planned(ok, tmp_path / "run", "image", ""), "--stepz", "3")


@pytest.mark.parametrize(
    ("words", "switches"),
    [
        ((), ("auto", "auto")),
        (("--compile",), ("on", "auto")),
        (("--capture", "--compile", "--threads", "1"), ("on", "on")),
        (("--compile", "off", "--capture", "on"), ("off", "on")),
        (("--compile=off",), ("off", "auto")),
    ],
)
def test_a_switch_that_stands_alone_is_on(words: tuple[str, ...], switches: tuple[str, str]) -> None:
    machine = parse(TrainImages, "train images", ["--out", "runs/x", *words]).machine
    assert (machine.compile, machine.capture) == switches
