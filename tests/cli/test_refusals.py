"""Every mistake of a user: exit code 2, one message with the value received, what is allowed and what to do."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import ENVIRONMENT, TINY, WORK

from oneblock.train import checkpoint, record
from oneblock.train.checkpoint import checkpoints

pytest.importorskip("sklearn")
Image = pytest.importorskip("PIL.Image")
Ok = Callable[..., object]
Refused = Callable[..., str]
TRAIN = ("train", "images", *TINY, *WORK, "--out")


def folder(root: Path, modes: dict[str, list[str]]) -> Path:
    for name, kinds in modes.items():
        (root / name).mkdir(parents=True)
        for i, mode in enumerate(kinds):
            Image.new(mode, (8, 8), 10 * i).save(root / name / f"{i}.png")
    return root


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--blocks", "3"], "num_blocks=3 does not divide depth=4; use 1, 2 or 4"),
        (["--layers", "1", "2"], r"layers=(1, 2) adds up to 3, but the depth is 4; make them agree"),
        (["--strategy", "one-block", "--block", "2"], "block=2 does not exist; use 0 (noisiest) to 1"),
        (["--strategy", "one-block"], "--strategy one-block needs --block, from 0 to 1"),
        (["--strategy", "one-block", "--block", "-1"], "job 'trunk' does not exist in this plan; use one of block-0"),
        (["--block", "1"], "block=1 goes with --strategy one-block, not all"),
        (
            ["--stride", "5"],
            "--stride is gone: blocks train one after the other, or in turns that are measured",
        ),
        (["--idle", "disk"], "idle='disk' goes with --order turns"),
        (["--order", "turns", "--shared", "joint"], "order='turns' is for blocks of their own"),
        (
            ["--whole-share", "0.5", "--strategy", "end-to-end"],
            "whole_share=0.5 needs two blocks or more",
        ),
        (["--bands", "2.5", "--strategy", "end-to-end"], "bands='2.5' needs two blocks or more"),
        (["--bands", "2.5", "0.4"], "bands=(2.5, 0.4) cuts the noise into 3 bands; give 1 level for 2 blocks"),
        (["--bands", "absent.json"], "bands='absent.json' is neither a rule, nor numbers, nor a file"),
        (["--overlap", "1.5"], "overlap=1.5 is outside [0, 1]; the paper uses 0 to 0.1"),
        (["--budget", "31"], "budget=31 does not pay for one step of every block; use at least 64"),
        (["--budget", "lots"], "budget='lots' is not a number of layer evaluations; write 800000, 300k or 1.2M"),
        (["--branch", "1"], "branch=1.0 is not a fraction; use 0 up to (not including) 1"),
        (["--branch", "0.5", "--layers", "1", "3"], "layers=(1, 3) are uneven; use equal blocks"),
        (["--batch-size", "0"], "batch_size=0, block_batch_size=16 are not batch sizes; use 1 or more"),
        (["--patch", "3"], "patch=3 does not divide image_size=8; use a divisor"),
        (["--heads", "3"], "heads=3 does not divide width=16; use a divisor"),
        (["--device", "tpu"], "device='tpu' is not available"),
        (["--learning-rate", "-1"], "learning_rate=-1.0 is not allowed; use a number, above 0"),
        (["--sigma-data", "inf"], "sigma_data=inf is not allowed; use a number, above 0"),
        (["--overlap", "nan"], "overlap=nan is not allowed; use a number, 0 or more"),
        (["--depth", "-4"], "depth=-4 is not allowed; use a whole number, 0 or more"),
        (["--blocks", "0"], "blocks=0 is not allowed; use a whole number, 1 or more"),
        (["--sync-every", "0"], "sync_every=0 is not allowed; use a whole number, 1 or more"),
        (["--clip", "0"], "clip=0.0 is not allowed; use a number, above 0"),
        (["--accumulate", "0"], "accumulate=0 is not allowed; use a whole number, 1 or more"),
        (["--label-dropout", "2"], "label_dropout=2.0 is not allowed; use a number, 0 or more"),
        (["--save-every", "0"], "save_every=0 is not allowed; use a whole number, 1 or"),
        (["--keep", "-1"], "keep=-1 is not allowed; use a whole number, 1 or more"),
        (["--data", "cats"], "data='cats' is unknown; digits, fashion-mnist, folder:DIR"),
        (["--data", "folder:/no/such/place"], "/no/such/place"),
        (["--data", "fashion-mnist", "--data-dir", "/no/such/place"], "make data"),
        (["--batchsize", "3"], "--batchsize"),
        (["--size", "huge"], "huge"),
    ],
)
def test_training_options(tmp_path: Path, refused: Refused, words: list[str], message: str) -> None:
    assert message in refused(*TRAIN, tmp_path / "run", *words)
    assert not (tmp_path / "run").exists(), "the corrected command must find nothing in its way"


@pytest.mark.parametrize(
    ("modes", "message"),
    [
        ({}, "no images; one folder per class"),
        ({"a": [], "b": []}, "no images (folder without files: 2 (a/, b/)); one folder per class with 2 or more"),
        ({"a": ["RGB"]}, "1 readable image; 2 or more are allowed"),
        ({"a": ["RGB", "RGB"], "b": ["L", "RGB"]}, "mixes"),
    ],
)
def test_folders(tmp_path: Path, refused: Refused, modes: dict[str, list[str]], message: str) -> None:
    (tmp_path / "data").mkdir()
    data = folder(tmp_path / "data", modes)
    assert message in refused(*TRAIN, tmp_path / "run", "--data", f"folder:{data}", "--image-size", "8")


def test_a_directory_of_another_run(trained: Path, refused: Refused) -> None:
    before = {path: path.read_bytes() for path in trained.rglob("*.safetensors")}
    assert "another" in refused(*TRAIN, trained, "--seed", "1")
    assert before == {path: path.read_bytes() for path in trained.rglob("*.safetensors")}


def test_data_of_another_label_count(trained: Path, tmp_path: Path, refused: Refused) -> None:
    data = folder(tmp_path / "data", {f"{split}/{name}": ["L"] * 4 for split in ("train", "test") for name in "ab"})
    words = ("evaluate", trained, "--data", f"folder:{data}", "--image-size", "8")
    assert "the data have 2 classes, but the plan has 10; use the same data" in refused(*words)


def test_foreign_and_damaged_checkpoints(trained: Path, tmp_path: Path, ok: Refused, refused: Refused) -> None:
    path = checkpoints(trained / "block-1")[-1]
    good = path.read_bytes()
    ok(*TRAIN, tmp_path / "other", "--seed", "1")
    foreign = checkpoints(tmp_path / "other" / "block-1")[-1].read_bytes()
    flipped = bytearray(good)
    flipped[-5] ^= 1
    for damaged, message in (
        (good[: len(good) // 2], "is damaged"),
        (bytes(flipped), "its digest does not match"),
        (foreign, "belongs to plan"),
    ):
        path.write_bytes(damaged)
        assert message in refused("merge", trained)
        assert message in refused("sample", trained, "--out", tmp_path / "x.png")
        assert message in refused(*TRAIN, trained)
        assert path.read_bytes() == damaged
    path.write_bytes(good)
    ok("merge", trained, "--json")


def test_merging_what_is_not_finished(tmp_path: Path, ok: Refused, refused: Refused) -> None:
    ok(*TRAIN, tmp_path / "run", "--strategy", "one-block", "--block", "0")
    assert "block 1" in refused("merge", tmp_path / "run")
    assert "has no checkpoint of block 1; train it with --block 1" in refused("sample", tmp_path / "run")


def test_a_block_before_its_seed(tmp_path: Path, refused: Refused) -> None:
    words = ("--branch", "0.5", "--strategy", "one-block", "--block", "0")
    assert "train that block first" in refused(*TRAIN, tmp_path / "run", *words)


def test_a_full_disk(tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    said = refused(*TRAIN, tmp_path / "run", code=1)
    assert "No space left on device" in said
    assert "earlier checkpoints are intact: free some space and start again" in said


def test_a_disk_that_fills_while_metrics_are_written(
    tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record, "forget_after", full)
    assert "No space left on device" in refused(*TRAIN, tmp_path / "run", code=1)
    assert checkpoints(tmp_path / "run" / "block-0")  # the state after the step is saved all the same


def test_a_directory_that_is_a_file(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "run").write_text("letters")
    assert str(tmp_path / "run") in refused(*TRAIN, tmp_path / "run")


def test_a_loss_that_is_not_finite(tmp_path: Path, refused: Refused) -> None:
    said = refused(*TRAIN, tmp_path / "run", "--learning-rate", "1e38", code=1)
    assert "block-" in said
    assert "noise band" in said
    assert "lower the learning rate" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--classes", "10"], "classes=[10] do not exist; use 0 to 9"),
        (["--per-class", "0"], "per_class=0 is too small; use 1 or more"),
        (["--grid", "equal-mass", "--steps", "5"], "steps=5 is not a multiple of the 2 blocks; use 4 or 6"),
        (["--resident", "0"], "resident=0 leaves no block to work with; use 1 or more"),
        (["--steps", "1"], "steps=1 is too small for a grid; use 2 or more"),
    ],
)
def test_sampling_options(trained: Path, refused: Refused, words: list[str], message: str) -> None:
    assert message in refused("sample", trained, "--out", trained / "x.png", *words)


def test_samples_do_not_replace_what_is_not_theirs(trained: Path, tmp_path: Path, refused: Refused, ok: Ok) -> None:
    model = tmp_path / "model"
    ok("merge", trained, "--out", model)
    before = {path: path.read_bytes() for path in model.iterdir()}
    said = refused("sample", model, "--out", model / "block-0.png", "--steps", "4")
    assert "block-0.safetensors exists and is not a file of samples" in said
    assert "is not the name of a picture" in refused("sample", model, "--out", tmp_path / "x.foo", "--steps", "4")
    assert {path: path.read_bytes() for path in model.iterdir()} == before


def test_the_published_score_without_its_weights(trained: Path, refused: Refused) -> None:
    said = refused("evaluate", trained, "--fid-weights", trained / "absent.pth")
    assert "absent.pth is not a file; put weights-inception" in said


def test_places_that_are_no_run(tmp_path: Path, refused: Refused) -> None:
    for verb in ("sample", "evaluate"):
        assert "is neither a run nor a merged model" in refused(verb, tmp_path)
    for verb in ("status", "merge"):
        assert str(tmp_path) in refused(verb, tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "0"], "seeds=0 is not allowed"),
        (["--branch", "0"], "arm 'branched' needs --branch above 0"),
        (["--budgets", "256,x"], "budget='x' is not a number"),
        (["--blocks", "3"], "num_blocks=3 does not divide depth=4"),
    ],
)
def test_comparison_options(tmp_path: Path, refused: Refused, words: list[str], message: str) -> None:
    assert message in refused("compare", "images", "--out", tmp_path, *TINY, *WORK, *words)


def test_an_absent_extra_is_named(tmp_path: Path) -> None:
    """In a process of its own, where importing the package fails as if it were not installed."""
    for absent, words, extra in (
        ("tyro", ["status", str(tmp_path)], "oneblock[cli]"),
        ("sklearn", ["train", "images", "--out", str(tmp_path / "a")], "oneblock[images]"),
        ("datasets", ["train", "images", "--out", str(tmp_path / "b"), "--data", "hf:a/b"], "oneblock[hub]"),
    ):
        program = (
            f"import sys; sys.modules[{absent!r}] = None; from oneblock.cli.__main__ import main; sys.exit(main())"
        )
        done = subprocess.run([sys.executable, "-c", program, *words], env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        assert extra in done.stderr
        assert "Traceback" not in done.stderr
