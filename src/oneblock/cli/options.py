"""Options that the tasks share, and what they build."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal, TypeVar

import torch

from oneblock.data import Codec, EncodedSource, Pixels, open_source
from oneblock.optim.adamw import AdamWKind
from oneblock.plan import Plan, Shared
from oneblock.presets import Size
from oneblock.presets.base import Recipe
from oneblock.train.step import OptimizerSettings

AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which images."""

    data: str = "digits"
    """digits, fashion-mnist, folder:DIR, cifar10:DIR, cifar100:DIR, tiny-imagenet:DIR or hf:NAME"""
    data_dir: Path | None = None
    """where the files of fashion-mnist lie (default: ./data, then where `make data` puts them)"""
    image_size: int | None = None
    """resize and crop (folders) or pad (digits, fashion-mnist) to this many pixels"""
    channels: int | None = None
    """1 (grey) or 3 (colour), for folders that mix both"""

    autoencoder: Path | None = None
    """denoise the latents of this frozen AutoencoderKL of diffusers (a directory) instead of pixels"""

    def open(self, split: Literal["train", "test"]) -> EncodedSource:
        images = open_source(self.data, split, size=self.image_size, channels=self.channels, root=self.data_dir)
        return EncodedSource(images, open_codec(self.autoencoder))


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The network and how its work is spent, whatever the task."""

    size: Size = "micro"
    """one dial for depth, width and heads"""
    depth: int = 0
    """layers (0: what --size says)"""
    width: int = 0
    """width (0: what --size says)"""
    heads: int = 0
    """attention heads (0: what --size says)"""
    blocks: int = 3
    """number of blocks; must divide the depth"""
    layers: tuple[int, ...] = ()
    """layers of each block, noisiest first, instead of an even split: --layers 1 2 3"""
    overlap: float = 0.05
    """how far a block trains beyond its band, in log sigma"""
    budget: str = "1.15M"
    """work of the whole run in layer evaluations: 800000, 300k, 1.2M"""
    batch_size: int = 48
    """samples per step over the whole noise range"""
    block_batch_size: int = 0
    """samples per step of a block that owns a band (0: --batch-size divided by the number of blocks)"""
    branch: float = 0.0
    """share of the budget that trains one block on the whole range, from which every block then starts"""
    hold: float = 0.0
    """share of the steps at constant learning rate before the cosine"""
    warmup: float = 0.05
    """share of the steps of linear warm-up"""
    shared: Shared = "private"
    """who trains stem and head: each block its own (private); its own, averaged every --sync-every steps (synced); or
    all blocks the same one, in one process (joint)"""
    sync_every: int = 100
    """steps between two averages of --shared synced"""
    optimizer: AdamWKind = "adamw"
    """adamw8bit keeps AdamW's moments in 8 bits: a quarter of their memory (pip install 'oneblock[eightbit]')"""
    learning_rate: float = 0.0
    """peak learning rate of AdamW (0: what fits the width)"""
    weight_decay: float = 0.01
    """of AdamW, on matrices"""
    clip: float = 1.0
    """largest gradient norm"""
    accumulate: int = 1
    """micro-batches per step"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs the network under autocast"""
    seed: int = 0
    """every random number follows from it"""

    def filled(self, recipe: AnyRecipe, rate_at_width_1: float) -> AnyRecipe:
        """``recipe`` with these options."""
        filled = replace(
            recipe,
            size=self.size,
            depth=self.depth,
            width=self.width,
            heads=self.heads,
            blocks=self.blocks,
            layers=self.layers,
            overlap=self.overlap,
            budget=parse_count(self.budget),
            batch_size=self.batch_size,
            block_batch_size=self.block_batch_size,
            branch=self.branch,
            hold=self.hold,
            warmup=self.warmup,
            shared=self.shared,
            sync_every=self.sync_every,
            seed=self.seed,
        )
        optimizer = OptimizerSettings(
            optimizer=self.optimizer,
            learning_rate=self.learning_rate or rate_at_width_1 / filled.dimensions[1],
            weight_decay=self.weight_decay,
            clip=self.clip,
            accumulate=self.accumulate,
            precision=self.precision,
        )
        return replace(filled, optimizer=optimizer)


@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """Where and how it runs; none of it changes what is learned beyond rounding."""

    device: str = "cpu"
    """cpu, cuda, cuda:1, mps"""
    threads: int = 0
    """CPU threads (0: torch's choice)"""
    checkpointing: bool = False
    """recompute activations in the backward pass: less memory, more time"""
    compile: bool = False
    """pass the network, and the step of --optimizer adamw8bit, through torch.compile"""
    save_every: int = 500
    """steps between checkpoints of a block"""
    keep: int = 2
    """checkpoints kept per block"""

    def torch_device(self) -> torch.device:
        if self.threads:
            torch.set_num_threads(self.threads)
        try:
            device = torch.device(self.device)
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"device={self.device!r} is not available ({error}); use cpu or a device of this machine"
            ) from error
        return device


Options = DataOptions | ModelOptions | MachineOptions


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How images are generated."""

    sampler: Literal["euler", "heun", "dpm++2m", "churn"] = "euler"
    """solver"""
    steps: int = 24
    """steps; with --grid equal-mass a multiple of the number of blocks"""
    grid: Literal["equal-mass", "karras"] = "karras"
    """where the steps lie: as EDM places them, or the same number of steps for every block"""
    guidance: float = 1.0
    """classifier-free guidance scale; 1 is none"""
    guidance_interval: tuple[float, float] = (0.0, 80.0)
    """noise levels between which guidance acts"""
    sample_seed: int = 0
    """of the starting noise"""
    resident: int | None = None
    """blocks kept in memory; 1 holds a single block at any time"""


def changed_words(options: Options, usual: Options) -> list[str]:
    """The command line's words for what ``options`` set otherwise than ``usual``."""
    words: list[str] = []
    for item in fields(options):
        value = getattr(options, item.name)
        if value != getattr(usual, item.name):
            given = value if isinstance(value, tuple) else () if value is True else (value,)
            words += [f"--{item.name.replace('_', '-')}", *map(str, given)]
    return words


def parse_count(text: str) -> int:
    """``"800000"``, ``"300k"``, ``"1.2M"``, ``"2G"`` -> a whole number."""
    scale = {"k": 10**3, "m": 10**6, "g": 10**9}.get(text[-1:].lower(), 1)
    number = text[:-1] if scale > 1 else text
    try:
        value = round(float(number) * scale)
    except (ValueError, OverflowError):
        value = 0
    if value < 1:
        raise ValueError(f"budget={text!r} is not a number of layer evaluations; write 800000, 300k or 1.2M")
    return value


def parse_bytes(text: str) -> int:
    """``"24GiB"``, ``"80GB"``, ``"512MiB"``, ``"1000000"`` -> bytes."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([kKMGT]?)(i?)B?", text.strip())
    value = 0
    if found:
        number, scale, binary = found.groups()
        value = int(float(number) * (1024 if binary else 1000) ** " KMGT".index(scale.upper() or " "))
    if value < 1:
        raise ValueError(f"size={text!r} is not a number of bytes; write 24GiB, 80GB or 512MiB")
    return value


def open_codec(autoencoder: Path | None) -> Codec:
    """The codec of a directory that holds a diffusers AutoencoderKL; pixels for None."""
    if autoencoder is None:
        return Pixels()
    from oneblock.convert.from_diffusers import Autoencoder

    return Autoencoder(autoencoder)


def check_codec(plan: Plan, codec: Codec) -> None:
    """Refuse an autoencoder that is not the plan's."""
    needed, found = plan.recipe["autoencoder"], codec.fingerprint()
    if needed != found:
        raise ValueError(
            f"the plan denoises {_codec_name(needed)}, --autoencoder gives {_codec_name(found)}; give the directory "
            "of the autoencoder that the run was trained with, or none for pixels"
        )


def _codec_name(fingerprint: object) -> str:
    return f"the latents of autoencoder {fingerprint}" if fingerprint else "pixels"


def check_data(plan: Plan, images: EncodedSource) -> None:
    """Refuse training images, or an autoencoder, that are not those of the plan."""
    check_codec(plan, images.codec)
    if plan.recipe["fingerprint"] != images.fingerprint():
        raise ValueError(
            f"the images of {images.name} have fingerprint {images.fingerprint()}, the plan was made for "
            f"{plan.recipe['fingerprint']}; use the same files, size and channels"
        )
