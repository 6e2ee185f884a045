import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import IMAGES, tiny_classify_plan
from torch import Tensor, nn

from oneblock.blockwise import BlockDenoiser
from oneblock.condition import Condition, Frames, Nothing
from oneblock.data import Samples, to_float
from oneblock.precondition import Precondition
from oneblock.presets import blockwise, classify_task, plan_task
from oneblock.table import simplex
from oneblock.tasks.base import Noised
from oneblock.tasks.classify import CLIP, Classification, mean_weight

TASK = Classification(simplex(3), Precondition(0.5))
PIXELS, LABELS = to_float(IMAGES.images[:8]), IMAGES.labels[:8]
SIGMA = torch.tensor([0.1, 0.5, 2.0])
TARGETS = torch.tensor([2, 0, 1])
LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 1.5], [0.0, 3.0, 0.0]])
# EDM's weight (sigma^2 + 1/4) / (sigma / 2)^2 = 4 + 1 / sigma^2
EDM = [4 + 1 / s**2 for s in (0.1, 0.5, 2.0)]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def constant(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
    return LOGITS[: len(z)]


def loss_of(block: int | None = 0, **changes: Any) -> tuple[list[float], list[float]]:
    """Weighted and plain losses of ``constant``."""
    noised = Noised(torch.zeros(3, 3), SIGMA, block)
    loss = replace(TASK, **changes).loss(constant, noised, TARGETS, Frames(torch.zeros(3, 1, 8, 8)))
    return loss.weighted.tolist(), loss.plain.tolist()


def probabilities() -> list[list[float]]:
    rows = [[math.exp(v) for v in row] for row in LOGITS.tolist()]
    return [[v / sum(row) for v in row] for row in rows]


CROSS_ENTROPY = [-math.log(p[y]) for p, y in zip(probabilities(), TARGETS.tolist(), strict=True)]


def test_rows_get_noise_each_at_its_own_level() -> None:
    noised = TASK.noised(TARGETS, SIGMA, 1, seeded())
    noise = torch.randn(3, 3, generator=seeded())
    for i, (label, sigma) in enumerate(zip(TARGETS.tolist(), SIGMA.tolist(), strict=True)):
        torch.testing.assert_close(noised.z[i], simplex(3)[label] + sigma * noise[i])
    assert noised.block == 1
    assert noised.sigma.equal(SIGMA)


def test_a_batch_is_noisy_labels_labels_and_images() -> None:
    sigma = torch.linspace(0.1, 2.0, 8)
    batch = TASK.draw(Samples(PIXELS, LABELS), sigma, 1, seeded())
    assert batch.targets.equal(LABELS)
    assert isinstance(batch.condition, Frames) and batch.condition.values.equal(PIXELS)
    assert batch.noised.z.equal(TASK.noised(LABELS, sigma, 1, seeded()).z)
    assert batch.noised.block == 1
    again, other = (
        TASK.draw(Samples(PIXELS, LABELS), sigma, 1, torch.Generator().manual_seed(seed)) for seed in (0, 1)
    )
    assert batch.noised.z.equal(again.noised.z)
    assert not batch.noised.z.equal(other.noised.z)


def test_a_batch_of_one() -> None:
    batch = TASK.draw(Samples(PIXELS[:1], LABELS[:1]), SIGMA[:1], None, seeded())
    assert batch.noised.z.shape == (1, 3)
    loss = replace(TASK, weighting="edm").loss(constant, batch.noised, TARGETS[:1], batch.condition)
    assert loss.plain.tolist() == pytest.approx(CROSS_ENTROPY[:1])
    assert loss.weighted.tolist() == pytest.approx([EDM[0] * CROSS_ENTROPY[0]])


def test_cross_entropy_by_hand() -> None:
    weighted, plain = loss_of()
    assert plain == pytest.approx(CROSS_ENTROPY, rel=1e-5)
    assert weighted == plain


def test_label_smoothing_by_hand() -> None:
    _, plain = loss_of(label_smoothing=0.3)
    even = [-sum(math.log(v) for v in p) / 3 for p in probabilities()]
    expected = [0.7 * hard + 0.3 * soft for hard, soft in zip(CROSS_ENTROPY, even, strict=True)]
    assert plain == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("table", [simplex(3), torch.tensor([[1.0, 0.0], [0.0, 1.0], [-0.6, 0.8]])])
def test_squared_loss_by_hand(table: Tensor) -> None:
    rows = table.tolist()
    expected = []
    for p, y in zip(probabilities(), TARGETS.tolist(), strict=True):
        row = [sum(p[k] * rows[k][d] for k in range(3)) for d in range(len(rows[0]))]
        expected.append(sum((a - b) ** 2 for a, b in zip(row, rows[y], strict=True)))
    assert loss_of(table=table, kind="squared")[1] == pytest.approx(expected, rel=1e-5)


def test_squared_loss_is_not_rounded_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        rounded = loss_of(kind="squared")
    assert rounded == loss_of(kind="squared")


@pytest.mark.parametrize(
    ("weighting", "weights"),
    [
        ("none", [1.0, 1.0, 1.0]),
        ("edm", EDM),
        ("clipped", [CLIP, *EDM[1:]]),
        ("normalised", [w / 7 for w in EDM]),
    ],
)
def test_every_sample_has_its_own_weight(weighting: str, weights: list[float]) -> None:
    assert EDM[1] < CLIP < EDM[0]
    weighted, plain = loss_of(block=1, weighting=weighting, mean_weights={None: 2.0, 0: 3.0, 1: 7.0})
    assert plain == pytest.approx(CROSS_ENTROPY, rel=1e-5)
    assert weighted == pytest.approx([w * e for w, e in zip(weights, CROSS_ENTROPY, strict=True)], rel=1e-5)


def test_the_seed_block_has_a_mean_of_its_own() -> None:
    weighted, _ = loss_of(block=None, weighting="normalised", mean_weights={None: 2.0, 0: 3.0})
    assert weighted == pytest.approx([w / 2 * e for w, e in zip(EDM, CROSS_ENTROPY, strict=True)], rel=1e-5)


@pytest.mark.parametrize("law", ["entropy", "log-normal"])
def test_normalised_weights_have_mean_one_on_every_band(law: str) -> None:
    plan = tiny_classify_plan(weighting="normalised", law=law, sigma_data=0.7, overlap=0.1)
    task, partition = classify_task(plan), plan.partition
    for block in (None, 0, 1):
        band = (partition.law.low, partition.law.high) if block is None else partition.training_band(block)
        sigma = partition.levels(*band, 100_000, seeded())
        noised = Noised(torch.zeros(len(sigma), 3), sigma, block)
        labels = torch.zeros(len(sigma), dtype=torch.long)
        loss = task.loss(lambda z, sigma, condition: z, noised, labels, Nothing(len(sigma)))
        assert (loss.weighted / loss.plain).mean().item() == pytest.approx(1.0, abs=0.03)


def test_mean_weight_is_an_integral_over_the_band() -> None:
    partition, band = tiny_classify_plan(law="log-normal").partition, (0.1, 3.0)
    logs = torch.linspace(math.log(band[0]), math.log(band[1]), 20_001, dtype=torch.float64)
    density = torch.exp(-0.5 * ((logs + 1.2) / 1.2) ** 2)  # of ln sigma, up to a constant
    expected = float((density * (4 + torch.exp(-2 * logs))).sum() / density.sum())
    assert mean_weight(partition, band, Precondition(0.5)) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_without_a_row_are_refused(label: int) -> None:
    with pytest.raises(ValueError, match=f"label {label} is unknown; the plan has 3 classes, from 0 on"):
        TASK.draw(Samples(PIXELS[:3], torch.tensor([0, label, 2])), SIGMA, 0, seeded())


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_smoothing_is_a_fraction(smoothing: float) -> None:
    with pytest.raises(
        ValueError, match=rf"label_smoothing={smoothing} is not a fraction; use 0 up to \(not including\) 1"
    ):
        replace(TASK, label_smoothing=smoothing)


def whole_network(inputs: str) -> BlockDenoiser:
    """One block over the whole range, with random weights."""
    denoiser, generator = blockwise(tiny_classify_plan(blocks=1, inputs=inputs)).denoiser(0).double(), seeded()
    with torch.no_grad():
        for p in denoiser.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return denoiser


def gradients(module: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    module.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("inputs", ["evidence", "bayes"])
def test_where_labels_are_all_noise_a_block_is_an_ordinary_classifier(inputs: str) -> None:
    denoiser, plan = whole_network(inputs), tiny_classify_plan(blocks=1, inputs=inputs)
    sigma, images = torch.full((8,), 1e6, dtype=torch.float64), PIXELS.double()
    batch = plan_task(plan).draw(Samples(images, LABELS), sigma, 0, seeded())
    assert batch.noised.z.abs().max() > 1e5
    network, told = denoiser.backbone, Frames(images)
    ordinary = network(torch.zeros(8, 3).double(), sigma.log() / 4, told)
    found = denoiser(batch.noised.z.double(), sigma, told)
    torch.testing.assert_close(found, ordinary, rtol=0, atol=1e-5)
    rows, near = simplex(3).double()[LABELS], torch.full_like(sigma, 0.5)
    assert (denoiser(rows, near, told) - denoiser(-rows, near, told)).abs().max() > 0.01, "elsewhere labels count"

    noised = Noised(batch.noised.z.double(), sigma, 0)
    ours = gradients(network, plan_task(plan).loss(denoiser, noised, batch.targets, told).weighted.mean())
    theirs = gradients(network, F.cross_entropy(ordinary, LABELS))
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-5, msg=name)
        assert name == "stem.label.weight" or gradient.abs().max() > 1e-4, name


def test_samples_without_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="classification needs labels, and the data have none; use data with labels"):
        TASK.draw(Samples(PIXELS, None), torch.ones(8), 0, seeded())
