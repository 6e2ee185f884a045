"""Models: a trained denoiser with its plan, to be sampled, evaluated and saved.

    model = Model.open("runs/digits")
    images = model.sample([0, 1, 2], steps=24)
    scores = model.evaluate("digits")
    model.save("model")

``Model.open`` gives the kind that fits the run's task; ``ImageModel.open`` and its like take runs of their own task
alone.
"""

from oneblock.model.base import Model
from oneblock.model.images import ImageModel
from oneblock.model.labels import ClassifyModel
from oneblock.model.text import CausalModel, MaskedModel
from oneblock.model.video import VideoModel

__all__ = ["MODELS", "CausalModel", "ClassifyModel", "ImageModel", "MaskedModel", "Model", "VideoModel"]

KINDS: tuple[type[Model], ...] = (ImageModel, ClassifyModel, MaskedModel, CausalModel, VideoModel)
MODELS: dict[str, type[Model]] = {kind.task: kind for kind in KINDS}
