"""Files decoded by several threads: order, memory, reasons."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from oneblock.data import decode, reading
from oneblock.data.decode import UnusableError, in_order, read_header, read_pixels
from oneblock.data.folder import load_folder
from oneblock.data.reading import READING, Reading, usable_cpus

Image = pytest.importorskip("PIL.Image")


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_results_come_in_order(workers: int) -> None:
    def late(number: int) -> int:
        time.sleep(0.002 * (number % 5))
        return number

    assert list(in_order(late, range(60), lambda number: 1, workers)) == list(range(60))


def test_what_is_worked_on_fits_the_memory() -> None:
    lock, now, most = threading.Lock(), [0], [0]
    costs = [3, 4, 9, 1, 1, 30, 2, 5, 5, 10, 1] * 3

    def work(cost: int) -> int:
        with lock:
            now[0] += cost
            most[0] = max(most[0], now[0] if now[0] > cost else 0)
        time.sleep(0.003)
        with lock:
            now[0] -= cost
        return cost

    assert list(in_order(work, costs, lambda cost: cost, workers=4, memory=10)) == costs
    assert 5 < most[0] <= 10, "several at a time, but the one of 30 alone"


def test_an_error_ends_the_work() -> None:
    started: list[int] = []

    def work(number: int) -> int:
        started.append(number)
        if number == 3:
            raise KeyError(number)
        return number

    with pytest.raises(KeyError):
        list(in_order(work, range(1000), lambda number: 1, workers=2))
    assert len(started) < 60


def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        array = np.random.default_rng(number).integers(0, 256, (20 + number, 40, 3), dtype=np.uint8)
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.fromarray(array).save(tmp_path / "a" / f"{number}.png")
    found = []
    for workers in (1, 2, 5):
        monkeypatch.setattr(decode, "usable_cpus", lambda workers=workers: workers)
        found.append(load_folder(tmp_path, "train", 16, reading=Reading(cache=False)).fingerprint())
    assert len(set(found)) == 1


def reason(path: Path, reading: Reading = READING) -> tuple[str, str]:
    with pytest.raises(UnusableError) as caught:
        read_header(path, reading)
    return caught.value.kind, caught.value.detail


def test_reasons_are_of_a_kind(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_text("text")
    assert reason(path) == ("not an image", "")
    path.write_bytes(b"")
    assert reason(path) == ("empty file", "")
    assert reason(tmp_path / "nothing")[0] == "unreadable"
    Image.new("F", (8, 8), 0.5).save(tmp_path / "x.tiff")
    assert reason(tmp_path / "x.tiff")[0].startswith("floating point without a known range")


def test_large_images_are_left_out_by_the_option(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.new("L", (50, 20)).save(path)
    kind = "over 999 pixels (max_pixels, --max-pixels, allows more)"
    assert reason(path, Reading(max_pixels=999)) == (kind, "50 x 20")
    assert read_header(path, Reading(max_pixels=1000)).mode == "L"
    assert READING.max_pixels == 2 * Image.MAX_IMAGE_PIXELS, "where Pillow refuses"


def test_the_option_allows_what_pillow_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.png"
    Image.new("L", (50, 20), 9).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_pixels(path, READING, 4, 1).unique().tolist() == [9]
    assert Image.MAX_IMAGE_PIXELS == 100, "the limit of others stays"


@pytest.mark.parametrize(
    ("available", "omp", "cpus"), [(8, "", 8), (8, "3", 3), (2, "16", 2), (8, "4,2", 4), (8, "zero", 8), (8, "0", 8)]
)
def test_cpus_that_may_be_used(monkeypatch: pytest.MonkeyPatch, available: int, omp: str, cpus: int) -> None:
    monkeypatch.setattr(reading, "available_cpus", lambda: available)
    monkeypatch.setenv("OMP_NUM_THREADS", omp)
    assert usable_cpus() == cpus


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_pixels": 0}, "max_pixels=0 is too small; 1 or more"),
        ({"cache_gb": -1.0}, "cache_gb=-1.0 is not possible; 0 or more"),
        ({"cache_gb": float("nan")}, "cache_gb=nan is not possible"),
        ({"cache_gb": float("inf")}, "cache_gb=inf is not possible"),
    ],
)
def test_settings_are_checked(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Reading(**options)  # type: ignore[arg-type]


def test_a_large_file_does_not_stop_the_others(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.new("L", (8, 8 + number), 9).save(tmp_path / "a" / f"{number}.png")
    with pytest.warns(
        UserWarning, match=r"2 of 3 files .*left out: over 72 pixels .*allows more\): 1 \(a/2.png \(8 x 10"
    ):
        images = load_folder(tmp_path, "train", 8, reading=Reading(max_pixels=72, cache=False))
    assert torch.equal(images.images, torch.full((2, 1, 8, 8), 9, dtype=torch.uint8))
    assert images.skipped == ("a/2.png",)
