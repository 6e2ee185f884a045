"""Scores of generated images (distances on named features, nearest-neighbour shares, class agreement), of generated
texts (diversity, likelihood under a named scorer, distance from human texts) and of class probabilities."""

from oneblock.metrics.classification import accuracy, expected_calibration_error, negative_log_likelihood
from oneblock.metrics.coverage import Coverage, prdc
from oneblock.metrics.features import FeatureExtractor, default_extractor, extractor_for
from oneblock.metrics.frechet import MomentAccumulator, Moments, frechet_distance, moments
from oneblock.metrics.kernel import KernelDistance, kernel_distance
from oneblock.metrics.likelihood import CausalScorer, GenerativePerplexity, TextScorer, generative_perplexity
from oneblock.metrics.ngram import NGramScorer
from oneblock.metrics.quality import ImageQuality, class_agreement, image_quality, real_fid
from oneblock.metrics.smollm import smollm2_scorer
from oneblock.metrics.text import (
    SamplingPoint,
    TextQuality,
    distinct,
    matched_perplexity,
    repetition,
    text_quality,
    unigram_entropy,
)
from oneblock.metrics.text_distance import Mauve, MiniLMFeatures, TextFeatures, mauve

__all__ = [
    "CausalScorer",
    "Coverage",
    "FeatureExtractor",
    "GenerativePerplexity",
    "ImageQuality",
    "KernelDistance",
    "Mauve",
    "MiniLMFeatures",
    "MomentAccumulator",
    "Moments",
    "NGramScorer",
    "SamplingPoint",
    "TextFeatures",
    "TextQuality",
    "TextScorer",
    "accuracy",
    "class_agreement",
    "default_extractor",
    "distinct",
    "expected_calibration_error",
    "extractor_for",
    "frechet_distance",
    "generative_perplexity",
    "image_quality",
    "kernel_distance",
    "matched_perplexity",
    "mauve",
    "moments",
    "negative_log_likelihood",
    "prdc",
    "real_fid",
    "repetition",
    "smollm2_scorer",
    "text_quality",
    "unigram_entropy",
]
