import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import TensorDataset

from oneblock.condition import Condition
from oneblock.data import Bytes, TextData, write_tokens
from oneblock.evaluate.bands import band_losses
from oneblock.evaluate.images import Sampling
from oneblock.evaluate.reference import held_out_targets
from oneblock.evaluate.writing import Writing
from oneblock.experiment import causal
from oneblock.experiment.base import usual_arms
from oneblock.experiment.causal import CausalExperiment
from oneblock.experiment.classify import ClassifyExperiment
from oneblock.experiment.compare import compare
from oneblock.experiment.data import open_pictures, open_texts
from oneblock.experiment.grid import Comparison
from oneblock.experiment.images import SAMPLES_FILE, ImageExperiment
from oneblock.experiment.masked import MaskedExperiment
from oneblock.experiment.recurrent import RecurrentExperiment
from oneblock.experiment.results import RESULT_FILE
from oneblock.partition import make_partition
from oneblock.presets import ClassifyRecipe, ImageRecipe, MaskedRecipe, blockwise, masked_task
from oneblock.presets.image import image_task
from oneblock.report.comparison import draw, report
from oneblock.sample.calls import Answers
from oneblock.tasks.masked import nelbo
from oneblock.train.drive import Watch
from oneblock.train.machine import Machine
from oneblock.train.record import METRICS_FILE, read_rows
from oneblock.train.shards import open_denoiser, open_plan

NET: dict[str, Any] = {"size": "nano", "depth": 4, "width": 16, "heads": 2}
QUIET: dict[str, Any] = {"machine": Machine(threads=1), "watch": Watch(bars=False), "seeds": 1}


def recipe_of(experiment: Any, **changes: Any) -> Any:
    return replace(experiment.usual, **{**NET, **changes})


def by_arm(found: Comparison) -> dict[str, dict[str, Any]]:
    return {row["arm"]: row for row in found.rows}


IMAGES = ImageExperiment(num_samples=60, report_bands=2, sampling=Sampling(steps=2))


def test_images_are_scored_at_equal_work_and_a_comparison_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    recipe, told = recipe_of(IMAGES, blocks=2, batch_size=16, block_batch_size=16), list[str]()
    found = compare(IMAGES, out=tmp_path, recipe=recipe, budgets=["256", 512], told=told.append, **QUIET)
    arms = {(row["arm"], row["layer_evaluations"]): row for row in found.rows}
    assert set(arms) == {(a, w) for a in usual_arms(IMAGES.arms) for w in (256, 512)}
    assert arms["shallow", 256]["layers"] == [2]
    assert arms["ensemble", 256]["layers"] == [2, 2] and arms["experts", 256]["layers"] == [4, 4]
    assert arms["ensemble", 256]["parameters"] == 2 * arms["shallow", 256]["parameters"]
    assert arms["experts", 256]["parameters"] == 2 * arms["end-to-end", 256]["parameters"]
    assert arms["ensemble", 256]["peak_bytes"] == arms["shallow", 256]["peak_bytes"]
    assert arms["experts", 256]["peak_bytes"] == arms["end-to-end", 256]["peak_bytes"], "with batches of equal size"
    assert arms["branched", 256]["layers"] == [2, 2]
    assert arms["shallow", 256]["peak_bytes"] == arms["blockwise", 256]["peak_bytes"]
    assert arms["blockwise", 256]["peak_bytes"] < arms["end-to-end", 256]["peak_bytes"]
    assert all((tmp_path / row["run"] / SAMPLES_FILE).is_file() for row in found.rows)
    assert (len(told), told[0].split(":")[0]) == (12, "1/12 end-to-end-256-seed0")
    assert [len(row["band_losses"]) for row in found.summaries] == [2] * 12
    again = compare(IMAGES, out=tmp_path, recipe=recipe, budgets=["256", 512], **QUIET)
    assert again.rows == found.rows


def test_an_ensemble_of_images_is_asked_as_a_whole(tmp_path: Path) -> None:
    """What is scored is the mean of what its networks answer, over all of them at every call."""
    pytest.importorskip("sklearn")
    recipe = recipe_of(IMAGES, blocks=2, batch_size=8, budget=256)
    experiment = replace(IMAGES, num_samples=0)
    (row,) = compare(experiment, out=tmp_path, recipe=recipe, arms=["ensemble"], **QUIET).rows
    assert len(row["plans"]) == 2 and "plan" not in row
    places = [tmp_path / row["run"] / f"network-{i}" for i in range(2)]
    plans = [open_plan(place) for place in places]
    assert [plan.hash for plan in plans] == row["plans"]
    members = [
        open_denoiser(place, blockwise(plan), torch.device("cpu")) for place, plan in zip(places, plans, strict=True)
    ]
    data = open_pictures(recipe, None, None).test
    targets, labels = held_out_targets(data)
    assert labels is not None
    bands = make_partition(plans[0].partition.law, IMAGES.report_bands)

    def mean(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        first, second = (member(z, sigma, condition) for member in members)
        return (first + second) / 2

    torch.testing.assert_close(
        row["band_losses"], band_losses(mean, image_task(plans[0]), bands, targets, labels), rtol=1e-5, atol=1e-6
    )
    alone = [band_losses(member, image_task(plans[0]), bands, targets, labels) for member in members]
    assert all(both < (one + other) / 2 for both, one, other in zip(row["band_losses"], *alone, strict=True)), (
        "the square is convex"
    )


@pytest.mark.parametrize("kind", ["losses alone", "no pictures", "no classes"])
def test_images_are_compared_where_there_is_no_quality_to_score(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    recipe = recipe_of(IMAGES, blocks=2, batch_size=8, block_batch_size=8, conditional=kind != "no classes")
    settings: dict[str, Any] = {"recipe": recipe, "arms": ["shallow", "blockwise"], "budgets": [128, 256], **QUIET}
    experiment = IMAGES
    if kind == "losses alone":
        experiment = replace(IMAGES, num_samples=0)
    if kind == "no pictures":
        values = torch.rand(32, 2, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
        settings["data"] = settings["held_out"] = TensorDataset(values, torch.arange(32) % 2)
    told = list[str]()
    found = compare(experiment, out=tmp_path, told=told.append, **settings)
    shown, pictures = report(found), {path.name for path in draw(found)}
    assert ("Frechet" in told[0], "frechet.png" in pictures) == ((kind == "no classes"),) * 2
    assert ("features: " in shown.tables[0].title) == (kind == "no classes")
    assert "loss.png" in pictures and ("samples.png" in pictures) == (kind != "no pictures")
    assert "lower loss in" in shown.lines[0] and ("Frechet" in shown.lines[0]) == (kind == "no classes")
    samples = load_file(tmp_path / found.rows[0]["run"] / SAMPLES_FILE)["images"]
    count = {"losses alone": 80, "no pictures": 16, "no classes": 64}[kind]
    assert samples.shape == (count, 2 if kind == "no pictures" else 1, 8, 8)
    assert compare(experiment, out=tmp_path, **settings).rows == found.rows


def test_workers_give_the_rows_of_one_process(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    recipe = recipe_of(IMAGES, blocks=2, batch_size=16, budget=128)
    arms = ("shallow", "blockwise")
    one, two = (
        compare(IMAGES, out=tmp_path / str(workers), recipe=recipe, arms=arms, workers=workers, **QUIET)
        for workers in (1, 2)
    )
    times = dict.fromkeys(("train_seconds", "sampling_seconds", "images_per_second"))
    assert [{**row, **times} for row in one.rows] == [{**row, **times} for row in two.rows]


def test_a_data_set_of_ones_own_brings_its_held_out_part(tmp_path: Path) -> None:
    images = torch.rand(48, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    data, held_out = (TensorDataset(part, torch.arange(len(part)) % 2) for part in images.split([32, 16]))
    experiment = ClassifyExperiment()
    recipe = recipe_of(experiment, blocks=2, batch_size=8, block_batch_size=8, budget=128)
    settings: dict[str, Any] = {"out": tmp_path, "recipe": recipe, "arms": ["shallow", "blockwise"], **QUIET}
    found = compare(experiment, data=data, held_out=held_out, **settings)
    assert [len(row["accuracies"]) for row in found.rows] == [1, 2]
    with pytest.raises(ValueError, match="data is a TensorDataset, which has no held-out part"):
        compare(experiment, data=data, **settings)


def test_every_arm_of_classifiers_is_scored_at_equal_work(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    experiment = ClassifyExperiment()
    recipe = recipe_of(experiment, blocks=2, batch_size=16, block_batch_size=16, budget=640)
    found = compare(experiment, out=tmp_path, recipe=recipe, **QUIET)
    arms = by_arm(found)
    assert set(arms) == set(experiment.arms)
    assert all(0.75 * 640 < row["layer_evaluations"] <= 1.05 * 640 for row in arms.values())  # whole steps
    assert arms["shallow"]["layers"] == [2]
    assert arms["ensemble"]["layers"] == arms["paper"]["layers"] == [2, 2]
    assert arms["end-to-end"]["layers_per_image"] == arms["ensemble"]["layers_per_image"] == 4
    assert arms["blockwise"]["peak_bytes"] < arms["end-to-end"]["peak_bytes"]
    stages = {arm: len(row["accuracies"]) for arm, row in arms.items()}
    assert stages["blockwise"] == stages["greedy"] == stages["noprop-blocks"] == 2
    assert (stages["end-to-end"], stages["contrastive-ff"], stages["noprop-dt"]) == (1, 4, 10)
    assert compare(experiment, out=tmp_path, recipe=recipe, **QUIET).rows == found.rows


def test_ordinary_networks_are_asked_their_own_way(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    experiment = ClassifyExperiment(answers=Answers(calls=3), confident=0.5)
    recipe = recipe_of(experiment, blocks=2, batch_size=16, block_batch_size=16, budget=128)
    arms = by_arm(compare(experiment, out=tmp_path, recipe=recipe, arms=("shallow", "blockwise", "paper"), **QUIET))
    asked = {arm: row["labels"] for arm, row in arms.items()}
    assert (asked["shallow"]["calls"], asked["shallow"]["confident"]) == (0, 1.0)
    assert (asked["blockwise"]["calls"], asked["blockwise"]["confident"]) == (3, 0.5)
    assert (asked["paper"]["path"], asked["paper"]["pool"]) == ("euler", "last")
    assert len(arms["blockwise"]["accuracies"]) == 3


MASKED = MaskedExperiment(windows=6, times=2, writing=Writing(reveals=2, count=3))


def masked_recipe(**changes: Any) -> MaskedRecipe:
    return recipe_of(MASKED, blocks=4, length=16, batch_size=4, block_batch_size=4, **changes)  # type: ignore[no-any-return]


def test_every_arm_of_masked_text_is_scored_at_equal_work_and_goes_on(tmp_path: Path, text: str) -> None:
    settings: dict[str, Any] = {"data": text, "out": tmp_path, "recipe": masked_recipe(budget=256), **QUIET}
    first = compare(MASKED, **settings)
    arms = by_arm(first)
    assert set(arms) == set(usual_arms(MASKED.arms))
    assert all(0.9 * 256 <= row["layer_evaluations"] <= 256 for row in arms.values())  # whole steps
    assert arms["ensemble"]["layers"] == arms["blockwise"]["layers"] == [1, 1, 1, 1]
    assert arms["ensemble"]["parameters"] == 4 * arms["shallow"]["parameters"] == arms["blockwise"]["parameters"]
    peaks = {arm: row["peak_bytes"] for arm, row in arms.items()}
    assert peaks["ensemble"] == peaks["blockwise"] < peaks["two-blocks"] < peaks["end-to-end"]
    assert peaks["blockwise"] < peaks["shallow"] < peaks["branched"] * 1.01  # four times the texts of a step
    assert arms["end-to-end"]["peak_bytes_checkpointing"] < peaks["end-to-end"]
    for row in arms.values():
        assert len(row["nats_per_band"]) == 3
        assert row["bits_per_byte"] == pytest.approx(sum(row["nats_per_band"]) / math.log(2))
        assert [len(sample) for sample in row["samples"]] == [16, 16]
        assert row["tokens"] == 6 * 16
    assert compare(MASKED, **settings).rows == first.rows
    other = compare(replace(MASKED, report_bands=2), arms=["shallow"], **settings)
    assert len(other.rows[0]["nats_per_band"]) == 2


class Averaged:
    """The mean probability of the networks below a directory, as logits."""

    def __init__(self, directory: Path) -> None:
        places = sorted(directory.glob("network-*")) or [directory]
        self.plan = open_plan(places[0])
        self.networks = [open_denoiser(at, blockwise(open_plan(at)), torch.device("cpu")) for at in places]

    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        answers = [network(z, sigma, condition).softmax(-1) for network in self.networks]
        return (sum(answers, torch.zeros(())) / len(answers)).log()


def test_scores_are_those_of_the_trained_networks_at_the_same_masks(tmp_path: Path, text: str) -> None:
    recipe = masked_recipe(budget="1k")
    found = compare(MASKED, data=text, out=tmp_path, recipe=recipe, arms=("ensemble", "two-blocks"), **QUIET)
    held_out = open_texts(recipe, TextData(data=text), None, windows=6).test
    networks = {row["arm"]: Averaged(tmp_path / row["run"]) for row in found.rows}
    assert {arm: len(one.networks) for arm, one in networks.items()} == {"ensemble": 4, "two-blocks": 1}
    for row in found.rows:
        plan = networks[row["arm"]].plan
        bound = nelbo(networks[row["arm"]], masked_task(plan), make_partition(plan.partition.law, 3), held_out, 2)
        assert row["nats_per_band"] == pytest.approx(bound.bands, rel=1e-5)
        assert row["error"] == pytest.approx(bound.bits()[1], rel=1e-4)


def test_arms_of_one_plan_are_trained_once(tmp_path: Path, text: str) -> None:
    recipe = replace(masked_recipe(budget=128), blocks=2)
    settings: dict[str, Any] = {"data": text, "out": tmp_path, "recipe": recipe, "arms": ("blockwise", "two-blocks")}
    steps = list[str]()
    watch = Watch(bars=False, sent=lambda job, last: steps.append(job))
    found = compare(MASKED, **settings, **{**QUIET, "watch": watch})
    once = compare(MASKED, **{**settings, "out": tmp_path / "once", "arms": ("blockwise",)}, **QUIET)
    assert steps.count("block-0") == 1 + 8  # the steps of one run, and its end
    one, two = ({key: value for key, value in row.items() if key not in ("arm", "run")} for row in found.rows)
    assert one == two
    assert one["nats_per_band"] == once.rows[0]["nats_per_band"]
    assert [row["arm"] for row in found.rows] == ["blockwise", "two-blocks"]
    assert open_plan(tmp_path / found.rows[1]["run"]) == open_plan(tmp_path / found.rows[0]["run"])
    stored = json.loads((tmp_path / found.rows[1]["run"] / "result.json").read_text())
    assert (stored["arm"], stored["bits_per_byte"]) == ("two-blocks", two["bits_per_byte"])


def test_arms_of_one_plan_are_scored_again(tmp_path: Path, text: str) -> None:
    recipe = masked_recipe(budget=128, weighting="bound")
    settings: dict[str, Any] = {"data": text, "out": tmp_path, "recipe": recipe, **QUIET}
    settings["arms"] = ("mdlm", "end-to-end")
    for windows in (4, 5):
        rows = compare(replace(MASKED, windows=windows), **settings).rows
        assert [(row["arm"], row["windows"]) for row in rows] == [("mdlm", windows), ("end-to-end", windows)]
        assert rows[0]["bits_per_byte"] == rows[1]["bits_per_byte"]
    assert compare(replace(MASKED, windows=5), **{**settings, "arms": ("end-to-end", "mdlm")}).rows == rows[::-1]


def test_a_run_of_another_plan_is_not_overwritten_by_that_of_a_twin(tmp_path: Path, text: str) -> None:
    settings: dict[str, Any] = {"data": text, "out": tmp_path, **QUIET}
    (even,) = compare(MASKED, recipe=masked_recipe(budget=128), arms=("end-to-end",), **settings).rows
    with pytest.raises(ValueError, match="end-to-end-128-seed0 belongs to plan"):
        compare(MASKED, recipe=masked_recipe(budget=128, weighting="bound"), arms=("mdlm", "end-to-end"), **settings)
    assert open_plan(tmp_path / even["run"]).hash == even["plans"][0]


def test_a_finished_comparison_of_an_earlier_version_is_not_scored_again(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = CausalExperiment(windows=6, writing=Writing(count=1, tokens=4))
    recipe = recipe_of(experiment, blocks=2, length=16, budget=256)
    settings: dict[str, Any] = {"data": text, "out": tmp_path, "recipe": recipe, "arms": ("blockwise",), **QUIET}
    (row,) = compare(experiment, **settings).rows
    file = tmp_path / row["run"] / RESULT_FILE
    old = json.loads(file.read_text())
    old["answers"] = {"token_calls": 0, "token_path": "mean", "token_pool": "evidence", "token_draws": 1}
    old["bits_per_character"], old["tokens_per_character"] = old.pop("bits_per_byte"), old.pop("tokens_per_byte")
    file.write_text(json.dumps(old))

    def scored(*given: Any) -> None:
        raise AssertionError("this run has a result")

    monkeypatch.setattr(causal, "score_texts", scored)
    assert compare(experiment, **settings).rows == [row]


def test_a_comparison_of_autoregressive_models(tmp_path: Path, text: str) -> None:
    experiment = CausalExperiment(windows=6, writing=Writing(count=2, tokens=4))
    recipe = recipe_of(experiment, blocks=2, length=16, budget=512)
    settings: dict[str, Any] = {"data": text, "out": tmp_path, "recipe": recipe, **QUIET}
    settings["arms"] = ("end-to-end", "ensemble", "blockwise", "n-gram")
    found = compare(experiment, **settings)
    rows = by_arm(found)
    calls = {arm: len(row["bits_after_calls"]) for arm, row in rows.items()}
    assert calls == {"end-to-end": 1, "ensemble": 2, "blockwise": 2, "n-gram": 1}
    assert rows["n-gram"]["bits_per_byte"] < 1.0 < rows["end-to-end"]["bits_per_byte"]  # sentences repeat
    written = [row["samples"] for arm, row in rows.items() if arm != "n-gram"]
    assert all(len(texts) == 2 and len(texts[0]) == 4 for texts in written)
    stored = json.loads((tmp_path / "blockwise-512-seed0" / "result.json").read_text())
    assert stored["bits_per_byte"] == rows["blockwise"]["bits_per_byte"]
    assert compare(experiment, **settings).rows == found.rows


def test_a_comparison_of_recurrent_depth(tmp_path: Path, text: str) -> None:
    experiment = RecurrentExperiment(
        windows=6,
        iterations=4,
        back=2,
        bptt_batch_size=4,
        answers=Answers(calls=3),
        writing=Writing(count=2, tokens=4),
    )
    recipe = recipe_of(experiment, depth=1, length=16, budget=480)
    rows = by_arm(compare(experiment, data=text, out=tmp_path, recipe=recipe, **QUIET))
    assert {arm: len(row["bits_after_calls"]) for arm, row in rows.items()} == {
        "single-pass": 3,
        "feed-forward": 1,
        "truncated-bptt": 3,  # after 1, 2 and 4 iterations
    }
    assert rows["single-pass"]["layer_evaluations"] == rows["feed-forward"]["layer_evaluations"] == 480
    assert rows["truncated-bptt"]["layer_evaluations"] == pytest.approx(3 * 480, abs=4 * (2 + 12))
    assert rows["truncated-bptt"]["peak_bytes"] > rows["feed-forward"]["peak_bytes"]
    assert rows["truncated-bptt"]["listed_at"] == [1, 2, 4]
    assert all([len(one) for one in row["samples"]] == [4, 4] for row in rows.values())
    assert all(row["characters_per_second"] > 0 for row in rows.values())
    run = tmp_path / rows["truncated-bptt"]["run"]
    assert list(read_rows(run / "truncated-bptt" / METRICS_FILE))
    (run / RESULT_FILE).unlink()  # as if it had been killed after training
    (again,) = compare(experiment, data=text, out=tmp_path, recipe=recipe, arms=["truncated-bptt"], **QUIET).rows
    unknown = dict.fromkeys(("train_seconds", "characters_per_second"))
    assert again["train_seconds"] is None
    assert {**again, **unknown} == {**rows["truncated-bptt"], **unknown}


@pytest.mark.parametrize(
    ("experiment", "changes", "settings", "message"),
    [
        ("images", {}, {"arms": ["nope"]}, "arm 'nope' does not exist; use some of end-to-end, shallow"),
        ("images", {}, {"seeds": 0}, "seeds=0 is not allowed; use a whole number, 1 or more"),
        ("images", {}, {"budgets": ["many"]}, "budget='many' is not a number"),
        ("images", {}, {"budgets": ["1k", "2k", "1k"]}, "budgets: '1k' is named twice; name each once"),
        ("images", {}, {"budgets": ["1k", 1000]}, "budgets: '1k' and 1000 are the same; name each once"),
        ("images", {}, {"arms": ["blockwise", "shallow", "blockwise"]}, "arms: 'blockwise' is named twice; name each"),
        (ImageExperiment(num_samples=-1), {}, {}, "num_samples=-1 is not allowed; use a whole number, 0 or more"),
        (ImageExperiment(num_samples=5), {}, {}, "num_samples=5 are too few to compare; use 6 or more, or 0"),
        (ImageExperiment(num_samples=6.5), {}, {}, "num_samples=6.5 is not allowed in ImageExperiment"),  # type: ignore[arg-type]
        (ImageExperiment(report_bands=0), {}, {}, "report_bands=0 is not a number of bands; use 1 or more"),
        (ImageExperiment(extractor="cats"), {}, {}, "extractor name='cats' is unknown; use one of digits-cnn"),
        (ImageExperiment(extractor="fashion-mnist-cnn"), {}, {}, "do not fit fashion-mnist-cnn"),
        (ImageExperiment(resident=0), {}, {}, "resident=0 leaves no block to work with; use 1 or more"),
        (
            ImageExperiment(sampling=Sampling(steps=25, grid="equal-mass")),
            {},
            {},
            "steps=25 is not a multiple of the 4 blocks; use 24 or 28",
        ),
        (ImageExperiment(sampling=Sampling(steps=1)), {}, {}, "steps=1 is too small for a grid; use 2 or more"),
        (ImageExperiment(num_samples=0, sampling=Sampling(steps=1)), {}, {}, "steps=1 is too small for a grid"),
        (ClassifyExperiment(answers=Answers(draws=2)), {}, {}, "draws=2 with path='mean': only noisy paths differ"),
        (ClassifyExperiment(noprop_steps=0), {}, {}, "num_steps=0 is too small; use 1 or more"),
        (
            "images",
            {},
            {"recipe": ClassifyRecipe()},
            "recipe is a ClassifyRecipe; comparing images takes a ImageRecipe",
        ),
        ("pictures", {}, {"recipe": ImageRecipe()}, "experiment='pictures' is unknown; use one of images, classify"),
        ("text", {"branch": 0.0}, {}, "arm 'branched-ensemble' needs --branch above 0"),
        ("text", {"branch": 0.0}, {"arms": ["shallow", "branched"]}, "arm 'branched' needs --branch above 0"),
        (CausalExperiment(windows=0), {}, {}, "windows=0 is not allowed; use a whole number, 1 or more"),
        (
            CausalExperiment(writing=Writing(tokens=99)),
            {},
            {},
            "tokens=99 more are asked for, but the network sees only 16",
        ),
        ("masked-text", {"branch": 0.0}, {}, "arm 'branched' needs --branch above 0"),
        (replace(MASKED, times=0), {}, {}, "times=0, report_bands=3: use at least one of each"),
        (replace(MASKED, report_bands=0), {}, {}, "report_bands=0"),
        (replace(MASKED, writing=Writing(prompt="the cat sat on the mat")), {}, {}, "has 22 tokens"),
        ("masked-text", {"length": 5000}, {}, "length=5000 does not fit"),
        ("masked-text", {"blocks": 3}, {}, "num_blocks=3 does not divide depth=4"),
        ("masked-text", {"depth": 3, "blocks": 3}, {}, "num_blocks=2 does not divide depth=3"),
        ("masked-text", {"budget": 15}, {}, "budget=15 does not pay for one step of every block"),
        (RecurrentExperiment(back=0), {"depth": 2}, {}, "back=0: nothing is trained"),
        (RecurrentExperiment(bptt_batch_size=0), {"depth": 2}, {}, "batch_size=0 is not a batch size"),
        (RecurrentExperiment(bptt_share=1e-6), {"depth": 2}, {}, "does not pay for one step of every part"),
        (RecurrentExperiment(bptt_share=math.inf), {"depth": 2}, {}, "bptt_share=inf is not a share of work"),
        (RecurrentExperiment(iterations=0), {"depth": 2}, {}, "iterations=0, back=8: nothing is trained"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_work(
    tmp_path: Path, text: str, experiment: Any, changes: Any, settings: Any, message: str
) -> None:
    from oneblock.experiment.compare import EXPERIMENTS

    found = EXPERIMENTS.get(experiment, ImageExperiment)() if isinstance(experiment, str) else experiment
    blocks = {"blocks": found.usual.blocks if found.task == "recurrent-text" else 4}
    own = {"length": 16} if found.task.endswith("text") else {}
    data = text if found.task.endswith("text") else None
    recipe = recipe_of(found, **{**blocks, **own, **changes})
    with pytest.raises(ValueError, match="(?s)" + message.replace("(", r"\(")):
        compare(experiment, **{"out": tmp_path / "out", "data": data, "recipe": recipe, **QUIET, **settings})
    assert not (tmp_path / "out").exists()


def pictures(count: int = 20, classes: int = 2, side: int = 8) -> TensorDataset:
    values = torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return TensorDataset(values, torch.arange(count) % classes)


DIGITS = ImageExperiment(extractor="digits-cnn", num_samples=20, sampling=Sampling(steps=2))


@pytest.mark.parametrize(
    ("experiment", "data", "held_out", "message"),
    [
        (DIGITS, pictures(), pictures(classes=3), "held_out has 3 classes, the training data 2; give held-out data of"),
        (DIGITS, pictures(), pictures(side=10), r"held_out has samples of shape \(1, 10, 10\), the training data"),
        (DIGITS, pictures(), TensorDataset(pictures().tensors[0]), "held_out has 0 classes, the training data 2"),
        (DIGITS, pictures(side=10), pictures(side=10), "do not fit digits-cnn"),
        (DIGITS, pictures(5), pictures(), "the data have 5 training images, but comparing generated ones takes 6"),
        (DIGITS, pictures(), pictures(1, 1), "held_out has 1 classes"),
        (ClassifyExperiment(), pictures(), pictures(classes=3), "held_out has 3 classes, the training data 2"),
        (ClassifyExperiment(), pictures(), pictures(side=10), "held_out has samples of shape"),
    ],
)
def test_images_that_cannot_be_scored_are_refused_before_any_work(
    tmp_path: Path, experiment: Any, data: TensorDataset, held_out: TensorDataset, message: str
) -> None:
    recipe = recipe_of(experiment, blocks=2, batch_size=4, block_batch_size=4, budget=640)
    with pytest.raises(ValueError, match=message):
        compare(experiment, out=tmp_path / "out", data=data, held_out=held_out, recipe=recipe, **QUIET)
    assert not (tmp_path / "out").exists()


def test_the_packages_of_an_extractor_are_missed_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    experiment = ImageExperiment(extractor="efficientnet-lite0")
    with pytest.raises(ImportError, match="extractor efficientnet-lite0 needs two packages"):
        compare(experiment, out=tmp_path / "out", recipe=recipe_of(experiment, blocks=2), **QUIET)
    assert not (tmp_path / "out").exists()


def test_held_out_text_in_another_vocabulary_is_refused(tmp_path: Path, text: str) -> None:
    held_out = write_tokens(tmp_path / "bytes.tokens", [torch.arange(64)], Bytes())
    recipe = recipe_of(MASKED, blocks=4, length=16, vocabulary="characters")
    with pytest.raises(ValueError, match="holds tokens of another vocabulary; make it with that of the"):
        compare(MASKED, out=tmp_path / "out", data=text, held_out=held_out, recipe=recipe, **QUIET)
    assert not (tmp_path / "out").exists()


def test_images_with_a_state_are_scored_for_every_way_that_it_may_go(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    experiment = replace(IMAGES, sampling_images=60)
    recipe = recipe_of(experiment, blocks=2, batch_size=16, block_batch_size=16, budget="512")
    arms = ("branched", "branched-carry")
    rows = by_arm(compare(experiment, out=tmp_path, recipe=recipe, arms=arms, **QUIET))
    plain, carried = rows["branched"], rows["branched-carry"]
    assert "states" not in plain and "loss_with_state" not in plain
    assert [(row["state"], row["layer_evaluations"]) for row in carried["states"]] == [
        *(("private", 4), ("twice", 8), ("across", 4), ("off", 4))
    ]
    assert {"loss", "loss_with_state", "frechet", "band_losses_with_state"} <= carried.keys()
    assert carried["parameters"] == plain["parameters"] + 2 * (2 * 16 + 16 * 16 + 16)


def test_relay_of_masked_text_is_written_by_its_policy_and_counts_calls(tmp_path: Path, text: str) -> None:
    experiment = MaskedExperiment(windows=8, times=1, report_bands=2, writing=Writing(count=2, reveals=4))
    recipe = recipe_of(experiment, blocks=2, length=16, batch_size=8, block_batch_size=8, budget="256")
    arms = ("end-to-end", "rollout", "relay")
    rows = by_arm(compare(experiment, out=tmp_path, recipe=recipe, data=TextData(data=text), arms=arms, **QUIET))
    assert "calls" not in rows["end-to-end"]
    assert all(1 <= rows[arm]["calls"] <= 4 for arm in ("rollout", "relay"))
    assert {row["layer_evaluations"] for row in rows.values()} == {256}
    assert rows["relay"]["parameters"] == rows["rollout"]["parameters"] + 2 * 16
