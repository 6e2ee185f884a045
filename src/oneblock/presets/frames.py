"""The schedule that a pretrained network keeps: what a plan says of it, and the noise law inside of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import cast

from oneblock.checks import shown
from oneblock.convert.from_diffusers import LATENT_STD
from oneblock.noise import LogNormal
from oneblock.partition import Bands
from oneblock.plan import Plain, Plan
from oneblock.schedule import BetaSchedule, Parametrisation, Prediction, frame_from_dict

EDM_NAME = "edm"


@dataclass(frozen=True, kw_only=True)
class FrameSettings:
    """Keys of a recipe that say which ``frame`` a network keeps (``schedule.frame_to_dict``); none where it has EDM's
    preconditioning and is trained with it from its start.

    Args:
        target_scale: the network was trained on targets divided by it.
    """

    frame: str | None = None
    prediction_type: Prediction | None = None
    beta_schedule: BetaSchedule | None = None
    beta_start: float | None = None
    beta_end: float | None = None
    num_train_timesteps: int | None = None
    shift: float | None = None
    sigma_min: float | None = None
    sigma_max: float | None = None
    target_scale: float | None = None


def frame_values(plan: Plan) -> dict[str, Plain]:
    """The frame of a plan as ``schedule.frame_to_dict`` writes it; empty where its network has EDM's preconditioning
    and is told ``ln(sigma) / 4``."""
    if "frame" not in plan.recipe:
        return {}
    found = {field.name: plan.recipe[field.name] for field in fields(FrameSettings) if field.name in plan.recipe}
    if found.get("frame") == EDM_NAME:
        found["sigma_data"] = plan.sigma_data
    return found


def kept_frame(values: Mapping[str, Plain], autoencoder: str) -> dict[str, Plain]:
    """What a plan says of the frame of a network, from the network's own. Latents of an ``autoencoder`` are smaller
    here than where diffusers trains on them."""
    return {**({"target_scale": LATENT_STD} if values and autoencoder else {}), **values}


def recipe_values(values: Mapping[str, Plain], asked: float, usual: float) -> tuple[dict[str, Plain], float]:
    """What a recipe holds of a frame, and the ``sigma_data`` of its plan, which a frame of EDM brings along.

    Args:
        asked, usual: the recipe's ``sigma_data``, and its default.

    Raises:
        ValueError: another one is asked for than the network was trained with.
    """
    kept = dict(values)
    known = cast(float, kept.pop("sigma_data", usual))
    if values and asked not in (usual, known):
        reason = f"was trained with {known}" if "sigma_data" in values else "keeps a frame without it"
        raise ValueError(f"sigma_data={asked} does not fit the network, which {reason}; leave it out")
    return kept, known if values else asked


def cut_law(law: LogNormal, low: float, high: float, whose: str) -> LogNormal:
    """``law`` where its levels are within ``[low, high]``, those of ``whose``; the same law if all are.

    Raises:
        ValueError: none are.
    """
    lower, upper = max(law.low, low), min(law.high, high)
    if lower >= upper:
        raise ValueError(
            f"mismatched schedule: {whose} has noise levels from {low:g} to {high:g}, and the noise law has others, "
            f"from {law.low:g} to {law.high:g}; use a network that knows some of them"
        )
    return replace(law, sigma_min=lower, sigma_max=upper)


def check_cuts(bands: Bands | Sequence[float], frame: Parametrisation, law: LogNormal) -> None:
    """Refuse levels to cut at that a network's schedule does not have."""
    for cut in () if isinstance(bands, str) else bands:
        if not law.low < cut < law.high:
            raise ValueError(
                f"mismatched schedule: bands={shown(bands)} cuts at {cut:g}, but the network's schedule has noise "
                f"levels from {frame.low:g} to {frame.high:g}, and the noise law from {law.low:g} to {law.high:g}; use "
                "levels in both"
            )


def check_frame(plan: Plan) -> None:
    """Refuse a plan whose frame is none, or whose noise law has levels that the frame's schedule does not have."""
    values = frame_values(plan)
    if not values:
        return
    frame, law = frame_from_dict(values), plan.partition.law
    if law.low < frame.low or law.high > frame.high:
        raise ValueError(
            f"mismatched schedule: noise goes from {law.low:g} to {law.high:g}, but the schedule of recipe.frame from "
            f"{frame.low:g} to {frame.high:g}; use a law inside of it"
        )
