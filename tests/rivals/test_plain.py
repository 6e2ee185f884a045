from dataclasses import replace

import pytest
import torch
from rivalry import IMAGES, SOURCE, accuracies, same, settings_of, train, weights_of

from oneblock.condition import Frames
from oneblock.data import to_float
from oneblock.models.cnn import CNNConfig
from oneblock.rivals import PlainCNN, training_peak

CNN = CNNConfig(image_size=8, channels=1, num_classes=3, label_width=3, depth=1, width=16, filters=4)


def test_the_loss_is_the_cross_entropy_of_a_network_that_is_told_nothing() -> None:
    rival = PlainCNN(CNN)
    learner = rival._learner(settings_of(16), 1)
    torch.nn.init.normal_(learner.module.head.out.weight)
    images, labels = to_float(IMAGES.images[:5]), IMAGES.labels[:5]
    p = learner.module(torch.zeros(5, 3), torch.zeros(5), Frames(images)).softmax(-1)
    by_hand = -p.gather(1, labels[:, None])[:, 0].log()
    torch.testing.assert_close(rival._losses(learner, images, labels), by_hand)


def test_it_learns_spends_its_budget_and_repeats_itself() -> None:
    settings, one, other = settings_of(16 * 120), PlainCNN(CNN), PlainCNN(CNN)
    reports = train(one, settings)
    assert sum(report.layer_evaluations for report in reports) == settings.budget
    assert reports == train(other, settings)
    assert one.network is not None and other.network is not None
    assert same(weights_of(one.network), weights_of(other.network))
    (right,) = accuracies(one)
    assert right > 0.8


def test_the_peak_is_counted() -> None:
    settings = settings_of(16)
    assert training_peak(PlainCNN(CNN), settings) == training_peak(PlainCNN(CNN), settings, real=True)


def test_errors() -> None:
    with pytest.raises(ValueError, match="depth=2: the control is a single network; use depth=1"):
        PlainCNN(replace(CNN, depth=2))
    with pytest.raises(ValueError, match="cnn has trained 0 of 1 parts"):
        PlainCNN(CNN).probabilities(to_float(SOURCE.images.images[:1]))
