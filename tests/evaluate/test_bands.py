import math

import pytest
import torch
from tiny import IMAGES
from torch import Tensor

from oneblock.condition import ClassIds, Condition, told
from oneblock.data import to_float
from oneblock.evaluate.bands import band_losses
from oneblock.noise import LogNormal
from oneblock.partition import make_partition
from oneblock.precondition import Precondition
from oneblock.tasks.image import ImageGeneration

TASK = ImageGeneration(Precondition(0.5), num_classes=3)
BANDS = make_partition(LogNormal(), 3, overlap=0.1)
PIXELS, LABELS = to_float(IMAGES.images), IMAGES.labels


def test_a_denoiser_that_gives_its_input_back() -> None:
    """Its error is sigma^2 per pixel, its weighted loss 1 + 4 sigma^2, whatever the images."""
    many = torch.zeros(4000, 1, 8, 8)
    losses = band_losses(lambda z, sigma, condition: z, TASK, BANDS, many, torch.zeros(4000, dtype=torch.long))
    for b, loss in enumerate(losses):
        lower, upper = BANDS.band(b)
        q = torch.linspace(0, 1, 20_001, dtype=torch.float64)
        q_low, q_high = BANDS.law.cdf(torch.tensor([lower, upper], dtype=torch.float64)).tolist()
        mean_square = BANDS.law.quantile(q_low + (q[:-1] + q[1:]) / 2 * (q_high - q_low)).square().mean().item()
        assert loss == pytest.approx(1 + 4 * mean_square, rel=0.05)
    assert losses[0] > losses[1] > losses[2]


def test_labels_reach_the_denoiser_undropped_and_levels_stay_in_the_band() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def spy(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        seen.append((sigma, told(condition, ClassIds).ids))
        return torch.zeros_like(z)

    band_losses(spy, TASK, BANDS, PIXELS, LABELS, batch_size=20)
    assert torch.cat([ids for _, ids in seen]).equal(LABELS.repeat(3))
    for b in range(3):
        sigma = torch.cat([sigma for sigma, _ in seen[3 * b : 3 * b + 3]])
        lower, upper = BANDS.band(b)
        assert lower * 0.999 <= sigma.min() and sigma.max() <= upper * 1.001
        # levels are dealt at random: none of the classes, which go round in turn, gets the noisiest
        assert abs(sigma.log()[LABELS == 0].mean() - sigma.log().mean()) < 0.3 * math.log(upper / lower)


def test_the_order_of_the_images_does_not_matter() -> None:
    """Contrast that rises or falls from row to row, under weights that depend on the level: levels in the order in
    which they are drawn would weigh the strong images by late levels or by early ones only."""

    def blank(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return torch.zeros_like(z)

    rising = torch.linspace(0.0, 1.0, 4000).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    labels = torch.zeros(4000, dtype=torch.long)
    one, other = (band_losses(blank, TASK, BANDS, rows, labels) for rows in (rising, rising.flip(0)))
    for up, down in zip(one[:2], other[:2], strict=True):  # the last band's weights are too wide for a mean
        assert up == pytest.approx(down, rel=0.1)


def test_the_same_noise_for_everyone_who_asks_with_a_seed() -> None:
    def shrink(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return 0.5 * z

    once = band_losses(shrink, TASK, BANDS, PIXELS, LABELS)
    assert band_losses(shrink, TASK, BANDS, PIXELS, LABELS) == once
    assert band_losses(shrink, TASK, BANDS, PIXELS, LABELS, seed=1) != once
