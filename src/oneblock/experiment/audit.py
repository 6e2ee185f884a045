"""What image generators memorise, by how they were trained: blockwise and its rivals on a few images, some of which
stand in the data many times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import mean
from typing import Any, ClassVar

import torch

from oneblock.checks import check_count
from oneblock.data import MemorySource
from oneblock.evaluate.audit import audit_images, check_told
from oneblock.evaluate.auditing import FEWEST, Audited, Auditing
from oneblock.evaluate.images import evaluate_images
from oneblock.experiment.arms import blocks_alone, branched
from oneblock.experiment.base import Arm, Case, Cell
from oneblock.experiment.data import Pictures, check_classes, open_pictures
from oneblock.experiment.summary import COSTS, Row, Scores
from oneblock.partition import make_partition
from oneblock.plan import Plan
from oneblock.presets.base import end_to_end, shallow
from oneblock.presets.data import Data, check_codec
from oneblock.presets.image import ImageRecipe, image_task
from oneblock.train.loop import Run
from oneblock.train.shards import open_denoiser


@dataclass(frozen=True, kw_only=True)
class AuditExperiment:
    """Image generators, scored by held-out loss and by what they have memorised of the same few training images."""

    task: ClassVar[str] = "audit"

    images: int = 200
    """training images: the first of the data"""
    planted: int = 10
    """the first so many of them stand in the training data --copies times"""
    copies: int = 16
    """how often they stand there (1: like all others)"""
    report_bands: int = 3
    """bands to report held-out losses on, the same for every arm"""
    auditing: Auditing = field(default_factory=Auditing)

    @property
    def usual(self) -> ImageRecipe:
        return ImageRecipe(size="nano", budget="400k", batch_size=64, branch=0.5)

    @property
    def arms(self) -> Mapping[str, Arm[ImageRecipe, AuditExperiment]]:
        return ARMS

    @property
    def scores(self) -> Scores:
        return SCORES

    def open(self, recipe: ImageRecipe, data: Data | None, held_out: Data | None) -> Pictures:
        check_count("planted", self.planted, least=0, most=self.images)
        check_count("copies", self.copies)
        return self._planted(open_pictures(recipe, data, held_out))

    def _planted(self, known: Pictures) -> Pictures:
        """The training images of the comparison, under a name that says what they are."""
        check_count("images", self.images, FEWEST, len(known.train.first()))
        again = torch.arange(self.planted).repeat(self.copies - 1)
        images = known.train.first(self.images).take(torch.cat([torch.arange(self.images), again]))
        train = known.train.of(MemorySource(images))
        name = f"dataset:{known.facts.data}, {self.images} images, {self.planted} of them {self.copies} times"
        return replace(known, train=train, facts=replace(known.facts, data=name, fingerprint=train.fingerprint()))

    def fitted(self, recipe: ImageRecipe, known: Pictures) -> ImageRecipe:
        return recipe

    def check(self, plans: Mapping[Cell, Sequence[Plan]], known: Pictures) -> None:
        check_count("report_bands", self.report_bands)
        for plan, *_ in plans.values():
            check_told(plan, self.auditing)
        first = next(iter(plans.values()))[0]
        if image_task(first).num_classes:
            check_classes(known)
        check_codec(first, known.test.codec)

    def asked(self, arm: str, plans: Sequence[Plan]) -> Row:
        return {
            "plan": plans[0].hash,
            "images": self.images,
            "planted": self.planted,
            "copies": self.copies,
            "report_bands": self.report_bands,
            "auditing": asdict(self.auditing),
        }

    def score(self, case: Case[Pictures], runs: Sequence[Run]) -> Row:
        (run,), known = runs, case.known
        denoiser = open_denoiser(run.directory, run.blockwise, run.device)
        bands = make_partition(run.plan.partition.law, self.report_bands)
        losses = evaluate_images(denoiser, run.plan, known.train, known.test, bands=bands, num_samples=0)
        found = audit_images(denoiser, run.plan, Audited(known.train, known.test), self.auditing).row
        kept = {name: losses[name] for name in ("loss", "band_losses")}
        return {**kept, **digest(found, self.planted), "audited": found["rows"], "memories": found["memories"]}

    def line(self, row: Row) -> str:
        share = 100 * row["cycled"]
        return f"loss {row['loss']:.4f}, {share:.1f} % copies after cycles, AUC {row['auc']:.3f}, {row['verdict']}"


def digest(found: Mapping[str, Any], planted: int) -> Row:
    """The scores of an audit (``evaluate.audit.audit_images``).

    ``cycled`` and ``one_shot`` are shares of copies, of chains at their best amplitude and of one-shot samples of the
    same sampler; ``distinct`` the training images that were found, ``planted_found`` those among the first ``planted``;
    ``depth`` the mean amplitude at which half of the chains leave one of these; ``auc`` and ``tpr`` of membership.
    """
    same = [one for one in found["rows"] if one["sampler"] == found["asked"]["reverse"]]
    cycles = [one for one in same if one["how"] == "cycles"]
    ours = [memory for memory in found["memories"] if memory["image"] < planted]
    depths = [memory["half_at"] for memory in ours if memory["half_at"] is not None]
    return {
        "verdict": found["verdict"],
        "cycled": max(one["copies"][0] for one in cycles),
        "false_copies": max(one["false_copies"][0] for one in cycles),
        "one_shot": next(one["copies"][0] for one in same if one["how"] == "one-shot"),
        "distinct": len(found["memories"]),
        "planted_found": len(ours),
        "depth": mean(depths) if depths else None,
        "auc": found["membership"]["auc"],
        "tpr": found["membership"]["tpr"],
    }


ARMS: dict[str, Arm[ImageRecipe, AuditExperiment]] = {
    "end-to-end": Arm(recipes=end_to_end),
    "shallow": Arm(recipes=shallow),
    "blockwise": Arm(recipes=blocks_alone),
    "branched": Arm(recipes=branched, branched=True),
}
SCORES = Scores(
    judged={"loss": "lower", "cycled": "lower", "auc": "lower"},
    spread=("loss", "cycled", "one_shot", "false_copies", "distinct", "planted_found", "depth", "auc", "tpr", *COSTS),
    listed="band_losses",
    ours=("blockwise", "branched"),
    rivals=("end-to-end", "shallow"),
)
