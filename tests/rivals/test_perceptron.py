import pytest
import torch
from rivalry import IMAGES, SOURCE, accuracies, same, settings_of, train, weights_of

from oneblock.data import to_float
from oneblock.models.perceptron import PerceptronConfig
from oneblock.optim.population import Population
from oneblock.rivals import PlainPerceptron, training_peak
from oneblock.rivals.train import step_seconds
from oneblock.train.evolve import UpdateSettings
from oneblock.train.learner import learn

SHAPE = PerceptronConfig(image_size=8, channels=1, num_classes=3, depth=2, width=16)
BACKWARD = UpdateSettings()
EVOLUTION = UpdateSettings(update="evolution", population=64, weight_noise=0.05, chunk=64)
UPDATES = pytest.mark.parametrize("update", [BACKWARD, EVOLUTION], ids=["backpropagation", "evolution"])


def test_the_loss_is_the_cross_entropy_of_linear_layers() -> None:
    learner = PlainPerceptron(SHAPE, BACKWARD)._learner(settings_of(16), 1)
    images, labels = to_float(IMAGES.images[:5]), IMAGES.labels[:5]
    (a, b), (c, d) = ((layer.weight, layer.bias) for layer in learner.module.layers[::2])  # type: ignore[union-attr]
    hidden = torch.nn.functional.gelu(images.flatten(1) @ a.T + b)
    p = (hidden @ c.T + d).softmax(-1)
    by_hand = -p.gather(1, labels[:, None])[:, 0].log()
    found = PlainPerceptron(SHAPE, BACKWARD)._losses(learner, images, labels)
    torch.testing.assert_close(found, by_hand)


def test_a_step_of_evolution_is_that_of_its_population() -> None:
    rival, settings = PlainPerceptron(SHAPE, EVOLUTION), settings_of(32, clip=1e9)
    one, other = (rival._learner(settings, 4) for _ in range(2))
    images, labels = to_float(IMAGES.images[:16]), IMAGES.labels[:16]
    (lesson,) = rival._lessons(one, images, labels)
    learn(lesson.learners, [lesson.loss], 16)
    named = {f"0.{name}": p for name, p in other.module.named_parameters()}
    seed = settings.derive_seed("evolution", "perceptron")
    population = Population(named, size=64, sigma=0.05, rank=1, chunk=64, shaping="z-score", seed=seed)
    fitness = population.each(lambda _: -rival._losses(other, images, labels).mean(), 0, range(64))
    population.leave_gradients(0, fitness)
    other.apply()
    for name, p in one.weights.items():
        torch.testing.assert_close(p, other.weights[name])


@UPDATES
def test_it_learns_spends_its_budget_and_repeats_itself(update: UpdateSettings) -> None:
    settings = settings_of(16 * 2 * 60)
    one, other = (PlainPerceptron(SHAPE, update) for _ in range(2))
    reports = train(one, settings)
    assert sum(report.layer_evaluations for report in reports) == settings.budget
    assert reports == train(other, settings)
    assert one.network is not None and other.network is not None
    assert same(weights_of(one.network), weights_of(other.network))
    assert accuracies(one)[0] > 0.8


@UPDATES
def test_the_peak_is_counted(update: UpdateSettings) -> None:
    rival, settings = PlainPerceptron(SHAPE, update), settings_of(32)
    assert training_peak(rival, settings) == training_peak(rival, settings, real=True)


def test_timing_a_step_leaves_nothing() -> None:
    rival = PlainPerceptron(SHAPE, BACKWARD)
    assert 0 < step_seconds(rival, SOURCE, settings_of(32), least=0.0) < 10
    with pytest.raises(ValueError, match="perceptron has trained 0 of 1 parts"):
        rival.probabilities(to_float(IMAGES.images[:1]))
