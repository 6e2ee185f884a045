"""A trained byte model of whole numbers (``models.egg``), to be scored and to write."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, final

import torch
from torch import Tensor

from oneblock.checks import check_count, check_seed
from oneblock.data import TextData, TokenFile
from oneblock.data.places import read_record
from oneblock.evaluate.bytes import sample_bytes, score_bytes
from oneblock.evaluate.writing import Writing
from oneblock.models.egg import EGG
from oneblock.presets.bytes import BytePlan, Text, open_bytes, read_byte_plan, stream
from oneblock.train.checkpoint import CheckpointError, latest
from oneblock.train.integer import JOB
from oneblock.train.machine import open_device

SCORED = 2**17
"""Bytes of held-out text that a model is scored on."""
PIECES = 64
"""Of that text, from all over it; the model reads each from empty states."""
TOKENS = 256
"""Bytes of a text that is written."""


@final
class ByteModel:
    """An EGG with its plan. Made by ``ByteModel.open``.

    Args:
        plan: of the run; ``directory`` is the run's.
        model: its 8-bit weights, after ``step`` steps.
    """

    def __init__(self, plan: BytePlan, model: EGG, step: int, directory: Path) -> None:
        self.plan, self.model, self.step, self.directory = plan, model, step, directory

    @classmethod
    def open(cls, path: str | Path, *, device: str | torch.device = "cpu") -> Self:
        """The model of a run's directory, as its newest intact checkpoint has it.

        Raises:
            ValueError: the directory is not that of a run of a byte model, or the device does not exist.
            CheckpointError: it has no intact checkpoint.
        """
        directory, where = Path(path), open_device(device)
        plan = read_byte_plan(directory)
        found = latest(directory / JOB, plan.hash)
        if found is None:
            raise CheckpointError(f"{directory} has no checkpoint yet; train it with `oneblock train bytes`")
        tensors, stamp, _ = found
        weights = {name: t.to(where, copy=True) for name, t in tensors.below("weights").each()}
        return cls(plan, EGG(plan.model, weights), stamp.step, directory)

    @property
    def device(self) -> torch.device:
        return self.model.weights["embed"].device

    def evaluate(self, data: Text | None = None, *, scored: int = SCORED, pieces: int = PIECES) -> dict[str, Any]:
        """Bits per byte of held-out text, beside what any model of bytes must be better than: unigrams and bigrams of
        the training text, and gzip, which has seen neither. ``other_data`` says that the training text is another than
        the run's.

        Args:
            data: a name or ``TextData``, whose training split gives the n-grams; of a ``TokenFile`` all is held out,
                and the n-grams are of the run's own text. None is the text of the run.
            scored: bytes of the held-out text that are scored (0: all), in ``pieces`` from all over it.

        Raises:
            ValueError: the text is absent, or too short.
        """
        check_count("scored", scored, 0)
        check_count("pieces", pieces)
        train, text = open_bytes(self.directory, self._named(None if isinstance(data, TokenFile) else data), "train")
        test, _ = open_bytes(self.directory, self._named(data), "test")
        found = score_bytes(
            self.model,
            spread_out(stream(test), scored, pieces).to(self.device),
            stream(train).to(self.device),
            pieces,
        )
        row: dict[str, Any] = {
            "bits_per_byte": found.model,
            "unigram": found.unigram,
            "bigram": found.bigram,
            "gzip": found.gzip,
            "bytes": found.bytes,
            "step": self.step,
            "steps": self.plan.settings.steps,
        }
        other, name = train.fingerprint(), text.data if text else ""
        if other == self.plan.fingerprint:
            return row
        said = f"{name} (fingerprint {other}) is not what the run was trained on, {self.plan.data} "
        return {**row, "other_data": f"{said}({self.plan.fingerprint})"}

    def sample(
        self, count: int = Writing.count, prompt: str = Writing.prompt, *, tokens: int = TOKENS, sample_seed: int = 0
    ) -> list[str]:
        """Texts that go on from ``prompt`` by ``tokens`` bytes each, drawn from the model; bytes that are not UTF-8
        become U+FFFD."""
        return [text.decode(errors="replace") for text in self._bytes(count, prompt, tokens, sample_seed)]

    def _bytes(self, count: int, prompt: str, tokens: int, seed: int) -> Iterator[bytes]:
        check_seed("sample_seed", seed)
        start = prompt.encode()
        return (start + text for text in sample_bytes(self.model, count, tokens, seed, start))

    def _named(self, data: Text | None) -> Text:
        """``data``, by default the text of the run."""
        if data is None:
            data = TextData(data="")
        if not isinstance(data, TextData) or data.data:
            return data
        if data.data_dir is None and read_record(self.directory) is not None:
            return data
        if self.plan.data.startswith("dataset:"):
            raise ValueError("the text of this run is the user's own TokenFile, and has no name; give data=...")
        return replace(data, data=self.plan.data)


def spread_out(text: Tensor, count: int, pieces: int) -> Tensor:
    """About ``count`` bytes of ``text`` (length,), as many pieces of one length from all over it; 0 is all of it."""
    length = count // pieces
    if not count or pieces * length >= len(text):
        return text
    starts = [i * (len(text) - length) // max(1, pieces - 1) for i in range(pieces)]
    return torch.cat([text[start : start + length] for start in starts])
