"""Models that classify images."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor

from oneblock.evaluate.labels import classify_images, evaluate_labels
from oneblock.model.base import Model
from oneblock.presets.data import Data, plan_splits
from oneblock.sample.calls import Answers, AskedPool
from oneblock.sample.calls import Path as CallPath
from oneblock.sample.labels import Answer


@final
class ClassifyModel(Model):
    """A classifier of images."""

    task = "classify"

    def classify(
        self,
        images: Tensor,
        *,
        path: CallPath = Answers.path,
        pool: AskedPool = Answers.pool,
        calls: int = Answers.calls,
        draws: int = Answers.draws,
        noise_seed: int = Answers.noise_seed,
        confident: float = 1.0,
    ) -> Answer:
        """Class probabilities after every call (calls, n, k), and how many calls each image took.

        Args:
            images: (n, c, h, w), uint8, or float in [-1, 1].
            path, pool, calls, draws, noise_seed: see ``sample.calls.Answers``.
            confident: an image takes no further call once a class has this probability; 1 takes all.
        """
        answers = Answers(path=path, pool=pool, calls=calls, draws=draws, noise_seed=noise_seed)
        return classify_images(self.denoiser, self.plan, images, answers, confident)

    def evaluate(
        self,
        data: Data | None = None,
        *,
        path: CallPath = Answers.path,
        pool: AskedPool = Answers.pool,
        calls: int = Answers.calls,
        draws: int = Answers.draws,
        noise_seed: int = Answers.noise_seed,
        confident: float = 1.0,
    ) -> dict[str, Any]:
        """Accuracy after every call, calibration and likelihood; arguments of ``classify`` and ``Model.evaluate``."""
        answers = Answers(path=path, pool=pool, calls=calls, draws=draws, noise_seed=noise_seed)
        _, test = plan_splits(self.plan, data)
        return evaluate_labels(self.denoiser, self.plan, test.first(), answers, confident)
