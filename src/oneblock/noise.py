"""Noise laws: how likely each noise level is during training.

A law lives on an interval of levels and has a cumulative distribution and its inverse. Everything else (equal-mass
bands, stratified draws, sampling grids) follows from these two functions, for continuous sigma and for mask schedules
alike. A higher level is always noisier.

The default is the truncated log-normal of EDM (Karras et al., "Elucidating the Design Space of Diffusion-Based
Generative Models", Table 1, https://arxiv.org/abs/2206.00364), the law that DiffusionBlocks cuts into bands
(Shing et al., Section 3.3, https://arxiv.org/abs/2506.14202).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor

from oneblock.checks import check_fields, shown


class NoiseLaw(ABC):
    """A distribution of noise levels on ``[low, high]``, ``low < high``."""

    @property
    @abstractmethod
    def low(self) -> float:
        """The smallest noise level."""

    @property
    @abstractmethod
    def high(self) -> float:
        """The largest noise level."""

    @abstractmethod
    def cdf(self, level: Tensor) -> Tensor:
        """Mass below ``level`` (any shape, in [low, high]): float64 in [0, 1], 0 at ``low`` and 1 at ``high``."""

    @abstractmethod
    def quantile(self, mass: Tensor) -> Tensor:
        """The level (float64) with ``mass`` (any shape, in [0, 1]) below it: the inverse of ``cdf``."""

    @abstractmethod
    def widen(self, lower: float, upper: float, overlap: float) -> tuple[float, float]:
        """The interval ``[lower, upper]`` grown on both sides by ``overlap`` of its length, cut at the law's ends."""

    def edges(self, num_bands: int) -> tuple[float, ...]:
        """``num_bands + 1`` descending levels that cut the law into bands of equal mass."""
        mass = torch.linspace(1.0, 0.0, num_bands + 1, dtype=torch.float64)
        inner = self.quantile(mass[1:-1]).tolist()
        return (self.high, *inner, self.low)


def _normal_cdf(x: Tensor) -> Tensor:
    return torch.special.ndtr(x.double())


@dataclass(frozen=True)
class LogNormal(NoiseLaw):
    """``ln sigma ~ N(p_mean, p_std^2)``, cut to ``[sigma_min, sigma_max]`` (EDM, Table 1; defaults from there)."""

    p_mean: float = -1.2
    p_std: float = 1.2
    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        check_fields(self)
        _check_sigma_range(self.sigma_min, self.sigma_max)
        if not 0 < self.p_std < math.inf:
            raise ValueError(f"p_std={self.p_std} is not a spread; use a number above 0")
        q_low, q_high = self._ends()
        if not q_high > q_low:
            raise ValueError(
                f"p_mean={self.p_mean}, p_std={self.p_std} leave nothing between sigma_min={self.sigma_min} and "
                f"sigma_max={self.sigma_max}; use a mean, in ln sigma, between them"
            )

    @property
    def low(self) -> float:
        return self.sigma_min

    @property
    def high(self) -> float:
        return self.sigma_max

    def _ends(self) -> tuple[float, float]:
        ends = torch.tensor([self.sigma_min, self.sigma_max], dtype=torch.float64)
        q_low, q_high = _normal_cdf((ends.log() - self.p_mean) / self.p_std).tolist()
        return q_low, q_high

    def cdf(self, level: Tensor) -> Tensor:
        q_low, q_high = self._ends()
        q = _normal_cdf((level.double().log() - self.p_mean) / self.p_std)
        return ((q - q_low) / (q_high - q_low)).clamp(0.0, 1.0)

    def quantile(self, mass: Tensor) -> Tensor:
        q_low, q_high = self._ends()
        q = q_low + mass.double() * (q_high - q_low)
        sigma = torch.exp(self.p_mean + self.p_std * torch.special.ndtri(q))
        return sigma.clamp(self.sigma_min, self.sigma_max)

    def widen(self, lower: float, upper: float, overlap: float) -> tuple[float, float]:
        return _widen_log(self, lower, upper, overlap)


@dataclass(frozen=True)
class LogUniform(NoiseLaw):
    """``ln sigma`` uniform on ``[sigma_min, sigma_max]``: the ablation's other arm (DiffusionBlocks, Table 7)."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        check_fields(self)
        _check_sigma_range(self.sigma_min, self.sigma_max)

    @property
    def low(self) -> float:
        return self.sigma_min

    @property
    def high(self) -> float:
        return self.sigma_max

    def cdf(self, level: Tensor) -> Tensor:
        span = math.log(self.sigma_max / self.sigma_min)
        return ((level.double().log() - math.log(self.sigma_min)) / span).clamp(0.0, 1.0)

    def quantile(self, mass: Tensor) -> Tensor:
        span = math.log(self.sigma_max / self.sigma_min)
        return (self.sigma_min * torch.exp(mass.double() * span)).clamp(self.sigma_min, self.sigma_max)

    def widen(self, lower: float, upper: float, overlap: float) -> tuple[float, float]:
        return _widen_log(self, lower, upper, overlap)


@dataclass(frozen=True)
class Tabulated(NoiseLaw):
    """A law given by its cumulative distribution at some levels, linear in ln sigma between them.

    Args:
        levels: ascending noise levels above 0.
        mass: the mass below each, ascending from 0 to 1.
    """

    levels: tuple[float, ...]
    mass: tuple[float, ...]

    def __post_init__(self) -> None:
        check_fields(self)
        _check_sigma_range(min(self.levels, default=0.0), max(self.levels, default=0.0))
        for name, values in (("levels", self.levels), ("mass", self.mass)):
            if not all(a < b for a, b in pairwise(values)):
                raise ValueError(f"{name}={shown(values)} do not ascend; give strictly ascending numbers")
        if len(self.levels) != len(self.mass) or (self.mass[0], self.mass[-1]) != (0.0, 1.0):
            raise ValueError(
                f"mass={shown(self.mass)} at {len(self.levels)} levels; give one number per level, from 0.0 to 1.0"
            )

    @property
    def low(self) -> float:
        return self.levels[0]

    @property
    def high(self) -> float:
        return self.levels[-1]

    def cdf(self, level: Tensor) -> Tensor:
        logs, mass = self._table(level.device)
        return _interpolate(level.double().log(), logs, mass)

    def quantile(self, mass: Tensor) -> Tensor:
        logs, known = self._table(mass.device)
        return _interpolate(mass.double(), known, logs).exp().clamp(self.low, self.high)

    def widen(self, lower: float, upper: float, overlap: float) -> tuple[float, float]:
        return _widen_log(self, lower, upper, overlap)

    def _table(self, device: torch.device) -> tuple[Tensor, Tensor]:
        levels, mass = (torch.tensor(values, dtype=torch.float64) for values in (self.levels, self.mass))
        return levels.log().to(device), mass.to(device)


def _interpolate(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """The piecewise linear function through (xs, ys), xs ascending, constant outside."""
    xs, ys = xs.to(x.device), ys.to(x.device)
    right = torch.searchsorted(xs, x).clamp(1, len(xs) - 1)
    left = right - 1
    part = ((x - xs[left]) / (xs[right] - xs[left])).clamp(0.0, 1.0)
    return ys[left] + part * (ys[right] - ys[left])


@dataclass(frozen=True)
class _MaskSchedule(NoiseLaw):
    """Levels are times ``t`` in [0, 1]; the mass below ``t`` is the masked fraction ``1 - alpha(t)``.

    Bands of equal mass are then the equal decrements of alpha of DiffusionBlocks, Appendix D.
    """

    @property
    def low(self) -> float:
        return 0.0

    @property
    def high(self) -> float:
        return 1.0

    def widen(self, lower: float, upper: float, overlap: float) -> tuple[float, float]:
        margin = overlap * (upper - lower)
        return max(0.0, lower - margin), min(1.0, upper + margin)


@dataclass(frozen=True)
class LinearMask(_MaskSchedule):
    """``alpha(t) = 1 - t`` (MD4, https://arxiv.org/abs/2406.04329, Table 4)."""

    def cdf(self, level: Tensor) -> Tensor:
        return level.double().clamp(0.0, 1.0)

    def quantile(self, mass: Tensor) -> Tensor:
        return mass.double().clamp(0.0, 1.0)


@dataclass(frozen=True)
class CosineMask(_MaskSchedule):
    """``alpha(t) = 1 - cos(pi/2 (1 - t))`` (MD4, https://arxiv.org/abs/2406.04329, Table 4)."""

    def cdf(self, level: Tensor) -> Tensor:
        return torch.cos(0.5 * math.pi * (1.0 - level.double())).clamp(0.0, 1.0)

    def quantile(self, mass: Tensor) -> Tensor:
        return (1.0 - torch.acos(mass.double().clamp(0.0, 1.0)) * 2.0 / math.pi).clamp(0.0, 1.0)


LawValue = str | float | Sequence[float]
LAWS: dict[str, type[LogNormal | LogUniform | Tabulated | LinearMask | CosineMask]] = {
    "log-normal": LogNormal,
    "log-uniform": LogUniform,
    "tabulated": Tabulated,
    "linear-mask": LinearMask,
    "cosine-mask": CosineMask,
}


def law_to_dict(law: NoiseLaw) -> dict[str, LawValue]:
    """Plain values that ``law_from_dict`` turns back into an equal law."""
    for name, kind in LAWS.items():
        if type(law) is kind:
            # lists, not tuples: what a file gives back, so that plans stay equal
            return {"law": name, **{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(law).items()}}
    raise ValueError(f"noise law {type(law).__name__} has no name in a plan; use one of {', '.join(LAWS)}")


def law_from_dict(values: Mapping[str, LawValue]) -> NoiseLaw:
    """Inverse of ``law_to_dict``; an unknown law or setting is a ``ValueError``."""
    settings = dict(values)
    name = settings.pop("law", None)
    if not isinstance(name, str) or name not in LAWS:
        raise ValueError(f"noise law {shown(name)} is unknown; use one of {', '.join(LAWS)}")
    kind = LAWS[name]
    allowed = set(kind.__dataclass_fields__)
    if set(settings) != allowed:
        raise ValueError(f"noise law {name!r} has settings {sorted(settings)}; it needs exactly {sorted(allowed)}")
    return cast(Callable[..., NoiseLaw], kind)(**{key: _plain(key, value) for key, value in settings.items()})


def _plain(key: str, value: LawValue) -> float | tuple[float, ...]:
    numbers = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < math.inf for v in numbers):
        raise ValueError(f"{key}={shown(value)} of a noise law is not allowed; use finite numbers")
    found = tuple(float(cast(float, v)) for v in numbers)
    return found if numbers is value else found[0]


def _check_sigma_range(sigma_min: float, sigma_max: float) -> None:
    if not (0.0 < sigma_min < sigma_max < math.inf and sigma_max / sigma_min < math.inf):
        raise ValueError(
            f"sigma_min={sigma_min}, sigma_max={sigma_max} is not a range; use finite 0 < sigma_min < sigma_max"
        )


def _widen_log(law: NoiseLaw, lower: float, upper: float, overlap: float) -> tuple[float, float]:
    """Grow by the factor ``(upper / lower)^overlap`` on both sides (DiffusionBlocks, Section 3.3)."""
    ratio = (upper / lower) ** overlap
    return max(law.low, lower / ratio), min(law.high, upper * ratio)
