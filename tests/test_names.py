"""Classes by name: in the plan, in samples, scores, reports and status."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from folders import SMALL, WORDS, class_folders
from safetensors.torch import load_file
from torch.utils.data import TensorDataset

import oneblock as ob
from oneblock.data import ImageData, ImageSet, MemorySource
from oneblock.evaluate.images import Sampling
from oneblock.experiment.images import ImageExperiment
from oneblock.model import ClassifyModel, ImageModel
from oneblock.plan import read_plan
from oneblock.presets import ImageFacts
from oneblock.presets.names import class_labels, class_names, unique_names, without_names
from oneblock.report.images import _samples
from oneblock.report.picture import image_grid
from oneblock.report.scores import label_table

pytest.importorskip("PIL")
Ok = Callable[..., list[dict[str, Any]]]
Refused = Callable[..., str]
FACTS = ImageFacts(shape=(1, 8, 8), num_classes=4, classes=("1", "10", "cat", "dog"))
PLAN = ob.ImageRecipe(**SMALL).plan(FACTS)
NAMES = ["cat", "dog", "frog"]


def dataset(names: list[str] | None, count: int = 24) -> TensorDataset:
    images = torch.randint(256, (count, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    made = TensorDataset(images, torch.arange(count) % 3)
    if names is not None:
        made.classes = names  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize(
    ("asked", "labels"),
    [(["cat", 2], [2, 2]), ([1, "1", "0"], [1, 0, 0]), (["10", 3], [1, 3]), (("dog",), [3]), ([torch.tensor(2)], [2])],
)
def test_a_class_is_its_name_or_its_number(asked: list[Any], labels: list[int]) -> None:
    """A text is a name before it is a number: the folder "10" is class 1 here."""
    assert class_labels(PLAN, asked) == labels


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["cta"], r"classes=\['cta'\] do not exist; use 0 to 3 or a name; the nearest are cat"),
        (["DOG", "cat"], r"classes=\['DOG'\] do not exist; .* the nearest are dog"),
        ([4, "cat"], r"classes=\[4\] do not exist; use 0 to 3 or a name: 1, 10, cat, dog"),
        ([-1], r"classes=\[-1\] do not exist"),
        ([1.5], r"classes=\[1.5\] do not exist"),
        ([True], r"classes=\[True\] do not exist"),
    ],
)
def test_a_class_that_does_not_exist(asked: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_labels(PLAN, asked)


def test_plans_hold_names_where_there_are_any() -> None:
    for recipe in (ob.ImageRecipe(**SMALL), ob.ClassifyRecipe(**SMALL)):
        numbered = recipe.plan(ImageFacts(shape=(1, 8, 8), num_classes=3, classes=("0", "1", "2")))
        assert numbered == recipe.plan(ImageFacts(shape=(1, 8, 8), num_classes=3)), "digits keep their hash"
        assert "classes" not in numbered.recipe and class_names(numbered) == ("0", "1", "2")
        named = recipe.plan(ImageFacts(shape=(1, 8, 8), num_classes=3, classes=tuple(NAMES)))
        assert named.recipe["classes"] == NAMES and class_names(named) == tuple(NAMES)
        assert without_names(named).hash == numbered.hash
    untold = ob.ImageRecipe(**SMALL, conditional=False).plan(FACTS)
    assert "classes" not in untold.recipe and class_names(untold) == ()
    with pytest.raises(ValueError, match="the plan has no classes; leave them out"):
        class_labels(untold, ["cat"])


def test_names_that_stand_twice_are_told_apart() -> None:
    """As in ImageNet, where two classes are called crane."""
    assert unique_names(["crane", "crane", "cat"]) == ("crane", "crane (1)", "cat")
    plan = ob.ImageRecipe(**SMALL).plan(ImageFacts(shape=(1, 8, 8), num_classes=2, classes=("crane", "crane")))
    assert class_labels(plan, ["crane (1)", "crane"]) == [1, 0]


@pytest.mark.parametrize("names", [["1", "1", "cat", "dog"], ["cat"], "abcd", 4, [1, 2, 3, 4], [None] * 4, {"a": 1}])
def test_a_plan_that_names_other_classes(names: Any) -> None:
    with pytest.raises(ValueError, match=r"classes.*(restore the plan from a copy of the run|not allowed in a plan)"):
        class_names(replace(PLAN, recipe={**PLAN.recipe, "classes": names}))


def test_a_name_is_the_same_however_its_accents_are_written() -> None:
    names = ("caf\u00e9", "cafe\u0301s")
    plan = ob.ImageRecipe(**SMALL).plan(ImageFacts(shape=(1, 8, 8), num_classes=2, classes=names))
    assert class_labels(plan, ["cafe\u0301", "caf\u00e9s"]) == [0, 1]


def test_a_dataset_gives_its_names(tmp_path: Path) -> None:
    ob.train(ob.ImageRecipe(**SMALL), data=dataset(NAMES), out=tmp_path)
    model = ImageModel.open(tmp_path)
    assert model.classes == tuple(NAMES)
    assert model.sample(["frog", 0, "1"], steps=2).equal(model.sample([2, 0, 1], steps=2))
    assert model.sample("frog", steps=2).equal(model.sample([2], steps=2))
    with pytest.raises(ValueError, match="the nearest are frog"):
        model.sample(["forg"])


def test_a_folder_from_training_to_samples(tmp_path: Path, ok: Ok, refused: Refused) -> None:
    data = class_folders(tmp_path / "data", NAMES)
    run = tmp_path / "run"
    ok("train", "images", "--data", f"folder:{data}", "--image-size", "8", "--out", run, *WORDS)
    ok("merge", run)
    rows = ok("status", run, "--json")
    assert [row["classes"] for row in rows] == [NAMES, NAMES]
    picture = tmp_path / "x.png"
    for model in (run, run / "model"):
        words = ("--out", picture, "--classes", "frog", "0", "--per-class", "2", "--steps", "2", "--json")
        (row,) = ok("sample", model, *words)
        assert row["classes"] == ["frog", "cat"]
        assert load_file(picture.with_suffix(".safetensors"))["labels"].tolist() == [2, 2, 0, 0]
        assert pytest.importorskip("PIL.Image").open(picture).width > 2 * 66, "names stand before the rows"
    said = refused("sample", run, "--out", picture, "--classes", "frg")
    assert "classes=['frg'] do not exist; use 0 to 2 or a name; the nearest are frog" in said


def test_names_stand_before_the_rows_of_a_picture(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    plain = image.open(image_grid(images, tmp_path / "plain.png", 2))
    named = image.open(image_grid(images, tmp_path / "named.png", 2, names=["cat", "a" * 99])).convert("L")
    margin = named.width - plain.width
    assert named.height == plain.height and 20 < margin < 200
    found = bytearray(named.crop((0, 0, margin, named.height)).tobytes())
    strip = torch.frombuffer(found, dtype=torch.uint8).view(named.height, margin)
    top, bottom = strip.chunk(2)
    assert (strip[:, 0] == 255).all() and 0 < (top < 128).sum() < (bottom < 128).sum(), "each name in its own row"
    assert named.crop((margin, 0, named.width, named.height)).tobytes() == plain.convert("L").tobytes()


def test_scores_of_a_classifier_by_name(tmp_path: Path, ok: Ok, capsys: pytest.CaptureFixture[str]) -> None:
    data = class_folders(tmp_path / "data", NAMES)
    chosen = ImageData(data=f"folder:{data}", image_size=8)
    ob.train(ob.ClassifyRecipe(**{**SMALL, "budget": "2k", "learning_rate": 0.02}), data=chosen, out=tmp_path / "run")
    model = ClassifyModel.open(tmp_path / "run")
    scores = model.evaluate()
    assert list(scores["accuracy_by_class"]) == NAMES
    assert sum(scores["accuracy_by_class"].values()) / 3 == pytest.approx(scores["accuracy"])
    pixels = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    pixels[:, 1] = 200
    assert model.named(model.classify(pixels)) == ["dog"]
    ok("evaluate", tmp_path / "run")
    assert ("accuracy of frog", f"{scores['accuracy_by_class']['frog']:.4f}") in label_table(scores).rows


def test_a_run_that_knew_no_names_goes_on(tmp_path: Path, ok: Ok) -> None:
    """Runs of earlier versions: their plans and checkpoints stay, and they are merged and sampled by number."""
    data = class_folders(tmp_path / "data", NAMES)
    run = tmp_path / "run"
    train = ("train", "images", "--data", f"folder:{data}", "--image-size", "8", "--out", run, *WORDS)
    ok(*train, "--strategy", "plan-only")
    old = without_names(read_plan(run))
    (run / "plan.json").write_text(old.to_json())
    ok(*train, "--strategy", "one-block", "--block", "0")
    ok("job", run, "--block", "1", "--threads", "1")
    ok(*train)
    assert read_plan(run).hash == old.hash
    ok("merge", run)
    model = ImageModel.open(run / "model")
    assert model.classes == ("0", "1", "2") and "classes" not in json.loads((run / "plan.json").read_text())["recipe"]
    with pytest.raises(ValueError, match=r"classes=\['cat'\] do not exist; use 0 to 2; the plan holds no names"):
        model.sample(["cat"])


def test_a_comparison_of_an_earlier_version_is_not_done_again(tmp_path: Path) -> None:
    """Its runs have plans without names, and those of rivals never have any."""
    pytest.importorskip("matplotlib")
    images = torch.randint(256, (48, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    source = MemorySource(ImageSet(images, torch.arange(48) % 3, tuple(NAMES), "made"))
    plain = MemorySource(ImageSet(images, torch.arange(48) % 3, ("0", "1", "2"), "made"))
    plain.fingerprint = source.fingerprint  # type: ignore[method-assign]
    recipe = ob.ClassifyRecipe(**{**SMALL, "budget": 640})
    done = [
        ob.compare(
            "classify", out=tmp_path, data=data, held_out=data, recipe=recipe, arms=("shallow", "greedy"), seeds=1
        )
        for data in (plain, source)
    ]
    times = [row["train_seconds"] for row in done[0].rows]
    assert [row["train_seconds"] for row in done[1].rows] == times, "taken as they were recorded"
    assert all("accuracy_by_class" not in row for row in done[1].rows)


def test_pictures_of_a_comparison_name_their_rows(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    widths = []
    for names in (None, NAMES):
        out = tmp_path / str(names)
        recipe = ob.ImageRecipe(**SMALL)
        experiment = ImageExperiment(num_samples=0, sampling=Sampling(steps=2))
        data = dataset(names)
        ob.compare(experiment, out=out, data=data, held_out=data, recipe=recipe, arms=["blockwise"], seeds=1)
        picture = _samples(out / "blockwise-64-seed0")
        assert picture is not None
        widths.append(image.open(picture).width)
    assert widths[1] > widths[0] + 20
