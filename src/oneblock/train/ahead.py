"""Blocks read ahead: while one works on the device, a thread reads the next one from its file into host memory."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread

from oneblock.blockwise import BlockDenoiser

Start = Callable[[int], BlockDenoiser]
Read = Callable[[int, BlockDenoiser], None]
Place = Callable[[BlockDenoiser], BlockDenoiser]


class ReadAhead:
    """Loads blocks in three steps, of which a thread may have done the second before a block is asked for. Host memory
    holds at most one block for it.

    Args:
        start: builds block b. It draws initial weights from torch's own generator, so it is never called in a thread.
        read: fills it from its file; in a thread if it is read ahead.
        place: brings it to the device.
    """

    def __init__(self, start: Start, read: Read, place: Place) -> None:
        self._start = start
        self._read = read
        self._place = place
        self._reading: _Reading | None = None

    def load(self, block: int) -> BlockDenoiser:
        """Block ``block`` on the device: the one that was read ahead, or read now. What went wrong while it was read is
        raised here."""
        found, self._reading = self._reading, None
        if found is not None:
            found.wait()
        if found is None or found.block != block:
            found = None  # let go before another is built
            made = self._start(block)
            self._read(block, made)
            return self._place(made)
        return self._place(found.result())

    def begin(self, block: int) -> None:
        """Start to read block ``block``, in the place of what may have been read before."""
        if self._reading is None or self._reading.block != block:
            self.settle()
            self._reading = _Reading(block, self._start, self._read)

    def settle(self) -> None:
        """Wait for the thread, and let go of what it has read."""
        if self._reading is not None:
            self._reading.wait()
            self._reading = None


class _Reading:
    """A block that is being read; errors are kept until it is asked for."""

    def __init__(self, block: int, start: Start, read: Read) -> None:
        self.block = block
        self._error: Exception | None = None
        self._thread: Thread | None = None
        try:
            self._made = start(block)
        except Exception as error:
            self._error = error
            return
        self._thread = Thread(target=self._run, args=(read,), name=f"read block {block} ahead")
        self._thread.start()

    def _run(self, read: Read) -> None:
        try:
            read(self.block, self._made)
        except Exception as error:
            self._error = error

    def wait(self) -> None:
        """Until the thread is done."""
        if self._thread is not None:
            self._thread.join()

    def result(self) -> BlockDenoiser:
        """The block; what went wrong with it is raised."""
        if self._error is not None:
            raise self._error
        return self._made
