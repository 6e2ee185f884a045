"""What the network of a generator predicts, and the noise law that belongs to it; the same for images and video.

A flow has a time t, of which the noise level is ``t / (1 - t)`` (``schedule.FlowMatching``). Its law is that of a
logit-normal time, so bands are cut where the time has equal mass.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, cast

from oneblock.checks import check_number
from oneblock.noise import LogNormal
from oneblock.plan import Plain, Plan
from oneblock.precondition import Precondition
from oneblock.schedule import FlowMatching, FlowPrediction, logit_normal

Objective = Literal["edm", "flow", "x", "meanflow"]
MEANFLOW = "meanflow"
PREDICTS: dict[str, FlowPrediction] = {"flow": "velocity", "x": "sample", MEANFLOW: "velocity"}
"""Objectives that are trained in the time of a flow -> what their networks predict."""
FLOW_SPAN = 4.0
"""What the noise conditioning of a flow, its time, is made to span: about as much as that of EDM."""
FLOW_SCALE = FLOW_SPAN / FlowMatching.num_train_timesteps
"""What a network multiplies the time by that it is told."""


@dataclass(frozen=True, kw_only=True)
class FlowTime:
    """Fields of a recipe: which times of a flow are trained."""

    shift: float = 1.0
    """of the flow's time: above 1 for more noise, as large frames need"""
    time_mean: float = 0.0
    """mean of the logit of the flow's time"""
    time_std: float = 1.0
    """its spread"""

    def check_time(self) -> None:
        """Refuse times that there are not, with a ``ValueError``."""
        for name in ("shift", "time_std"):
            check_number(name, getattr(self, name), above=0)
        check_number("time_mean", self.time_mean)

    def law(self, objective: str) -> LogNormal:
        """The noise law of an objective: that of the time where it is a flow's, else EDM's."""
        return logit_normal(self.time_mean, self.time_std, self.shift) if objective in PREDICTS else LogNormal()

    def refuse_time(self, objective: str) -> None:
        """Refuse settings of a flow beside an objective that has none, with a ``ValueError``."""
        if objective in PREDICTS:
            return
        for field in fields(FlowTime):
            value = getattr(self, field.name)
            if value != field.default:
                raise ValueError(
                    f"{field.name}={value} goes with an objective of a flow ({', '.join(PREDICTS)}), not with "
                    f"objective={objective!r}; leave it out"
                )


def objective_settings(objective: str, shift: float) -> dict[str, Plain]:
    """What a plan for images says of its objective; nothing of EDM's."""
    return {"objective": objective, "shift": shift} if objective in PREDICTS else {}


def check_objective(plan: Plan, noise_scale: float | None, jumps: bool) -> None:
    """Refuse a plan for images whose objective does not fit the rest of it, with a ``ValueError``.

    Args:
        noise_scale: of the plan's network; None of one of the user's own.
        jumps: whether the network is told where a step ends.
    """
    recipe = plan.recipe
    if jumps != (recipe.get("objective") == MEANFLOW):
        raise ValueError(f"architecture.jumps={jumps} does not go with recipe.objective={recipe.get('objective')!r}")
    if "objective" not in recipe:
        return
    _check_meanflow(plan)
    objective = recipe["objective"]
    if objective in PREDICTS and "frame" in recipe:
        raise ValueError(f"recipe.objective={objective!r} does not go with recipe.frame={recipe['frame']!r}")
    if (objective in PREDICTS) != ("shift" in recipe):
        raise ValueError(f"recipe.shift goes with an objective of a flow, and with recipe.objective={objective!r} not")
    usual = FLOW_SCALE if objective in PREDICTS else 1.0
    if noise_scale not in (None, usual):
        raise ValueError(f"architecture.noise_scale={noise_scale}, but recipe.objective={objective!r} needs {usual}")


def _check_meanflow(plan: Plan) -> None:
    """Refuse what a task with a target of its own cannot be joined with."""
    recipe = plan.recipe
    if recipe["objective"] != MEANFLOW:
        return
    others = [key for key in ("carry", "align", "teacher") if recipe.get(key)]
    others += ["update='evolution'"] if recipe.get("update") == "evolution" else []
    if others:
        raise ValueError(f"objective='meanflow' does not go with {', '.join(others)}; leave it out, or use flow")


def flow_shift(plan: Plan) -> float | None:
    """By how much the time of a plan's flow is shifted; None where its network is not trained in that of a flow."""
    return cast(float, plan.recipe["shift"]) if plan.recipe.get("objective") in PREDICTS else None


def objective_frame(plan: Plan) -> FlowMatching | Precondition:
    """What the blocks of a plan are shown of noisy targets, which also gives the weight of the loss; a plan without an
    objective has EDM's."""
    objective = plan.recipe.get("objective", "edm")
    if objective in PREDICTS:
        return FlowMatching(cast(float, plan.recipe["shift"]), prediction_type=PREDICTS[objective])
    return plan.precondition
