"""How good written text is: diversity and likelihood, beside held-out text of the same length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from torch import Tensor

from oneblock.checks import check_count, check_fields
from oneblock.data import TokenFile
from oneblock.evaluate.writing import UNFINISHED, held_out, readable
from oneblock.metrics import NGramScorer, TextScorer, mauve, smollm2_scorer, text_quality
from oneblock.metrics.smollm import check_smollm2
from oneblock.metrics.text import Unit
from oneblock.metrics.text_distance import MiniLMFeatures, check_mauve_package

Scorer = Literal["n-gram", "smollm2"]
"""Whose likelihood written text is scored with."""
AskedUnit = Literal["auto", "words", "characters"]

ORDER = 6
"""Of the n-grams that score text; 7 and 8 are within 0.03 bits of it on held-out English (docs/log.md)."""
COUNTED = 2**25
"""Tokens at the start of a training text whose n-grams are counted, which bounds their memory."""
LONGEST = 4
"""Words or characters together that diversity counts."""


@dataclass(frozen=True, kw_only=True)
class QualityOptions:
    """How written text is scored."""

    texts: int = 0
    """texts to write and to score too, beside held-out text of the same length: diversity and likelihood"""
    scorer: Scorer = "n-gram"
    """whose likelihood: n-grams of the training text, or SmolLM2-135M (pip install 'oneblock[evaluation]')"""
    unit: AskedUnit = "auto"
    """what diversity counts: words, or characters (auto: characters where held-out text of that length has fewer than
    four words, as in Chinese)"""
    mauve: bool = False
    """MAUVE of written against held-out texts, on features of MiniLM (pip install 'oneblock[evaluation]')"""

    def __post_init__(self) -> None:
        check_fields(self)
        check_count("texts", self.texts, least=0)

    def open_scorer(self, train: TokenFile) -> TextScorer:
        """The scorer; ``train`` is the text of the n-grams."""
        return n_grams(train) if self.scorer == "n-gram" else smollm2_scorer()

    def check(self, train: TokenFile | None, test: TokenFile, length: int) -> None:
        """Refuse, before any work, what would fail after it.

        Raises:
            ValueError: no training text, it is the held-out text, or this has fewer windows of ``length`` tokens than
                texts are to be written.
            ImportError: a package is absent.
        """
        if not self.texts:
            return
        _check_training_text(train, test, self)
        available = len(test.windows(length)[0])
        if self.texts > available:
            raise ValueError(
                f"texts={self.texts} are to be compared with as many windows of held-out text, but it has {available} "
                f"of {length} tokens; use texts={available} or fewer, or more held-out text"
            )
        if self.scorer == "smollm2":
            check_smollm2()
        if self.mauve:
            check_mauve_package()
            MiniLMFeatures()


QUALITY = QualityOptions()
"""No texts are written."""


def _check_training_text(train: TokenFile | None, test: TokenFile, quality: QualityOptions) -> None:
    """Refuse to score texts by n-grams of the text that they are compared with."""
    if train is None:
        raise ValueError(f"texts={quality.texts} needs the training text, whose n-grams score them; give train too")
    if quality.scorer == "n-gram" and train.fingerprint() == test.fingerprint():
        raise ValueError(
            f"texts={quality.texts} are scored by n-grams of the training text, which is also the held-out text; give "
            "another held-out text, or scorer='smollm2'"
        )


def n_grams(train: TokenFile) -> NGramScorer:
    """A language model of n-grams of the training text (its first ``COUNTED`` tokens), which needs no training."""
    return NGramScorer([train.vocabulary.decode(train.tokens[:COUNTED].long())], ORDER)


def beside(test: TokenFile, tokens: Tensor, count: int) -> Tensor:
    """``count`` windows to compare texts with: the first of ``tokens`` (n, t), or so many of ``test`` where these are
    fewer."""
    return tokens[:count] if count <= len(tokens) else held_out(test, tokens.shape[1], count).tokens


def written_quality(
    texts: Sequence[str], tokens: Tensor, train: TokenFile, options: QualityOptions = QUALITY
) -> list[dict[str, Any]]:
    """Diversity and likelihood (``metrics.text``): of as many held-out windows ``tokens`` (n, t) as there are
    ``texts``, cut to their lengths, and of the texts, with MAUVE between the two if asked for. Characters that an end
    cuts are left out on both sides."""
    if len(tokens) < len(texts):
        raise ValueError(f"{len(texts)} texts cannot be compared with {len(tokens)} windows; give as many windows")
    scorer = options.open_scorer(train)
    texts = [text.removesuffix(UNFINISHED) or text for text in texts]
    whole = [readable(row, train.vocabulary) for row in tokens[: len(texts)]]
    real = [one[: len(text)] for one, text in zip(whole, texts, strict=True)]
    unit = _unit(options.unit, real)
    found = {"held-out": text_quality(real, scorer, unit), "written": text_quality(texts, scorer, unit)}
    rows: list[dict[str, Any]] = [{"texts": name, **quality.as_row()} for name, quality in found.items()]
    if options.scorer == "n-gram" and len(train) > COUNTED:
        note = f"n-grams of the first {COUNTED:,} of {len(train):,} training tokens"
        rows[-1]["note"] = "; ".join(filter(None, (rows[-1]["note"], note)))
    if options.mauve:
        rows[-1]["mauve"] = mauve(texts, real).as_row()
    return rows


def _unit(asked: AskedUnit, real: Sequence[str]) -> Unit:
    if asked != "auto":
        return asked
    return "words" if median(len(text.split()) for text in real) >= LONGEST else "characters"
