import pytest
import torch
from torch import Tensor, nn

from oneblock.blockwise import BlockDenoiser
from oneblock.condition import ClassIds, Condition, Frames, Nothing, told
from oneblock.data import Samples
from oneblock.precondition import Logits, Precondition
from oneblock.tasks.base import Loss, Noised, add_noise
from oneblock.tasks.image import ImageGeneration, denoising_loss

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
    asked: list[Condition] = []

    def off_by(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        asked.append(condition)
        return IMAGES + torch.tensor([0.1, 0.2, 0.3]).view(-1, 1, 1, 1)

    loss = TASK.loss(
        off_by, Noised(torch.zeros_like(IMAGES), SIGMA, 0), IMAGES, TASK.condition(torch.tensor([0, 1, 2]))
    )
    # weight (sigma^2 + 1/4) / (sigma / 2)^2 = 4 + 1 / sigma^2
    weights = (4 + 1 / 0.25, 4 + 1.0, 4 + 0.25)
    assert loss.plain.tolist() == pytest.approx([0.01, 0.04, 0.09], rel=1e-5)
    assert loss.weighted.tolist() == pytest.approx([w * e**2 for w, e in zip(weights, (0.1, 0.2, 0.3), strict=True)])
    assert told(asked[0], ClassIds).ids.tolist() == [0, 1, 2]


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


SHAPES = [(3,), (3, 5), (3, 4, 2), (3, 1, 2, 4), (3, 2, 1, 2, 2)]


@pytest.mark.parametrize("shape", SHAPES)
def test_targets_may_have_any_axes_after_the_first(shape: tuple[int, ...]) -> None:
    y = torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape)
    batch = TASK.draw(Samples(y, torch.tensor([0, 1, 2])), SIGMA, 0, seeded())
    noise = torch.randn(shape, generator=seeded())
    for i, sigma in enumerate((0.5, 1.0, 2.0)):
        torch.testing.assert_close(batch.noised.z[i], y[i] + sigma * noise[i])
    loss = TASK.loss(lambda z, sigma, condition: z, batch.noised, y, batch.condition)
    plain = [float((sigma * noise[i]).square().mean()) for i, sigma in enumerate((0.5, 1.0, 2.0))]
    assert loss.plain.tolist() == pytest.approx(plain, rel=1e-5)
    assert loss.weighted.tolist() == pytest.approx([w * e for w, e in zip((8, 5, 4.25), plain, strict=True)], rel=1e-5)


def test_noise_comes_from_the_default_generator_where_none_is_given() -> None:
    torch.manual_seed(0)
    assert add_noise(IMAGES, SIGMA, None).z.equal(add_noise(IMAGES, SIGMA, None, seeded()).z)
    assert add_noise(IMAGES.double(), SIGMA, None, seeded()).z.dtype == torch.float64


def test_samples_without_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="this task tells the denoiser labels, and the data have none; use data with"):
        TASK.draw(Samples(IMAGES, None), SIGMA, 0, seeded())


class Echo(nn.Module):
    """A backbone without layers that answers 0, and remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        self.asked: list[Condition] = []

    def stem(self, z: Tensor, noise: Tensor, condition: Condition) -> tuple[Tensor, None]:
        self.asked.append(condition)
        return z, None

    def head(self, h: Tensor, modulation: None) -> Tensor:
        return torch.zeros_like(h)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_loss_for_a_loop_of_ones_own_by_hand(shape: tuple[int, ...]) -> None:
    y, frame = torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape), Precondition(0.5)
    loss = denoising_loss(BlockDenoiser(Echo(), frame), y, None, SIGMA, seeded())
    noise, expected = torch.randn(shape, generator=seeded()), 0.0
    for i, sigma in enumerate((0.5, 1.0, 2.0)):
        answer = 0.25 / (sigma**2 + 0.25) * (y[i] + sigma * noise[i])  # c_skip z
        expected += (4 + 1 / sigma**2) * float((answer - y[i]).square().mean()) / 3
    assert loss.shape == ()
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    task, noised = ImageGeneration(frame, 3), add_noise(y, SIGMA, None, seeded())
    assert loss.equal(task.loss(BlockDenoiser(Echo(), frame), noised, y, Nothing(3)).weighted.mean())


def test_what_the_loss_tells_the_denoiser() -> None:
    echo, words = Echo(), Nothing(3)
    for x in (torch.tensor([2, 0, 1]), torch.rand(3, 2), words, None):
        denoising_loss(BlockDenoiser(echo, Precondition()), IMAGES, x, SIGMA)
    assert [type(condition) for condition in echo.asked] == [ClassIds, Frames, Nothing, Nothing]
    assert told(echo.asked[0], ClassIds).ids.tolist() == [2, 0, 1]
    assert echo.asked[2] is words


def test_wrong_arguments_of_the_loss_are_refused() -> None:
    denoiser = BlockDenoiser(Echo(), Precondition())
    with pytest.raises(
        ValueError,
        match="the denoiser's frame is Logits; the loss needs one with a weight, as Precondition: give Block",
    ):
        denoising_loss(BlockDenoiser(Echo(), Logits(Precondition())), IMAGES, None, SIGMA)
    with pytest.raises(
        ValueError, match="the denoiser's frame is NoneType; the loss needs one with a weight, as Precondition"
    ):
        denoising_loss(lambda z, sigma, condition: z, IMAGES, None, SIGMA)  # type: ignore[arg-type]
    for sigma in (torch.ones(2), torch.ones(3, 1), torch.tensor(1.0)):
        with pytest.raises(ValueError, match=r"sigma has shape \(.*\), y \(3, 1, 2, 4\); give one level for each targ"):
            denoising_loss(denoiser, IMAGES, None, sigma)
    with pytest.raises(ValueError, match=r"y is torch.uint8; floating point is allowed, because noise is added: conv"):
        denoising_loss(denoiser, IMAGES.to(torch.uint8), None, SIGMA)
    with pytest.raises(ValueError, match="the condition is for 2 samples, but there are 3"):
        denoising_loss(denoiser, IMAGES, torch.arange(2), SIGMA)
