from typing import Any

import pytest
import torch
from torch import Tensor

from oneblock.blockwise import BlockDenoiser, Denoiser
from oneblock.condition import ClassIds, Condition, Nothing
from oneblock.data import Samples
from oneblock.framewise import FrameLevels, LevelPolicy
from oneblock.models.video import Video, VideoConfig
from oneblock.partition import make_partition
from oneblock.schedule import FlowMatching, logit_normal
from oneblock.tasks.base import Noised
from oneblock.tasks.video import VideoGeneration

N, FRAMES, BLOCKS = 6, 7, (3, 2, 2)
FLOW = FlowMatching()
PARTITION = make_partition(logit_normal(), 2, overlap=0.05)
POLICIES: tuple[LevelPolicy, ...] = ("same", "independent", "monotone", "last", "clean")


def task(policy: LevelPolicy = "monotone", **changes: Any) -> VideoGeneration:
    levels = FrameLevels(policy, PARTITION.law, len(BLOCKS))
    return VideoGeneration(FLOW, PARTITION, levels, BLOCKS, **{"num_classes": 3, **changes})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def samples() -> Samples:
    return Samples(torch.rand(N, FRAMES, 1, 4, 4, generator=generator(1)) * 2 - 1, torch.arange(N) % 3)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("block", [None, 0, 1])
def test_frames_of_a_block_share_a_level_and_one_block_has_the_drawn_one(policy: LevelPolicy, block: Any) -> None:
    y, sigma = samples(), PARTITION.draw(block or 0, N, generator(2))
    batch = task(policy).draw(y, sigma, block, generator())
    levels = batch.noised.sigma[:, -FRAMES:]
    for start, size in ((0, 3), (3, 2), (5, 2)):
        assert (levels[:, start : start + size] == levels[:, start : start + 1]).all()
    assert (levels == sigma[:, None]).any(1).all()
    noise = (batch.noised.z[:, -FRAMES:] - y.values) / levels.view(N, FRAMES, 1, 1, 1)
    assert noise.mean().abs() < 0.15 and abs(noise.std().item() - 1) < 0.1
    if policy == "clean":
        assert torch.equal(batch.noised.z[:, :FRAMES], y.values)
        assert not batch.noised.sigma[:, :FRAMES].any()
    else:
        assert batch.noised.z.shape == y.values.shape


def zero(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
    return torch.zeros_like(z)


def test_the_loss_is_that_of_the_velocity_on_frames_of_the_band() -> None:
    one = task("independent")
    low, high = PARTITION.training_band(1)
    inside, outside = (low * high) ** 0.5, high * 1.01
    sigma = torch.tensor([[inside, inside, outside, high, low, 0.0, low * 0.99]])
    y, noise = torch.randn(1, FRAMES, 1, 4, 4, generator=generator()), torch.randn(1, FRAMES, 1, 4, 4)
    z = y + sigma.view(1, FRAMES, 1, 1, 1) * noise
    loss = one.loss(zero, Noised(z, sigma, 1), y, Nothing(1))
    t = sigma / (1 + sigma)
    velocity = (z / (1 + sigma.view(1, FRAMES, 1, 1, 1)) - 0) / t.view(1, FRAMES, 1, 1, 1)  # of the answer 0
    error = (velocity - (noise - y)).square().mean((2, 3, 4))
    counted = [0, 1, 3, 4]
    torch.testing.assert_close(loss.weighted, error[:, counted].mean(1))
    torch.testing.assert_close(loss.plain, y.square().mean((2, 3, 4))[:, counted].mean(1))


def test_the_trunk_counts_all_levels_but_clean_ones() -> None:
    sigma = torch.tensor([[PARTITION.law.low, 0.5, 0.0, 1.0, 2.0, 50.0, PARTITION.law.high]])
    y = torch.arange(1.0, 8.0).view(1, FRAMES, 1, 1, 1)
    plain = task().loss(zero, Noised(y, sigma, None), y, Nothing(1)).plain
    torch.testing.assert_close(plain, torch.tensor([sum(i**2 for i in (1, 2, 4, 5, 6, 7)) / 6]))


@pytest.mark.parametrize("policy", ["monotone", "clean"])
def test_what_is_not_counted_has_no_gradient(policy: LevelPolicy) -> None:
    one, y = task(policy), samples()
    batch = one.draw(y, PARTITION.draw(0, N, generator()), 0, generator())
    answer = torch.zeros_like(batch.noised.z, requires_grad=True)
    one.loss(lambda z, sigma, condition: answer, batch.noised, batch.targets, batch.condition).weighted.sum().backward()
    assert answer.grad is not None and answer.grad.isfinite().all()
    moved = answer.grad.abs().amax((2, 3, 4)) > 0
    low, high = PARTITION.training_band(0)
    inside = (batch.noised.sigma >= low) & (batch.noised.sigma <= high)
    assert torch.equal(moved, inside)
    assert inside.any(1).all()


def test_a_first_frame_may_be_given() -> None:
    y, n = Samples(samples().values.repeat(50, 1, 1, 1, 1), torch.zeros(300).long()), 300
    batch = task(first_clean=0.3).draw(y, PARTITION.draw(0, n, generator()), 0, generator())
    given = batch.noised.sigma[:, 0] == 0
    assert 0.2 < given.float().mean() < 0.4
    assert torch.equal(batch.noised.z[given, 0], y.values[given, 0])
    assert (batch.noised.sigma[:, 1:] > 0).all()


def test_labels_are_told_and_dropped() -> None:
    y = Samples(samples().values.repeat(50, 1, 1, 1, 1), torch.zeros(300).long())
    told = task(label_dropout=0.2).draw(y, torch.ones(300), 0, generator()).condition
    assert isinstance(told, ClassIds) and told.null_id == 3
    assert 0.1 < (told.ids == 3).float().mean() < 0.3
    assert isinstance(task(num_classes=0).draw(y, torch.ones(300), 0, generator()).condition, Nothing)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_batch_in_parts_has_the_loss_of_the_whole(policy: LevelPolicy) -> None:
    one = task(policy)
    config = VideoConfig(
        shape=(FRAMES, 1, 4, 4),
        depth=1,
        width=8,
        heads=2,
        patch=2,
        num_classes=3,
        block_frames=2,
        streams="two" if one.two_streams else "one",
    )
    torch.manual_seed(0)
    network = Video(config)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.2)
    denoiser = BlockDenoiser(network, FLOW)
    batch = one.draw(samples(), PARTITION.draw(1, N, generator()), 1, generator())
    whole = one.loss(denoiser, batch.noised, batch.targets, batch.condition).weighted
    parts = [one.loss(denoiser, p.noised, p.targets, p.condition).weighted for p in batch.split(3)]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_the_noisiest_frame_says_which_block_is_asked() -> None:
    class Answer(torch.nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        def forward(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
            return torch.full_like(z, self.value)

    routed = Denoiser(PARTITION, lambda b: Answer(float(b)))  # type: ignore[arg-type, return-value]
    edge = PARTITION.edges[1]
    sigma = torch.tensor([[0.0, edge * 2], [edge / 2, 0.0], [edge * 2, edge / 2]])
    assert routed(torch.zeros(3, 2), sigma, Nothing(3))[:, 0].tolist() == [0.0, 1.0, 0.0]


def test_wrong_data_and_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="this task tells the denoiser labels, and the data have none"):
        task().draw(Samples(samples().values, None), torch.ones(N), 0, generator())
    with pytest.raises(ValueError, match="label 5 is unknown; the plan has 3 classes, from 0 on"):
        task().draw(Samples(samples().values, torch.full((N,), 5)), torch.ones(N), 0, generator())
    with pytest.raises(
        ValueError, match="first_clean=1.0 is not allowed; use a number, 0 or more and below 1".replace(".", r"\.")
    ):
        task(first_clean=1.0)
    with pytest.raises(ValueError, match=r"blocks=\(3, 4\), but there are levels for 3 blocks"):
        VideoGeneration(FLOW, PARTITION, FrameLevels("same", PARTITION.law, 3), (3, 4))
