"""The one-call report: floors, agreement, notes, and the door to the published score."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from oneblock.metrics.coverage import prdc
from oneblock.metrics.frechet import frechet_distance, moments
from oneblock.metrics.kernel import kernel_distance
from oneblock.metrics.quality import class_agreement, image_quality, real_fid


@dataclass(frozen=True)
class Pixels:
    """An extractor without a classifier: the pixels themselves."""

    name: str = "pixels"
    dim: int = 4

    def __call__(self, images: Tensor) -> Tensor:
        return images.flatten(1).float() / 64


@dataclass(frozen=True)
class Brightest(Pixels):
    """Sees as class the index of the brightest pixel."""

    name: str = "brightest"

    def logits(self, images: Tensor) -> Tensor:
        return self(images)


def images(count: int, seed: int, low: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(low, low + 100, (count, 1, 2, 2), generator=draw, dtype=torch.uint8)


def test_another_real_sample_scores_at_the_floor_and_a_shifted_one_above() -> None:
    reference, held_out = images(400, 0), images(400, 1)
    good, bad = (image_quality(reference, held_out, images(400, 2, low), Pixels()) for low in (0, 60))
    assert good.frechet < 3 * good.frechet_floor < bad.frechet / 10
    assert abs(good.kernel) < 5 * good.kernel_stderr < bad.kernel
    assert min(good.precision, good.recall, good.coverage, good.density) > 0.85
    assert max(bad.precision, bad.recall, bad.coverage, bad.density) < 0.5
    assert good.frechet_floor == bad.frechet_floor
    assert good.note == ""


def test_scores_are_those_of_the_parts_in_the_right_order() -> None:
    reference, held_out, fake = images(60, 0), images(50, 1), images(48, 2, low=20)
    a, b, c = (Pixels()(x) for x in (reference, held_out, fake))
    found = image_quality(reference, held_out, fake, Pixels(), k=3)
    assert found.frechet == frechet_distance(moments(a), moments(c))
    assert found.frechet_floor == frechet_distance(moments(a), moments(b))
    assert (found.kernel, found.kernel_floor) == (kernel_distance(a, c).value, kernel_distance(a, b).value)
    shares = prdc(a, c, k=3)
    assert (found.precision, found.recall) == (shares.precision, shares.recall)
    assert (found.density, found.coverage) == (shares.density, shares.coverage)
    assert (found.num_reference, found.num_held_out, found.num_fake) == (60, 50, 48)


def test_a_row_is_plain_json() -> None:
    found = image_quality(images(20, 0), images(20, 1), images(20, 2), Pixels())
    row = json.loads(json.dumps(found.as_row()))
    assert (row["extractor"], row["num_fake"], row["class_agreement"]) == ("pixels", 20, None)
    assert not any("fid" in key for key in row)


def test_class_agreement_is_the_share_seen_as_requested() -> None:
    fake = images(20, 2)
    seen = fake.flatten(1).argmax(1)
    wanted = torch.where(torch.arange(20) < 5, (seen + 1) % 4, seen)
    assert class_agreement(Brightest(), fake, wanted) == 0.75
    assert image_quality(images(20, 0), images(20, 1), fake, Brightest(), labels=wanted).class_agreement == 0.75


def test_notes_name_too_few_samples_and_unequal_counts() -> None:
    found = image_quality(images(7, 0), images(20, 1), images(20, 2), Pixels())
    assert found.note.startswith("only 7 samples in the smallest set") and "needs 8" in found.note
    found = image_quality(images(20, 0), images(10, 1), images(20, 2), Pixels())
    assert found.note == "frechet_floor of 10 and frechet of 20 images differ in bias"
    found = image_quality(images(20, 0), images(20, 1), images(20, 2), Pixels(name="efficientnet-lite0"))
    assert "needs 5000" in found.note


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="extractor pixels has no logits"):
        class_agreement(Pixels(), images(3, 0), torch.zeros(3, dtype=torch.int64))
    for labels in (torch.zeros(2, dtype=torch.int64), torch.tensor([0, 1, 4]), torch.tensor([0, -1, 1])):
        with pytest.raises(ValueError, match=r"allowed is \(3,\) with values in 0\.\.3"):
            class_agreement(Brightest(), images(3, 0), labels)


def test_the_published_score_never_starts_without_its_weights(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a file; put weights-inception"):
        real_fid(images(3, 0), images(3, 1), weights=tmp_path / "absent.pth")
    with pytest.raises(ValueError, match="fake has 2 channels"):
        real_fid(images(3, 0), images(3, 1).expand(-1, 2, -1, -1))


def test_an_absent_torch_fidelity_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.pth").touch()
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ImportError, match=r"pip install 'oneblock\[images\]' torch-fidelity"):
        real_fid(images(3, 0), images(3, 1), weights=tmp_path / "weights.pth")


def test_torch_fidelity_gets_rgb_images_and_the_local_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def calculate_metrics(**settings: object) -> dict[str, float]:
        seen.update(settings)
        return {"frechet_inception_distance": 7.5}

    module = ModuleType("torch_fidelity")
    monkeypatch.setattr(module, "calculate_metrics", calculate_metrics, raising=False)
    monkeypatch.setitem(sys.modules, "torch_fidelity", module)
    weights = tmp_path / "weights.pth"
    weights.touch()
    real, fake = images(3, 0), images(4, 1)
    assert real_fid(real, fake, weights=weights) == 7.5
    first, second = seen["input1"], seen["input2"]
    assert (len(first), len(second)) == (4, 3)  # type: ignore[arg-type]
    assert torch.equal(first[1], fake[1].repeat(3, 1, 1))  # type: ignore[index]
    assert seen["feature_extractor_weights_path"] == str(weights)
