"""``oneblock train bytes``, and ``evaluate`` and ``sample`` of what it trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import Positional

from oneblock.cli import console
from oneblock.data import TextData
from oneblock.evaluate.writing import Writing
from oneblock.model.bytes import PIECES, SCORED, TOKENS, ByteModel
from oneblock.presets.bytes import ByteRecipe, train_bytes
from oneblock.report.bytes import byte_table
from oneblock.train.machine import Machine


@dataclass(frozen=True, kw_only=True)
class TrainBytes:
    """Train a recurrent language model of bytes whose weights, activations, loss and update are whole numbers (EGG).

    There is no backward pass: a population of noisy copies reads the text, and pairs of them vote on the sign of every
    weight's step. The same command resumes a run that was stopped. `oneblock evaluate`, `sample` and `status` take its
    directory. A byte model with floating-point numbers is `oneblock train text --vocabulary bytes`.
    """

    out: str
    """directory of the run"""
    integer: bool = False
    """whole numbers alone; for now the only way, and so it must be asked for"""
    data: TextData = field(default_factory=TextData)
    model: ByteRecipe = field(default_factory=ByteRecipe)
    device: str = Machine.device
    """cpu, cuda, cuda:1"""
    threads: int = Machine.threads
    """CPU threads (0: OMP_NUM_THREADS, else the CPUs that this process may use)"""
    save_every: int = Machine.save_every
    """steps between checkpoints"""
    keep: int = Machine.keep
    """checkpoints that are kept"""
    json: bool = False
    """print one JSON object per row instead of progress"""
    tensorboard: bool = False
    """also write TensorBoard events"""

    def run(self) -> None:
        if not self.integer:
            raise ValueError(
                "integer=False: train bytes has whole numbers alone; say so with --integer, or use "
                "oneblock train text --vocabulary bytes for a model with floating-point numbers"
            )
        done = train_bytes(
            self.model,
            out=self.out,
            data=self.data,
            machine=Machine(device=self.device, threads=self.threads, save_every=self.save_every, keep=self.keep),
            watch=console.watch(self.json, self.tensorboard),
        )
        if self.json:
            console.emit({"out": self.out, "plan": done.plan.hash, "seconds": round(done.seconds, 1)})
        else:
            console.say(f"trained in {done.seconds:.0f} s; next: oneblock evaluate {self.out}")


@dataclass(frozen=True, kw_only=True)
class OpeningBytes:
    """What the verbs that open a byte model have in common."""

    model: Positional[Path]
    """directory of the run"""
    json: bool = False
    """print JSON instead of text"""
    device: str = Machine.device
    """cpu, cuda, cuda:1"""
    threads: int = Machine.threads
    """CPU threads (0: OMP_NUM_THREADS, else the CPUs that this process may use)"""

    def open(self) -> ByteModel:
        return ByteModel.open(self.model, device=Machine(device=self.device, threads=self.threads).torch_device())


def _own_text() -> TextData:
    """That of the run."""
    return TextData(data="")


@dataclass(frozen=True, kw_only=True)
class EvaluateBytes(OpeningBytes):
    """Bits per byte of a byte model on held-out text, beside unigrams and bigrams of the training text, and gzip."""

    scored: int = SCORED
    """bytes of held-out text (0: all)"""
    pieces: int = PIECES
    """from so many places of it; the model reads each from empty states"""
    data: TextData = field(default_factory=_own_text)

    def run(self) -> None:
        row = self.open().evaluate(self.data, scored=self.scored, pieces=self.pieces)
        console.note(row)
        if self.json:
            console.emit(row)
        else:
            console.table(byte_table(row))


@dataclass(frozen=True, kw_only=True)
class SampleBytes(OpeningBytes):
    """Write text with a byte model, on standard output; bytes that are not UTF-8 are shown as U+FFFD."""

    count: int = Writing.count
    """number of sequences"""
    prompt: str = Writing.prompt
    """text to go on from"""
    tokens: int = TOKENS
    """bytes to write behind the prompt"""
    sample_seed: int = 0
    """seed of everything drawn"""

    def run(self) -> None:
        texts = self.open().sample(self.count, self.prompt, tokens=self.tokens, sample_seed=self.sample_seed)
        for text in texts:
            if self.json:
                console.emit({"text": text})
            else:
                print(text, end="\n\n", flush=True)
