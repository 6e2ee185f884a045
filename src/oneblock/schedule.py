"""The schedules and parametrisations of pretrained diffusion networks, as frames on ``z = y + sigma eps``.

A pretrained network saw ``x_t = a_t y + s_t eps`` at a time t. Divided by a_t this is ``z = x_t / a_t`` at the level
``sigma = s_t / a_t`` (Karras et al., Section 2, https://arxiv.org/abs/2206.00364). So the network keeps its input, its
time and its target, and the denoiser around it is exact:

    D(z, sigma) = c_skip z + c_out F(c_in z, time)        (Karras et al., Equation 7)

With ``r = sqrt(1 + sigma^2)``:

| F predicts | c_in | c_skip | c_out |
|---|---|---|---|
| ``eps`` of a variance-preserving ``x_t`` | ``1 / r`` | 1 | ``-sigma`` |
| ``v = a_t eps - s_t y`` of the same | ``1 / r`` | ``1 / r^2`` | ``-sigma / r`` |
| ``y`` of the same | ``1 / r`` | 0 | 1 |
| the velocity ``eps - y`` of ``x_t = (1 - t) y + t eps`` | ``1 / (1 + sigma)`` | as c_in | ``-sigma / (1 + sigma)`` |
| ``y`` of the same | ``1 / (1 + sigma)`` | 0 | 1 |
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import accumulate, pairwise
from operator import mul
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from oneblock.checks import MANY, check_choice, check_count, check_fields, check_number, shown
from oneblock.noise import LogNormal
from oneblock.precondition import Precondition, Scaling

BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
Prediction = Literal["epsilon", "v_prediction", "sample"]
FlowPrediction = Literal["velocity", "sample"]
LARGEST = 1e12
"""No table may have a level above this; long before it, z in float32 holds nothing of y."""
SHORTEST_TIME = 0.05
"""Below it the loss of a flow's predicted target grows no more."""


class Parametrisation(Scaling):
    """Scalings with the noise levels that their network was trained on."""

    @property
    @abstractmethod
    def low(self) -> float:
        """The smallest level of the schedule, above 0."""

    @property
    @abstractmethod
    def high(self) -> float:
        """The largest finite level of the schedule."""

    @abstractmethod
    def level(self, noise: Tensor) -> Tensor:
        """The ``sigma`` of what the network is told (any shape): the inverse of ``noise``."""

    def weight(self, sigma: Tensor) -> Tensor:
        """``1 / c_out^2``: with it the squared error of D is the unweighted squared error of what the network predicts.

        The target of F is ``(y - c_skip z) / c_out``, so ``D - y = c_out (F - target)`` (Karras et al., Equation 8).
        For eps this is ``1 / sigma^2`` (Ho et al., Equation 14, https://arxiv.org/abs/2006.11239), for v
        ``1 + 1 / sigma^2`` ("SNR+1", Salimans and Ho, Section 4, https://arxiv.org/abs/2202.00512), for y it is 1, and
        for a flow's velocity ``(1 + 1 / sigma)^2``.
        """
        return 1.0 / self.c_out(sigma) ** 2


@dataclass(frozen=True)
class DiscreteBetas:
    """The variances ``beta_i`` of a chain of ``num_steps`` (Ho et al., Section 2, https://arxiv.org/abs/2006.11239).

    With ``abar_i`` the product of ``1 - beta`` up to step i (Ho et al., Equation 4), ``a_i = sqrt(abar_i)``,
    ``s_i = sqrt(1 - abar_i)`` and ``sigma_i = sqrt(1 / abar_i - 1)``.
    """

    beta_schedule: BetaSchedule = "linear"
    """`linear`: betas in equal steps (Ho et al.). `scaled_linear`: their square roots are (latent diffusion).
    `squaredcos_cap_v2`: abar is a squared cosine (Nichol and Dhariwal, Equation 17), whatever the first and the last
    beta are."""
    beta_start: float = 0.0001
    beta_end: float = 0.02
    num_train_timesteps: int = 1000

    def __post_init__(self) -> None:
        check_fields(self)
        check_number("beta_start", self.beta_start, above=0.0, below=1.0)
        check_number("beta_end", self.beta_end, least=self.beta_start, below=1.0)
        check_count("num_train_timesteps", self.num_train_timesteps, 2, MANY)

    def betas(self) -> list[float]:
        """One number in (0, 1) a step, that of the quietest step first."""
        n = self.num_train_timesteps
        if self.beta_schedule == "squaredcos_cap_v2":
            return [min(1.0 - _cosine((i + 1) / n) / _cosine(i / n), 0.999) for i in range(n)]
        power = 0.5 if self.beta_schedule == "scaled_linear" else 1.0
        first, last = self.beta_start**power, self.beta_end**power
        return [(first + (last - first) * i / (n - 1)) ** (1.0 / power) for i in range(n)]

    def sigmas(self) -> list[float]:
        """One noise level a step, strictly ascending.

        Raises:
            ValueError: the betas are so small that a step adds nothing, or so large that nothing of y is left.
        """
        kept = list(accumulate((1.0 - beta for beta in self.betas()), mul))
        levels = [math.sqrt((1.0 - abar) / abar) if abar > 0 else math.inf for abar in kept]
        if not (levels[-1] < LARGEST and all(a < b for a, b in pairwise([0.0, *levels]))):
            raise ValueError(
                f"{self} has noise levels from {levels[0]:g} to {levels[-1]:g}; use betas and a number of steps with "
                f"levels that ascend, above 0 and below {LARGEST:g}"
            )
        return levels


def _cosine(time: float) -> float:
    """``f(t)`` for t in [0, 1] (Nichol and Dhariwal, Equation 17, https://arxiv.org/abs/2102.09672)."""
    return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2


class VariancePreserving(Parametrisation, nn.Module):
    """``x_t = a_t y + s_t eps`` with ``a_t^2 + s_t^2 = 1`` (Ho et al., Equation 4, https://arxiv.org/abs/2006.11239).

    The network is told the step t, 0 at the least noise, as a number: between the steps of the table t is linear in
    ln sigma. A level beyond the table is a ``ValueError`` on the CPU. Elsewhere, and in a compiled step, where a look
    at it would wait, what the network is told is NaN.

    Args:
        betas: the chain.
        prediction_type: `epsilon`: ``D = (x_t - s eps) / a = z - sigma eps`` (Ho et al., Equation 15). `v_prediction`:
            ``v = a eps - s y``, ``D = a x_t - s v`` (Salimans and Ho, Section 4, https://arxiv.org/abs/2202.00512).
            `sample`: y itself.
    """

    bits: Tensor

    def __init__(self, betas: DiscreteBetas, prediction_type: Prediction = "epsilon") -> None:
        super().__init__()
        check_choice("prediction_type", prediction_type, get_args(Prediction))
        self.betas = betas
        self.prediction_type = prediction_type
        sigmas = betas.sigmas()
        self._ends = sigmas[0], sigmas[-1]
        # as whole numbers: a network that is cast to half precision must not take its table along
        self.register_buffer("bits", torch.tensor(sigmas, dtype=torch.float64).view(torch.int64), persistent=False)

    @property
    def low(self) -> float:
        return self._ends[0]

    @property
    def high(self) -> float:
        return self._ends[1]

    @property
    def sigmas(self) -> Tensor:
        """The table: the level of each step (num_train_timesteps,), float64, ascending."""
        return self.bits.view(torch.float64)

    def c_in(self, sigma: Tensor) -> Tensor:
        return 1.0 / (1.0 + sigma**2).sqrt()

    def c_skip(self, sigma: Tensor) -> Tensor:
        if self.prediction_type == "v_prediction":
            return 1.0 / (1.0 + sigma**2)
        return torch.full_like(sigma, float(self.prediction_type == "epsilon"))

    def c_out(self, sigma: Tensor) -> Tensor:
        if self.prediction_type == "v_prediction":
            return -sigma / (1.0 + sigma**2).sqrt()
        return -sigma if self.prediction_type == "epsilon" else torch.ones_like(sigma)

    def noise(self, sigma: Tensor) -> Tensor:
        table = self.sigmas
        s = _inside("sigma", sigma, self.low, self.high, "draw levels from a noise law that is cut to this range")
        right = torch.searchsorted(table, s).clamp(1, len(table) - 1)
        left = right - 1
        time = left + (s / table[left]).log() / (table[right] / table[left]).log()
        nearest = torch.where(time - left < 0.5, left, right)
        at_step = table[nearest].to(sigma.dtype) == sigma  # a step's level, rounded to float32, is still that step
        return torch.where(at_step, nearest, time).to(sigma.dtype)

    def level(self, noise: Tensor) -> Tensor:
        table = self.sigmas
        time = _inside("noise", noise, 0, len(table) - 1, "give a step of the schedule or a number between two")
        left = time.nan_to_num().floor().long()
        right = (left + 1).clamp(max=len(table) - 1)
        sigma = table[left] * (table[right] / table[left]) ** (time - left)
        return sigma.to((1.0 * noise).dtype)

    def extra_repr(self) -> str:
        return f"{self.betas}, {self.prediction_type!r}"


@dataclass(frozen=True)
class FlowMatching(Parametrisation):
    """``x_t = (1 - t) y + t eps``: the network predicts the velocity ``eps - y``, or y itself, and is told ``1000 t``
    when ``num_train_timesteps`` is 1000.

    The straight path of Lipman et al. (Equations 22 and 23, https://arxiv.org/abs/2210.02747) with y and eps at the
    ends where Esser et al. have them (Equation 13, https://arxiv.org/abs/2403.03206): ``sigma = t / (1 - t)`` and
    ``D = x_t - t velocity``. Every t between 0 and 1 has a level. The schedule says which are usual: those of
    ``t = i / num_train_timesteps``, shifted. Its last step is pure noise, of infinite sigma; ``high`` is the level
    of the step before.

    A prediction of y is a velocity ``(x_t - D) / t``, and its loss is that of this velocity: the squared error of D
    times ``1 / max(t, SHORTEST_TIME)^2`` (Li and He, https://arxiv.org/abs/2511.13720, who clip the same
    denominator). Below that time it is smaller than the error of the velocity, by ``(t / SHORTEST_TIME)^2``; above it
    both predictions have the same loss.
    """

    shift: float = 1.0
    """The time t of a schedule becomes `shift t / (1 + (shift - 1) t)` (Esser et al., Equation 23), so that every sigma
    is multiplied by the shift."""
    num_train_timesteps: int = DiscreteBetas.num_train_timesteps
    prediction_type: FlowPrediction = "velocity"
    """`velocity`: that of the path. `sample`: y itself."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_number("shift", self.shift, above=0.0)
        check_count("num_train_timesteps", self.num_train_timesteps, 3, MANY)

    @property
    def low(self) -> float:
        return self.shift / (self.num_train_timesteps - 1)

    @property
    def high(self) -> float:
        return self.shift * (self.num_train_timesteps - 1)

    def c_in(self, sigma: Tensor) -> Tensor:
        return 1.0 / (1.0 + sigma)

    def c_skip(self, sigma: Tensor) -> Tensor:
        return torch.zeros_like(sigma) if self.prediction_type == "sample" else 1.0 / (1.0 + sigma)

    def c_out(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma) if self.prediction_type == "sample" else -sigma / (1.0 + sigma)

    def weight(self, sigma: Tensor) -> Tensor:
        if self.prediction_type == "velocity":
            return super().weight(sigma)
        return 1.0 / (sigma / (1.0 + sigma)).clamp(min=SHORTEST_TIME) ** 2

    def noise(self, sigma: Tensor) -> Tensor:
        return self.num_train_timesteps * sigma / (1.0 + sigma)

    def level(self, noise: Tensor) -> Tensor:
        """``t / (1 - t)``; infinite at pure noise."""
        n = self.num_train_timesteps
        told = _inside("noise", noise, 0.0, n, "give a time between the target and pure noise")
        return (told / (n - told)).to((1.0 * noise).dtype)


def logit_normal(
    mean: float = 0.0,
    std: float = 1.0,
    shift: float = FlowMatching.shift,
    steps: int = DiscreteBetas.num_train_timesteps,
) -> LogNormal:
    """The law of sigma where the time of a flow is logit-normal: ``t = sigmoid(n)``, n normal, then shifted.

    As ``sigma = t / (1 - t)``, ``ln sigma = logit t`` is n itself (Esser et al., Equation 19,
    https://arxiv.org/abs/2403.03206), and the shift is added to it as ``ln shift``.

    Args:
        mean, std: of n.
        shift, steps: as of ``FlowMatching``; the law ends at its usual levels.
    """
    check_number("std", std, above=0.0)
    flow = FlowMatching(shift, steps)
    return LogNormal(mean + math.log(shift), std, flow.low, flow.high)


@dataclass(frozen=True)
class EDM(Parametrisation):
    """EDM's preconditioning as it is, with the range of its sampler's schedule (Karras et al., Table 1)."""

    precondition: Precondition
    sigma_min: float = LogNormal.sigma_min
    sigma_max: float = LogNormal.sigma_max

    def __post_init__(self) -> None:
        check_number("sigma_min", self.sigma_min, above=0.0)
        check_number("sigma_max", self.sigma_max, above=self.sigma_min)

    @property
    def low(self) -> float:
        return self.sigma_min

    @property
    def high(self) -> float:
        return self.sigma_max

    def c_in(self, sigma: Tensor) -> Tensor:
        return self.precondition.c_in(sigma)

    def c_skip(self, sigma: Tensor) -> Tensor:
        return self.precondition.c_skip(sigma)

    def c_out(self, sigma: Tensor) -> Tensor:
        return self.precondition.c_out(sigma)

    def noise(self, sigma: Tensor) -> Tensor:
        return self.precondition.c_noise(sigma)

    def level(self, noise: Tensor) -> Tensor:
        """``exp(4 noise)``."""
        return (4.0 * noise).exp()


@dataclass(frozen=True)
class Scaled(Parametrisation):
    """The frame of a network that was trained on ``y / scale``: ``D(z, sigma) = scale D'(z / scale, sigma / scale)``.

    Args:
        frame: that of the network, ``D'``.
        scale: of our targets in units of the network's.
    """

    frame: Parametrisation
    scale: float

    def __post_init__(self) -> None:
        check_number("scale", self.scale, above=0.0)

    @property
    def low(self) -> float:
        return self.scale * self.frame.low

    @property
    def high(self) -> float:
        return self.scale * self.frame.high

    def c_in(self, sigma: Tensor) -> Tensor:
        return self.frame.c_in(sigma / self.scale) / self.scale

    def c_skip(self, sigma: Tensor) -> Tensor:
        return self.frame.c_skip(sigma / self.scale)

    def c_out(self, sigma: Tensor) -> Tensor:
        return self.scale * self.frame.c_out(sigma / self.scale)

    def noise(self, sigma: Tensor) -> Tensor:
        return self.frame.noise(sigma / self.scale)

    def level(self, noise: Tensor) -> Tensor:
        return self.scale * self.frame.level(noise)


FrameValue = str | int | float


def frame_to_dict(frame: Parametrisation) -> dict[str, FrameValue]:
    """Plain values that ``frame_from_dict`` turns back into the same frame."""
    if isinstance(frame, Scaled):
        return {**frame_to_dict(frame.frame), "target_scale": frame.scale}
    if isinstance(frame, VariancePreserving):
        return {"frame": "variance-preserving", "prediction_type": frame.prediction_type, **asdict(frame.betas)}
    if isinstance(frame, FlowMatching):
        values = {"frame": "flow-matching", **asdict(frame)}
        if frame.prediction_type == FlowMatching.prediction_type:  # plans of earlier versions know no other
            del values["prediction_type"]
        return values
    if isinstance(frame, EDM):
        ends = {"sigma_min": frame.sigma_min, "sigma_max": frame.sigma_max}
        return {"frame": "edm", "sigma_data": frame.precondition.sigma_data, **ends}
    raise ValueError(f"frame {type(frame).__name__} has no name in a plan; use one of {', '.join(_KEYS)}")


def frame_from_dict(values: Mapping[str, Any]) -> Parametrisation:
    """Inverse of ``frame_to_dict``; an unknown frame or setting is a ``ValueError``."""
    settings = dict(values)
    name, scale = settings.pop("frame", None), settings.pop("target_scale", None)
    if not isinstance(name, str) or name not in _KEYS:
        raise ValueError(f"frame={shown(name)} is unknown; use one of {', '.join(_KEYS)}")
    if set(settings) - _MAY.get(name, set()) != _KEYS[name]:
        raise ValueError(f"frame {name!r} has settings {sorted(settings)}; it needs exactly {sorted(_KEYS[name])}")
    made = _made(name, settings)
    return made if scale is None else Scaled(made, scale)


def _made(name: str, settings: dict[str, Any]) -> Parametrisation:
    if name == "variance-preserving":
        prediction = settings.pop("prediction_type")
        return VariancePreserving(DiscreteBetas(**settings), prediction)
    if name == "flow-matching":
        return FlowMatching(**settings)
    sigma_data = settings.pop("sigma_data")
    check_number("sigma_data", sigma_data, above=0.0)
    return EDM(Precondition(sigma_data), **settings)


_KEYS = {
    "variance-preserving": {"prediction_type", *(field.name for field in fields(DiscreteBetas))},
    "flow-matching": {field.name for field in fields(FlowMatching)} - {"prediction_type"},
    "edm": {"sigma_data", "sigma_min", "sigma_max"},
}
"""What a frame is called in a plan -> the settings beside its name."""
_MAY = {"flow-matching": {"prediction_type"}}
"""Those that it may have besides."""


def _inside(name: str, values: Tensor, low: float, high: float, advice: str) -> Tensor:
    """``values`` as float64, cut to ``[low, high]`` where rounding put them beyond an end, else refused, or NaN."""
    values = 1.0 * values  # steps may be whole numbers
    slack = 4 * torch.finfo(values.dtype).eps
    inside = (values >= low * (1 - slack)) & (values <= high * (1 + slack))
    # the values of a tensor that is compiled, planned without content, or on a GPU are not at hand
    if not torch.compiler.is_compiling() and type(values) is Tensor and values.is_cpu and not bool(inside.all()):
        found = values[~inside].flatten()[0].item()
        raise ValueError(f"{name}={found:g} is outside of the schedule, {low:g} to {high:g}; {advice}")
    return torch.where(inside, values.double().clamp(low, high), math.nan)
