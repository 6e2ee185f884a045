"""Masked diffusion of text with an encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, Literal, Self, cast

import torch

from oneblock.checks import MANY, check_count, check_number
from oneblock.condition import Nothing
from oneblock.data import Vocabulary, vocabulary_from_dict
from oneblock.models.encoder import EncoderConfig
from oneblock.noise import CosineMask, LinearMask
from oneblock.plan import Plain, Plan
from oneblock.presets.base import OwnBackbone, TextFacts, TextRecipe, network_config, training_bands
from oneblock.presets.relay import RelayKind, check_across, relay_settings, relay_text
from oneblock.sample.policy import PolicyName, policy_of
from oneblock.tasks.base import Batch, Noised
from oneblock.tasks.masked import MaskedText
from oneblock.tasks.relay import RelayText

Schedule = Literal["linear", "cosine"]
MaskedWeighting = Literal["bound", "even"]


@dataclass(frozen=True, kw_only=True)
class MaskedRecipe(TextRecipe):
    """The encoder of masked text and how its work is spent."""

    task: ClassVar[str] = "masked-text"

    schedule: Schedule = "linear"
    """how the masked share grows with time"""
    weighting: MaskedWeighting = "even"
    """weight of a masked token in training: as in the likelihood bound, where few masked tokens count for many; or
    even, which learns better from small batches"""
    relay: RelayKind = "mlm"
    """what is learned from: texts masked at random (mlm); texts revealed call by call, as in sampling (rollout); or
    these with hidden tokens handed from call to call, without gradients through them (relay-sg) or with (relay)"""
    relay_calls: int = 2
    """calls of a training step of rollouts"""
    relay_slots: int = 256
    """texts that are on their way at the same time, with their states in host memory; each step goes on with as many as
    a batch has, in turn, so that neighbouring steps learn from different ones"""
    relay_across: bool = False
    """blocks learn to go on from the states of the block before, and hand theirs to the next one in sampling: they are
    trained in order, the noisiest first"""
    policy: PolicyName = "uncertainty"
    """which places of rollouts are revealed after a call: the surest ones while their uncertainties add up to less than
    tau; those surer than a threshold; or any, by a schedule"""
    policy_at: float = 0.0
    """tau, threshold or number of steps of --policy (0: its usual one)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("relay_calls", self.relay_calls)
        check_count("relay_slots", self.relay_slots, most=MANY)
        check_number("policy_at", self.policy_at, least=0)
        policy_of(self.policy, self.policy_at)

    def one_block(self) -> Self:
        return replace(super().one_block(), relay_across=False)

    def of_several(self) -> str:
        return super().of_several() or (f"relay_across={self.relay_across}" if self.relay_across else "")

    def plan(self, facts: TextFacts, backbone: OwnBackbone | None = None) -> Plan:
        architecture = self._encoder(facts) if backbone is None else own_text_architecture(backbone, facts, self)
        law = LinearMask() if self.schedule == "linear" else CosineMask()
        settings = dict(cast(Mapping[str, Plain], facts.vocabulary.to_dict()))
        if self.weighting != "bound":  # plans that were made before there was a choice stay what they are
            settings["weighting"] = self.weighting
        settings |= relay_settings(
            self.relay, self.relay_calls, self.relay_slots, self.policy, self.policy_at, self.relay_across
        )
        plan = self._plan(facts, architecture, law, "equal-mass", settings)
        check_across(plan)
        return plan

    def _encoder(self, facts: TextFacts) -> dict[str, Plain]:
        depth, width, heads = self.dimensions
        config = EncoderConfig(
            vocabulary=facts.vocabulary.size,
            context=self.length,
            depth=depth,
            width=width,
            heads=heads,
            kv_heads=self.kv_heads,
        )
        return {"name": "encoder", **asdict(config)}


def own_text_architecture(backbone: OwnBackbone, facts: TextFacts, recipe: TextRecipe) -> dict[str, Plain]:
    """What a plan says of a user's own network for text."""
    return {
        "name": backbone.name,
        "vocabulary": facts.vocabulary.size,
        "context": recipe.length,
        "depth": recipe.dimensions[0],
    }


def encoder_config(plan: Plan) -> EncoderConfig:
    """The encoder of a plan for masked text."""
    return network_config(EncoderConfig, plan)


def is_text(plan: Plan) -> bool:
    """Whether the samples of a plan are windows of text, whatever is learned of them."""
    return "vocabulary" in plan.recipe


def num_symbols(plan: Plan) -> int:
    """Symbols of the vocabulary of a plan for text."""
    return cast(int, plan.architecture["vocabulary"])


def plan_length(plan: Plan) -> int:
    """Tokens of a training window of a plan for text."""
    return cast(int, plan.architecture["context"])


def plan_vocabulary(plan: Plan) -> Vocabulary:
    """The vocabulary that a plan for text holds."""
    values = {key: plan.recipe[key] for key in ("vocabulary", "merges") if key in plan.recipe}
    return vocabulary_from_dict(values)


def masked_task(plan: Plan) -> MaskedText:
    """The task of a plan for masked text."""
    if plan.task != "masked-text":
        raise ValueError(f"task={plan.task!r}: this plan is not for masked text; use a plan with task 'masked-text'")
    law, shares = plan.partition.law, None
    if plan.recipe.get("weighting") == "even":
        shares = {b: float(law.cdf(torch.tensor(band)).mean()) for b, band in training_bands(plan).items()}
    return MaskedText(law, num_symbols(plan), shares)


def masked_training_task(plan: Plan) -> MaskedText | RelayText:
    """What a plan for masked text is trained on: its task, or rollouts."""
    return relay_text(plan, masked_task(plan))


def empty_masked_training_task(plan: Plan) -> MaskedText | RelayText:
    """The same for counting."""
    return relay_text(plan, empty_masked_task(plan))


def empty_masked_task(plan: Plan) -> MaskedText:
    """The task with shares without content, for counting."""
    shares = dict.fromkeys([None, *range(plan.num_blocks)], 1.0) if plan.recipe.get("weighting") == "even" else None
    return MaskedText(plan.partition.law, num_symbols(plan), shares)


def empty_masked(plan: Plan, count: int, block: int | None) -> Batch:
    """A batch of ``count`` windows without content."""
    tokens = torch.zeros(count, plan_length(plan), dtype=torch.long)
    return Batch(Noised(tokens.clone(), torch.ones(count), block), tokens, Nothing(count))
