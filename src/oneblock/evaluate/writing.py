"""Windows of held-out text, and how text is written: what both kinds of models of text need."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from oneblock.checks import check_count, check_fields
from oneblock.data import TokenFile, Vocabulary
from oneblock.sample.masked import Reveal, check_pick

WINDOWS = 512
"""Windows of held-out text that scores are taken on."""


@dataclass(frozen=True, kw_only=True)
class Prompted:
    """How text of any kind is drawn."""

    prompt: str = ""
    """how the texts begin"""
    temperature: float = 1.0
    """divides the logits; 0 takes the likeliest symbol"""
    top_p: float = 1.0
    """draw among the likeliest symbols that have this probability together"""

    def __post_init__(self) -> None:
        check_fields(self)
        check_pick(self.temperature, self.top_p)


@dataclass(frozen=True, kw_only=True)
class MaskedWriting(Prompted):
    """How masked text is revealed."""

    reveals: int = 64
    """steps in which places are revealed"""
    order: Reveal = "ancestral"
    """which places are revealed first: any, or the surest"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("reveals", self.reveals)


@dataclass(frozen=True, kw_only=True)
class CausalWriting(Prompted):
    """How autoregressive text goes on."""

    tokens: int = 0
    """tokens to write (0: as many as the network sees)"""


@dataclass(frozen=True, kw_only=True)
class Writing(MaskedWriting, CausalWriting):
    """How texts are written; each task looks at its own settings."""

    count: int = 4
    """number of sequences"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count < 1:
            raise ValueError(f"count={self.count} writes nothing; use 1 or more")

    def prompts(self, vocabulary: Vocabulary, length: int) -> Tensor:
        """The tokens that the sequences begin with: int64 (count, t); a prompt of ``length`` or more is refused."""
        given = vocabulary.encode(self.prompt) if self.prompt else torch.empty(0, dtype=torch.int64)
        if len(given) >= length:
            raise ValueError(
                f"prompt={self.prompt[:40]!r} has {len(given)} tokens, but the network sees only {length}; "
                "cut the prompt"
            )
        return given.expand(self.count, -1)

    def to_write(self, vocabulary: Vocabulary, length: int) -> tuple[Tensor, int]:
        """The prompt of one autoregressive text, int64 (t,), and how many tokens follow it; more than ``length``
        together is refused."""
        given = self.prompts(vocabulary, length)[0]
        count = self.tokens or length - len(given)
        if count < 1 or len(given) + count > length:
            raise ValueError(
                f"prompt={self.prompt[:40]!r} has {len(given)} tokens and tokens={self.tokens} more are asked for, but "
                f"the network sees only {length} together; cut the prompt or write fewer"
            )
        return given, count


WRITING = Writing()
"""The usual way."""


def held_out(file: TokenFile, length: int, windows: int = WINDOWS) -> Tensor:
    """So many windows of a text, or all that it has, spread evenly over it: int64 (n, length)."""
    check_count("windows", windows)
    starts, _ = file.windows(length)
    chosen = starts[torch.linspace(0, len(starts) - 1, min(windows, len(starts))).round().long().unique()]
    return file.read(chosen, length)


def tokens_per_byte(tokens: Tensor, vocabulary: Vocabulary) -> float:
    """Of windows (n, t): their tokens for each byte of their text in UTF-8, which of a to z and space is a
    character."""
    return tokens.numel() / len("".join(vocabulary.decode(row) for row in tokens.cpu()).encode())
