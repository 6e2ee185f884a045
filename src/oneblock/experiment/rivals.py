"""What the rivals of all tasks are given."""

from __future__ import annotations

from oneblock.plan import Plan
from oneblock.rivals import RivalSettings
from oneblock.train.machine import Machine
from oneblock.train.strategy import plan_budget, plan_optimizer


def rival_settings(plan: Plan, machine: Machine) -> RivalSettings:
    """The budget, batch and rates of ``plan`` for a rival."""
    budget, optimizer = plan_budget(plan), plan_optimizer(plan)
    return RivalSettings(
        budget=budget.layer_evaluations,
        batch_size=budget.batch_size,
        learning_rate=optimizer.learning_rate,
        weight_decay=optimizer.weight_decay,
        beta1=optimizer.beta1,
        beta2=optimizer.beta2,
        clip=optimizer.clip,
        warmup=budget.warmup,
        hold=budget.hold,
        seed=plan.seed,
        ema_gamma=optimizer.ema_gamma,
        precision=optimizer.precision,
        device=machine.device,
    )
