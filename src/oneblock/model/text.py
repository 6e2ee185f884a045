"""Models of text, masked or autoregressive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, final

from oneblock.checks import check_count
from oneblock.evaluate.causal import write_causal
from oneblock.evaluate.masked import TIMES, Written, written_masked
from oneblock.evaluate.quality import AskedUnit
from oneblock.evaluate.text import WINDOWS, WRITING, QualityOptions, Scorer, Writing, evaluate_text, write_texts
from oneblock.evaluate.writing import Order
from oneblock.model.base import Model, said_of
from oneblock.plan import nth_seed
from oneblock.presets.data import Data
from oneblock.presets.splits import text_splits
from oneblock.sample.calls import Answers, AskedPool, Asking
from oneblock.sample.calls import Path as CallPath


@final
class MaskedModel(Model):
    """A model of masked text."""

    task = "masked-text"

    def sample(
        self,
        count: int = Writing.count,
        prompt: str = Writing.prompt,
        *,
        reveals: int = Writing.reveals,
        order: Order = Writing.order,
        temperature: float = Writing.temperature,
        top_p: float = Writing.top_p,
        sample_seed: int = 0,
    ) -> list[str]:
        """Texts of the plan's length that begin with ``prompt``; arguments of ``evaluate.writing.Writing``."""
        writing = Writing(
            count=count, prompt=prompt, reveals=reveals, order=order, temperature=temperature, top_p=top_p
        )
        return self.write(writing, sample_seed).texts

    def write(self, writing: Writing = WRITING, seed: int = 0) -> Written:
        """Texts as ``writing`` says, with the calls of the denoiser that each took."""
        return written_masked(self.denoiser, self.plan, writing, seed)

    def evaluate(
        self,
        data: Data | None = None,
        *,
        train: Data | None = None,
        windows: int = WINDOWS,
        times: int = TIMES,
        report_bands: int = 0,
        texts: int = QualityOptions.texts,
        scorer: Scorer = QualityOptions.scorer,
        unit: AskedUnit = QualityOptions.unit,
        mauve: bool = QualityOptions.mauve,
        prompt: str = Writing.prompt,
        reveals: int = Writing.reveals,
        order: Order = Writing.order,
        temperature: float = Writing.temperature,
        top_p: float = Writing.top_p,
        sample_seed: int = 0,
        scored: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """A bound on the bits per byte of held-out text, and with ``texts`` the quality of what the model writes.

        Args:
            data: see ``Model.evaluate``; of a TokenFile all is held out.
            train: the text whose n-grams score what is written. None is the training split of ``data``; where ``data``
                is a TokenFile, the training text that the plan names.
            windows: of held-out text.
            times: masked shares of every band for each of them.
            report_bands: bands to report the bound on (0: the plan's own).
            texts, scorer, unit, mauve: see ``evaluate.quality.QualityOptions``.
            prompt, reveals, order, temperature, top_p, sample_seed: how texts are written, see ``sample``.
            scored: called with the scores of held-out text, before texts are written.
        """
        quality = QualityOptions(texts=texts, scorer=scorer, unit=unit, mauve=mauve)
        splits = text_splits(self.plan, data, train, self.directory, with_training=bool(texts))
        row = evaluate_text(
            self.denoiser,
            self.plan,
            splits.test,
            splits.train,
            windows=windows,
            bands=self.bands(report_bands),
            times=times,
            quality=quality,
            writing=Writing(prompt=prompt, reveals=reveals, order=order, temperature=temperature, top_p=top_p),
            seed=sample_seed,
            scored=None if scored is None else lambda first: scored(said_of(first, splits.other)),
        )
        return said_of(row, splits.other)


@final
class CausalModel(Model):
    """An autoregressive model of text."""

    task = "text"

    def sample(
        self,
        count: int = Writing.count,
        prompt: str = Writing.prompt,
        *,
        tokens: int = Writing.tokens,
        temperature: float = Writing.temperature,
        top_p: float = Writing.top_p,
        path: CallPath = Asking.path,
        pool: AskedPool = Asking.pool,
        calls: int = Asking.calls,
        sample_seed: int = 0,
    ) -> list[str]:
        """Texts that go on from ``prompt``.

        Args:
            count, prompt, tokens, temperature, top_p: see ``evaluate.writing.Writing``.
            path, pool, calls: see ``sample.calls.Asking``.
            sample_seed: text i follows from ``(sample_seed, i)`` alone.
        """
        writing = Writing(count=count, prompt=prompt, tokens=tokens, temperature=temperature, top_p=top_p)
        asking = Asking(path=path, pool=pool, calls=calls)
        return ["".join(pieces) for pieces in write_texts(self.denoiser, self.plan, writing, asking, sample_seed)]

    def stream(
        self,
        prompt: str = Writing.prompt,
        *,
        tokens: int = Writing.tokens,
        temperature: float = Writing.temperature,
        top_p: float = Writing.top_p,
        path: CallPath = Asking.path,
        pool: AskedPool = Asking.pool,
        calls: int = Asking.calls,
        sample_seed: int = 0,
        index: int = 0,
    ) -> Iterator[str]:
        """One text in pieces as they are written, ``prompt`` first: the one at place ``index`` of those that ``sample``
        writes; its arguments."""
        check_count("index", index, least=0)
        writing = Writing(prompt=prompt, tokens=tokens, temperature=temperature, top_p=top_p)
        asking = Asking(path=path, pool=pool, calls=calls)
        return write_causal(self.denoiser, self.plan, writing, asking, nth_seed(sample_seed, index, "text"))

    def evaluate(
        self,
        data: Data | None = None,
        *,
        train: Data | None = None,
        windows: int = WINDOWS,
        path: CallPath = Answers.path,
        pool: AskedPool = Answers.pool,
        calls: int = Answers.calls,
        draws: int = Answers.draws,
        noise_seed: int = Answers.noise_seed,
        texts: int = QualityOptions.texts,
        scorer: Scorer = QualityOptions.scorer,
        unit: AskedUnit = QualityOptions.unit,
        mauve: bool = QualityOptions.mauve,
        prompt: str = Writing.prompt,
        tokens: int = Writing.tokens,
        temperature: float = Writing.temperature,
        top_p: float = Writing.top_p,
        sample_seed: int = 0,
        scored: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Bits per byte of held-out text after every call, and with ``texts`` the quality of what the model writes.

        Args:
            data: see ``Model.evaluate``; of a TokenFile all is held out.
            train: the text whose n-grams score what is written. None is the training split of ``data``; where ``data``
                is a TokenFile, the training text that the plan names.
            windows: of held-out text.
            path, pool, calls, draws, noise_seed: see ``sample.calls.Answers``.
            texts, scorer, unit, mauve: see ``evaluate.quality.QualityOptions``.
            prompt, tokens, temperature, top_p, sample_seed: how texts are written, see ``sample``.
            scored: called with the scores of held-out text, before texts are written.
        """
        quality = QualityOptions(texts=texts, scorer=scorer, unit=unit, mauve=mauve)
        splits = text_splits(self.plan, data, train, self.directory, with_training=bool(texts))
        row = evaluate_text(
            self.denoiser,
            self.plan,
            splits.test,
            splits.train,
            windows=windows,
            answers=Answers(path=path, pool=pool, calls=calls, draws=draws, noise_seed=noise_seed),
            quality=quality,
            writing=Writing(prompt=prompt, tokens=tokens, temperature=temperature, top_p=top_p),
            seed=sample_seed,
            scored=None if scored is None else lambda first: scored(said_of(first, splits.other)),
        )
        return said_of(row, splits.other)
