"""``oneblock train images``, ``classify``, ``video``, ``masked-text``, ``text`` and ``recurrent-text``."""

from __future__ import annotations

from dataclasses import dataclass, field

from oneblock.cli import console
from oneblock.data import ImageData, TextData, VideoData
from oneblock.evaluate.watching import audited
from oneblock.launch.mirror import is_remote, send_plan
from oneblock.presets.base import Recipe
from oneblock.presets.causal import CausalRecipe, recurrent_recipe
from oneblock.presets.classify import ClassifyRecipe
from oneblock.presets.image import ImageRecipe
from oneblock.presets.masked import MaskedRecipe
from oneblock.presets.places import plan_record
from oneblock.presets.run import Order, Strategy, make_plan, train
from oneblock.presets.tasks import load_backbone
from oneblock.presets.video import VideoRecipe
from oneblock.train.drive import Watch
from oneblock.train.loop import Idle
from oneblock.train.machine import Machine
from oneblock.train.strategy import Turns


@dataclass(frozen=True, kw_only=True)
class Train:
    """What the verbs that train have in common."""

    data: ImageData | TextData | VideoData
    model: Recipe

    out: str
    """directory of the run; with --strategy plan-only also an fsspec address (s3://..., gs://..., sftp://...)"""
    strategy: Strategy = "all"
    """all blocks in this process (once called round-robin); one of them; the whole network as a single block; or write
    the plan and train nothing (for `oneblock job` and `oneblock launch`)"""
    block: str | None = None
    """which block to train with --strategy one-block (0 is the noisiest; trunk is that of --branch)"""
    order: Order = "sequential"
    """train one block after the other, each to its end, or all in turns"""
    turn_seconds: float = Turns.seconds
    """seconds of a turn, with --order turns; 0 is a single step"""
    idle: Idle = Turns.idle
    """where the blocks that wait for their turn are, with --order turns: left on the device, in host memory, or in
    their checkpoints"""
    accept_data: bool = False
    """go on with a run though its data have changed, with a note in the run's record"""
    backbone: str = ""
    """a network of your own instead of the task's, as module:Class; --depth says how many layers it has"""
    json: bool = False
    """print one JSON object per row instead of progress"""
    tensorboard: bool = False
    """also write TensorBoard events"""
    machine: Machine = field(default_factory=Machine)

    def run(self) -> None:
        backbone = load_backbone(self.backbone) if self.backbone else None
        if is_remote(self.out):
            if self.strategy != "plan-only":
                raise ValueError(
                    f"out={self.out!r} is not a path; plan with --strategy plan-only, then train with oneblock job"
                )
            plan, _ = make_plan(self.model, self.data, backbone)
            send_plan(plan, self.out, plan_record(plan, self.data), backbone)
            console.planned(self.out, plan, self.json)
            return
        done = train(
            self.model,
            out=self.out,
            data=self.data,
            backbone=backbone,
            strategy=self.strategy,
            block=self.block,
            order=self.order,
            turn_seconds=self.turn_seconds,
            idle=self.idle,
            accept_data=self.accept_data,
            machine=self.machine,
            watch=self._watch(),
        )
        if self.strategy == "plan-only":
            console.planned(self.out, done.plan, self.json)
        else:
            console.trained(self.out, done, self.block, self.json, f"oneblock merge {self.out}")

    def _watch(self) -> Watch:
        return console.watch(self.json, self.tensorboard)


@dataclass(frozen=True, kw_only=True)
class TrainImages(Train):
    """Train a class-conditional image generator (DiT), one block at a time.

    The same command resumes a run that was stopped. Every block is its own job: run --strategy one-block --block B on
    as many machines as there are blocks, then `oneblock merge`.
    """

    data: ImageData = field(default_factory=ImageData)
    model: ImageRecipe = field(default_factory=ImageRecipe)
    audit_every: int = 0
    """steps of a block between small audits, once all blocks have a checkpoint; they warn when cycles find copies of
    training images that one-shot samples do not show (0: none)"""

    def _watch(self) -> Watch:
        watch = super()._watch()
        if not self.audit_every:
            return watch
        backbone = load_backbone(self.backbone) if self.backbone else None
        told = console.teller(self.json)
        return audited(
            self.out, self.audit_every, self.data, backbone=backbone, machine=self.machine, watch=watch, told=told
        )


@dataclass(frozen=True, kw_only=True)
class TrainClassify(Train):
    """Train a classifier of images (ViT), one block at a time, each to denoise labels on its own band of noise.

    With --strategy end-to-end an ordinary ViT. The same command resumes a run that was stopped. Every block is its own
    job: run --strategy one-block --block B on as many machines as there are blocks, then `oneblock merge`.
    """

    data: ImageData = field(default_factory=ImageData)
    model: ClassifyRecipe = field(default_factory=ClassifyRecipe)


@dataclass(frozen=True, kw_only=True)
class TrainVideo(Train):
    """Train a generator of video (a block linear diffusion transformer), one block of layers at a time.

    Frames are made in blocks of --block-frames, each after all frames before it, so that `oneblock sample` goes on for
    as long as it is asked to. The same command resumes a run that was stopped. Every block of layers is its own job:
    run --strategy one-block --block B on as many machines as there are blocks, then `oneblock merge`.
    """

    data: VideoData = field(default_factory=VideoData)
    model: VideoRecipe = field(default_factory=VideoRecipe)


@dataclass(frozen=True, kw_only=True)
class TrainMaskedText(Train):
    """Train masked diffusion of text (MD4, MDLM), one block at a time: each owns a band of masked shares.

    The same command resumes a run that was stopped. Every block is its own job: run --strategy one-block --block B on
    as many machines as there are blocks, then `oneblock merge`.
    """

    data: TextData = field(default_factory=TextData)
    model: MaskedRecipe = field(default_factory=MaskedRecipe)


@dataclass(frozen=True, kw_only=True)
class TrainText(Train):
    """Train an autoregressive language model (GPT), one block at a time: each owns a band of noise on the next token.

    With --strategy end-to-end an ordinary GPT. The same command resumes a run that was stopped. Every block is its own
    job: run --strategy one-block --block B on as many machines as there are blocks, then `oneblock merge`.
    """

    data: TextData = field(default_factory=TextData)
    model: CausalRecipe = field(default_factory=CausalRecipe)


@dataclass(frozen=True, kw_only=True)
class TrainRecurrentText(TrainText):
    """Train a language model of recurrent depth with a single pass a step, as a denoiser that is called many times.

    --prelude layers read the text once, those of --depth are called at every noise level, --coda layers read out. With
    --strategy end-to-end an ordinary GPT of the same layers. `oneblock evaluate` and `sample` take --calls.
    """

    model: CausalRecipe = field(default_factory=recurrent_recipe)
