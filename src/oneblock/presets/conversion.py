"""A network of another library, by name, to blocks, experts or specialists that are trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from oneblock.checks import check_choice, check_count, check_fields
from oneblock.convert.converted import Converted, convert
from oneblock.convert.kept import read_kept
from oneblock.convert.kind import Kind
from oneblock.convert.kinds import kind_of
from oneblock.convert.source import has_weights, load_network, read_scheduler, source_scheduler
from oneblock.data import ImageData, TextData
from oneblock.plan import NETWORK_FOLDER, PLAN_FILE
from oneblock.presets.base import ImageFacts, Recipe, TextFacts, TextRecipe, experts
from oneblock.presets.causal import CausalRecipe
from oneblock.presets.classify import ClassifyRecipe
from oneblock.presets.data import Data, open_data
from oneblock.presets.image import ImageRecipe
from oneblock.presets.masked import MaskedRecipe
from oneblock.presets.run import Trained, train
from oneblock.presets.specialists import choose_layers
from oneblock.train.drive import BARS, Watch
from oneblock.train.machine import HERE, Machine

Into = Literal["blocks", "experts", "specialists"]
RECIPES: dict[str, type[Recipe]] = {
    recipe.task: recipe for recipe in (ImageRecipe, ClassifyRecipe, MaskedRecipe, CausalRecipe)
}
"""Kind of a network -> the recipe that trains it."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What a network becomes, and how that is trained. What is not here is as the recipe of its task has it."""

    into: Into = "blocks"
    """blocks: the layers are cut, a part for each band of noise; experts: every band gets the whole network;
    specialists: every band gets the layers that it needs most, chosen by the loss on a few samples"""
    blocks: int = Recipe.blocks
    """number of bands"""
    per_block: int = 0
    """layers of each specialist (0: those of the network divided by --blocks)"""
    layers: str = ""
    """path of the network's list of layers, e.g. transformer.h, where it is not found by itself"""
    outputs: int = 0
    """symbols, classes or channels of the network's answer that are used (0: as many as the data have)"""
    distill: bool = False
    """learn the answers of the whole network in the place of the data; it must be a generator of images with its
    scheduler"""
    scheduler: Path | None = None
    """directory of the diffusers scheduler that a generator of images was trained with (default: scheduler, beside the
    network's directory)"""
    prompts: Path | None = None
    """safetensors file with what a generator of images is told for each class and, in a last row, for no class: its own
    arguments, e.g. encoder_hidden_states (k + 1, t, d)"""
    vocabulary: str = TextRecipe.vocabulary
    """of text: characters (a to z and space), bytes, or bpe:SIZE (byte pairs learned from the training text)"""
    length: int = TextRecipe.length
    """of text: tokens of a training window"""
    budget: int | str = Recipe.budget
    """work of the whole run in layer evaluations: 800000, 300k, 1.2M"""
    batch_size: int = Recipe.batch_size
    """samples per step over the whole noise range"""
    learning_rate: float = Recipe.learning_rate
    """peak learning rate of AdamW (0: what fits fresh weights of this width, and specialists; a whole network that has
    weights wants about a tenth of it)"""
    seed: int = Recipe.seed
    """every random number follows from it"""

    def __post_init__(self) -> None:
        check_fields(self)
        check_choice("into", self.into, get_args(Into))
        check_count("per_block", self.per_block, least=0)
        if self.per_block and self.into != "specialists":
            raise ValueError(f"per_block={self.per_block} goes with --into specialists, not {self.into}")


@dataclass(frozen=True)
class Converting:
    """What is trained: arguments of ``train``."""

    recipe: Recipe
    backbone: Converted
    data: Data
    teacher: Converted | None = None


def train_converted(
    source: str | nn.Module,
    conversion: Conversion = Conversion(),
    *,
    out: str | Path,
    data: Data | None = None,
    strategy: Literal["all", "one-block", "plan-only"] = "all",
    block: int | str | None = None,
    accept_data: bool = False,
    machine: Machine = HERE,
    watch: Watch = BARS,
    told: Callable[[str], None] = lambda line: None,
) -> Trained:
    """Convert a network and train what it becomes; the same call goes on where it was stopped.

    Args:
        source: a network, or the name of one (``convert.source.load_network``).
        out: directory of the run, which keeps the network.
        data: as of ``train``; images are resized to what the network takes.
        strategy, block, accept_data, machine, watch: see ``train``.
        told: is told what is decided on the way.

    Raises:
        ValueError: the network cannot be converted, or anything that ``train`` refuses.
        ImportError: the network's library is not installed.
    """
    found = converting(source, conversion, data, Path(out), told)
    return train(
        found.recipe,
        out=out,
        data=found.data,
        backbone=found.backbone,
        teacher=found.teacher,
        strategy=strategy,
        block=block,
        accept_data=accept_data,
        machine=machine,
        watch=watch,
    )


def converting(
    source: str | nn.Module,
    conversion: Conversion,
    data: Data | None = None,
    out: Path | None = None,
    told: Callable[[str], None] = lambda line: None,
) -> Converting:
    """Recipe, network and data of a conversion. Layers that were chosen for the run in ``out`` are not chosen again.

    Arguments and errors as of ``train_converted``.
    """
    network = load_network(source, seed=conversion.seed) if isinstance(source, str) else source
    kind = kind_of(network)
    if isinstance(source, str) and not has_weights(source):
        told(f"{source} has fresh weights: give the directory of a network to start from its weights")
    recipe = _recipe(kind, conversion)
    data = _fitting(recipe.usual_data if data is None else data, kind, network)
    backbone = convert(
        network,
        outputs=conversion.outputs or _needed(recipe, data),
        layers=conversion.layers,
        prompts=None if conversion.prompts is None else _tensors(conversion.prompts),
        scheduler=_scheduler(source, conversion, kind),
    )
    teacher = backbone if conversion.distill else None
    recipe = replace(recipe, depth=backbone.count, width=backbone.width or recipe.width)
    if conversion.into == "experts":
        return Converting(experts(recipe), backbone.pick(backbone.picks * conversion.blocks), data, teacher)
    if conversion.into == "specialists":
        picks = _picks(recipe, backbone, data, conversion, out, told)
        return Converting(replace(recipe, depth=len(picks)), backbone.pick(picks), data, teacher)
    return Converting(recipe, backbone, data, teacher)


def _recipe(kind: type[Kind], conversion: Conversion) -> Recipe:
    """The recipe of a kind of networks."""
    words: dict[str, Any] = {
        name: getattr(conversion, name) for name in ("blocks", "budget", "batch_size", "learning_rate", "seed")
    }
    made = RECIPES[kind.name]
    if issubclass(made, TextRecipe):
        words |= {"vocabulary": conversion.vocabulary, "length": conversion.length}
    return made(**words)


def _fitting(data: Data, kind: type[Kind], network: nn.Module) -> Data:
    """The data as the recipe of a kind reads them: images at the network's own size, unless another is asked for."""
    if issubclass(RECIPES[kind.name], TextRecipe):
        if not isinstance(data, ImageData):
            return data
        return TextData(data=data.data or TextData.data, data_dir=data.data_dir)
    named = ImageData(data=data) if isinstance(data, str) else data
    if not isinstance(named, ImageData) or named.autoencoder is not None:
        return named
    asked = kind.of(network, 1, None).example(network).values()
    shapes = [value.shape for value in asked if isinstance(value, Tensor) and value.ndim == 4]
    channels, height = (0, 0) if not shapes else (shapes[0][1], shapes[0][2])
    named = replace(named, data=named.data or ImageData.data)
    return replace(named, image_size=named.image_size or height or None, channels=named.channels or channels or None)


def _needed(recipe: Recipe, data: Data) -> int:
    """Symbols, classes or channels of the data."""
    _, facts = open_data(recipe, data)
    if isinstance(facts, TextFacts):
        return facts.vocabulary.size
    assert isinstance(facts, ImageFacts)
    return facts.shape[0] if recipe.task == "image" else facts.num_classes


def _tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"prompts={str(path)!r} does not exist; give a safetensors file")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"prompts={str(path)!r} is not a safetensors file ({error}); write one with save_file"
        ) from error


def _scheduler(source: str | nn.Module, conversion: Conversion, kind: type[Kind]) -> dict[str, Any] | None:
    """The scheduler that the network was trained with: asked for, or beside it."""
    if conversion.scheduler is not None:
        return read_scheduler(conversion.scheduler)
    return source_scheduler(source) if isinstance(source, str) and kind.knows_noise else None


def _picks(
    recipe: Recipe,
    network: Converted,
    data: Data,
    conversion: Conversion,
    out: Path | None,
    told: Callable[[str], None],
) -> tuple[int, ...]:
    """The layers of all specialists."""
    per_block = conversion.per_block or max(1, network.count // conversion.blocks)
    known = _known_picks(network, per_block * conversion.blocks, out)
    return choose_layers(network, recipe, per_block, data, told=told) if known is None else known


def _known_picks(network: Converted, count: int, out: Path | None) -> tuple[int, ...] | None:
    """The layers that the run in ``out`` was started with, if it is of this network and so many layers."""
    if out is None or not (out / PLAN_FILE).is_file():
        return None
    found = read_kept(out / NETWORK_FOLDER)
    same = found is not None and found.named == network.named and len(found.picks) == count
    return cast(Any, found).picks if same else None
