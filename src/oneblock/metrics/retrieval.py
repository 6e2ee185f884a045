"""Whether images show what their captions say, by retrieval: is an image's own caption among those nearest to it?

Images and captions must come from encoders with a common space, where cosine similarity compares the two. Among m
different captions, the share of images whose own caption is among the k most similar ones is

    R@k = 1/n sum_i [ rank of the own caption of image i <= k ],

with k = 1 the R-precision of Xu et al., "AttnGAN: Fine-Grained Text to Image Generation with Attentional Generative
Adversarial Networks", section 4, arXiv 1711.10485, who rank 1 + 99 captions. It is easier among fewer captions: read
it beside chance, k / m, and beside the same for real images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from oneblock.metrics.features import check_features, check_same_dim

_CHUNK_ELEMENTS = 2**23
"""Similarities held at once, 64 MiB in float64."""


@dataclass(frozen=True)
class CaptionRetrieval:
    """``recall`` in 0..1, higher is better, beside ``chance``; ``num_captions`` different ones were ranked."""

    recall: float
    chance: float
    k: int
    num_captions: int


def caption_retrieval(images: Tensor, captions: Tensor, k: int = 1) -> CaptionRetrieval:
    """R@k of features images (n, dim) and of their captions (n, dim), row by row.

    Rows of captions that are equal are one caption, shared by its images. Captions that are equally similar to
    an image count as in random order.
    Raises ValueError for features that do not fit, and for k outside 1..m - 1, m the number of different captions.
    """
    images, captions = check_features("images", images), check_features("captions", captions)
    check_same_dim(images, captions)
    if len(images) != len(captions):
        raise ValueError(f"{len(images)} images have {len(captions)} captions; give one caption for each image")
    different, own = captions.unique(dim=0, return_inverse=True)
    most = len(different) - 1
    if not 1 <= k <= most:
        raise ValueError(f"k={k} is not in 1..{most}, the captions that are not an image's own; lower it, or give more")
    hits = own_among_nearest(images, different, own, k)
    return CaptionRetrieval(hits.mean().item(), k / len(different), k, len(different))


def own_among_nearest(images: Tensor, captions: Tensor, own: Tensor, k: int = 1) -> Tensor:
    """Whether each image's own caption is among the ``k`` most similar ones: float64 (n,), 0 or 1, of captions that are
    equally similar the probability in random order. R@k is the mean.

    Args:
        images: features (n, dim).
        captions: features (m, dim) of the different captions.
        own: the row of each image's caption, int64 (n,).
    """
    keys = normalize(captions, dim=1)
    chunks = zip(*(x.split(max(1, _CHUNK_ELEMENTS // len(keys))) for x in (normalize(images, dim=1), own)), strict=True)
    return torch.cat([_hits(queries @ keys.T, chosen, k) for queries, chosen in chunks])


def _hits(similarity: Tensor, own: Tensor, k: int) -> Tensor:
    """Probability (n,) that column ``own`` (n,) is among the k largest of similarity (n, m), ties in random order."""
    mine = similarity.gather(1, own[:, None])
    ahead, tied = (similarity > mine).sum(1), (similarity == mine).sum(1)
    return ((k - ahead).clamp_min(0) / tied).clamp_max(1.0).double()
