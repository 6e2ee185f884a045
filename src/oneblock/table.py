"""Tables of class vectors: frozen, seeded targets for classes, one row of norm 1 per class.

A noisy label is ``z = T_y + sigma eps``. How much it tells of y is the posterior entropy ``H(y | z)``: from 0 at low
noise to ``ln K`` at high noise, and between them lies all that a denoiser of labels has to decide.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

PIECE = 2**20
"""Tokens of a text that are counted together."""
TableKind = Literal["simplex", "orthonormal", "random", "prototypes"]


def simplex(num_classes: int) -> Tensor:
    """(k, k): ``sqrt(k / (k - 1)) (e_y - 1 / k)``, corners of a regular simplex around 0, as far apart as can be."""
    k = _check_classes(num_classes)
    return (torch.eye(k) - 1.0 / k) * math.sqrt(k / (k - 1))


def orthonormal(num_classes: int, width: int, seed: int) -> Tensor:
    """(k, width): the first rows of a random rotation; ``width`` is at least k."""
    if width < _check_classes(num_classes):
        raise ValueError(
            f"width={width} is too small for {num_classes} orthonormal rows; use {num_classes} or more, or a "
            "random table"
        )
    square = torch.randn(width, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rotation, triangle = torch.linalg.qr(square)
    return (rotation * triangle.diagonal().sign()).mT[:num_classes].float()


def random_unit(num_classes: int, width: int, seed: int) -> Tensor:
    """(k, width): independent directions, uniform on the sphere."""
    rows = torch.randn(_check_classes(num_classes), width, generator=torch.Generator().manual_seed(seed))
    return normalised(rows)


def prototypes(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """(k, f): the mean of the ``features`` (n, f) of each class, less the mean of all classes, at norm 1."""
    missing = sorted(set(range(_check_classes(num_classes))) - set(labels.tolist()))
    if missing:
        raise ValueError(f"no sample has the classes {missing}; a table of prototypes needs one of each")
    means = torch.stack([features[labels == k].double().mean(0) for k in range(num_classes)])
    return normalised(means - means.mean(0)).float()


def cooccurrence(tokens: Tensor, vocabulary: int, width: int, reach: int = 2) -> Tensor:
    """(v, width): symbols that stand among the same neighbours lie close together, at norm 1.

    Rows are the leading eigenvectors of the positive pointwise mutual information of symbols at most ``reach`` places
    apart, times the roots of their eigenvalues (Levy and Goldberg, "Neural Word Embedding as Implicit Matrix
    Factorization", Sections 3.2 and 3.3, NeurIPS 2014; symmetric, without their shift). The sign of every column makes
    its largest entry positive.

    Args:
        tokens: a text (t,), symbols 0 .. vocabulary - 1.
        width: columns, up to ``vocabulary``.
    """
    check_cooccurrence(width, vocabulary)
    counts = torch.zeros(vocabulary * vocabulary, dtype=torch.float64)
    for start in range(0, len(tokens), PIECE):  # a long text lies in a file
        piece = tokens[start : start + PIECE + reach].long()
        for distance in range(1, reach + 1):
            after = piece[distance : distance + PIECE]
            counts += torch.bincount(piece[: len(after)] * vocabulary + after, minlength=len(counts))
    joint = counts.view(vocabulary, vocabulary)
    joint = joint + joint.mT + 1.0 / vocabulary  # symbols that never occur have a direction too
    share = joint.sum(1) / joint.sum()
    information = (joint / joint.sum() / share[:, None] / share).log().clamp_min(0.0)
    values, vectors = torch.linalg.eigh(information)
    order = values.abs().argsort(descending=True)[:width]
    columns = vectors[:, order]
    columns = columns * columns.gather(0, columns.abs().argmax(0, keepdim=True)).sign()
    return normalised(columns * values[order].abs().sqrt()).float()


def check_cooccurrence(width: int, vocabulary: int) -> None:
    """Refuse a ``width`` that vectors of co-occurrence cannot have with a ``ValueError``."""
    if not 1 <= width <= vocabulary:
        raise ValueError(
            f"width={width} does not fit co-occurrence vectors; use 1 to the number of symbols, {vocabulary}"
        )


def normalised(rows: Tensor) -> Tensor:
    """``rows`` (k, d) at norm 1; a row of zeros is a ``ValueError``."""
    norms = rows.norm(dim=-1, keepdim=True)
    if not bool((norms > 0).all()):
        raise ValueError(
            f"rows {(norms[:, 0] == 0).nonzero()[:, 0].tolist()} of the table are 0; every class needs a direction"
        )
    return rows / norms


def posterior(z: Tensor, sigma: Tensor, table: Tensor) -> Tensor:
    """``p(y = k | z, sigma)`` (n, k) for equally likely classes: the softmax of ``-|z - T_k|^2 / (2 sigma^2)``, of z
    (n, d)
    at levels ``sigma`` (n,)."""
    return (-0.5 * torch.cdist(z, table).square() / sigma[:, None] ** 2).softmax(-1)


def posterior_entropy(table: Tensor, levels: Tensor, num_samples: int = 4096, seed: int = 0) -> Tensor:
    """``H(y | z)`` in nats (float64, one per level), averaged over y and over ``num_samples`` draws of z.

    The same noise at every level and classes in turn, so that the curve is smooth; the standard error is about
    ``0.5 / sqrt(num_samples)``.

    Args:
        table: (k, d).
        levels: noise levels > 0, (m,).
    """
    rows = table.double()
    noise = torch.randn(num_samples, rows.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    labels = torch.arange(num_samples) % len(rows)
    entropies = []
    for level in levels.double():
        p = posterior(rows[labels] + level * noise, level.expand(num_samples), rows)
        entropies.append(torch.special.entr(p).sum(-1).mean())
    return torch.stack(entropies)


def open_variance(table: Tensor, levels: Tensor, seed: int = 0) -> float:
    """How much of the variance of a label is left open by noisy labels at ``levels`` (n,), one label and one draw each:
    ``mean(1 - sum_k p_k^2) / (1 - 1/K)`` with p the posterior; 1 when z tells nothing, 0 when it gives the class away.

    It is the share of ordinary training's information about ``p(y | x)`` that a step on these levels has while the
    network
    knows nothing: the Fisher information of the logits is ``diag(p) - p p^T``, of trace ``1 - sum_k p_k^2``.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(len(table), (len(levels),), generator=generator)
    noise = torch.randn(len(levels), table.shape[1], generator=generator, dtype=torch.float64)
    rows, sigma = table.double(), levels.double()
    p = posterior(rows[labels] + sigma[:, None] * noise, sigma, rows)
    return float((1 - p.square().sum(-1)).mean() / (1 - 1 / len(table)))


def _check_classes(num_classes: int) -> int:
    if num_classes < 2:
        raise ValueError(f"num_classes={num_classes} leaves nothing to tell apart; use 2 or more")
    return num_classes
