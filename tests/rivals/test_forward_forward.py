import math
from dataclasses import replace

import pytest
import torch
from rivalry import FRESH, IMAGES, SOURCE, VIT, accuracies, same, settings_of, train, weights_of
from torch import Tensor

from oneblock.condition import Frames
from oneblock.data import random_flip, to_float
from oneblock.models.vit import ViT
from oneblock.rivals import ContrastiveFF, train_rival, training_peak
from oneblock.rivals.base import draw, seeded
from oneblock.rivals.blocks import hidden
from oneblock.rivals.forward_forward import contrastive_losses
from oneblock.train.learner import learn

PIXELS = to_float(FRESH.images[:8])
COST = 16 * 4  # of one pass through all layers


def naive(features: Tensor, labels: list[int], temperature: float, margin: float) -> list[float]:
    """Khosla et al., Equation 2, one pair after the other."""
    unit = [[float(v) / math.sqrt(sum(float(w) ** 2 for w in row)) for v in row] for row in features]
    losses = []
    for i, anchor in enumerate(unit):
        scores = {}
        for j, other in enumerate(unit):
            if j != i:
                s = sum(v * w for v, w in zip(anchor, other, strict=True))
                scores[j] = (min(s + margin, 1.0) if labels[j] == labels[i] else s) / temperature
        positives = [j for j in scores if labels[j] == labels[i]]
        total = sum(math.exp(s) for s in scores.values())
        terms = [-math.log(math.exp(scores[j]) / total) for j in positives]
        losses.append(sum(terms) / len(terms) if terms else 0.0)
    return losses


@pytest.mark.parametrize("margin", [0.0, 0.4])
def test_the_loss_equals_a_double_loop(margin: float) -> None:
    torch.manual_seed(0)
    features, labels = torch.randn(7, 3), [0, 1, 0, 2, 1, 0, 3]  # 2 and 3 have no positives
    features[2] = 2.0 * features[0] + 0.1  # nearly the same direction, where the margin meets its bound
    found = contrastive_losses(features, torch.tensor(labels), 0.2, margin)
    torch.testing.assert_close(found, torch.tensor(naive(features, labels, 0.2, margin)), rtol=1e-4, atol=1e-5)
    assert found[3] == found[6] == 0.0


def test_the_loss_draws_one_class_together() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    apart = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    good, bad = (contrastive_losses(apart[order], labels, 0.15).mean() for order in ([0, 1, 2, 3], [0, 2, 1, 3]))
    assert good < 0.1 < bad
    features = torch.randn(4, 2, requires_grad=True)
    contrastive_losses(features, labels, 0.15).sum().backward()
    assert features.grad is not None and bool(features.grad.isfinite().all())


def test_layers_are_local() -> None:
    """No gradient goes to another layer, and a layer reads what the one before made before its update."""
    rival, settings = ContrastiveFF(VIT, margins=(4e-3, 1e-3)), settings_of(1)  # larger ones meet their bound
    learners = rival._learners(settings, 3)
    batch = draw(SOURCE, settings, "layers", 0, None)
    fresh = [weights_of(learner.module) for learner in learners]
    x = batch.images
    for i, lesson in enumerate(rival._layer_lessons(learners, batch)):
        again = seeded(lambda i=i: ViT(VIT, range(i, i + 1)), settings.derive_seed("init", i))  # type: ignore[misc]
        h = again.stem(torch.zeros(16, 3), torch.zeros(16), Frames(x))[0] if i == 0 else x
        x = again.layers[str(i)](h, None).detach()
        expected = contrastive_losses(x.mean(1), batch.labels, 0.15, 4e-3 - 1e-3 * i)
        torch.testing.assert_close(lesson.losses(), expected)
        torch.testing.assert_close(lesson.losses(), expected)  # an update may ask more than once
        assert lesson.learners == [learners[i]]
        learn(lesson.learners, [lesson.loss], 16)
        for j, learner in enumerate(learners):
            assert same(fresh[j], weights_of(learner.module)) is (j > i)
            assert all(p.grad is None for p in learner.module.parameters())


def test_two_views_are_two_draws_of_the_same_images() -> None:
    one = draw(SOURCE, settings_of(1), "layers", 0, None)
    two = draw(SOURCE, settings_of(1), "layers", 0, random_flip, views=2)
    assert torch.equal(two.labels, one.labels.repeat(2))
    first, second = two.images.chunk(2)
    assert not torch.equal(first, second)
    for view in (first, second):
        assert bool(((view == one.images) | (view == one.images.flip(-1))).flatten(1).all(1).all())


@pytest.mark.parametrize("views", [1, 2])
def test_layer_evaluations_are_the_budget(views: int) -> None:
    budget = 20 * COST * views + 7
    augment = random_flip if views == 2 else None
    reports = list(train_rival(ContrastiveFF(VIT), SOURCE, settings_of(budget), augment=augment))
    assert abs(sum(report.layer_evaluations for report in reports) - budget) <= COST * views // 2
    assert {(report.job, report.layer_evaluations) for report in reports} == {
        ("layers", views * COST),
        ("classifiers", COST),
    }
    assert sum(report.job == "classifiers" for report in reports) == 2 * views
    lengths = {report.job: report.num_steps for report in reports}
    assert [report.step for report in reports] == [i + 1 for n in lengths.values() for i in range(n)]


def test_classifiers_leave_the_layers_alone() -> None:
    rival = ContrastiveFF(VIT, classifier_share=0.5)
    kept: list[dict[str, Tensor]] = []
    for report in train_rival(rival, SOURCE, settings_of(COST * 8)):
        if report.job == "classifiers":
            kept = kept or [weights_of(layer) for layer in rival.layers]
            assert all(map(same, kept, map(weights_of, rival.layers)))
    assert len(kept) == 4
    x = PIXELS
    for i, found in enumerate(rival.probabilities(PIXELS)):
        x, _ = hidden(rival.layers[i], x)
        torch.testing.assert_close(found, rival.classifiers[i](x.mean(1)).softmax(-1))


def test_ff_learns() -> None:
    rival = ContrastiveFF(VIT, classifier_share=0.4)
    train(rival, settings_of(COST * 80))
    found = accuracies(rival)
    assert found[-1] > 0.6
    assert len(found) == rival.evaluation_layers == 4


def test_ff_repeats_itself() -> None:
    one, two, other = (ContrastiveFF(VIT) for _ in range(3))
    settings = settings_of(COST * 10)
    assert train(one, settings) == train(two, settings) != train(other, replace(settings, seed=1))
    assert torch.equal(one.probabilities(PIXELS), two.probabilities(PIXELS))
    assert not torch.equal(one.probabilities(PIXELS), other.probabilities(PIXELS))


def test_the_peak_has_all_layers_and_the_activations_of_one() -> None:
    pytest.importorskip("torch.distributed._tools.mem_tracker")
    deep, shallow = ContrastiveFF(replace(VIT, depth=8)), ContrastiveFF(VIT)
    found, less = training_peak(deep, settings_of(1)), training_peak(shallow, settings_of(1))
    assert less == training_peak(shallow, settings_of(1), real=True)
    layer = 4 * sum(p.numel() for p in ViT(VIT, range(1)).layers.parameters())
    tensors = len(list(ViT(VIT, range(1)).layers.parameters()))
    assert found.by_kind["Parameter"] - less.by_kind["Parameter"] == 4 * layer
    assert found.by_kind["Other"] - less.by_kind["Other"] == 4 * (3 * layer + 4 * tensors)  # moments, average, steps
    assert found.by_kind["Activation"] == less.by_kind["Activation"]


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"temperature=0, margins=\(0.4, 0.1\): use a temperature above 0"):
        ContrastiveFF(VIT, temperature=0)
    with pytest.raises(
        ValueError, match=r"classifier_share=1.0 leaves a stage without budget; use a number between 0 and 1"
    ):
        ContrastiveFF(VIT, classifier_share=1.0)
    with pytest.raises(ValueError, match=r"contrastive-ff has trained 0 of 8 parts"):
        ContrastiveFF(VIT).probabilities(to_float(IMAGES.images))
