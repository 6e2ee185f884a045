import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from oneblock.evaluate.writing import Writing
from oneblock.experiment.causal import CausalExperiment
from oneblock.experiment.results import RESULT_FILE, copied, record, recorded
from oneblock.experiment.summary import Row
from oneblock.plan import Plan
from oneblock.sample.calls import Answers

ROW = {"arm": "shallow", "plan": "abc", "times": 4, "edges": (1.0, 2.0)}


def test_a_result_is_found_where_it_was_made_as_asked(tmp_path: Path) -> None:
    assert recorded(tmp_path, "shallow", {"plan": "abc"}) is None
    written = record(tmp_path / "run", ROW)
    assert written == {**ROW, "edges": [1.0, 2.0]}
    assert recorded(tmp_path / "run", "shallow", {"plan": "abc", "edges": (1.0, 2.0)}) == written
    assert recorded(tmp_path / "run", "shallow", {"plan": "abd"}) is None
    assert recorded(tmp_path / "run", "shallow", {"plan": "abc", "windows": 3}) is None
    assert recorded(tmp_path / "run", "ensemble", {"plan": "abc"}) is None


def test_results_of_earlier_versions_have_the_names_of_today(tmp_path: Path) -> None:
    old = {
        "arm": "shallow",
        "plans": ["abc"],
        "bits_per_character": 1.5,
        "tokens_per_character": 1.0,
        "characters_per_second": 7.0,
    }
    (tmp_path / RESULT_FILE).write_text(json.dumps(old))
    assert recorded(tmp_path, "shallow", {"plans": ["abc"]}) == {
        "arm": "shallow",
        "plans": ["abc"],
        "bits_per_byte": 1.5,
        "tokens_per_byte": 1.0,
        "characters_per_second": 7.0,
    }


OLD: dict[str, Any] = {
    **{"arm": "blockwise", "seed": 0, "layers": [1, 1], "parameters": 5302, "layer_evaluations": 128},
    **{"train_seconds": 0.5, "peak_bytes": 236408, "peak_bytes_checkpointing": 212108},
    **{"bits_per_character": 3.736117688964809, "error": 0.049025364109708924},
    **{"bits_after_calls": [3.7255054708295443, 3.736117688964809], "nats_per_token": 2.589679479598999},
    **{"tokens": 96, "tokens_per_character": 1.0, "characters_per_second": 80.0, "samples": ["td t zpn"]},
    **{"plans": ["72f73e16678cc587"], "windows": 6},
    "answers": {"token_calls": 0, "token_path": "mean", "token_pool": "evidence", "token_draws": 1},
    "writing": {
        **{"count": 1, "prompt": "", "tokens": 8, "reveals": 64, "order": "ancestral", "temperature": 1.0},
        "top_p": 1.0,
    },
}
"""A row of an earlier version, as it was written; its times are made up."""


@pytest.mark.parametrize(
    ("experiment", "answers"),
    [
        (CausalExperiment(answers=Answers()), {}),
        (CausalExperiment(answers=Answers(calls=3)), {"token_calls": 3}),
        (CausalExperiment(answers=Answers(path="redraw", pool="last", draws=2)), {"token_path": "redraw"}),
    ],
)
def test_old_results_of_text_are_those_that_are_asked_for(
    tmp_path: Path, experiment: CausalExperiment, answers: Row
) -> None:
    experiment = replace(experiment, windows=6, writing=Writing(count=1, tokens=8))
    wanted = experiment.asked("blockwise", [cast(Plan, SimpleNamespace(hash="72f73e16678cc587"))])
    if experiment.answers.draws > 1:
        answers = {**answers, "token_pool": "last", "token_draws": 2}
    record(tmp_path, {**OLD, "answers": {**OLD["answers"], **answers}})
    found = recorded(tmp_path, "blockwise", wanted)
    assert found is not None
    assert (found["bits_per_byte"], found["tokens_per_byte"]) == (3.736117688964809, 1.0)
    other = replace(experiment, answers=Answers(calls=9))
    assert recorded(tmp_path, "blockwise", {**wanted, "answers": asdict(other.answers)}) is None


def test_a_copied_run_has_all_files_and_leaves_the_other_alone(tmp_path: Path) -> None:
    record(tmp_path / "one", ROW)
    (tmp_path / "one" / "block-0").mkdir()
    (tmp_path / "one" / "block-0" / "weights").write_text("w")
    (tmp_path / "two" / "block-0").mkdir(parents=True)
    (tmp_path / "two" / "block-0" / "weights").write_text("stopped early")
    copied(tmp_path / "one", tmp_path / "two")
    assert not (tmp_path / "two" / RESULT_FILE).exists()
    assert (tmp_path / "two" / "block-0" / "weights").read_text() == "w"
    record(tmp_path / "two", {**ROW, "arm": "other"})
    assert json.loads((tmp_path / "one" / RESULT_FILE).read_text())["arm"] == "shallow"


@pytest.mark.parametrize("linked", [True, False])
def test_a_run_is_copied_again_over_its_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool) -> None:
    def refused(source: str, target: str) -> None:
        raise OSError("this file system has no links")

    if not linked:
        monkeypatch.setattr(os, "link", refused)
    record(tmp_path / "one", ROW)
    (tmp_path / "one" / "weights").write_text("w")
    copied(tmp_path / "one", tmp_path / "two")
    record(tmp_path / "two", {**ROW, "arm": "other"})
    (tmp_path / "one" / "more").write_text("m")
    copied(tmp_path / "one", tmp_path / "two")
    assert {path.name: path.read_text() for path in (tmp_path / "two").iterdir() if path.name != RESULT_FILE} == {
        "weights": "w",
        "more": "m",
    }
    assert json.loads((tmp_path / "two" / RESULT_FILE).read_text())["arm"] == "other"
