"""oneblock: train deep residual networks one block at a time."""

from oneblock.blockwise import BlockDenoiser, Blockwise, Denoiser
from oneblock.guidance import ClassifierFree
from oneblock.noise import LogNormal, LogUniform, NoiseLaw
from oneblock.partition import Partition, make_partition, split_layers
from oneblock.plan import Plan, read_plan, write_plan
from oneblock.precondition import Precondition

__version__ = "0.1.0"

__all__ = [
    "BlockDenoiser",
    "Blockwise",
    "ClassifierFree",
    "Denoiser",
    "LogNormal",
    "LogUniform",
    "NoiseLaw",
    "Partition",
    "Plan",
    "Precondition",
    "make_partition",
    "read_plan",
    "split_layers",
    "write_plan",
]
