"""What an image generator has memorised of its training data: cycles, one-shot samples for the same work, membership.

Whatever is counted stands beside what it would be without memorisation: copies of held-out images, which were never
trained, and one-shot samples of two samplers, one of them that of the cycles, for as many calls of the network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from oneblock.audit.cyclic import cycle_grid
from oneblock.audit.intervals import share
from oneblock.audit.membership import losses_by_band, membership
from oneblock.blockwise import DenoiserLike
from oneblock.data import EncodedSource, to_uint8
from oneblock.evaluate.auditing import AUDITING, Audited, Auditing, Compared, compared
from oneblock.evaluate.chains import Chains, Row
from oneblock.evaluate.reference import makes_images
from oneblock.partition import make_partition
from oneblock.plan import Plan
from oneblock.presets.captions import is_captioned
from oneblock.presets.codec import plan_codec
from oneblock.presets.image import image_task

ONE_SHOT = "dpm++2m"
"""The sampler of one-shot samples beside that of the cycles."""
MEMBERS = 1000
"""Images of each split whose losses are compared."""
BANDS, DRAWS = 5, 3
"""Bands of equal mass, and noise levels of each, on which losses are compared."""
Verdict = Literal["copies", "overfitted", "nothing found"]
"""``copies``: samples or chains are copies of training images more often than of held-out ones. ``overfitted``: they
are not, but the loss tells training images from held-out ones. ``nothing found``: neither; this is no proof."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Audit:
    """What an audit has found.

    Args:
        row: all numbers, as plain values.
        recovered: pairs (k, 2, ...) of a sample that is a copy and its training image, one for each training image that
            was found, as ``ImageModel.sample`` gives samples; None unless asked for.
    """

    row: Row
    recovered: Tensor | None = None

    @property
    def verdict(self) -> Verdict:
        """In a word."""
        return cast(Verdict, self.row["verdict"])


def audit_images(
    denoiser: DenoiserLike,
    plan: Plan,
    images: Audited,
    auditing: Auditing = AUDITING,
    *,
    show: bool = False,
    said: Callable[[str], None] | None = None,
) -> Audit:
    """Audit an image generator.

    Args:
        images: its training images, and images that were never trained (``audit_splits``).
        show: also give the images that were recovered.
        said: called with a line before each part.

    Raises:
        ValueError: an amplitude is not a noise level of the plan's law; the network was never told nothing; too few
            held-out images.
    """
    check_told(plan, auditing)
    say = said or (lambda line: None)
    known = compared(plan, images)
    sigmas = auditing.sigmas(known.gap)
    for sigma in sigmas:
        cycle_grid(plan.partition.law, sigma, auditing.cycle_steps)
    chains = Chains(denoiser, plan, known, auditing)
    say("one-shot samples")
    rows = [chains.one_shot(name) for name in dict.fromkeys((ONE_SHOT, auditing.reverse))]
    for sigma in sigmas:
        say(f"cycles of amplitude sigma = {sigma:.3g}")
        rows.append(chains.cycles(sigma))
    say("how long chains stay where they start")
    depths = chains.depths(sigmas)
    say("losses of training images and of held-out images")
    row = {
        "asked": {**asdict(auditing), "amplitudes": list(auditing.amplitudes)},
        "kappa": chains.kappa,
        "training_images": int(known.known.copies.sum()),
        "different_images": len(known.known),
        "held_out_images": len(known.held_out),
        "held_out_copies": known.copied,
        "gap": known.gap,
        "base_rate": share(known.ratios < chains.kappa).as_row(),
        "rows": rows,
        **depths,
        "membership": _members(denoiser, plan, known, chains, auditing),
    }
    pairs = _decoded(plan, images.train, chains.recovered()) if show else None
    return Audit(row={**row, "verdict": _verdict(row)}, recovered=pairs)


def check_told(plan: Plan, auditing: Auditing) -> None:
    """Refuse to tell a network nothing that always knew a class with a ``ValueError``."""
    task = image_task(plan)
    told = task.num_classes or is_captioned(plan)
    if auditing.told == "nothing" and told and not task.label_dropout:
        raise ValueError("told='nothing', but the network was trained with label_dropout=0; use told='class'")


def _verdict(row: Row) -> Verdict:
    if any(one["copies"][1] > max(one["false_copies"][2], row["base_rate"][2]) for one in row["rows"]):
        return "copies"
    return "overfitted" if row["membership"]["auc"] > row["membership"]["chance"] else "nothing found"


def _members(denoiser: DenoiserLike, plan: Plan, known: Compared, chains: Chains, auditing: Auditing) -> Row:
    """How well the losses tell training images from held-out ones."""
    bands = make_partition(plan.partition.law, BANDS)
    losses = []
    for images, labels in ((known.images, known.labels), (known.held_out, known.held_out_labels)):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(auditing.audit_seed))[:MEMBERS]
        classes = torch.zeros(len(order), dtype=torch.int64) if labels is None else labels[order]
        values, told = images[order].to(chains.device), chains.condition(classes)
        losses.append(losses_by_band(denoiser, bands, values, told, DRAWS, auditing.audit_seed))
    found = membership(losses[0], losses[1], auditing.false_positives, auditing.audit_seed)
    n, m = found.members, found.others
    # without any difference the AUC has this deviation (Mann and Whitney, 1947); three of them are chance
    deviation = ((n + m + 1) / (12 * n * m)) ** 0.5
    return {
        **asdict(found),
        "band_auc": list(found.band_auc),
        "edges": list(bands.edges),
        "chance": 0.5 + 3 * deviation,
        "calls": (n + m) * BANDS * DRAWS,
    }


def _decoded(plan: Plan, source: EncodedSource, pairs: Tensor) -> Tensor:
    """Pairs (k, 2, ...) as samples are given."""
    if not len(pairs):
        return pairs
    images = source.codec.decode(plan_codec(plan).decode(pairs.flatten(0, 1))).unflatten(0, (-1, 2))
    return to_uint8(images) if makes_images(plan, source.codec) else images
