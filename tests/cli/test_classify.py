import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import TINY, WORK

from oneblock.evaluate.labels import label_scores
from oneblock.presets import ClassifyRecipe, ImageFacts
from oneblock.train.checkpoint import checkpoints

pytest.importorskip("sklearn")
Ok = Callable[..., list[dict[str, Any]]]
Refused = Callable[..., str]


def facts(shape: tuple[int, int, int], num_classes: int) -> ImageFacts:
    return ImageFacts(shape=shape, num_classes=num_classes)


def test_train_status_merge_evaluate(tmp_path: Path, ok: Ok) -> None:
    run = tmp_path / "run"
    ok("train", "classify", "--out", run, *TINY, *WORK, "--flip", "--crop", "1")
    states = ok("status", run, "--json")
    assert [(s["job"], s["step"], s["state"]) for s in states] == [("block-0", 4, "done"), ("block-1", 4, "done")]
    ok("merge", run, "--json")
    found = [ok("evaluate", model, "--json")[0] for model in (run, run / "model")]
    assert found[0] == found[1]
    assert len(found[0]["accuracies"]) == 2
    assert found[0]["accuracy"] == found[0]["accuracies"][-1]
    assert (found[0]["calls"], found[0]["layers_per_image"]) == (2.0, 4.0)
    (early,) = ok("evaluate", run, "--confident", "0", "--json")
    assert (early["calls"], early["layers_per_image"]) == (1.0, 2.0)
    assert early["accuracy"] == found[0]["accuracies"][0]
    (many,) = ok("evaluate", run, "--calls", "5", "--path", "euler", "--draws", "2", "--pool", "last", "--json")
    assert len(many["accuracies"]) == 5
    assert many["layers_per_image"] == 2 * 5 * 2.0


def test_blocks_trained_by_their_own_jobs_are_those_of_one_process(tmp_path: Path, ok: Ok) -> None:
    words = ("--branch", "0.5", "--flip", *TINY, *WORK)
    ok("train", "classify", "--out", tmp_path / "one", *words)
    ok("train", "classify", "--out", tmp_path / "many", *words, "--strategy", "plan-only")
    for block in (-1, 1, 0):
        ok("job", tmp_path / "many", "--block", str(block), "--threads", "1")
    for name in ("block-0", "block-1"):
        one, many = (checkpoints(tmp_path / run / name)[-1].read_bytes() for run in ("one", "many"))
        assert one == many


def test_end_to_end_is_an_ordinary_network(tmp_path: Path, ok: Ok) -> None:
    ok("train", "classify", "--out", tmp_path, *TINY, *WORK, "--strategy", "end-to-end")
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert (plan["layers"], plan["architecture"]["noisy_token"]) == ([4], "none")
    (row,) = ok("evaluate", tmp_path, "--json")
    assert len(row["accuracies"]) == 1


def test_ordinary_blocks_are_averaged(tmp_path: Path, ok: Ok) -> None:
    ok("train", "classify", "--out", tmp_path, *TINY, *WORK, "--noisy-token", "none")
    (found,) = ok("evaluate", tmp_path, "--json")
    (averaged,) = ok("evaluate", tmp_path, "--pool", "mean", "--json")
    (other,) = ok("evaluate", tmp_path, "--pool", "evidence", "--json")
    assert found == averaged
    assert found["nll"] != other["nll"]


def test_plan_counts_every_way_of_training(ok: Ok) -> None:
    words = ("--image-size", "8", "--channels", "1", "--fit", "1GiB", "--noisy-token", "class", "--json", *TINY)
    (row,) = ok("plan", "classify", *words, "--batch-size", "16", "--budget", "256")
    costs = {cost["name"]: cost["peak"]["total"] for cost in row["costs"]}
    assert costs["own block, 2 blocks"] < costs["all resident, 2 blocks"] < costs["end-to-end"]
    assert row["fit"]["options"][-2:] == ["--strategy", "end-to-end"]


def test_published_settings_hold_where_nothing_else_is_said() -> None:
    plan = ClassifyRecipe(settings="cifar100", blocks=2).plan(facts((3, 32, 32), 100))
    assert plan.layers == (6, 6)
    assert (plan.architecture["width"], plan.architecture["patch"]) == (128, 4)
    assert (plan.recipe["learning_rate"], plan.recipe["operations"]) == (5e-4, 2)
    assert plan.recipe["layer_evaluations"] == 500 * 50_000 * 12
    larger = ClassifyRecipe(settings="tiny-imagenet", recipe="paper").plan(facts((3, 64, 64), 200))
    assert (larger.layers, larger.recipe["weighting"], larger.shared) == ((6, 6), "edm", "joint")


def test_a_narrower_network_learns_faster() -> None:
    rates = [
        ClassifyRecipe(width=width, heads=2).plan(facts((1, 8, 8), 3)).recipe["learning_rate"] for width in (64, 128)
    ]
    assert rates[0] == 2 * rates[1]  # type: ignore[operator]


def test_prototypes_are_class_means_and_part_of_the_plan(tmp_path: Path, ok: Ok) -> None:
    ok("train", "classify", "--out", tmp_path, *TINY, *WORK, "--table", "prototypes", "--strategy", "plan-only")
    rows = json.loads((tmp_path / "plan.json").read_text())["recipe"]["prototypes"]
    assert len(rows) == 10 * 64
    assert sum(v * v for v in rows[:64]) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "classify", "--blocks", "3"], "num_blocks=3 does not divide depth=4"),
        (["train", "classify", "--label-smoothing", "1.5"], "label_smoothing=1.5 is not allowed; use a number, 0"),
        (["train", "classify", "--operations", "-1"], "operations=-1 is not possible"),
        (["train", "classify", "--crop", "8"], "crop=8 does not fit images of 8 x 8 pixels"),
    ],
)
def test_wrong_options(tmp_path: Path, refused: Refused, words: list[str], message: str) -> None:
    assert message in refused(*words[:2], "--out", tmp_path, *TINY, *WORK, *words[2:])


def test_scores_stay_finite_when_a_sure_answer_is_wrong() -> None:
    sure = torch.eye(3)[None, [0, 1, 1]]
    found = label_scores(sure, torch.tensor([0, 1, 2]))
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["nll"] == pytest.approx(126 * math.log(2) / 3, rel=1e-6)  # the smallest float32 is 2^-126


def test_verbs_refuse_the_other_task(tmp_path: Path, ok: Ok, refused: Refused) -> None:
    ok("train", "classify", "--out", tmp_path / "run", *TINY, *WORK)
    said = refused("sample", tmp_path / "run")
    assert "is a run of task 'classify', which oneblock sample does not support" in said
    assert "it supports image, video, masked-text, text, bytes" in said
    assert "calls=-1 is not a number of calls" in refused("evaluate", tmp_path / "run", "--calls", "-1")
    assert "only noisy paths differ" in refused("evaluate", tmp_path / "run", "--draws", "3")
