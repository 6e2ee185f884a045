"""What generators memorise, by how they were trained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import IMAGES, TINY

import oneblock as ob
from oneblock.data import MemorySource, synthetic_images
from oneblock.evaluate.auditing import Auditing
from oneblock.experiment.audit import AuditExperiment, digest
from oneblock.plan import read_plan
from oneblock.report.comparison import report
from oneblock.train.drive import Watch

FAST = Auditing(chains=20, cycles=2, cycle_steps=3, start_steps=4, amplitudes=(0.3, 1.0))
FEW = AuditExperiment(images=30, planted=3, copies=4, report_bands=2, auditing=FAST)
DATA, HELD_OUT = MemorySource(IMAGES), MemorySource(synthetic_images(40, 8, 1, 3, seed=1))
RECIPE = ob.ImageRecipe(**TINY)


def audit_row() -> dict[str, Any]:
    one: dict[str, Any] = {"sampler": "ancestral", "false_copies": [0.0, 0.0, 0.1]}
    return {
        "asked": {"reverse": "ancestral"},
        "verdict": "copies",
        "rows": [
            {**one, "how": "one-shot", "sampler": "dpm++2m", "copies": [0.9, 0.8, 1.0]},
            {**one, "how": "one-shot", "copies": [0.3, 0.2, 0.4]},
            {**one, "how": "cycles", "copies": [0.2, 0.1, 0.3], "false_copies": [0.05, 0.0, 0.1]},
            {**one, "how": "cycles", "copies": [0.5, 0.4, 0.6]},
        ],
        "memories": [
            {"image": 2, "half_at": 0.3},
            {"image": 7, "half_at": 0.9},
            {"image": 0, "half_at": 0.5},
            {"image": 1, "half_at": None},
        ],
        "membership": {"auc": 0.8, "tpr": 0.1},
    }


def test_the_scores_of_an_audit() -> None:
    """The one-shot share is that of the cycles' own sampler; depth is of planted images alone."""
    assert digest(audit_row(), planted=3) == {
        "verdict": "copies",
        "cycled": 0.5,
        "false_copies": 0.05,
        "one_shot": 0.3,
        "distinct": 4,
        "planted_found": 3,
        "depth": pytest.approx(0.4),
        "auc": 0.8,
        "tpr": 0.1,
    }
    assert digest({**audit_row(), "memories": []}, planted=3)["depth"] is None


def test_images_are_planted_in_the_first_of_the_data() -> None:
    known = FEW.open(RECIPE, DATA, HELD_OUT)
    images = known.train.first().images
    assert len(images) == 30 + 3 * 3
    assert images[:30].equal(IMAGES.images[:30])
    assert images[30:].equal(IMAGES.images[:3].repeat(3, 1, 1, 1))
    assert known.facts.fingerprint == known.train.fingerprint() != DATA.fingerprint()
    assert known.facts.data == "dataset:synthetic, 30 images, 3 of them 4 times"


def test_arms_are_trained_and_audited_alike(tmp_path: Path) -> None:
    found = ob.compare(
        FEW,
        out=tmp_path,
        data=DATA,
        held_out=HELD_OUT,
        recipe=RECIPE,
        arms=("end-to-end", "blockwise"),
        seeds=1,
        watch=Watch(bars=False),
    )
    assert [row["arm"] for row in found.rows] == ["end-to-end", "blockwise"]
    for row in found.rows:
        assert len(row["band_losses"]) == 2 and 0.0 <= row["auc"] <= 1.0
        assert row["layer_evaluations"] == TINY["budget"]
        model = ob.Model.open(tmp_path / row["run"])
        audited = model.audit(FEW.open(RECIPE, DATA, HELD_OUT).train, held_out=HELD_OUT, **_asked())
        assert audited.row["rows"] == row["audited"], "the audit of a run is that of the model"
    shown = report(found)
    assert shown.tables[0].title == "memory of 30 images, 3 of them 4 times (seeds: 1)"
    assert "blockwise against end-to-end: lower loss in " in "\n".join(shown.lines)
    assert (
        read_plan(tmp_path / found.rows[0]["run"]).recipe["data"] == "dataset:synthetic, 30 images, 3 of them 4 times"
    )


def _asked() -> dict[str, Any]:
    names = ("chains", "cycles", "cycle_steps", "start_steps", "amplitudes")
    return {name: getattr(FAST, name) for name in names}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 49}, "images=49 is not allowed; use a whole number, 20 or more up to 48"),
        ({"planted": 31}, "planted=31 is not allowed; use a whole number, 0 or more up to 30"),
        ({"copies": 0}, "copies=0 is not allowed; use a whole number, 1 or more"),
    ],
)
def test_what_cannot_be_planted(changes: dict[str, Any], message: str) -> None:
    experiment = AuditExperiment(**{"images": 30, "planted": 3, "auditing": FAST, **changes})
    with pytest.raises(ValueError, match=message):
        experiment.open(RECIPE, DATA, HELD_OUT)
    assert torch.equal(IMAGES.images, DATA.first().images)
