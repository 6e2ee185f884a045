"""Blocks that are read ahead. On a CPU that is never done by itself; here it is switched on."""

import gc
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_blockwise import Constant
from tiny import tiny_plan, tiny_run
from torch import Tensor

from oneblock.blockwise import BlockDenoiser, Denoiser
from oneblock.condition import ClassIds
from oneblock.evaluate.images import Sampling, sample_images
from oneblock.partition import make_partition
from oneblock.plan import read_plan
from oneblock.presets import blockwise
from oneblock.sample.generate import TOGETHER
from oneblock.train.ahead import ReadAhead
from oneblock.train.checkpoint import CheckpointError, checkpoints
from oneblock.train.shards import BlockFiles, merge, open_denoiser
from oneblock.train.strategy import all_blocks

CPU = torch.device("cpu")
PLAN = tiny_plan()
THREE = make_partition(PLAN.partition.law, 3)
LEVELS = (30.0, 0.3, 0.01)
"""One of each of three blocks."""


class Desk:
    """Blocks in the place of files; notes what is done with them, and by whom."""

    def __init__(self, reading: Callable[[int], None] = lambda block: None) -> None:
        self.done: list[tuple[str, int]] = []
        self.readers: list[str] = []
        self.placed: list[weakref.ref[Constant]] = []
        self._reading = reading
        self.ahead = ReadAhead(self.start, self.read, self.place)

    def start(self, block: int) -> BlockDenoiser:
        assert threading.current_thread() is threading.main_thread(), "initial weights come from torch's own generator"
        self.done.append(("start", block))
        return Constant(float(block))  # type: ignore[return-value]

    def read(self, block: int, made: BlockDenoiser) -> None:
        assert made.value == block
        self.readers.append(threading.current_thread().name)
        self._reading(block)
        self.done.append(("read", block))

    def place(self, made: BlockDenoiser) -> BlockDenoiser:
        gc.collect()
        assert all(ref() is None for ref in self.placed), "the device holds two blocks"
        self.placed.append(weakref.ref(made))  # type: ignore[arg-type]
        self.done.append(("place", int(made.value)))  # type: ignore[arg-type]
        return made

    def reads(self) -> list[int]:
        return [block for what, block in self.done if what == "read"]


def ask(denoiser: Denoiser, level: float) -> Tensor:
    return denoiser(torch.zeros(2, 1, 1, 1), torch.full((2,), level), ClassIds(torch.zeros(2, dtype=torch.long)))


def helpers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "ahead" in thread.name]


def test_the_next_block_is_read_while_the_present_one_works() -> None:
    works = threading.Event()

    def reading(block: int) -> None:
        assert block == 0 or works.wait(60), "nobody worked meanwhile"

    desk = Desk(reading)
    denoiser = Denoiser(THREE, desk.ahead.load, 1, desk.ahead)
    ask(denoiser, LEVELS[0])
    assert desk.done == [("start", 0), ("read", 0), ("place", 0), ("start", 1)]
    assert ask(denoiser, LEVELS[0]).eq(0).all()
    works.set()
    assert [float(ask(denoiser, level)[0]) for level in LEVELS[1:]] == [1.0, 2.0]
    assert desk.reads() == [0, 1, 2]
    assert desk.readers[0] == threading.main_thread().name
    assert desk.readers[1:] == ["read block 1 ahead", "read block 2 ahead"]
    assert [block for what, block in desk.done if what == "place"] == [0, 1, 2]
    assert not helpers()


@pytest.mark.parametrize(
    ("order", "reads"),
    [
        ((0, 1, 2), [0, 1, 2]),
        ((0, 0, 2, 2), [0, 1, 2]),
        ((0, 2), [0, 1, 2]),
        ((0, 1, 0, 1), [0, 1, 2, 0, 1, 2]),
        ((2, 0), [2, 0, 1]),
    ],
)
def test_what_was_read_and_is_not_asked_for_is_let_go(order: tuple[int, ...], reads: list[int]) -> None:
    desk = Desk(lambda block: time.sleep(0.1))
    denoiser = Denoiser(THREE, desk.ahead.load, 1, desk.ahead)
    for block in order:
        assert ask(denoiser, LEVELS[block]).eq(block).all()
    denoiser.settle()
    assert desk.reads() == reads
    assert not helpers()


@pytest.mark.parametrize(("again", "reads"), [(True, [0, 1, 2, 0]), (False, [0, 1, 2])])
def test_the_first_block_is_read_again_if_more_samples_wait(again: bool, reads: list[int]) -> None:
    desk = Desk()
    denoiser = Denoiser(THREE, desk.ahead.load, 1, desk.ahead)
    denoiser.expect(again)
    for level in LEVELS:
        ask(denoiser, level)
        ask(denoiser, level)
    denoiser.settle()
    assert desk.reads() == reads
    assert not helpers()


def test_blocks_that_are_kept_are_not_read_again() -> None:
    desk = Desk()
    kept: list[BlockDenoiser] = []
    ahead = ReadAhead(desk.start, desk.read, lambda made: kept.append(made) or made)
    denoiser = Denoiser(THREE, ahead.load, 3, ahead)
    denoiser.expect(again=True)
    for level in 2 * LEVELS:
        ask(denoiser, level)
    assert desk.reads() == [0, 1, 2]


def test_blocks_that_are_mixed_in_a_call() -> None:
    desk = Desk()
    denoiser = Denoiser(THREE, desk.ahead.load, 1, desk.ahead)
    out = denoiser(torch.zeros(2, 1, 1, 1), torch.tensor([0.3, 30.0]), ClassIds(torch.zeros(2, dtype=torch.long)))
    assert out.flatten().tolist() == [1.0, 0.0]
    assert ask(denoiser, LEVELS[2]).eq(2).all()
    assert desk.reads() == [0, 1, 2] and desk.readers[2] == "read block 2 ahead"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    list(all_blocks(tiny_run(tmp_path / "run")))
    merge(tmp_path / "run", tmp_path / "run" / "model", 6)
    return tmp_path / "run"


def opened(place: Path, ahead: bool | None) -> Denoiser:
    return open_denoiser(place, blockwise(read_plan(place.parent)), CPU, 1, ahead=ahead)


@pytest.mark.parametrize("merged", [True, False])
def test_images_are_the_same_and_no_thread_is_left(
    run: Path, tmp_path: Path, merged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers: list[str] = []
    read = BlockFiles.read

    def watched(self: BlockFiles, block: int, denoiser: BlockDenoiser) -> None:
        readers.append(threading.current_thread().name)
        read(self, block, denoiser)

    monkeypatch.setattr(BlockFiles, "read", watched)
    place = run / "model" if merged else run
    images = []
    for ahead in (False, True):
        denoiser = open_denoiser(place, blockwise(read_plan(run)), CPU, 1, ahead=ahead)
        labels = torch.zeros(TOGETHER + 1, dtype=torch.long)
        images.append(sample_images(denoiser, PLAN, labels, Sampling(steps=2)))
    assert images[0].equal(images[1])
    main, one, zero = threading.main_thread().name, "read block 1 ahead", "read block 0 ahead"
    assert readers == [*[main] * 4, main, one, zero, one]
    assert not helpers()


def test_on_a_cpu_nothing_is_read_ahead(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReadAhead, "begin", lambda self, block: pytest.fail("host memory would hold two blocks"))
    sample_images(opened(run / "model", None), PLAN, torch.zeros(3, dtype=torch.long), Sampling(steps=2))


def damaged(run: Path) -> None:
    shard = run / "model" / "block-1.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])


def gone(run: Path) -> None:
    (run / "model" / "block-1.safetensors").unlink()


@pytest.mark.parametrize("harm", [damaged, gone])
def test_an_unreadable_file_is_refused_where_it_is_asked_for(run: Path, harm: Callable[[Path], None]) -> None:
    messages = []
    harm(run)
    for ahead in (False, True):
        denoiser = opened(run / "model", ahead)
        block0 = denoiser.partition.edges[0]
        z, told = torch.zeros(1, 1, 8, 8), ClassIds(torch.zeros(1, dtype=torch.long))
        denoiser(z, torch.tensor([block0]), told)
        denoiser(z, torch.tensor([block0]), told)
        with pytest.raises(CheckpointError) as caught:
            denoiser(z, torch.tensor([0.01]), told)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "block-1.safetensors" in messages[0]
    assert not helpers()


def test_nothing_is_left_of_sampling_that_failed(run: Path) -> None:
    denoiser = open_denoiser(run, blockwise(read_plan(run)), CPU, 1, ahead=True)
    path = checkpoints(run / "block-1")[-1]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="is damaged"):
        sample_images(denoiser, PLAN, torch.zeros(3, dtype=torch.long), Sampling(steps=4))
    denoiser.block(0).register_forward_hook(lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        sample_images(denoiser, PLAN, torch.zeros(3, dtype=torch.long), Sampling(steps=4))
    assert not helpers()
