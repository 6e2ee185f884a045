"""``oneblock compare`` of images, classify, video, masked-text, text, recurrent-text, audit, evolve and relay."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import tyro

from oneblock.cli import console
from oneblock.data import ImageData, TextData, VideoData
from oneblock.experiment.audit import AuditExperiment
from oneblock.experiment.base import Experiment, usual_arms
from oneblock.experiment.causal import CausalExperiment
from oneblock.experiment.classify import ClassifyExperiment
from oneblock.experiment.compare import SEEDS, WORKERS, compare
from oneblock.experiment.evolve import EvolveExperiment
from oneblock.experiment.grid import Comparison
from oneblock.experiment.images import ImageExperiment
from oneblock.experiment.masked import MaskedExperiment
from oneblock.experiment.recurrent import RecurrentExperiment
from oneblock.experiment.sudoku import ARMS, SudokuArm, SudokuData, SudokuRecipe, compare_relay
from oneblock.experiment.video import VideoExperiment
from oneblock.presets.base import Recipe
from oneblock.presets.causal import CausalRecipe
from oneblock.presets.classify import ClassifyRecipe
from oneblock.presets.image import ImageRecipe
from oneblock.presets.masked import MaskedRecipe
from oneblock.presets.video import VideoRecipe
from oneblock.report.comparison import draw, report
from oneblock.report.picture import check_pictures
from oneblock.train.machine import Machine

if TYPE_CHECKING:
    ImageArm: TypeAlias = str
    ClassifyArm: TypeAlias = str
    VideoArm: TypeAlias = str
    MaskedArm: TypeAlias = str
    CausalArm: TypeAlias = str
    RecurrentArm: TypeAlias = str
    AuditArm: TypeAlias = str
    EvolveArm: TypeAlias = str
else:  # what may be chosen, for help, for completion and for tyro's refusal
    ImageArm = Literal[tuple(ImageExperiment().arms)]
    ClassifyArm = Literal[tuple(ClassifyExperiment().arms)]
    VideoArm = Literal[tuple(VideoExperiment().arms)]
    MaskedArm = Literal[tuple(MaskedExperiment().arms)]
    CausalArm = Literal[tuple(CausalExperiment().arms)]
    RecurrentArm = Literal[tuple(RecurrentExperiment().arms)]
    AuditArm = Literal[tuple(AuditExperiment().arms)]
    EvolveArm = Literal[tuple(EvolveExperiment().arms)]


@dataclass(frozen=True, kw_only=True)
class Compare:
    """What all ``compare`` verbs have in common."""

    arms: tuple[str, ...]
    """which arms to train"""
    data: ImageData | TextData | VideoData
    model: Recipe
    scoring: Any

    out: Path
    """directory of the comparison"""
    seeds: int = SEEDS
    """runs per arm, with seeds --seed, --seed + 1, ..."""
    budgets: str = ""
    """several budgets with commas, e.g. 200k,800k: shows where the arms' curves cross (default: --budget alone)"""
    workers: int = WORKERS
    """runs at the same time, each in a process of its own with its share of the CPU threads"""
    json: bool = False
    """print one JSON object instead of tables"""
    machine: Machine = field(default_factory=Machine)

    def run(self) -> None:
        experiment: Experiment[Any, Any] = self.scoring
        check_pictures()
        found = compare(
            experiment,
            out=self.out,
            data=self.data,
            recipe=self.model,
            arms=self.arms,
            budgets=self._budgets(),
            seeds=self.seeds,
            workers=self.workers,
            machine=self.machine,
            watch=replace(console.watch(self.json), row=None),
            told=console.teller(self.json),
        )
        _show(found, self.json)

    def _budgets(self) -> list[str]:
        named = [budget.strip() for budget in self.budgets.split(",") if budget.strip()]
        if self.budgets and not named:
            raise ValueError(f"budgets={self.budgets!r} names no budget; write e.g. 200k,800k, or leave --budgets out")
        return named


def _show(found: Comparison, json: bool) -> None:
    pictures = draw(found)
    if json:
        shown = {"runs": found.rows, "summary": found.summaries, "pictures": [str(path) for path in pictures]}
        console.emit({**shown, "curves": found.curves} if found.curves else shown)
        return
    console.report(report(found))
    for path in pictures:
        console.say(f"picture: {path}")


@dataclass(frozen=True, kw_only=True)
class CompareImages(Compare):
    """Train blockwise and its rivals with the same work and show what each one gives.

    Arms: `end-to-end` is the whole network as one block; `shallow` is a network of one block's depth, trained
    end-to-end with the whole budget; `ensemble` as many of these as there are blocks, which share the budget, their
    denoised images averaged at every call; `experts` has blocks of the whole network's depth, so as many times its
    parameters; `blockwise` trains each block alone; `branched` does so from a common trunk (--branch). To be named with
    --arms are `shallow-carry`, `end-to-end-carry`, `blockwise-carry` and `branched-carry`, the same with a state that
    calls hand on (--carry, else 0.9), scored with every way that it may go, and `branched-carry-same`, whose state
    comes from a pass at the same noise; and methods, which leave the blocks as they are: `edm`, `flow`,
    `flow-shifted`, `x` and `meanflow` (--objective), `ddt` (--head), `pca` (--codec) and `aligned` (--align). Losses
    are EDM's, on pixels, whatever the method. All arms keep the learning rate constant for the same share of their
    steps. A comparison that was stopped goes on with the same command.
    """

    arms: tuple[ImageArm, ...] = usual_arms(ImageExperiment().arms)
    """which arms to train"""
    data: ImageData = field(default_factory=ImageData)
    model: ImageRecipe = field(default_factory=lambda: ImageExperiment().usual)
    scoring: Annotated[ImageExperiment, tyro.conf.arg(name="")] = field(default_factory=ImageExperiment)


@dataclass(frozen=True, kw_only=True)
class CompareClassify(Compare):
    """Train blockwise classifiers and their rivals with the same work and show what each one gives.

    Arms: `end-to-end` is an ordinary ViT; `shallow` one of a block's depth, with the whole budget; `ensemble` as many
    shallow ones as there are blocks, which share the budget, their probabilities averaged; `blockwise` trains each
    block alone to denoise labels; `branched` does so from a common trunk (--branch); `paper` is the recipe of
    DiffusionBlocks. `greedy` trains the blocks of an ordinary ViT in order, `contrastive-ff` each layer by
    Forward-Forward; `noprop-dt`, `noprop-ct` and `noprop-blocks` train NoProp's network, by its two methods and as
    three blocks, and `cnn` one of its networks as an ordinary classifier; a layer evaluation there is one whole CNN on
    one image. All arms keep the learning rate constant for the same share of their steps. Images are cut into 4 x 4
    patches unless --patch is given. A comparison that was stopped goes on with the same command.
    """

    arms: tuple[ClassifyArm, ...] = tuple(ClassifyExperiment().arms)
    """which arms to train"""
    data: ImageData = field(default_factory=ImageData)
    model: ClassifyRecipe = field(default_factory=lambda: ClassifyExperiment().usual)
    scoring: Annotated[ClassifyExperiment, tyro.conf.arg(name="")] = field(default_factory=ClassifyExperiment)


@dataclass(frozen=True, kw_only=True)
class CompareVideo(Compare):
    """Train video generators blockwise and otherwise with the same work and show what each one gives.

    Arms: `end-to-end` is the whole network as one block; `shallow` has a block's depth and the whole budget; `experts`
    has blocks of the whole network's depth; `blockwise` trains each block of layers alone, `two-blocks` does so with
    two, whatever --blocks says, `branched` from a common trunk (--branch). The others are the whole network as one
    block with a change: `softmax` attention over all keys and values, queries and keys turned before the ReLU
    (`rope-before`) or not at all (`no-rope`), without convolutions over time (`no-temporal`), trained with noise that
    grows to the end of a clip (`monotone`) or is drawn for each block of frames (`independent`). All keep the learning
    rate constant for the same share of their steps. A comparison that was stopped goes on with the same command.
    """

    arms: tuple[VideoArm, ...] = tuple(VideoExperiment().arms)
    """which arms to train"""
    data: VideoData = field(default_factory=VideoData)
    model: VideoRecipe = field(default_factory=lambda: VideoExperiment().usual)
    scoring: Annotated[VideoExperiment, tyro.conf.arg(name="")] = field(default_factory=VideoExperiment)


@dataclass(frozen=True, kw_only=True)
class CompareMaskedText(Compare):
    """Train masked diffusion of text blockwise and otherwise with the same work and show what each one gives.

    Arms: `end-to-end` is the whole network as one block, `mdlm` the same trained on the bound's weights whatever
    --weighting says; `shallow` has a block's depth and the whole budget; `ensemble` is as many shallow ones as
    there are blocks, which share the budget, their probabilities averaged; `blockwise` trains each block alone on
    its band of masked shares; `two-blocks` does so with two blocks, whatever --blocks says; `branched` from a
    common trunk (--branch). To be named with --arms are `rollout`, `relay-sg` and `relay`, the whole network
    trained as --relay says, whose texts are written by its policy, `blockwise-relay`, and
    `blockwise-relay-across`, whose blocks go on from the states of the one before. A step of `shallow` and of the
    trunk takes --blocks times the texts, so that all arms make about as many steps (docs/log.md). All keep the
    learning rate constant for the same share of them, and are scored on the same windows, times and masks. A
    comparison that was stopped goes on with the same command.
    """

    arms: tuple[MaskedArm, ...] = usual_arms(MaskedExperiment().arms)
    """which arms to train"""
    data: TextData = field(default_factory=TextData)
    model: MaskedRecipe = field(default_factory=lambda: MaskedExperiment().usual)
    scoring: Annotated[MaskedExperiment, tyro.conf.arg(name="")] = field(default_factory=MaskedExperiment)


@dataclass(frozen=True, kw_only=True)
class CompareText(Compare):
    """Train autoregressive language models blockwise and otherwise with the same work and show what each one gives.

    Arms: `end-to-end` is an ordinary GPT; `shallow` one of a block's depth, with the whole budget; `ensemble` as many
    shallow ones as there are blocks, which share the budget, their probabilities averaged; `branched-ensemble` the same
    from a common trunk (--branch); `blockwise` trains each block alone to denoise the next token, carried by the
    token before it; `branched` does so from a common trunk; `two-streams` is blockwise with noisy tokens beside
    the text, at twice the work for each text; `n-gram` counts six characters in a row and trains nothing. All arms keep
    the learning rate constant for the same share of their steps. A comparison that was stopped goes on with the same
    command.
    """

    arms: tuple[CausalArm, ...] = tuple(CausalExperiment().arms)
    """which arms to train"""
    data: TextData = field(default_factory=TextData)
    model: CausalRecipe = field(default_factory=lambda: CausalExperiment().usual)
    scoring: Annotated[CausalExperiment, tyro.conf.arg(name="")] = field(default_factory=CausalExperiment)


@dataclass(frozen=True, kw_only=True)
class CompareRecurrentText(Compare):
    """Train networks of recurrent depth with one pass a step and by backpropagation through time.

    Arms: `single-pass` trains the network as a denoiser of the next token and calls it --calls times;
    `feed-forward` is an ordinary GPT of the same layers; `truncated-bptt` calls its middle layers a random number of
    times (mean --iterations), with gradients through the last --back, and may spend --bptt-share times the work. A
    comparison that was stopped goes on with the same command.
    """

    arms: tuple[RecurrentArm, ...] = tuple(RecurrentExperiment().arms)
    """which arms to train"""
    data: TextData = field(default_factory=TextData)
    model: CausalRecipe = field(default_factory=lambda: RecurrentExperiment().usual)
    scoring: Annotated[RecurrentExperiment, tyro.conf.arg(name="")] = field(default_factory=RecurrentExperiment)


@dataclass(frozen=True, kw_only=True)
class CompareAudit(Compare):
    """Train image generators on a few images, some of which stand there many times, and show what each memorises.

    Arms: `end-to-end` is the whole network as one block; `shallow` a network of one block's depth; `blockwise` trains
    each block alone; `branched` does so from a common trunk (--branch). All have the same budget and are audited with
    the same chains, amplitudes and seeds; read copies beside the held-out loss, as a model that has learned less has
    also memorised less. A comparison that was stopped goes on with the same command.
    """

    arms: tuple[AuditArm, ...] = tuple(AuditExperiment().arms)
    """which arms to train"""
    data: ImageData = field(default_factory=ImageData)
    model: ImageRecipe = field(default_factory=lambda: AuditExperiment().usual)
    scoring: Annotated[AuditExperiment, tyro.conf.arg(name="")] = field(default_factory=AuditExperiment)


@dataclass(frozen=True, kw_only=True)
class CompareEvolve(Compare):
    """Train an ordinary classifier, a perceptron, with and without a backward pass.

    Arms: `backpropagation`; evolution by a population of --population with noise of `rank-1` and `rank-4` (EGGROLL)
    and of `full-rank`; `two-members` is one pair with noise of full rank, as in MeZO. These have the same steps, those
    of --budget, and see the same batches; --depth counts linear layers of --width. The same names with -timed have the
    same processor time, --cpu-seconds, and as many steps as it pays for. Rates are those of experiment.evolve.RATES
    unless --learning-rate is given. A comparison that was stopped goes on with the same command.
    """

    arms: tuple[EvolveArm, ...] = tuple(EvolveExperiment().arms)
    """which arms to train"""
    data: ImageData = field(default_factory=ImageData)
    model: ClassifyRecipe = field(default_factory=lambda: EvolveExperiment().usual)
    scoring: Annotated[EvolveExperiment, tyro.conf.arg(name="")] = field(default_factory=EvolveExperiment)


@dataclass(frozen=True, kw_only=True)
class CompareRelay:
    """Train masked diffusion to solve Sudokus with and without a state that calls hand on.

    Arms: `mlm` learns from masks at random, `rollout` from puzzles that are revealed step by step, `relay-sg` from the
    same with hidden tokens handed on from call to call, without gradients through them, and `relay` with gradients. All
    make as many calls in training, and are decoded at several limits of uncertainty, which gives puzzles solved against
    calls. To be named with --arms is `rollout-wide`, whose last layer is wider. Text is compared by `oneblock compare
    masked-text`, with the arms of the same names. A comparison that was stopped goes on with the same command.
    """

    out: Path
    """directory of the comparison"""
    data: SudokuData = "sudoku6"
    """Sudokus of 6 x 6 cells, generated"""
    arms: tuple[SudokuArm, ...] = ARMS
    """which arms to train"""
    model: SudokuRecipe = field(default_factory=SudokuRecipe)
    seeds: int = SEEDS
    """models per arm, with seeds --seed, --seed + 1, ..."""
    workers: int = WORKERS
    """models that are trained at the same time, each in a process of its own"""
    json: bool = False
    """print one JSON object instead of tables"""

    def run(self) -> None:
        check_pictures()
        found = compare_relay(
            self.out,
            data=self.data,
            arms=self.arms,
            recipe=self.model,
            seeds=self.seeds,
            workers=self.workers,
            told=console.teller(self.json),
        )
        _show(found, self.json)
