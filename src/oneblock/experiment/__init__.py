"""Experiments: arms x budgets x seeds on one data set, scored the same way; one table of arms for each task."""

from .causal import CausalExperiment
from .classify import ClassifyExperiment
from .compare import EXPERIMENTS, compare
from .demo import Demo, demo
from .grid import Arm, Cell, Comparison, Experiment
from .images import ImageExperiment
from .masked import MaskedExperiment
from .recurrent import RecurrentExperiment
from .summary import Row, Scores

__all__ = [
    "EXPERIMENTS",
    "Arm",
    "CausalExperiment",
    "Cell",
    "ClassifyExperiment",
    "Comparison",
    "Demo",
    "Experiment",
    "ImageExperiment",
    "MaskedExperiment",
    "RecurrentExperiment",
    "Row",
    "Scores",
    "compare",
    "demo",
]
