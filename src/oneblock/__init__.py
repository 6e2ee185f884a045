"""oneblock: train deep residual networks one block at a time.

Importing this package loads nothing; each name below is loaded from its module when it is first asked for.

``train``, ``launch``, ``convert``, ``fsck`` and ``report`` are functions here, and also packages or modules of these
names. The
names of a package's modules can be read from the function, so that ``import oneblock.train.loop`` works as everywhere.
"""

import sys
from importlib import import_module
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING

from oneblock.version import VERSION

if TYPE_CHECKING:
    from oneblock.backbone import Backbone
    from oneblock.blockwise import BlockDenoiser
    from oneblock.condition import ClassIds, Condition, Tokens
    from oneblock.convert.converted import convert
    from oneblock.convert.lora import lora
    from oneblock.convert.source import load_network
    from oneblock.data.names import ImageData, TextData, VideoData
    from oneblock.evaluate.watching import audited
    from oneblock.experiment.bench import bench
    from oneblock.experiment.compare import compare
    from oneblock.experiment.sudoku import SudokuRecipe, compare_relay
    from oneblock.fsck import fsck
    from oneblock.guidance import ClassifierFree
    from oneblock.job import run_job
    from oneblock.launch.merge import merge
    from oneblock.launch.start import launch
    from oneblock.launch.status import status
    from oneblock.model import Model
    from oneblock.model.bytes import ByteModel
    from oneblock.noise import LogNormal
    from oneblock.optim.evolution import Evolution
    from oneblock.partition import Partition, make_partition
    from oneblock.plan import Plan
    from oneblock.precondition import Precondition
    from oneblock.presets.base import experts
    from oneblock.presets.bytes import ByteRecipe, train_bytes
    from oneblock.presets.causal import CausalRecipe, recurrent_recipe
    from oneblock.presets.classify import ClassifyRecipe
    from oneblock.presets.conversion import Conversion, train_converted
    from oneblock.presets.door import read_plan
    from oneblock.presets.fit import cost
    from oneblock.presets.image import ImageRecipe
    from oneblock.presets.masked import MaskedRecipe
    from oneblock.presets.run import train
    from oneblock.presets.specialists import choose_layers
    from oneblock.presets.video import VideoRecipe
    from oneblock.report.html.write import report
    from oneblock.tasks.image import denoising_loss
    from oneblock.train.machine import Machine

__version__ = VERSION
_NAMES = {
    "backbone": ("Backbone",),
    "blockwise": ("BlockDenoiser",),
    "condition": ("ClassIds", "Condition", "Tokens"),
    "convert.converted": ("convert",),
    "convert.lora": ("lora",),
    "convert.source": ("load_network",),
    "data.names": ("ImageData", "TextData", "VideoData"),
    "evaluate.watching": ("audited",),
    "experiment.bench": ("bench",),
    "experiment.compare": ("compare",),
    "experiment.sudoku": ("SudokuRecipe", "compare_relay"),
    "fsck": ("fsck",),
    "guidance": ("ClassifierFree",),
    "job": ("run_job",),
    "launch.merge": ("merge",),
    "launch.start": ("launch",),
    "launch.status": ("status",),
    "model": ("Model",),
    "model.bytes": ("ByteModel",),
    "noise": ("LogNormal",),
    "optim.evolution": ("Evolution",),
    "partition": ("Partition", "make_partition"),
    "plan": ("Plan",),
    "precondition": ("Precondition",),
    "presets.base": ("experts",),
    "presets.bytes": ("ByteRecipe", "train_bytes"),
    "presets.causal": ("CausalRecipe", "recurrent_recipe"),
    "presets.classify": ("ClassifyRecipe",),
    "presets.conversion": ("Conversion", "train_converted"),
    "presets.door": ("read_plan",),
    "presets.fit": ("cost",),
    "presets.image": ("ImageRecipe",),
    "presets.masked": ("MaskedRecipe",),
    "presets.run": ("train",),
    "presets.specialists": ("choose_layers",),
    "presets.video": ("VideoRecipe",),
    "report.html.write": ("report",),
    "tasks.image": ("denoising_loss",),
    "train.machine": ("Machine",),
}
_PLACES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "Backbone",
    "BlockDenoiser",
    "ByteModel",
    "ByteRecipe",
    "CausalRecipe",
    "ClassIds",
    "ClassifierFree",
    "ClassifyRecipe",
    "Condition",
    "Conversion",
    "Evolution",
    "ImageData",
    "ImageRecipe",
    "LogNormal",
    "Machine",
    "MaskedRecipe",
    "Model",
    "Partition",
    "Plan",
    "Precondition",
    "SudokuRecipe",
    "TextData",
    "Tokens",
    "VideoData",
    "VideoRecipe",
    "audited",
    "bench",
    "choose_layers",
    "compare",
    "compare_relay",
    "convert",
    "cost",
    "denoising_loss",
    "experts",
    "fsck",
    "launch",
    "load_network",
    "lora",
    "make_partition",
    "merge",
    "read_plan",
    "recurrent_recipe",
    "report",
    "run_job",
    "status",
    "train",
    "train_bytes",
    "train_converted",
]


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    namesake = sys.modules.get(f"{__name__}.{name}")
    if namesake is not None and isinstance(found, FunctionType):
        found.__dict__ = namesake.__dict__  # one dictionary: always the same names in both
    setattr(sys.modules[__name__], name, found)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Face(ModuleType):
    """A package whose public names do not give way to subpackages of the same name when these are imported."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _PLACES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face
