"""Between noisy targets and a network: what it is shown, and what is made of its answer.

EDM preconditioning, for targets that are numbers: ``D(z, sigma) = c_skip z + c_out F(c_in z, c_noise)`` keeps the
network's input and its target at unit variance for every sigma when the data have standard deviation ``sigma_data``
(Karras et al., Equation 7 and Table 1, https://arxiv.org/abs/2206.00364).

Evidence, for targets that are rows of a table of class vectors: all that z says about the class is the likelihood of
each row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


class Frame(Protocol):
    """What stands between a noisy target and the network."""

    def inputs(self, z: Tensor, sigma: Tensor) -> Tensor:
        """What the network is shown of ``z`` (n, ...) at levels ``sigma`` (n,)."""

    def noise(self, sigma: Tensor) -> Tensor:
        """The noise conditioning (n,)."""

    def outputs(self, z: Tensor, sigma: Tensor, prediction: Tensor) -> Tensor:
        """The denoiser's answer, from the network's."""


@runtime_checkable
class Weighted(Frame, Protocol):
    """A frame of targets that are numbers, which says how much their squared error counts."""

    def weight(self, sigma: Tensor) -> Tensor:
        """The factor of the squared error at levels ``sigma`` (n,)."""


class Scaling(ABC):
    """A ``Frame`` of scalings: ``D(z, sigma) = c_skip z + c_out F(c_in z, noise)`` (EDM, Equation 7). They take
    ``sigma`` of any shape, above 0."""

    @abstractmethod
    def c_in(self, sigma: Tensor) -> Tensor:
        """What z is multiplied by for the network."""

    @abstractmethod
    def c_skip(self, sigma: Tensor) -> Tensor:
        """The share of z in the answer."""

    @abstractmethod
    def c_out(self, sigma: Tensor) -> Tensor:
        """The share of the network's prediction in the answer."""

    @abstractmethod
    def noise(self, sigma: Tensor) -> Tensor:
        """What the network is told of ``sigma`` (any shape), in the dtype of ``sigma``."""

    def inputs(self, z: Tensor, sigma: Tensor) -> Tensor:
        return self.c_in(aligned(sigma, z)) * z

    def outputs(self, z: Tensor, sigma: Tensor, prediction: Tensor) -> Tensor:
        scale = aligned(sigma, z)
        return self.c_skip(scale) * z + self.c_out(scale) * prediction.to(z.dtype)


@dataclass(frozen=True)
class Precondition(Scaling):
    """The four scalings and the loss weight as functions of ``sigma`` (any shape, > 0)."""

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise ValueError(f"sigma_data={self.sigma_data} is not a standard deviation; use a number above 0")

    def c_skip(self, sigma: Tensor) -> Tensor:
        """``sd^2 / (sigma^2 + sd^2)`` (EDM, Table 1)."""
        return self.sigma_data**2 / (sigma**2 + self.sigma_data**2)

    def c_out(self, sigma: Tensor) -> Tensor:
        """``sigma sd / sqrt(sigma^2 + sd^2)`` (EDM, Table 1)."""
        return sigma * self.sigma_data / (sigma**2 + self.sigma_data**2).sqrt()

    def c_in(self, sigma: Tensor) -> Tensor:
        """``1 / sqrt(sigma^2 + sd^2)`` (EDM, Table 1)."""
        return 1.0 / (sigma**2 + self.sigma_data**2).sqrt()

    def c_noise(self, sigma: Tensor) -> Tensor:
        """``ln(sigma) / 4`` (EDM, Table 1)."""
        return 0.25 * sigma.log()

    def noise(self, sigma: Tensor) -> Tensor:
        return self.c_noise(sigma)

    def weight(self, sigma: Tensor) -> Tensor:
        """``(sigma^2 + sd^2) / (sigma sd)^2 = 1 / c_out^2`` (EDM, Table 1, loss weighting)."""
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2


@dataclass(frozen=True)
class Logits:
    """Noisy class vectors scaled by EDM's ``c_in``; the network's answer is one logit per class."""

    precondition: Precondition

    def inputs(self, z: Tensor, sigma: Tensor) -> Tensor:
        return self.precondition.inputs(z, sigma)

    def noise(self, sigma: Tensor) -> Tensor:
        return self.precondition.c_noise(sigma)

    def outputs(self, z: Tensor, sigma: Tensor, prediction: Tensor) -> Tensor:
        return prediction.to(z.dtype)


@dataclass(frozen=True)
class MaskedTokens:
    """Sequences with masked places as they are; the network's answer is one logit per symbol and place.

    Its noise conditioning is ``4 t``, which spans about as much as that of EDM.
    """

    def inputs(self, z: Tensor, sigma: Tensor) -> Tensor:
        return z

    def noise(self, sigma: Tensor) -> Tensor:
        return 4.0 * sigma

    def outputs(self, z: Tensor, sigma: Tensor, prediction: Tensor) -> Tensor:
        return prediction


class Evidence(nn.Module):
    """Noisy class vectors as what they say about each class; the network's answer is one logit per class.

    The rows T_k of the table have equal norms, so ``log p(y = k | z, sigma) = z . T_k / sigma^2 + constant`` when all
    classes are equally likely. With ``skip`` the network answers with logits of ``p(y | x)`` alone, and Bayes' rule
    does the rest: ``log p(y = k | x, z, sigma) = network_k + z . T_k / sigma^2 + constant``, as z depends on x through
    y only.

    Args:
        table: (k, d), rows of norm 1.
        skip: add the evidence to the network's logits.
        limit: the network is shown ``tanh(evidence / limit)``, evidence centred over the classes.
    """

    table: Tensor

    def __init__(self, table: Tensor, skip: bool, limit: float = 4.0) -> None:
        super().__init__()
        self.register_buffer("table", table, persistent=False)
        self.skip = skip
        self.limit = limit

    def evidence(self, z: Tensor, sigma: Tensor) -> Tensor:
        """``z . T_k / sigma^2`` (..., k), centred over k, of ``z`` (..., d) at levels ``sigma`` (n,)."""
        with torch.autocast(z.device.type, enabled=False):  # rounded to bf16, it is off by whole nats at low sigma
            scores = z @ self.table.mT.to(z.dtype) / aligned(sigma, z) ** 2
        return scores - scores.mean(-1, keepdim=True)

    def inputs(self, z: Tensor, sigma: Tensor) -> Tensor:
        return torch.tanh(self.evidence(z, sigma) / self.limit)

    def noise(self, sigma: Tensor) -> Tensor:
        return 0.25 * sigma.log()

    def outputs(self, z: Tensor, sigma: Tensor, prediction: Tensor) -> Tensor:
        logits = prediction.to(z.dtype)
        if not self.skip:
            return logits
        return logits + self.evidence(z, sigma)[:, -logits.shape[1] :]  # of a text, the places that were asked


def aligned(sigma: Tensor, z: Tensor) -> Tensor:
    """``sigma`` (n,), or (n, ...) with the first axes of ``z`` (n, ...), with as many axes as ``z``, so that the two
    multiply."""
    return sigma.view(*sigma.shape, *[1] * (z.ndim - sigma.ndim))
