"""What every task returns to the training loop."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Noised:
    """Noisy targets: ``z = y + sigma * eps`` (n, ...), their levels (n,), and the block they were drawn
    for (None: the seed block of a branched run, which trains on the whole range)."""

    z: Tensor
    sigma: Tensor
    block: int | None


@dataclass(frozen=True)
class Loss:
    """Per-sample losses, both (n,): ``weighted`` is minimised, ``plain`` is the unweighted one for the log."""

    weighted: Tensor
    plain: Tensor

    def __post_init__(self) -> None:
        assert self.weighted.shape == self.plain.shape, "loss and weight must have one shape, one value per sample"
        assert self.weighted.ndim == 1, f"a loss has one value per sample, got shape {tuple(self.weighted.shape)}"
