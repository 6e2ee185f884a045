"""Plans whose networks carry states: what they hold, and what they make of it."""

from __future__ import annotations

from typing import Literal, cast

from torch import nn

from oneblock.backbone import BuildBackbone
from oneblock.plan import Plain, Plan
from oneblock.presets.base import training_bands
from oneblock.relay import RelayAdapter
from oneblock.sample.policy import Policy, PolicyName, policy_of
from oneblock.tasks.masked import MaskedText
from oneblock.tasks.relay import RelayLoss, RelayText

RelayKind = Literal["mlm", "rollout", "relay-sg", "relay"]
"""Masked text is learned from texts that are masked at random (mlm), from rollouts, or from rollouts whose calls hand
hidden tokens on, without gradients through these (relay-sg) or with them (relay)."""
RELAY, RELAY_CALLS, POLICY, POLICY_AT = "relay", "relay_calls", "policy", "policy_at"
"""Keys of a plan's recipe; a plan without them is of kind ``"mlm"``."""
CARRY, CARRY_FROM = "carry", "carry_from"
"""The same for images; a plan without ``carry`` hands nothing on."""


def relay_settings(kind: RelayKind, calls: int, policy: PolicyName, at: float) -> dict[str, Plain]:
    """What a plan for masked text says of its rollouts; nothing of those that have none."""
    number = policy_of(policy, at).number
    return {} if kind == "mlm" else {RELAY: kind, RELAY_CALLS: calls, POLICY: policy, POLICY_AT: float(number)}


def plan_policy(plan: Plan) -> Policy:
    """What a plan for masked text reveals after a call; the usual policy where it has no rollouts."""
    return policy_of(
        cast(PolicyName, plan.recipe.get(POLICY, "uncertainty")), cast(float, plan.recipe.get(POLICY_AT, 0.0))
    )


def hands_on(plan: Plan) -> bool:
    """Whether the calls of a plan's denoiser hand states on."""
    return plan.recipe.get(RELAY) in ("relay", "relay-sg") or bool(plan.recipe.get(CARRY))


def relay_text(plan: Plan, task: MaskedText) -> MaskedText | RelayText:
    """The task that a plan for masked text trains on."""
    kind = plan.recipe.get(RELAY, "mlm")
    if kind == "mlm":
        return task
    loss = RelayLoss(
        mask=task.mask,
        law=task.law,
        policy=plan_policy(plan),
        calls=cast(int, plan.recipe[RELAY_CALLS]),
        carry=kind != "rollout",
        detach=kind == "relay-sg",
    )
    return RelayText(task, loss, training_bands(plan))


def with_relay(plan: Plan, build: BuildBackbone, own: BuildBackbone | None) -> BuildBackbone:
    """``build`` with a way for states, if the plan's network has one.

    Of masked text a network that starts from nothing has it open, at all places; the user's ``own``, which may have
    been trained, has it shut, at masked places. Of images it starts shut, with a linear map.
    """
    if not hands_on(plan):
        return build
    width = getattr(own, "width", 0)
    if plan.task == "image":
        return lambda layers: RelayAdapter(build(layers), inject="all", width=width, linear=True)
    mask_id = cast(int, plan.architecture["vocabulary"])

    def built(layers: range) -> nn.Module:
        if own is None:
            return RelayAdapter(build(layers), inject="all", zero_init=False)
        return RelayAdapter(build(layers), mask_id=mask_id, width=width)

    return built
