"""Membership by the loss on each band: was this sample trained? One pass, no chains.

A model that has learned a sample by heart denoises it better than others like it, most of all at some noise levels. The
loss of a sample on each band, in logarithms, is a vector; of members and of others whose membership is known (the
reference halves) each has a normal law, and the score of a sample is the log of their ratio: the likelihood ratio of
LiRA (Carlini et al., "Membership Inference Attacks From First Principles", Equation 2,
https://arxiv.org/abs/2112.03570) with samples of one model in the place of one sample under many models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from oneblock.blockwise import DenoiserLike
from oneblock.checks import check_count, check_number
from oneblock.condition import Condition
from oneblock.partition import Partition
from oneblock.precondition import aligned

FLOOR = 1e-6
"""Share of the variance of the noise that is added to every error: that of a perfect answer has a logarithm too."""
RIDGE = 1e-3
"""Share of the mean variance that is added to every one, so that few samples have a law too."""


@torch.no_grad()
def losses_by_band(
    denoiser: DenoiserLike,
    bands: Partition,
    samples: Tensor,
    condition: Condition,
    draws: int,
    seed: int = 0,
    batch_size: int = 500,
) -> Tensor:
    """``ln (|D(y + sigma eps, sigma) - y|^2 / d)`` (n, bands) of ``samples`` y (n, ...), the mean over ``draws``.

    Every sample has the same levels, at equal steps of mass of each band, and the same noise: what differs is the
    sample.
    """
    check_count("draws", draws)
    columns = []
    for band in range(bands.num_blocks):
        generator = torch.Generator().manual_seed(seed * 1000 + band)
        low, high = bands.law.cdf(torch.tensor(bands.band(band), dtype=torch.float64)).tolist()
        middles = low + (torch.arange(draws, dtype=torch.float64) + 0.5) / draws * (high - low)
        total = torch.zeros(len(samples), dtype=torch.float64)
        for level in bands.law.quantile(middles).tolist():
            noise = torch.randn(samples.shape[1:], generator=generator).to(samples)
            total += _error(denoiser, samples, condition, level, noise, batch_size)
        columns.append(total / draws)
    return torch.stack(columns, dim=1)


def _error(
    denoiser: DenoiserLike, samples: Tensor, condition: Condition, level: float, noise: Tensor, batch_size: int
) -> Tensor:
    found = []
    for start in range(0, len(samples), batch_size):
        part = slice(start, start + batch_size)
        y = samples[part]
        sigma = torch.full((len(y),), level, dtype=y.dtype, device=y.device)
        error = denoiser(y + aligned(sigma, y) * noise, sigma, condition.take(part)) - y
        found.append((error.flatten(1).double().square().mean(1) + FLOOR * level**2).log().cpu())
    return torch.cat(found)


@dataclass(frozen=True, kw_only=True)
class Membership:
    """How well members are told from others that were not used for the fit.

    Args:
        auc: probability that a member scores above another; 0.5 is chance.
        tpr: share of members above the threshold that no more than the share ``fpr`` of the others is above.
        band_auc: the AUC of the loss of each band alone, noisiest first.
        members, others: that were scored.
    """

    auc: float
    tpr: float
    fpr: float
    band_auc: tuple[float, ...]
    members: int
    others: int


def membership(members: Tensor, others: Tensor, fpr: float = 0.01, seed: int = 0) -> Membership:
    """Fit on one random half of each and score the other half, then the other way round.

    Args:
        members, others: losses by band (n, bands) and (m, bands), of samples that were trained and that were not.
        fpr: the share of the others that may be taken for members.

    Raises:
        ValueError: fewer than four of either.
    """
    for name, rows in (("members", members), ("others", others)):
        check_count(name, len(rows), 4)
    check_number("fpr", fpr, least=0, below=1)
    generator = torch.Generator().manual_seed(seed)
    ins, outs = (rows[torch.randperm(len(rows), generator=generator)].tensor_split(2) for rows in (members, others))
    scores_in, scores_out = [], []
    for fit, held in ((0, 1), (1, 0)):
        law_in, law_out = Normal.fit(ins[fit]), Normal.fit(outs[fit])
        scores_in.append(law_in.log_density(ins[held]) - law_out.log_density(ins[held]))
        scores_out.append(law_in.log_density(outs[held]) - law_out.log_density(outs[held]))
    above, below = torch.cat(scores_in), torch.cat(scores_out)
    return Membership(
        auc=auc(above, below),
        tpr=tpr_at(above, below, fpr),
        fpr=fpr,
        band_auc=tuple(auc(-members[:, b], -others[:, b]) for b in range(members.shape[1])),
        members=len(above),
        others=len(below),
    )


@dataclass(frozen=True, eq=False)
class Normal:
    """A normal law of vectors (d,): its mean, and the Cholesky factor of its covariance (d, d)."""

    mean: Tensor
    factor: Tensor

    @classmethod
    def fit(cls, rows: Tensor) -> Normal:
        """Of ``rows`` (n, d), two or more."""
        centred = rows - rows.mean(0)
        covariance = centred.T @ centred / (len(rows) - 1)
        ridge = RIDGE * covariance.diagonal().mean().clamp_min(torch.finfo(rows.dtype).tiny)
        return cls(rows.mean(0), torch.linalg.cholesky(covariance + ridge * torch.eye(rows.shape[1]).to(rows)))

    def log_density(self, rows: Tensor) -> Tensor:
        """Of ``rows`` (n, d), without the constant that all laws share: (n,)."""
        white = torch.linalg.solve_triangular(self.factor, (rows - self.mean).T, upper=False)
        return -0.5 * white.square().sum(0) - self.factor.diagonal().log().sum()


def auc(above: Tensor, below: Tensor) -> float:
    """``P(a > b) + P(a = b) / 2`` for scores a of ``above`` (n,) and b of ``below`` (m,): the area under the ROC curve
    (Mann and Whitney, 1947)."""
    ordered = below.sort().values
    smaller = torch.searchsorted(ordered, above, right=False)
    up_to = torch.searchsorted(ordered, above, right=True)
    return float((smaller + up_to).double().mean() / (2 * len(below)))


def tpr_at(above: Tensor, below: Tensor, fpr: float) -> float:
    """The share of ``above`` (n,) beyond the lowest threshold that at most the share ``fpr`` of ``below`` (m,) is
    beyond."""
    ordered = below.sort(descending=True).values
    return float((above > ordered[int(fpr * len(ordered))]).double().mean())
