"""The frame of a pretrained network, from the settings of the scheduler that diffusers keeps beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from oneblock.checks import shown
from oneblock.precondition import Precondition
from oneblock.schedule import EDM, DiscreteBetas, FlowMatching, Parametrisation, VariancePreserving


def as_frame(scheduler: object) -> Parametrisation:
    """The frame of a network that was trained with ``scheduler``.

    Args:
        scheduler: one of diffusers, as it is or as the values of its ``scheduler_config.json``; a frame is itself.

    Raises:
        ValueError: as ``frame_of``, or it is none of these.
    """
    if isinstance(scheduler, Parametrisation):
        return scheduler
    if isinstance(scheduler, Mapping):
        if "_class_name" not in scheduler:
            raise ValueError(
                "scheduler has settings without the name of their class (_class_name); give the scheduler itself, or "
                "the values of its scheduler_config.json"
            )
        return frame_of(scheduler)
    config = getattr(scheduler, "config", None)
    if not isinstance(config, Mapping):
        raise ValueError(
            f"scheduler={shown(scheduler)} is not a scheduler of diffusers; give one, or the values of its "
            "scheduler_config.json"
        )
    return frame_of({**config, "_class_name": type(scheduler).__name__})


def frame_of(scheduler_config: Mapping[str, Any]) -> Parametrisation:
    """The frame of a network that was trained with a scheduler of the diffusers library.

    Settings that only say how to sample (spacing, solver, clipping, Karras's levels) are not read, nor are those that
    the scheduler does not have. A setting that is missing has the value that diffusers gives it.

    Args:
        scheduler_config: the values of ``scheduler_config.json``.

    Raises:
        ValueError: the scheduler has no frame here; names what was found and what is allowed.
    """
    name = scheduler_config.get("_class_name")
    if not isinstance(name, str) or name not in _READERS:
        raise ValueError(
            f"_class_name={shown(name)} is not a scheduler with a known schedule; use one of {', '.join(_READERS)}, "
            "which diffusers makes of its relatives by from_config"
        )
    return _READERS[name](scheduler_config)


def _variance_preserving(config: Mapping[str, Any]) -> Parametrisation:
    _require(config, "trained_betas", None, "the betas must follow from beta_schedule, beta_start and beta_end")
    _require(config, "rescale_betas_zero_snr", False, "the last step is then pure noise, where sigma is infinite")
    _require(config, "timestep_type", "discrete", "the network would be told ln(sigma) / 4 instead of a step")
    return VariancePreserving(
        DiscreteBetas(**_named(config, "beta_schedule", "beta_start", "beta_end", "num_train_timesteps")),
        **_named(config, "prediction_type"),
    )


def _dpm_solver(config: Mapping[str, Any]) -> Parametrisation:
    if config.get("use_flow_sigmas", False):
        told = {"prediction_type": "epsilon", **config}
        _require(told, "prediction_type", "flow_prediction", "with use_flow_sigmas the network predicts a velocity")
        return _flow({**config, "shift": config.get("flow_shift", FlowMatching.shift)})
    return _variance_preserving(config)


def _flow(config: Mapping[str, Any]) -> Parametrisation:
    reason = "each size of image then has its own shift (for one size, make a FlowMatching with its shift)"
    _require(config, "use_dynamic_shifting", False, reason)
    _require(config, "invert_sigmas", False, "the network would be told 1 - t instead of t")
    return FlowMatching(**_named(config, "shift", "num_train_timesteps"))


def _edm(config: Mapping[str, Any]) -> Parametrisation:
    _require(config, "prediction_type", "epsilon", "the network would answer with the opposite sign")
    return EDM(Precondition(**_named(config, "sigma_data")), **_named(config, "sigma_min", "sigma_max"))


_READERS: dict[str, Callable[[Mapping[str, Any]], Parametrisation]] = {
    "DDPMScheduler": _variance_preserving,
    "DDIMScheduler": _variance_preserving,
    "EulerDiscreteScheduler": _variance_preserving,
    "DPMSolverMultistepScheduler": _dpm_solver,
    "FlowMatchEulerDiscreteScheduler": _flow,
    "EDMEulerScheduler": _edm,
}


def _named(config: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Of these settings those that are there."""
    return {name: config[name] for name in names if name in config}


def _require(config: Mapping[str, Any], name: str, allowed: object, reason: str) -> None:
    """Refuse a setting that has another value than the one ``allowed``; a missing one has it."""
    found = config.get(name, allowed)
    if type(found) is not type(allowed) or found != allowed:
        raise ValueError(
            f"{name}={shown(found)} of {config['_class_name']} is not allowed, as {reason}; use {allowed!r}"
        )
