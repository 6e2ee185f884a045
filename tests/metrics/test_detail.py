"""Further scores in one call: those of the parts, beside their floors."""

import json
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from oneblock.metrics import classifier_score, frechet_distance, frechet_limit, mind, moments
from oneblock.metrics import detail as module
from oneblock.metrics.detail import image_detail


@dataclass(frozen=True)
class Pixels:
    name: str = "pixels"
    dim: int = 4

    def __call__(self, images: Tensor) -> Tensor:
        return images.flatten(1).float() / 64


@dataclass(frozen=True)
class Brightest(Pixels):
    def logits(self, images: Tensor) -> Tensor:
        return 9 * self(images)


def images(count: int, seed: int, low: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(low, low + 100, (count, 1, 2, 2), generator=draw, dtype=torch.uint8)


REAL, HELD_OUT, FAKE = images(300, 0), images(80, 1), images(80, 2, low=15)


def test_scores_are_those_of_the_parts_in_the_right_order() -> None:
    a, b, c = (Pixels()(x) for x in (REAL, HELD_OUT, FAKE))
    found = image_detail(REAL, HELD_OUT, FAKE, Brightest(), seed=3)
    assert (found.mind, found.mind_floor) == (mind(a, c), mind(a, b))
    assert found.frechet_limit == frechet_limit(moments(a), c, torch.Generator().manual_seed(3)).value
    distance = frechet_distance(moments(a), moments(c))
    assert found.frechet_low is not None and found.frechet_high is not None
    assert 0 < found.frechet_low < distance < found.frechet_high < 2 * distance
    scores = [classifier_score((9 * x.double()).softmax(1)).value for x in (c, b)]
    assert [found.classifier_score, found.classifier_score_floor] == pytest.approx(scores, rel=1e-6)
    assert scores[0] != pytest.approx(scores[1], rel=1e-3)


def test_what_cannot_be_said_is_none_and_a_row_is_plain_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_DIM", 3)
    row = json.loads(json.dumps(image_detail(REAL, None, FAKE[:39], Pixels()).as_row()))
    assert {name for name, value in row.items() if value is None} == row.keys() - {"mind"}
    assert image_detail(REAL, None, FAKE[:40], Pixels()).frechet_limit is not None
