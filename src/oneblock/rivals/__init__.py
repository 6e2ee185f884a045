"""Rivals: other ways to train a classifier without a backward pass through all of it, to compare with."""

from .base import Learner, Rival, RivalReport, RivalSettings, training_peak
from .forward_forward import ContrastiveFF
from .greedy import Greedy
from .noprop import NoPropCT, NoPropDT

__all__ = [
    "ContrastiveFF",
    "Greedy",
    "Learner",
    "NoPropCT",
    "NoPropDT",
    "Rival",
    "RivalReport",
    "RivalSettings",
    "training_peak",
]
