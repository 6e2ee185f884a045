"""What comparisons of models of text have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from oneblock.cli.comparison import Cell, Comparison, Row
from oneblock.cli.text import held_out
from oneblock.cli.text_options import TextOptions, TextSamplingOptions
from oneblock.cli.text_scores import TextScores
from oneblock.data import TokenFile, open_text
from oneblock.presets import plan_length


@dataclass(frozen=True, kw_only=True)
class TextComparison(Comparison[TokenFile]):
    """Options of every comparison on text."""

    scores: ClassVar[TextScores]

    windows: int = 512
    """windows of held-out text that every run is scored on"""
    data: TextOptions = field(default_factory=TextOptions)
    writing: TextSamplingOptions = field(default_factory=TextSamplingOptions)

    def check(self, cells: Sequence[Cell], data: TokenFile) -> None:
        length = plan_length(self.plans(cells[0], data)[0])
        self.writing.prompts(data.vocabulary, length)
        self.held_out(data, length)
        super().check(cells, data)

    def open(self) -> TokenFile:
        return self.data.open()

    def held_out(self, train: TokenFile, length: int) -> Tensor:
        """The windows (n, ``length``) that every run is scored on, in the vocabulary of the training text."""
        file = open_text(self.data.data, "test", train.vocabulary, root=self.data.data_dir)
        return held_out(file, length, self.windows)

    def summaries(self, rows: Sequence[Row]) -> list[Row]:
        return self.scores.summaries(rows)

    def report(self, rows: Sequence[Row]) -> None:
        self.scores.report(rows)

    def draw(self, rows: Sequence[Row]) -> list[Path]:
        return self.scores.draw(self.out, rows)

    def line(self, row: Row) -> str:
        return f"{row['bits_per_character']:.4f} bits per character"
