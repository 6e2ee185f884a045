"""``folder:`` from the command line and from Python: what is said of the files, the options that go with it."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import TINY, WORK

import oneblock as ob
from oneblock.data import ImageData
from oneblock.data import folder as reader
from oneblock.data.tree import split_of
from oneblock.train import shown

Image = pytest.importorskip("PIL.Image")
Ok = Callable[..., list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes are said once in a process."""
    monkeypatch.setattr(shown.SHOWN, "_notes", set())


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """24 images of two classes in nested folders, and a large one."""
    monkeypatch.setenv("ONEBLOCK_DATA", str(tmp_path / "data"))
    for number in range(24):
        path = tmp_path / "set" / ("cat", "dog")[number % 2] / str(number % 3) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 10 * number).save(path)
    Image.new("L", (40, 40)).save(tmp_path / "set" / "cat" / "large.png")
    return tmp_path / "set"


def said(capfd: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capfd.readouterr().err.splitlines() if line.startswith("folder:set")]


@pytest.fixture
def run(images: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Run a verb on the images; the lines on standard error that speak of them."""
    from oneblock.cli.__main__ import main

    def lines(*words: str) -> list[str]:
        assert main([*words]) == 0
        return said(capfd)

    return lines


OPTIONS = ("--image-size", "8", "--max-pixels", "900")
USED = "of the train split are used; left out: over 900 pixels (max_pixels, --max-pixels, allows more): 1"


def test_train_says_which_files_it_uses(images: Path, tmp_path: Path, run: Callable[..., list[str]]) -> None:
    words = ("train", "images", "--data", f"folder:{images}", *OPTIONS, *TINY, *WORK, "--strategy", "plan-only")
    (first,) = run(*words, "--out", str(tmp_path / "a"))
    assert USED in first and first.endswith("(cat/large.png (40 x 40))")
    shown.SHOWN._notes.clear()
    (second,) = run(*words, "--out", str(tmp_path / "a"))
    assert second == f"{first}; decoded before"
    shown.SHOWN._notes.clear()
    assert run(*words, "--out", str(tmp_path / "a"), "--no-cache") == [first]
    plan = ob.read_plan(tmp_path / "a")
    assert plan.recipe["data"] == f"folder:{images}"


def test_python_says_the_same(images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = ImageData(data=f"folder:{images}", image_size=8, max_pixels=900)
    recipe = ob.ImageRecipe(size="nano", depth=4, width=16, heads=2, blocks=2, batch_size=16, budget="256")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ob.train(recipe, data=data, out=tmp_path / "a", strategy="plan-only")
    (line,) = said(capfd)
    assert USED in line
    with pytest.warns(UserWarning, match="files of the test split are used") as caught:
        name = next(name for number in range(99) if split_of(name := f"dog/{number}.png") == "test")
        Image.new("L", (40, 40)).save(images / name)
        reader.load_folder(images, "test", 8, reading=data.reading())
    assert not said(capfd) and caught[0].filename == __file__


def test_a_job_and_an_evaluation_say_it_too(images: Path, tmp_path: Path, run: Callable[..., list[str]]) -> None:
    out = str(tmp_path / "a")
    data = ("--data", f"folder:{images}", "--max-pixels", "900")
    run("train", "images", *data, "--image-size", "8", *TINY, *WORK, "--out", out, "--strategy", "plan-only")
    assert ob.read_plan(Path(out)).recipe["max_pixels"] == 900, "so that it need not be said again"
    for block in "01":
        shown.SHOWN._notes.clear()
        (line,) = run("job", out, "--block", block, "--threads", "1")
        assert "decoded before" in line
    shown.SHOWN._notes.clear()
    lines = run("evaluate", out, "--num-samples", "0")
    assert any("of the test split" in line for line in lines)


def test_options_are_checked(images: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    for words, message in (
        (("--max-pixels", "0"), "max_pixels=0 is too small"),
        (("--cache-gb", "-1"), "cache_gb=-1.0 is not possible"),
    ):
        assert message in refused(
            "train", "images", "--data", f"folder:{images}", *words, "--out", tmp_path / "a", *TINY, *WORK
        )
    assert not (tmp_path / "a").exists()


def test_images_without_classes_train(tmp_path: Path, ok: Ok, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEBLOCK_DATA", str(tmp_path / "data"))
    (tmp_path / "set").mkdir()
    for number in range(40):
        Image.new("L", (8, 8), 5 * number).save(tmp_path / "set" / f"{number}.png")
    data = ("--data", f"folder:{tmp_path / 'set'}", "--image-size", "8")
    ok("train", "images", *data, *TINY, *WORK, "--no-conditional", "--out", tmp_path / "a")
    assert ob.Model.open(tmp_path / "a").sample(count=2, steps=2).shape == (2, 1, 8, 8)
