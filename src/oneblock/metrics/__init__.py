"""Scores of generated images: distances on named features, nearest-neighbour shares, class agreement."""

from oneblock.metrics.coverage import Coverage, prdc
from oneblock.metrics.features import FeatureExtractor, default_extractor, extractor_for
from oneblock.metrics.frechet import MomentAccumulator, Moments, frechet_distance, moments
from oneblock.metrics.kernel import KernelDistance, kernel_distance
from oneblock.metrics.quality import ImageQuality, class_agreement, image_quality, real_fid

__all__ = [
    "Coverage",
    "FeatureExtractor",
    "ImageQuality",
    "KernelDistance",
    "MomentAccumulator",
    "Moments",
    "class_agreement",
    "default_extractor",
    "extractor_for",
    "frechet_distance",
    "image_quality",
    "kernel_distance",
    "moments",
    "prdc",
    "real_fid",
]
