"""Scores of generated images (distances on named features, nearest-neighbour shares, agreement with classes and
captions), of generated texts (diversity, likelihood under a named scorer, distance from human texts) and of class
probabilities; with what says how far scores can be trusted: intervals, limits, and whether two of them rank alike."""

from oneblock.metrics.bootstrap import Interval, centred_bootstrap, percentile_bootstrap
from oneblock.metrics.classification import accuracy, expected_calibration_error, negative_log_likelihood
from oneblock.metrics.classifier_score import ClassifierScore, classifier_score
from oneblock.metrics.coverage import Coverage, prdc
from oneblock.metrics.extrapolation import FrechetLimit, frechet_limit
from oneblock.metrics.features import FeatureExtractor, default_extractor, extractor_for
from oneblock.metrics.frechet import MomentAccumulator, Moments, frechet_distance, moments
from oneblock.metrics.kernel import KernelDistance, kernel_distance
from oneblock.metrics.likelihood import CausalScorer, GenerativePerplexity, TextScorer, generative_perplexity
from oneblock.metrics.ngram import NGramScorer
from oneblock.metrics.quality import ImageQuality, class_agreement, image_quality, real_fid
from oneblock.metrics.ranking import Agreement, Correlation, Score, agreement
from oneblock.metrics.retrieval import CaptionRetrieval, caption_retrieval
from oneblock.metrics.sliced import mind, sliced_wasserstein
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
    "Agreement",
    "CaptionRetrieval",
    "CausalScorer",
    "ClassifierScore",
    "Correlation",
    "Coverage",
    "FeatureExtractor",
    "FrechetLimit",
    "GenerativePerplexity",
    "ImageQuality",
    "Interval",
    "KernelDistance",
    "Mauve",
    "MiniLMFeatures",
    "MomentAccumulator",
    "Moments",
    "NGramScorer",
    "SamplingPoint",
    "Score",
    "TextFeatures",
    "TextQuality",
    "TextScorer",
    "accuracy",
    "agreement",
    "caption_retrieval",
    "centred_bootstrap",
    "class_agreement",
    "classifier_score",
    "default_extractor",
    "distinct",
    "expected_calibration_error",
    "extractor_for",
    "frechet_distance",
    "frechet_limit",
    "generative_perplexity",
    "image_quality",
    "kernel_distance",
    "matched_perplexity",
    "mauve",
    "mind",
    "moments",
    "negative_log_likelihood",
    "percentile_bootstrap",
    "prdc",
    "real_fid",
    "repetition",
    "sliced_wasserstein",
    "smollm2_scorer",
    "text_quality",
    "unigram_entropy",
]
