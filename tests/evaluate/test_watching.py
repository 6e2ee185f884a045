"""Small audits while a generator trains."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import IMAGES, TINY, last_files
from torch import Tensor

import oneblock as ob
from oneblock.audit.copies import gaps, known
from oneblock.data import MemorySource, synthetic_images, to_float
from oneblock.evaluate import watching
from oneblock.evaluate.auditing import Auditing
from oneblock.train.drive import Watch

DATA, HELD_OUT = MemorySource(IMAGES), MemorySource(synthetic_images(40, 8, 1, 3, seed=1))
QUIET = Watch(bars=False)
RECIPE = ob.ImageRecipe(**TINY)
SMALL = Auditing(chains=20, cycles=3, cycle_steps=3, start_steps=4)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "SMALL", SMALL)


def watch(out: Path, every: int = 3, **changes: Any) -> Watch:
    return ob.audited(out, every, DATA, **{"held_out": HELD_OUT, "watch": QUIET, **changes})


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "audits.jsonl").read_text().splitlines()]


def test_audits_stand_beside_the_loss_and_change_nothing(tmp_path: Path) -> None:
    told: list[str] = []
    ob.train(RECIPE, data=DATA, out=tmp_path / "a", watch=watch(tmp_path / "a", told=told.append))
    ob.train(RECIPE, data=DATA, out=tmp_path / "b", watch=QUIET)
    assert last_files(tmp_path / "a") == last_files(tmp_path / "b")
    found = rows(tmp_path / "a")
    assert [(row["job"], row["step"]) for row in found] == [("block-1", 3), ("block-1", 6)]
    assert all(row["one_shot"]["copies"][0] == 0.0 and not row["warning"] for row in found)
    assert [len(row["cycles"]) for row in found] == [2, 2]
    assert len(told) == 2 and "audit after step 3 of block-1: 0.0 % of one-shot samples" in told[0]
    assert not (tmp_path / "b" / "audits.jsonl").exists()


def test_blocks_in_turns_are_audited_from_early_on(tmp_path: Path) -> None:
    ob.train(RECIPE, data=DATA, out=tmp_path, order="turns", turn_seconds=0.0, watch=watch(tmp_path, every=2))
    assert [(row["job"], row["step"]) for row in rows(tmp_path)][:2] == [("block-1", 2), ("block-0", 4)]


def test_copies_that_only_cycles_show_are_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A denoiser of a line that ends in a training image, along which a pass goes a little: samples lie far out, and
    chains come to the image."""
    ob.train(RECIPE, data=DATA, out=tmp_path, watch=QUIET)
    images = to_float(IMAGES.images)
    image, gap = images[5], float(gaps(known(images), torch.arange(len(images))).median())
    u = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(0))
    u = u / u.norm() * 10 * gap

    def denoiser(z: Tensor, sigma: Tensor, condition: ob.Condition) -> Tensor:
        along = ((z - image) * u).flatten(1).sum(1) / u.square().sum()
        place = torch.where(sigma > gap / 3, torch.ones_like(along), 0.9 * along)
        return image + place.view(-1, 1, 1, 1) * u

    monkeypatch.setattr(watching, "open_denoiser", lambda *_, **__: denoiser)
    monkeypatch.setattr(watching, "SMALL", replace(SMALL, cycles=20, cycle_steps=4, start_steps=8))
    at = watch(tmp_path).at
    assert at is not None
    with pytest.warns(UserWarning, match="has begun to memorise, and one-shot samples do not show it"):
        at("block-1", 12)
    (row,) = rows(tmp_path)
    assert row["warning"] and row["one_shot"]["copies"][0] == 0.0
    assert max(one["copies"][0] for one in row["cycles"]) > 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        at("block-1", 12)
    assert len(rows(tmp_path)) == 1, "the same checkpoints are not audited again"


def test_nothing_held_out_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data is a MemorySource, which has no held-out part"):
        ob.audited(tmp_path, 5, DATA)
    with pytest.raises(ValueError, match="audit_every=0 is not allowed; use a whole number, 1 or more"):
        ob.audited(tmp_path, 0, "digits")
