"""oneblock: train deep residual networks one block at a time."""

from oneblock.backbone import Backbone, check_backbone
from oneblock.blockwise import BlockDenoiser, Blockwise, Denoiser
from oneblock.condition import ClassIds, Condition, Frames, Nothing, Tokens
from oneblock.guidance import ClassifierFree
from oneblock.noise import LogNormal, LogUniform, NoiseLaw
from oneblock.partition import Partition, make_partition, split_layers
from oneblock.plan import Plan, read_plan, write_plan
from oneblock.precondition import Precondition
from oneblock.tasks.image import denoising_loss

__version__ = "0.1.0"

__all__ = [
    "Backbone",
    "BlockDenoiser",
    "Blockwise",
    "ClassIds",
    "ClassifierFree",
    "Condition",
    "Denoiser",
    "Frames",
    "LogNormal",
    "LogUniform",
    "NoiseLaw",
    "Nothing",
    "Partition",
    "Plan",
    "Precondition",
    "Tokens",
    "check_backbone",
    "denoising_loss",
    "make_partition",
    "read_plan",
    "split_layers",
    "write_plan",
]
