"""Where batches come from: read ahead, held by a device, drawn step by step; always the same samples in the same
order."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from devices import DEVICE
from tiny import IMAGES, last_files, tiny_plan, tiny_run

from oneblock.data import (
    Batches,
    Bytes,
    DatasetSource,
    EncodedSource,
    MemorySource,
    Movable,
    Pixels,
    Prefetcher,
    Samples,
    TextBatches,
    TokenFile,
    TokenSource,
    movable,
    write_tokens,
)
from oneblock.data.vocabulary import Vocabulary
from oneblock.presets import blockwise, plan_task
from oneblock.tasks.image import ImageGeneration
from oneblock.train.feed import Feed, placed
from oneblock.train.learner import NonFiniteError
from oneblock.train.loop import Run
from oneblock.train.strategy import job_specs, one_block

CPU = torch.device("cpu")


class Spied:
    """Keeps the steps that are asked for, and by which thread."""

    def __init__(self, source: Batches, fail_at: int | None = None) -> None:
        self.source, self.fail_at = source, fail_at
        self.asked: list[int] = []
        self.threads: set[str] = set()

    def batch(self, step: int, batch_size: int, seed: int) -> Samples:
        self.asked.append(step)
        self.threads.add(threading.current_thread().name)
        if step == self.fail_at:
            raise ValueError(f"step {step} cannot be read")
        return self.source.batch(step, batch_size, seed)


@contextmanager
def prefetched(source: Batches, steps: range, **words: Any) -> Iterator[Prefetcher]:
    made = Prefetcher(source, 8, 5, steps, DEVICE, **words)
    try:
        yield made
    finally:
        made.close()
    assert not [one for one in threading.enumerate() if one.name.startswith("oneblock-read")]


def test_batches_that_are_read_ahead_come_in_order() -> None:
    source = MemorySource(IMAGES)
    spied = Spied(source)
    with prefetched(spied, range(3, 9)) as reading:
        for step in range(3, 9):
            found, expected = reading.take(step), source.batch(step, 8, 5)
            assert found.values.cpu().equal(expected.values), step
            assert found.labels is not None and expected.labels is not None
            assert found.labels.cpu().equal(expected.labels) and found.values.device.type == DEVICE.type
    assert spied.asked == [3, 4, 5, 6, 7, 8], "each once, and none beyond the last"
    assert len(spied.threads) == 1 and spied.threads != {threading.current_thread().name}


def test_no_more_than_two_batches_are_read_before_they_are_asked_for() -> None:
    spied = Spied(MemorySource(IMAGES))
    with prefetched(spied, range(100)) as reading:
        reading.take(0)
        reading.take(1)
    assert set(spied.asked) <= {0, 1, 2, 3}


def test_a_batch_that_cannot_be_read_is_an_error_where_it_is_asked_for() -> None:
    with prefetched(Spied(MemorySource(IMAGES), fail_at=1), range(6)) as reading:
        reading.take(0)
        with pytest.raises(ValueError, match="step 1 cannot be read"):
            reading.take(1)


def test_samples_are_checked_before_they_leave() -> None:
    task = plan_task(tiny_plan())
    strange = MemorySource(replace(IMAGES, labels=IMAGES.labels + 1, classes=("a", "b", "c", "d")))
    with (
        prefetched(strange, range(2), check=task.check) as reading,
        pytest.raises(ValueError, match="label 3 is unknown"),
    ):
        reading.take(0)


def token_source(folder: Path, vocabulary: Vocabulary, **words: Any) -> TokenSource:
    generator = torch.Generator().manual_seed(0)
    documents = [torch.randint(vocabulary.size, (count,), generator=generator) for count in (90, 7, 200)]
    path = folder / f"{vocabulary.size}.tokens"
    write_tokens(path, [iter([document]) for document in documents], vocabulary)
    return TokenSource(TokenFile(path), 16, **words)


class Many(Bytes):
    """Bytes, and so many symbols that ids need two bytes, or four."""

    def __init__(self, size: int) -> None:
        self._size = size

    @property
    def size(self) -> int:
        return self._size


@pytest.mark.parametrize("within_documents", [False, True])
@pytest.mark.parametrize("size", [256, 60_000, 100_000])
def test_a_text_on_a_device_has_the_same_windows(
    tmp_path: Path, size: int, within_documents: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oneblock.data.tokens.vocabulary_from_dict", lambda values: Many(size))
    source = token_source(tmp_path, Many(size), within_documents=within_documents)
    assert source.file.tokens.element_size() == {256: 1, 60_000: 2, 100_000: 4}[size]
    batches = TextBatches(source)
    there = batches.to(DEVICE)
    largest = 0
    for step in range(9):
        expected = batches.batch(step, 5, 3)
        found = there.batch(step, 5, 3)
        assert found.values.cpu().equal(expected.values) and found.values.dtype == torch.int64
        largest = max(largest, int(found.values.max()))
    assert largest > size / 2
    assert batches.nbytes >= source.file.tokens.nbytes


def test_a_text_with_tokens_beyond_its_vocabulary_is_refused_before_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = token_source(tmp_path, Bytes())
    monkeypatch.setattr(type(source.file.vocabulary), "size", 100)
    with pytest.raises(ValueError, match="tokens beyond its 100 symbols"):
        TextBatches(source).to(DEVICE)


def test_images_on_a_device_are_the_same() -> None:
    source = MemorySource(IMAGES)
    there = source.to(DEVICE)
    for step in (0, 7):
        assert there.batch(step, 20, 1).values.cpu().equal(source.batch(step, 20, 1).values)
    assert source.nbytes == IMAGES.images.nbytes + IMAGES.labels.nbytes


class Halved:
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return images / 2

    def decode(self, encoded: torch.Tensor) -> torch.Tensor:
        return encoded * 2

    def fingerprint(self) -> str:
        return "halved"


def test_what_is_made_anew_for_every_batch_does_not_move() -> None:
    source = MemorySource(IMAGES)
    assert movable(source) is movable(EncodedSource(source, Pixels())) is source
    assert movable(EncodedSource(source, Halved())) is None
    items = [(image, int(label)) for image, label in zip(IMAGES.images, IMAGES.labels, strict=True)]
    assert movable(DatasetSource(items)) is None
    assert not isinstance(Spied(source), Movable)


def test_a_device_holds_samples_that_take_a_quarter_of_its_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    source = MemorySource(IMAGES)
    free = [4 * source.nbytes]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[0], 10**12))
    monkeypatch.setattr(MemorySource, "to", lambda self, device: f"on {device}")
    cuda = torch.device("cuda")
    assert str(placed(source, cuda)) == "on cuda"
    free[0] -= 1
    assert placed(source, cuda) is source
    assert placed(source, CPU) is source


@pytest.mark.parametrize("first", [0, 2])
def test_a_batch_follows_from_its_step_alone(first: int) -> None:
    """Whoever reads it, and wherever it begins."""
    plan = tiny_plan(flip=True)
    spec, task, source = job_specs(plan)[1], plan_task(plan).to(DEVICE), MemorySource(IMAGES)
    held = source.to(DEVICE)
    feeds = [
        Feed(plan, spec, task, source if one else held, DEVICE, first=first, prefetch=one) for one in (False, True)
    ]
    for step in range(first, 6):
        alone = Feed(plan, spec, task, held, DEVICE, first=step).batch(step)
        for feed in feeds:
            for found, expected in zip(feed.batch(step).tensors(), alone.tensors(), strict=True):
                assert found.equal(expected)
    for feed in feeds:
        feed.close()


def late_run(directory: Path, **changes: Any) -> Run:
    plan = tiny_plan(flip=True, budget=20 * 8 * 4)
    late = {"capture": True, "prefetch": True, "device": DEVICE}
    return tiny_run(directory, plan, **{**late, **changes})


def test_a_run_that_waits_for_nothing_resumes_to_the_byte(tmp_path: Path) -> None:
    whole, parts = late_run(tmp_path / "whole"), late_run(tmp_path / "parts", save_every=3)
    assert [report.step for report in one_block(whole, "block-1")] == list(range(1, 21))
    for count in (5, 1, 9):
        reports = one_block(parts, "block-1")
        for _, _report in zip(range(count), reports, strict=False):
            pass
        reports.close()
    assert [report.num_steps for report in one_block(parts, "block-1")][-1:] == [20]
    assert last_files(tmp_path / "parts") == last_files(tmp_path / "whole")
    assert not [one for one in threading.enumerate() if one.name.startswith("oneblock-read")]


def test_one_whose_network_draws_resumes_to_the_byte_too(tmp_path: Path) -> None:
    """Its steps are tried out before they are found to draw, wherever it begins: that must not move what they draw."""
    plan = tiny_plan()
    layer = blockwise(plan).denoiser(0).layers["0"]

    def forward(self: Any, h: torch.Tensor, modulation: Any) -> torch.Tensor:
        return torch.nn.functional.dropout(usual(self, h, modulation), 0.3)

    usual = type(layer).forward
    runs = {name: tiny_run(tmp_path / name, plan, capture=True, reseed=True) for name in ("whole", "parts")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(layer), "forward", forward)
        list(one_block(runs["whole"], "block-0"))
        reports = one_block(runs["parts"], "block-0")
        assert next(reports).latest
        reports.close()
        list(one_block(runs["parts"], "block-0"))
    assert last_files(tmp_path / "parts") == last_files(tmp_path / "whole")


def test_it_learns_what_a_run_that_waits_learns(tmp_path: Path) -> None:
    late = list(one_block(late_run(tmp_path / "late"), "block-0"))
    waiting = list(one_block(late_run(tmp_path / "waiting", capture=False, prefetch=DEVICE.type != "cpu"), "block-0"))
    assert [one.loss for one in late] == pytest.approx([one.loss for one in waiting], rel=1e-3)
    assert [(one.step, one.work) for one in late] == [(one.step, one.work) for one in waiting]
    assert late[-1].latest and all(one.latest for one in waiting)


def test_its_reports_tell_which_is_the_latest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneblock.train.stepper.SECONDS", 1e9)
    reports = list(one_block(late_run(tmp_path, save_every=8), "block-0"))
    assert [one.step for one in reports if one.latest] == [1, 8, 16, 20], "when it is saved all has been read"


def test_a_late_error_leaves_the_last_good_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a loss that was not finite at step 11, read at step 16: what was done before is told, and can be saved."""
    monkeypatch.setattr("oneblock.train.stepper.SECONDS", 1e9)
    run = late_run(tmp_path / "spoilt", save_every=8)
    batch = run.source.batch

    class Spoilt:
        def batch(self, step: int, batch_size: int, seed: int) -> Samples:
            samples = batch(step, batch_size, seed)
            return samples._replace(values=samples.values / (0 if step == 11 else 1))

    reports = one_block(replace(run, source=Spoilt()), "block-0")
    seen: list[int] = []
    with pytest.raises(NonFiniteError, match="block-0: loss nan, gradient norm nan at step 11, noise band"):
        seen += [report.step for report in iter(lambda: next(reports), None)]
    done = [path.stem for path in sorted((tmp_path / "spoilt" / "block-0").glob("step-*"))]
    assert done == ["step-000000008", "step-000000011"]
    assert list(one_block(run, "block-0"))[-1].step == 20, "with sound data it goes on"
    list(one_block(late_run(tmp_path / "whole"), "block-0"))
    assert last_files(tmp_path / "whole") == last_files(tmp_path / "spoilt")


def test_what_is_read_ahead_is_checked_by_its_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is drawn, on a device, nobody looks."""
    plan = tiny_plan()
    strange = MemorySource(replace(IMAGES, labels=IMAGES.labels + 1, classes=("a", "b", "c", "d")))
    monkeypatch.setattr(ImageGeneration, "draw", lambda *drawn: pytest.fail("it was drawn"))
    feed = Feed(plan, job_specs(plan)[0], plan_task(plan), strange, DEVICE, first=0, prefetch=True)
    with pytest.raises(ValueError, match="label 3 is unknown"):
        feed.batch(0)
    feed.close()
