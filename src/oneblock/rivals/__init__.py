"""Rivals: other ways to train, to compare with."""

from .base import Learner, Rival, RivalReport, RivalSettings, training_peak
from .forward_forward import ContrastiveFF
from .greedy import Greedy
from .noprop import NoPropCT, NoPropDT
from .plain import PlainCNN
from .recurrent import TruncatedBPTT

__all__ = [
    "ContrastiveFF",
    "Greedy",
    "Learner",
    "NoPropCT",
    "NoPropDT",
    "PlainCNN",
    "Rival",
    "RivalReport",
    "RivalSettings",
    "TruncatedBPTT",
    "training_peak",
]
