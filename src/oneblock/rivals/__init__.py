"""Rivals: other ways to train a classifier without a backward pass through all of it, to compare with."""

from .base import Augment, Learner, Rival, RivalReport, RivalSettings, training_peak
from .greedy import Greedy

__all__ = ["Augment", "Greedy", "Learner", "Rival", "RivalReport", "RivalSettings", "training_peak"]
