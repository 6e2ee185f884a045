"""Batches of windows of a text, from its token file."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .memory import Samples
from .order import check_position, epoch_seed
from .tokens import TokenFile, check_length
from .vocabulary import Vocabulary


class TokenSource:
    """Training windows addressed by their step, in an order that any machine can compute from the seed alone.

    In every epoch the text is cut into M windows side by side, beginning at an offset drawn from (seed, epoch), and
    shown in the order of a permutation drawn from the same generator. No token comes twice in an epoch, and fewer than
    2 ``length`` are left out, at the two ends. Step s of batch size n covers windows s n .. s n + n - 1 of the endless
    row of epochs, as in ``MemorySource``.

    Args:
        file: the tokens.
        length: t, tokens of a window.
        within_documents: cut each document on its own, with an offset of its own, so that no window holds two; those
            shorter than ``length`` are then skipped. False joins all documents in their order, and windows run across.
        device: where positions are given out; they are the same everywhere.

    Raises:
        ValueError: ``length`` is below 1 or above what the text (its longest document) has.
    """

    def __init__(
        self, file: TokenFile, length: int, *, within_documents: bool = False, device: torch.device | None = None
    ) -> None:
        self.file = file
        self.length = length
        self.within_documents = within_documents
        self.device = torch.device("cpu") if device is None else device
        starts, lengths = (file.starts, file.lengths) if within_documents else _whole(file)
        place = f"the longest document of {file.path}" if within_documents else str(file.path)
        check_length(length, int(lengths.max()), place)
        long_enough = lengths >= length
        self.num_skipped = int((~long_enough).sum())
        self._starts, lengths = starts[long_enough], lengths[long_enough]
        # so many that the offset has length choices or more and reaches both ends; a text below two windows has fewer
        counts = ((lengths - length + 1) // length).clamp(min=1)
        self._offsets = lengths - counts * length + 1
        self._ends = counts.cumsum(0)
        self._first = self._ends - counts
        self._epoch: tuple[int, int] | None = None
        self._order = torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        """How many windows an epoch has."""
        return int(self._ends[-1])

    @property
    def vocabulary(self) -> Vocabulary:
        return self.file.vocabulary

    def batch(self, step: int, batch_size: int, seed: int) -> Tensor:
        """The windows of one step; depends on nothing but the arguments.

        Args:
            step: 0 or more.
            batch_size: n, 1 or more.
            seed: names the windows and their order.

        Returns:
            int64 (n, t), ids in 0..v - 1.

        Raises:
            ValueError: ``step`` is negative or ``batch_size`` is below 1.
        """
        return self.file.read(self.positions(step, batch_size, seed), self.length)

    def positions(self, step: int, batch_size: int, seed: int) -> Tensor:
        """Where in the file the windows of one step begin: int64 (batch_size,)."""
        check_position(step, batch_size)
        start, missing, parts = step * batch_size, batch_size, []
        while missing:
            epoch, offset = divmod(start, len(self))
            part = self._epoch_positions(seed, epoch)[offset : offset + missing]
            parts.append(part)
            start, missing = start + len(part), missing - len(part)
        return torch.cat(parts)

    def fingerprint(self) -> str:
        """16 hex digits that tell this text from others; a plan holds them."""
        return self.file.fingerprint()

    def _epoch_positions(self, seed: int, epoch: int) -> Tensor:
        if self._epoch != (seed, epoch):
            self._order = torch.empty(0, dtype=torch.int64)
            generator = torch.Generator().manual_seed(epoch_seed(seed, epoch))
            drawn = torch.rand(len(self._offsets), generator=generator, dtype=torch.float64)
            offsets = (drawn * self._offsets).long()
            windows = torch.randperm(len(self), generator=generator)
            if len(offsets) == 1:  # in place: a long text has many windows
                self._order = windows.mul_(self.length).add_(self._starts + offsets)
            else:
                document = torch.searchsorted(self._ends, windows, right=True)
                within = (windows - self._first[document]) * self.length
                self._order = self._starts[document] + offsets[document] + within
            self._order = self._order.to(self.device)
            self._epoch = (seed, epoch)
        return self._order


@dataclass(frozen=True)
class TextBatches:
    """A ``Batches`` over the windows of a ``TokenSource``; text has no labels."""

    source: TokenSource

    def batch(self, step: int, batch_size: int, seed: int) -> Samples:
        return Samples(self.source.batch(step, batch_size, seed), None)

    @property
    def nbytes(self) -> int:
        """Of the tokens, as they are stored, and the order of an epoch."""
        return self.source.file.tokens.nbytes + 8 * len(self.source)

    def to(self, device: torch.device) -> DeviceWindows:
        """The same windows, read from tokens on ``device``."""
        return DeviceWindows(self.source, device)


class DeviceWindows:
    """The windows of ``source`` on ``device``, which holds its tokens.

    Raises:
        ValueError: the file has tokens beyond its vocabulary.
    """

    def __init__(self, source: TokenSource, device: torch.device) -> None:
        source.file.check_range()
        tokens = source.file.tokens
        if tokens.dtype == torch.uint16:
            tokens = tokens.view(torch.int16)  # few kernels know uint16
        self._tokens = tokens.to(device)
        self._mask = 2 ** (8 * self._tokens.element_size()) - 1
        self._source = TokenSource(source.file, source.length, within_documents=source.within_documents, device=device)
        self._places = torch.arange(source.length, device=device)

    def batch(self, step: int, batch_size: int, seed: int) -> Samples:
        starts = self._source.positions(step, batch_size, seed)
        return Samples(self._tokens[starts[:, None] + self._places].long() & self._mask, None)


def _whole(file: TokenFile) -> tuple[Tensor, Tensor]:
    """The text as a single document: its start and length, int64 (1,) each."""
    return file.starts[:1], torch.tensor([len(file)])
