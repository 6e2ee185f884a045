"""Models that classify images."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor

from oneblock.evaluate.labels import check_confident, classify_images, evaluate_labels
from oneblock.model.base import Model, said_of
from oneblock.presets.data import Data
from oneblock.presets.splits import plan_splits
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
        check_confident(confident)
        answers = Answers(path=path, pool=pool, calls=calls, draws=draws, noise_seed=noise_seed)
        return classify_images(self.denoiser, self.plan, images, answers, confident)

    def named(self, answer: Answer) -> list[str]:
        """The likeliest of ``classes`` for each image of an answer of ``classify``."""
        return [self.classes[label] for label in answer.probabilities[-1].argmax(-1).tolist()]

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
        check_confident(confident)
        answers = Answers(path=path, pool=pool, calls=calls, draws=draws, noise_seed=noise_seed)
        splits = plan_splits(self.plan, data, directory=self.directory)
        row = evaluate_labels(self.denoiser, self.plan, splits.test.first(), answers, confident)
        return said_of(row, splits.other)
