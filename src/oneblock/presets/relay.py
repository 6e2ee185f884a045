"""Plans whose networks carry states: what they hold, and what they make of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, cast

import torch
from torch import nn

from oneblock.backbone import BuildBackbone
from oneblock.plan import Plain, Plan
from oneblock.presets.base import training_bands
from oneblock.relay import RelayAdapter
from oneblock.sample.policy import Policy, PolicyName, policy_of
from oneblock.tasks.base import Earlier, Noised, Task
from oneblock.tasks.carry import WithState
from oneblock.tasks.masked import MaskedText
from oneblock.tasks.relay import RelayLoss, RelayText
from oneblock.train.evolve import UpdateSettings

RelayKind = Literal["mlm", "rollout", "relay-sg", "relay"]
"""Masked text is learned from texts that are masked at random (mlm), from rollouts, or from rollouts whose calls hand
hidden tokens on, without gradients through these (relay-sg) or with them (relay)."""
RELAY, RELAY_CALLS, RELAY_SLOTS, POLICY, POLICY_AT = "relay", "relay_calls", "relay_slots", "policy", "policy_at"
"""Keys of a plan's recipe; a plan without them is of kind ``"mlm"``."""
RELAY_ACROSS = "relay_across"
"""The same; a plan without it has private states."""
CARRY, CARRY_FROM = "carry", "carry_from"
"""The same for images; a plan without ``carry`` hands nothing on."""
CarryFrom = Literal["noisier", "same"]
"""What the pass that gives a training step its state has seen: a noisier version of the noisy images, as in sampling,
or the same (Recurrent Interface Networks)."""


def relay_settings(
    kind: RelayKind, calls: int, slots: int, policy: PolicyName, at: float, across: bool
) -> dict[str, Plain]:
    """What a plan for masked text says of its rollouts; nothing of those that have none."""
    number = policy_of(policy, at).number
    found: dict[str, Plain] = {
        RELAY: kind,
        RELAY_CALLS: calls,
        RELAY_SLOTS: slots,
        POLICY: policy,
        POLICY_AT: float(number),
    }
    return {**({} if kind == "mlm" else found), **({RELAY_ACROSS: True} if across else {})}


def check_across(plan: Plan) -> None:
    """Refuse states that go from block to block where there are none, or where blocks are not trained in order, with a
    ``ValueError``."""
    if not plan.in_order:
        return
    kind, update = plan.recipe.get(RELAY, "mlm"), plan.recipe.get("update", UpdateSettings.update)
    wrong = {
        f"relay={kind!r} (use relay or relay-sg)": kind not in ("relay", "relay-sg"),
        f"blocks={plan.num_blocks} (use 2 or more)": plan.num_blocks < 2,
        f"shared={plan.shared!r} (use private)": plan.shared != "private",
        f"update={update!r} (use backpropagation)": update != "backpropagation",
    }
    found = [what for what, there in wrong.items() if there]
    if found:
        raise ValueError(f"relay_across=True does not go with {', '.join(found)}; change that, or leave it out")


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
    return RelayText(task, loss, training_bands(plan), cast(int, plan.recipe[RELAY_SLOTS]))


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


def carry_settings(share: float, source: CarryFrom) -> dict[str, Plain]:
    """What a plan for images says of its states; nothing where there are none."""
    if not share:
        return {}
    return {CARRY: share, **({CARRY_FROM: source} if source != "noisier" else {})}


def carry_images(plan: Plan, task: Task) -> Task:
    """The task that a plan for images trains on, from that without a state."""
    if not plan.recipe.get(CARRY):
        return task
    uppers = {block: upper for block, (_, upper) in training_bands(plan).items()}
    return WithState(task, cast(float, plan.recipe[CARRY]), uppers, plan.recipe.get(CARRY_FROM, "noisier") == "noisier")


def empty_earlier(plan: Plan, noised: Noised) -> Noised:
    """``noised`` with an earlier pass without content, if the plan makes one."""
    if not plan.recipe.get(CARRY):
        return noised
    kept = torch.ones(len(noised.sigma), dtype=torch.bool)
    return replace(noised, earlier=Earlier(torch.empty_like(noised.z), noised.sigma.clone(), kept))
