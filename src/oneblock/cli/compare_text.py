"""``oneblock compare text`` and ``oneblock compare recurrent-text``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from oneblock import rivals
from oneblock.cli.causal_text import BATCH, bits_row, evaluate_causal, plan_calls, write_causal
from oneblock.cli.comparison import (
    Cell,
    Row,
    cell_model,
    record,
    recorded,
    rival_settings,
    train_cell,
    train_rival_cell,
)
from oneblock.cli.text import text_batches
from oneblock.cli.text_comparison import TextComparison
from oneblock.cli.text_options import CallOptions, CausalOptions, TextSamplingOptions, ordinary, recurrent_options
from oneblock.cli.text_scores import TextScores
from oneblock.cli.writing import n_grams
from oneblock.data import TokenFile, Vocabulary
from oneblock.plan import Plan
from oneblock.presets import gpt_config, plan_length
from oneblock.rivals import RivalSettings, TruncatedBPTT
from oneblock.tasks.causal import log_likelihood
from oneblock.train.shards import open_denoiser

CausalArm = Literal[
    "end-to-end", "shallow", "ensemble", "branched-ensemble", "blockwise", "branched", "two-streams", "n-gram"
]
ORDINARY = ("end-to-end", "shallow", "ensemble", "branched-ensemble", "n-gram")
RecurrentArm = Literal["single-pass", "feed-forward", "truncated-bptt"]
TEXT_SCORES = TextScores(
    ours=("blockwise", "branched", "two-streams"),
    rivals=("end-to-end", "shallow", "ensemble", "branched-ensemble"),
    listed="bits_after_calls",
    items="call",
    unit="bits per character",
)
RECURRENT_SCORES = replace(TEXT_SCORES, ours=("single-pass",), rivals=("feed-forward", "truncated-bptt"))


def untrained_row(cell: Cell) -> Row:
    """What every row has, of a run that no plan trains."""
    return {
        "arm": cell.arm,
        "seed": cell.seed,
        "layers": [],
        "parameters": None,
        "layer_evaluations": 0,
        "train_seconds": None,
        "peak_bytes": None,
        "peak_bytes_checkpointing": None,
        "characters_per_second": None,
        "samples": [],
    }


@dataclass(frozen=True, kw_only=True)
class CompareCausal(TextComparison):
    """What comparisons of autoregressive models have in common."""

    model: CausalOptions
    answers: CallOptions = field(default_factory=CallOptions)
    writing: TextSamplingOptions = field(default_factory=lambda: TextSamplingOptions(count=2))

    def check(self, cells: Sequence[Cell], data: TokenFile) -> None:
        super().check(cells, data)
        for cell in cells:
            for plan in self.plans(cell, data):
                plan_calls(plan, self.answers)
                self.writing.to_write(data.vocabulary, plan_length(plan))

    def row(self, cell: Cell) -> Row:
        file = self.open()
        (plan,) = self.plans(cell, file)
        asked = {"plans": [plan.hash], "windows": self.windows, **self.asked(cell)}
        directory = self.out / cell.name
        known = recorded(directory, asked)
        return known if known is not None else record(directory, {**self.scored(cell, plan, file), **asked})

    def asked(self, cell: Cell) -> dict[str, Any]:
        """What a recorded result must have been made with, beside its plan."""
        return {"answers": asdict(self.answers), "writing": asdict(self.writing)}

    def scored(self, cell: Cell, plan: Plan, file: TokenFile) -> Row:
        """Train and score one run."""
        (run,), row = train_cell(self, cell, [plan], text_batches(plan, file))
        denoiser = open_denoiser(run.directory, run.blockwise, run.device)
        found = evaluate_causal(plan, denoiser, self.held_out(file, plan_length(plan)), self.answers, run.device)
        calls = plan_calls(plan, self.answers)
        writing = self.written(
            cell, lambda seed: "".join(write_causal(plan, denoiser, self.writing, calls, seed, run.device))
        )
        return {**row, **found, **writing}

    def written(self, cell: Cell, write: Callable[[int], str]) -> Row:
        """The texts of a run, each from a seed of its own, and how fast they came."""
        began = time.perf_counter()
        texts = [write(seed) for seed in range(cell.seed * self.writing.count, (cell.seed + 1) * self.writing.count)]
        return {"characters_per_second": sum(map(len, texts)) / (time.perf_counter() - began), "samples": texts}


@dataclass(frozen=True, kw_only=True)
class CompareText(CompareCausal):
    """Train autoregressive language models blockwise and otherwise with the same work and show what each one gives.

    Arms: `end-to-end` is an ordinary GPT; `shallow` one of a block's depth, with the whole budget; `ensemble` as many
    shallow ones as there are blocks, which share the budget, their probabilities averaged; `branched-ensemble` the same
    from a common seed network (--branch); `blockwise` trains each block alone to denoise the next token, carried by the
    token before it; `branched` does so from a common seed block; `two-streams` is blockwise with noisy tokens beside
    the text, at twice the work for each text; `n-gram` counts six characters in a row and trains nothing. All arms keep
    the learning rate constant for the same share of their steps. A comparison that was stopped goes on with the same
    command.
    """

    scores: ClassVar[TextScores] = TEXT_SCORES
    arms: tuple[CausalArm, ...] = get_args(CausalArm)
    """which arms to train"""
    model: CausalOptions = field(
        default_factory=lambda: CausalOptions(size="nano", budget="100k", batch_size=4, block_batch_size=4, branch=0.8)
    )

    def plans(self, cell: Cell, data: TokenFile) -> list[Plan]:
        model = cell_model(self.model, cell)
        if cell.arm == "two-streams":
            model = replace(model, streams="two")
        if cell.arm in ORDINARY:
            model = ordinary(model)
        if cell.arm == "branched-ensemble":
            model = replace(model, branch=self.model.branch)
        if cell.arm == "shallow":
            model = replace(model, depth=max(model.plan(self.data.data, data).layers))
        if cell.arm in ("end-to-end", "shallow"):
            model = replace(model, blocks=1, layers=())
        return [model.plan(self.data.data, data)]

    def scored(self, cell: Cell, plan: Plan, file: TokenFile) -> Row:
        if cell.arm != "n-gram":
            return super().scored(cell, plan, file)
        began = time.perf_counter()
        scorer = n_grams(file)
        seconds = time.perf_counter() - began
        texts = [file.vocabulary.decode(row) for row in self.held_out(file, plan_length(plan))]
        bits = torch.tensor([nats / len(text.encode()) for (nats, _), text in zip(scorer(texts), texts, strict=True)])
        bits = bits.double() / math.log(2)
        return {
            **untrained_row(cell),
            "train_seconds": seconds,
            "bits_per_character": float(bits.mean()),
            "error": float(bits.std() / len(bits) ** 0.5),
            "bits_after_calls": [float(bits.mean())],
        }


@dataclass(frozen=True, kw_only=True)
class CompareRecurrentText(CompareCausal):
    """Train networks of recurrent depth with one pass a step and by backpropagation through time.

    Arms: `single-pass` trains the network as a denoiser of the next token and calls it --token-calls times;
    `feed-forward` is an ordinary GPT of the same layers; `truncated-bptt` calls its middle layers a random number of
    times (mean --iterations), with gradients through the last --back, and may spend --bptt-share times the work. A
    comparison that was stopped goes on with the same command.
    """

    scores: ClassVar[TextScores] = RECURRENT_SCORES
    arms: tuple[RecurrentArm, ...] = get_args(RecurrentArm)
    """which arms to train"""
    iterations: int = 32
    """mean iterations of truncated-bptt, and how many it is scored with"""
    back: int = 8
    """iterations that gradients go through"""
    bptt_share: float = 3.0
    """work of truncated-bptt, in budgets of the others"""
    bptt_batch_size: int = 1
    """texts per step of truncated-bptt, whose steps are long: with one it learns most from its work (docs/log.md)"""
    model: CausalOptions = field(
        default_factory=lambda: replace(recurrent_options(), size="nano", budget="100k", batch_size=4)
    )
    answers: CallOptions = field(default_factory=lambda: CallOptions(token_calls=8))

    def plans(self, cell: Cell, data: TokenFile) -> list[Plan]:
        model = cell_model(self.model, cell)
        if cell.arm != "single-pass":
            model = ordinary(model)
        return [model.plan(self.data.data, data)]

    def check(self, cells: Sequence[Cell], data: TokenFile) -> None:
        super().check(cells, data)
        for cell in cells:
            if cell.arm == "truncated-bptt":
                self._rival(self.plans(cell, data)[0])

    def _rival(self, plan: Plan) -> tuple[TruncatedBPTT, RivalSettings]:
        settings = rival_settings(plan, self.machine.device)
        budget = round(self.bptt_share * settings.budget)
        settings = replace(settings, budget=budget, batch_size=self.bptt_batch_size)
        rival = TruncatedBPTT(gpt_config(plan), self.iterations, self.back)
        rival.schedule(settings)  # refuses a budget that is too small
        return rival, settings

    def asked(self, cell: Cell) -> dict[str, Any]:
        if cell.arm != "truncated-bptt":
            return super().asked(cell)
        names = ("iterations", "back", "bptt_share", "bptt_batch_size")
        return {**{name: getattr(self, name) for name in names}, "writing": asdict(self.writing)}

    def scored(self, cell: Cell, plan: Plan, file: TokenFile) -> Row:
        if cell.arm != "truncated-bptt":
            return super().scored(cell, plan, file)
        self.machine.torch_device()
        rival, settings = self._rival(plan)
        trained = train_rival_cell(self, cell, plan, rival, text_batches(plan, file), settings)
        tokens = self.held_out(file, plan_length(plan))
        assert rival.model is not None, "trained"
        return {
            **untrained_row(cell),
            **self.written(cell, lambda seed: self._text(rival, file.vocabulary, plan_length(plan), seed)),
            "parameters": sum(p.numel() for p in rival.model.parameters()),
            **trained,
            "peak_bytes": rivals.training_peak(rival, settings).total,
            **bits_row(self._nats(rival, tokens), tokens, file.vocabulary),
            "listed_at": self._shown,
        }

    def _text(self, rival: TruncatedBPTT, vocabulary: Vocabulary, length: int, seed: int) -> str:
        prompt, count = self.writing.to_write(vocabulary, length)
        start, acting = prompt[None].to(self.machine.device), (self.writing.temperature, self.writing.top_p)
        steps = rival.write(start, count, self.iterations, *acting, seed)
        return vocabulary.decode(torch.cat([prompt, *(step.cpu() for step in steps)]))

    @property
    def _shown(self) -> list[int]:
        """Iterations after which it is scored."""
        return [*(2**i for i in range((self.iterations - 1).bit_length())), self.iterations]

    def _nats(self, rival: TruncatedBPTT, tokens: Tensor) -> Tensor:
        """Code lengths (iterations, n, t) of windows (n, t) after 1, 2, 4, ... iterations."""
        return torch.cat([self._lengths(rival, part.to(self.machine.device)) for part in tokens.split(BATCH)], 1)

    def _lengths(self, rival: TruncatedBPTT, part: Tensor) -> Tensor:
        shown, steps = self._shown, enumerate(rival.log_probabilities(part, self.iterations), 1)
        return torch.stack([-log_likelihood(p, part).cpu() for i, p in steps if i in shown])
