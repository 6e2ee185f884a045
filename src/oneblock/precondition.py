"""EDM preconditioning: the scalings around a network and the loss weight that undoes them.

``D(z, sigma) = c_skip z + c_out F(c_in z, c_noise)`` keeps the network's input and its target at unit variance for
every sigma when the data have standard deviation ``sigma_data`` (Karras et al., Equation 7 and Table 1,
https://arxiv.org/abs/2206.00364).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Precondition:
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

    def weight(self, sigma: Tensor) -> Tensor:
        """``(sigma^2 + sd^2) / (sigma sd)^2 = 1 / c_out^2`` (EDM, Table 1, loss weighting)."""
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2
