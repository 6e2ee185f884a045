import pytest
import torch
from torch import Tensor

from oneblock.precondition import Precondition
from oneblock.tasks.base import Loss, Noised
from oneblock.tasks.image import ImageGeneration

TASK = ImageGeneration(Precondition(0.5), num_classes=3, label_dropout=0.1)
IMAGES = torch.arange(24.0).view(3, 1, 2, 4) / 24
SIGMA = torch.tensor([0.5, 1.0, 2.0])


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_noise_is_added_at_each_samples_own_level() -> None:
    noised = TASK.noised(IMAGES, SIGMA, 1, seeded())
    noise = torch.randn(IMAGES.shape, generator=seeded())
    for i, sigma in enumerate((0.5, 1.0, 2.0)):
        torch.testing.assert_close(noised.z[i], IMAGES[i] + sigma * noise[i])
    assert noised.block == 1
    assert noised.sigma.equal(SIGMA)


def test_loss_by_hand() -> None:
    asked: list[Tensor] = []

    def off_by(z: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        asked.append(context)
        return IMAGES + torch.tensor([0.1, 0.2, 0.3]).view(-1, 1, 1, 1)

    loss = TASK.loss(off_by, Noised(torch.zeros_like(IMAGES), SIGMA, 0), IMAGES, torch.tensor([0, 1, 2]))
    # weight (sigma^2 + 1/4) / (sigma / 2)^2 = 4 + 1 / sigma^2
    weights = (4 + 1 / 0.25, 4 + 1.0, 4 + 0.25)
    assert loss.plain.tolist() == pytest.approx([0.01, 0.04, 0.09], rel=1e-5)
    assert loss.weighted.tolist() == pytest.approx([w * e**2 for w, e in zip(weights, (0.1, 0.2, 0.3), strict=True)])
    assert asked[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("dropout", [0.0, 0.1, 1.0])
def test_labels_are_dropped_at_the_rate(dropout: float) -> None:
    task, labels = ImageGeneration(Precondition(), 3, dropout), torch.arange(3).repeat(5000)
    dropped = task.drop_labels(labels, seeded())
    rate = (dropped == 3).double().mean().item()
    assert rate == pytest.approx(dropout, abs=0.01)
    assert dropped[dropped != 3].equal(labels[dropped != 3])


def test_losses_of_another_shape_are_a_mistake() -> None:
    with pytest.raises(AssertionError, match="one value per sample"):
        Loss(torch.zeros(3, 3), torch.zeros(3))
    with pytest.raises(AssertionError, match=r"one value per sample, got shape \(3, 1\)"):
        Loss(torch.zeros(3, 1), torch.zeros(3, 1))
