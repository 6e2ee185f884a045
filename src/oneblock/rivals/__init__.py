"""Rivals: other ways to train, to compare with."""

from .base import Classifier, Lesson, Rival, RivalSettings, Stage
from .forward_forward import ContrastiveFF
from .greedy import Greedy
from .noprop import NoPropCT, NoPropDT
from .peak import training_peak
from .perceptron import PlainPerceptron
from .plain import PlainCNN
from .recurrent import TruncatedBPTT
from .train import train_rival

__all__ = [
    "Classifier",
    "ContrastiveFF",
    "Greedy",
    "Lesson",
    "NoPropCT",
    "NoPropDT",
    "PlainCNN",
    "PlainPerceptron",
    "Rival",
    "RivalSettings",
    "Stage",
    "TruncatedBPTT",
    "train_rival",
    "training_peak",
]
