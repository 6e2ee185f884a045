"""Models opened, sampled, evaluated and saved from Python, as the command line does it."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import SENTENCES
from own import Own
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import oneblock as ob
from oneblock.condition import Condition
from oneblock.data import TextData
from oneblock.model import CausalModel, ClassifyModel, ImageModel, MaskedModel
from oneblock.train.checkpoint import CheckpointError

pytest.importorskip("sklearn")
Ok = Callable[..., list[dict[str, Any]]]
SMALL: dict[str, Any] = {
    "depth": 4,
    "width": 16,
    "heads": 2,
    "blocks": 2,
    "batch_size": 16,
    "block_batch_size": 16,
    "budget": 256,
}
TEXT = {**SMALL, "length": 16}
TIMED = ("sampling_seconds", "images_per_second")


def plain(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in TIMED}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    ob.train(ob.ImageRecipe(**SMALL), data="digits", out=tmp_path / "run")
    return tmp_path / "run"


def test_a_model_is_sampled_evaluated_and_saved(images: Path, tmp_path: Path, ok: Ok) -> None:
    model = ob.Model.open(str(images))
    assert isinstance(model, ImageModel)
    found = model.sample([0, 1, 2], steps=24)
    assert (found.dtype, found.shape) == (torch.uint8, (3, 1, 8, 8))
    scores = model.evaluate("digits", num_samples=60, steps=2)
    assert plain(scores) == plain(model.evaluate(num_samples=60, steps=2)), "the plan's own data are the same"
    model.save(tmp_path / "model")
    merged = ImageModel.open(tmp_path / "model", resident=1)
    assert merged.sample([0, 1, 2], steps=24).equal(found)
    assert plain(merged.evaluate(num_samples=60, steps=2)) == plain(scores)
    merged.save(tmp_path / "copy")
    for file in sorted((tmp_path / "model").iterdir()):
        assert (tmp_path / "copy" / file.name).read_bytes() == file.read_bytes()
    words = ("--num-samples", "60", "--steps", "2", "--json")
    assert plain(ok("evaluate", images, *words)[0]) == plain(scores)


def test_the_command_line_gives_the_same_images(images: Path, tmp_path: Path, ok: Ok) -> None:
    ok("sample", images, "--out", tmp_path / "x.png", "--per-class", "2", "--classes", "3", "7", "--json")
    found = load_file(tmp_path / "x.safetensors")
    assert ImageModel.open(images).sample([3, 3, 7, 7]).equal(found["images"])


def test_all_classes_in_turn_where_none_is_named(images: Path) -> None:
    model = ImageModel.open(images)
    assert model.sample(steps=2).equal(model.sample(range(10), steps=2))
    assert model.sample(count=12, steps=2).equal(model.sample([*range(10), 0, 1], steps=2))


def test_losses_alone(images: Path) -> None:
    scores = ImageModel.open(images).evaluate(num_samples=0, report_bands=3)
    assert scores.keys() == {"band_losses", "loss", "loss_protocol"}
    assert scores["loss"] == pytest.approx(sum(scores["band_losses"]) / 3)


@pytest.mark.parametrize("holds", ["notes.txt", "config.json"])
def test_a_place_that_holds_something_else_is_left_alone(images: Path, tmp_path: Path, holds: str) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / holds).write_text("{}")
    with pytest.raises(ValueError):
        ob.Model.open(images).save(place)
    assert [path.name for path in place.iterdir()] == [holds]
    with pytest.raises(ValueError, match="is a file; give the model a directory of its own"):
        ob.Model.open(images).save(place / holds)


def test_a_model_of_another_plan_is_left_alone(images: Path, tmp_path: Path) -> None:
    ob.Model.open(images).save(tmp_path / "model")
    before = (tmp_path / "model" / "config.json").read_bytes()
    ob.train(ob.ImageRecipe(**SMALL, seed=1), data="digits", out=tmp_path / "other")
    with pytest.raises(ValueError, match="holds a model of another plan; use another directory"):
        ob.Model.open(tmp_path / "other").save(tmp_path / "model")
    assert (tmp_path / "model" / "config.json").read_bytes() == before


def test_what_is_not_finished_is_not_saved(tmp_path: Path) -> None:
    ob.train(ob.ImageRecipe(**SMALL), data="digits", out=tmp_path / "run", strategy="one-block", block=0)
    with pytest.raises(CheckpointError, match="block 1 has no checkpoint"):
        ob.Model.open(tmp_path / "run").save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_wrong_wishes_are_refused(images: Path, tmp_path: Path) -> None:
    model = ImageModel.open(images)
    for wish, message in (
        (lambda: model.sample([10]), r"classes=\[10\] do not exist; use 0 to 9"),
        (lambda: model.sample(torch.zeros(2, 2)), r"labels have shape \(2, 2\); give one class for each sample"),
        (lambda: model.sample([]), r"labels have shape \(0,\)"),
        (lambda: model.sample([0], steps=1), "steps=1 is too small for a grid; use 2 or more"),
        (lambda: ob.Model.open(tmp_path), "is neither a run nor a merged model"),
        (lambda: ob.Model.open(images, device="tpu"), "device='tpu' is not available"),
        (lambda: ob.Model.open(images, backbone=Own), "the plan was made for backbone 'dit'"),
        (lambda: MaskedModel.open(images), "is a run of task 'image'; open it with ImageModel or Model"),
    ):
        with pytest.raises(ValueError, match=message):
            wish()


def test_images_of_other_data_are_scored_and_named(images: Path, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for split in ("train", "test"):
        for name in "0123456789":
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for i in range(2):
                image.new("L", (8, 8), 10 * i + len(split)).save(tmp_path / "data" / split / name / f"{i}.png")
    name = f"folder:{tmp_path / 'data'}"
    model = ImageModel.open(images)
    scores = model.evaluate(name, num_samples=12, steps=2, extractor="digits-cnn")
    assert (scores["num_reference"], scores["num_held_out"]) == (20, 12)
    assert f"{name} (fingerprint " in scores["other_data"]
    assert "is not what the plan was made for, digits (" in scores["other_data"]
    assert "other_data" not in model.evaluate(num_samples=0)
    assert model.evaluate(name, num_samples=0)["loss"] != model.evaluate(num_samples=0)["loss"]


def test_a_classifier(tmp_path: Path, ok: Ok) -> None:
    ob.train(ob.ClassifyRecipe(**SMALL), data="digits", out=tmp_path)
    model = ob.Model.open(tmp_path)
    assert isinstance(model, ClassifyModel)
    assert model.evaluate() == ok("evaluate", tmp_path, "--json")[0]
    pixels = torch.randint(256, (5, 1, 8, 8), dtype=torch.uint8)
    answer = model.classify(pixels)
    assert answer.probabilities.shape == (2, 5, 10) and answer.calls.tolist() == [2] * 5
    torch.testing.assert_close(answer.probabilities.sum(-1), torch.ones(2, 5))
    torch.testing.assert_close(model.classify(pixels / 127.5 - 1.0).probabilities, answer.probabilities)
    held_out = TensorDataset(pixels, torch.tensor([0, 3, 9, 1, 2]))
    scores = model.evaluate(held_out, confident=0.0)
    assert scores["calls"] == 1.0
    assert scores["accuracy"] == pytest.approx(
        float((answer.probabilities[0].argmax(-1) == held_out[:][1]).float().mean())
    )


def test_a_model_of_masked_text(tmp_path: Path, text: str, ok: Ok) -> None:
    ob.train(ob.MaskedRecipe(**TEXT), data=text, out=tmp_path / "run")
    model = ob.Model.open(tmp_path / "run")
    assert isinstance(model, MaskedModel)
    words = ("--windows", "8", "--times", "2", "--texts", "2", "--prompt", "the ", "--json")
    scores = model.evaluate(windows=8, times=2, texts=2, prompt="the ")
    assert scores == ok("evaluate", tmp_path / "run", *words)[0]
    assert [row["texts"] for row in scores["quality"]] == ["held-out", "written"]
    found = model.sample(3, prompt="cats", reveals=4, sample_seed=1)
    assert all(len(one) == 16 and one.startswith("cats") for one in found) and len(found) == 3
    assert model.evaluate(TextData(data=text), windows=8, times=2) == model.evaluate(windows=8, times=2)


def test_a_model_of_autoregressive_text(tmp_path: Path, text: str, ok: Ok) -> None:
    ob.train(ob.CausalRecipe(**TEXT), data=text, out=tmp_path / "run")
    model = ob.Model.open(tmp_path / "run")
    assert isinstance(model, CausalModel)
    scores = model.evaluate(windows=8, calls=3, path="redraw", draws=2)
    words = ("--windows", "8", "--calls", "3", "--path", "redraw", "--draws", "2", "--json")
    assert scores == ok("evaluate", tmp_path / "run", *words)[0]
    found = model.sample(2, prompt="the cat", tokens=4, sample_seed=3)
    assert list(map(len, found)) == [11, 11] and found[0] != found[1]
    pieces = list(model.stream("the cat", tokens=4, sample_seed=3, index=1))
    assert pieces[0] == "the cat" and "".join(pieces) == found[1] and len(pieces) == 5
    rows = ok(
        "sample",
        tmp_path / "run",
        "--count",
        "2",
        "--prompt",
        "the cat",
        "--tokens",
        "4",
        "--sample-seed",
        "3",
        "--json",
    )
    assert [row["text"] for row in rows] == found
    file = tmp_path / "mat.txt"
    file.write_text(SENTENCES.replace("cat", "mat") * 60)
    assert model.evaluate(f"file:{file}", windows=8)["nats_per_token"] != model.evaluate(windows=8)["nats_per_token"]


def test_a_network_of_the_users_own(tmp_path: Path, ok: Ok) -> None:
    ob.train(ob.ImageRecipe(**SMALL), backbone=Own, data="digits", out=tmp_path / "run")
    with pytest.raises(ValueError, match="the network of this run is the user's own, own:Own; give it too"):
        ob.Model.open(tmp_path / "run").sample([0])
    model = ImageModel.open(tmp_path / "run", backbone=Own)
    assert model.sample([0, 1], steps=3).shape == (2, 1, 8, 8)
    words = ("--backbone", "own:Own", "--per-class", "1", "--classes", "0", "1", "--steps", "3", "--json")
    ok("sample", tmp_path / "run", "--out", tmp_path / "x.png", *words)
    assert load_file(tmp_path / "x.safetensors")["images"].equal(model.sample([0, 1], steps=3))


class Plane(nn.Module):
    """Points of the plane, told nothing but their noise."""

    def __init__(self, layers: range) -> None:
        super().__init__()
        self.enter, self.level, self.out = nn.Linear(2, 16), nn.Linear(1, 16), nn.Linear(16, 2)
        self.layers = nn.ModuleDict({str(i): Bend() for i in layers})

    def stem(self, z: Tensor, noise: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        return self.enter(z), self.level(noise[:, None])

    def head(self, h: Tensor, modulation: Tensor) -> Tensor:
        out: Tensor = self.out(h)
        return out


class Bend(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, h: Tensor, modulation: Tensor) -> Tensor:
        return h + self.outer(torch.tanh(self.inner(h + modulation)))


def test_targets_that_are_no_images(tmp_path: Path, ok: Ok) -> None:
    """A ring of points without labels."""
    angles = torch.linspace(0, 2 * math.pi, 200)
    points = TensorDataset(torch.stack([angles.cos(), angles.sin()], 1))
    recipe = ob.ImageRecipe(
        depth=2, width=16, blocks=2, budget="60k", batch_size=32, learning_rate=3e-3, conditional=False
    )
    ob.train(recipe, backbone=Plane, data=points, out=tmp_path / "run")
    model = ImageModel.open(tmp_path / "run", backbone=Plane)
    found = model.sample(count=300)
    assert (found.dtype, found.shape) == (torch.float32, (300, 2))
    assert float(found.norm(dim=1).sub(1).abs().mean()) < 0.3
    scores = model.evaluate(points)
    assert scores.keys() == {"band_losses", "loss", "loss_protocol"} and len(scores["band_losses"]) == 2
    with pytest.raises(ValueError, match="labels are given, but the plan has no classes"):
        model.sample([0, 1])
    with pytest.raises(ValueError, match="count=None, but a model without classes needs a number of samples"):
        model.sample()
    words = ("--backbone", f"{Plane.__module__}:Plane", "--per-class", "5", "--json", "--out", tmp_path / "x.png")
    (row,) = ok("sample", tmp_path / "run", *words)
    assert row["picture"].endswith("x.safetensors") and not (tmp_path / "x.png").exists()
    assert load_file(tmp_path / "x.safetensors")["images"].equal(model.sample(count=5))


def test_the_vocabulary_goes_with_the_plan(tmp_path: Path, text: str) -> None:
    ob.train(ob.CausalRecipe(**TEXT), data=text, out=tmp_path / "run")
    with pytest.raises(ValueError, match="no symbol of the vocabulary"):
        CausalModel.open(tmp_path / "run").sample(1, prompt="!!!")


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The modules that were to be compiled, and are not."""
    found: list[nn.Module] = []

    def watched(self: nn.Module, *, dynamic: bool) -> None:
        assert not dynamic
        found.append(self)

    monkeypatch.setattr(nn.Module, "compile", watched)
    return found


def test_layers_are_compiled_one_by_one_where_that_is_asked_for(images: Path, compiled: list[nn.Module]) -> None:
    ImageModel.open(images).sample([0], steps=2)
    assert compiled == []
    model = ImageModel.open(images, compile="on")
    assert compiled == [], "blocks are compiled when they are loaded"
    model.sample([0], steps=4)
    assert compiled == [layer for b in (0, 1) for layer in model.denoiser.block(b).layers.values()]
    with pytest.raises(ValueError, match="compile='yes' is not allowed; use one of auto, on, off"):
        ImageModel.open(images, compile="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "there"), [(ImageModel, True), (ClassifyModel, False)])
def test_models_of_images_are_compiled_by_themselves_on_cuda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: list[nn.Module], kind: type[ob.Model], there: bool
) -> None:
    recipe = {ImageModel: ob.ImageRecipe, ClassifyModel: ob.ClassifyRecipe}[kind](**SMALL)  # type: ignore[index]
    ob.train(recipe, data="digits", out=tmp_path)
    monkeypatch.setattr("oneblock.model.base.compiles", lambda device, asked: asked in ("auto", "on"))
    for asked, expected in (("auto", there), ("on", True), ("off", False)):
        compiled.clear()
        kind.open(tmp_path, compile=asked).denoiser.block(0)  # type: ignore[arg-type]
        assert bool(compiled) == expected, asked


@pytest.mark.slow
def test_compiled_layers_give_the_same_images(images: Path) -> None:
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("there is no compiler")
    usual, ours = (ImageModel.open(images, compile=how).sample(steps=4) for how in ("off", "on"))  # type: ignore[arg-type]
    assert (usual.int() - ours.int()).abs().max() <= 1, "rounding may move a grey level"
