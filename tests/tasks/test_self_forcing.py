"""Videos that a network makes to learn from, and what judges them."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oneblock.blockwise import BlockDenoiser, Denoiser
from oneblock.condition import Condition, Nothing
from oneblock.framewise import FrameLevels
from oneblock.models.video import Video, VideoConfig
from oneblock.partition import make_partition
from oneblock.sample import flow_grid
from oneblock.sample.stream import RENOISE, Reading, SampleNoise, Stream, read, reader
from oneblock.schedule import FlowMatching, logit_normal
from oneblock.tasks.self_forcing import Matching, roll_out
from oneblock.tasks.video import VideoGeneration, everywhere
from oneblock.train.self_forcing import SelfForcing, self_force

N, SIZES, SHAPE = 2, (3, 2, 2), (1, 4, 4)
PARTITION = make_partition(logit_normal(), 2)
LAW = PARTITION.law
TASK = VideoGeneration(FlowMatching(), PARTITION, FrameLevels("clean", LAW, len(SIZES)), SIZES)


def network() -> Denoiser:
    """Two blocks of a layer each, in single precision as the noise is."""
    blocks = []
    for b in range(2):
        torch.manual_seed(b)
        config = VideoConfig(
            shape=(7, *SHAPE), depth=2, width=8, heads=2, patch=2, block_frames=2, streams="two", noise_scale=0.004
        )
        made = Video(config, range(b, b + 1))
        for p in made.parameters():
            nn.init.normal_(p, std=0.2)
        blocks.append(BlockDenoiser(made, FlowMatching()))
    return Denoiser(PARTITION, blocks.__getitem__)


def grid(steps: int) -> Tensor:
    return flow_grid(LAW.low, LAW.high, steps)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_rollout_of_one_step_is_a_stream() -> None:
    found = roll_out(reader(network()), grid(1), Nothing(N), SIZES, SHAPE, SampleNoise(0, N))
    assert found.exits == (0, 0, 0)
    settings: dict[str, Any] = {
        "sampler": RENOISE,
        "grid": grid(1),
        "condition": Nothing(N),
        "noise": SampleNoise(0, N),
    }
    wanted = torch.cat(list(Stream(reader(network()), sizes=SIZES, shape=SHAPE, **settings)), dim=1)
    torch.testing.assert_close(found.frames.detach(), wanted)


def test_only_the_step_that_is_drawn_has_a_gradient() -> None:
    denoiser, steps = network(), 4
    found = roll_out(reader(denoiser), grid(steps), Nothing(N), SIZES, SHAPE, SampleNoise(0, N), generator=generator())
    drawn = generator()
    assert found.exits == tuple(int(torch.randint(steps, (), generator=drawn)) for _ in SIZES)
    assert len(set(found.exits)) > 1
    weights = torch.linspace(-1, 2, found.frames.numel()).view_as(found.frames)
    parameters = [p for b in range(2) for p in denoiser.block(b).parameters()]
    gradients = torch.autograd.grad((found.frames * weights).sum(), parameters, materialize_grads=True)
    total = [torch.zeros_like(p) for p in parameters]
    noise, levels, reading, start = SampleNoise(0, N), grid(steps).tolist(), Reading(denoiser), 0
    for size, last in zip(SIZES, found.exits, strict=True):
        z = noise(torch.empty(N, size, *SHAPE)) * levels[0]
        with torch.no_grad():
            for sigma, after in itertools.pairwise(levels[: last + 1]):
                z = reading(z, torch.full((N,), sigma), Nothing(N)) + after * noise(z)
        owner = denoiser.owner(torch.full((N,), levels[last]))
        assert owner is not None
        past = {b: state.detach() for b, state in reading.past.items()}
        y, _ = read(denoiser.block(owner), z, torch.full((N,), levels[last]), Nothing(N), past.get(owner))
        own = slice(start, start + size)
        torch.testing.assert_close(found.frames[:, own], y)
        for one, part in zip(
            total, torch.autograd.grad((y * weights[:, own]).sum(), parameters, materialize_grads=True), strict=True
        ):
            one += part
        reading, start = reading.commit(y.detach(), Nothing(N), 0.0), start + size
    for one, other in zip(gradients, total, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_gradient_of_matching() -> None:
    shape = (N, 7, *SHAPE)
    frames, real, made = (torch.randn(shape, generator=generator(seed)) for seed in range(3))

    def answering(values: Tensor) -> Any:
        return lambda z, sigma, condition: torch.cat([torch.zeros_like(values), values], dim=1)

    matching = Matching(everywhere(TASK), answering(real), answering(made))
    found = matching.loss(frames.requires_grad_(), Nothing(N), torch.ones(N), generator())
    assert found.shape == (N,)
    (gradient,) = torch.autograd.grad(found.sum(), frames)
    for i in range(N):
        away = (frames[i] - real[i]).abs().mean().detach()
        torch.testing.assert_close(gradient[i], (made[i] - real[i]) / away / frames[i].numel())
    alike = Matching(everywhere(TASK), answering(real), answering(real))
    assert torch.equal(alike.loss(frames, Nothing(N), torch.ones(N), generator()), torch.zeros(N))


def test_matching_moves_what_is_made_to_what_is_real() -> None:
    """Both laws are normal with a variance of 1, whose denoiser is known; the mean of the made one learns."""
    mean = torch.full((1,), 3.0, requires_grad=True)

    def exact(middle: float) -> Any:
        def call(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
            variance = sigma[:, :, None, None, None] ** 2
            return (z + variance * middle) / (1 + variance)

        return call

    random = generator()
    for _ in range(60):
        drawn = torch.randn(16, 7, *SHAPE, generator=random)
        matching = Matching(everywhere(TASK), exact(-1.0), exact(float(mean.detach())))
        loss = matching.loss(drawn + mean, Nothing(16), torch.full((16,), 2.0), random).mean()
        (gradient,) = torch.autograd.grad(loss, mean)
        mean = (mean - gradient).detach().requires_grad_()
    assert abs(float(mean.detach()) + 1) < 0.1


def test_a_network_learns_from_what_it_makes() -> None:
    denoiser, settings = (
        network(),
        SelfForcing(updates=6, critic_updates=2, batch_size=4, steps=2, learning_rate=1e-3, critic_learning_rate=3e-3),
    )
    before = [p.clone() for b in range(2) for p in denoiser.block(b).parameters()]
    rows = list(self_force(denoiser, TASK, grid(2), SHAPE, settings))
    assert [row.update for row in rows] == list(range(1, 7))
    assert rows[-1].critic_loss < rows[0].critic_loss
    assert rows[-1].loss > 0
    after = [p for b in range(2) for p in denoiser.block(b).parameters()]
    assert not any(torch.equal(one, other) for one, other in zip(before, after, strict=True) if one.ndim > 1)
    again = list(self_force(network(), TASK, grid(2), SHAPE, settings))
    assert again == rows


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"updates": 0}, "updates=0 is not allowed"),
        ({"critic_learning_rate": 0.0}, "critic_learning_rate=0.0 is not allowed"),
        ({"beta2": 1.0}, "beta2=1.0 is not allowed"),
    ],
)
def test_settings_that_are_not_possible_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelfForcing(**settings)
