"""Windows of held-out text, and how text is written: what both kinds of models of text need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from oneblock.checks import MANY, check_count, check_fields
from oneblock.data import TokenFile, Vocabulary
from oneblock.sample.masked import check_pick

WINDOWS = 512
"""Windows of held-out text that scores are taken on."""
Order = Literal["ancestral", "confidence", "policy"]
UNFINISHED = "\ufffd"
"""What a vocabulary writes for bytes that are not a whole character."""


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
    """steps in which places are revealed; with --order policy the most that a text takes"""
    order: Order = "ancestral"
    """which places are revealed first: any; the surest; or what the policy of a plan with --relay says, in as many
    calls as each text needs"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("reveals", self.reveals, most=MANY)


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


class Windows(NamedTuple):
    """Windows of a text, int64 (n, t), and how many tokens at the end of each are new, int64 (n,): the others stand in
    the window before, so that they are read again but not counted again."""

    tokens: Tensor
    new: Tensor


def held_out(file: TokenFile, length: int, windows: int = WINDOWS) -> Windows:
    """So many windows of ``length`` tokens of a text, or all that it has, spread evenly over it."""
    check_count("windows", windows)
    starts, _ = file.windows(length)
    chosen = starts[torch.linspace(0, len(starts) - 1, min(windows, len(starts))).round().long().unique()]
    new = torch.diff(chosen, prepend=chosen[:1] - length).clamp(max=length)
    return Windows(file.read(chosen, length), new)


def weights(tokens: Tensor, new: Tensor | None = None) -> Tensor:
    """How much each token of windows (n, t) counts, float64 (n, t): 0 or the same for all ``new`` ones (None: all of
    them), 1 on average."""
    if new is None:
        return torch.ones(tokens.shape, dtype=torch.float64)
    counted = (tokens.shape[1] - torch.arange(tokens.shape[1]) <= new[:, None].cpu()).double()
    return counted / counted.mean()


def tokens_per_byte(tokens: Tensor, vocabulary: Vocabulary, new: Tensor | None = None) -> float:
    """Of windows (n, t): their tokens for each byte that these stand for, counted where they are ``new``. Windows may
    cut characters; they do not cut bytes."""
    counted = tokens.cpu()[weights(tokens, new) > 0]
    return len(counted) / int(vocabulary.byte_counts()[counted].sum())


def readable(tokens: Tensor, vocabulary: Vocabulary) -> str:
    """The whole characters of a window (t,), without those that its edges cut."""
    return vocabulary.decode(tokens.cpu()).strip(UNFINISHED)
