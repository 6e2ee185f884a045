import pytest
import torch
from torch import Tensor

from oneblock.condition import ClassIds, Condition, Nothing, Until
from oneblock.sample import SAMPLERS, karras_grid
from oneblock.sample.generate import CHUNK, TOGETHER, generate

GRID = karras_grid(0.01, 10.0, 4)


class Pull:
    """Pulls to a place that the class names; remembers how many samples it was asked about."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        assert not torch.is_grad_enabled()
        if isinstance(condition, Until):
            condition = condition.condition
        assert isinstance(condition, ClassIds)
        assert len(z) == len(sigma) == len(condition)
        self.asked.append(len(z))
        return 0.1 * z + condition.ids.view(-1, 1)


def samples(num: int, seed: int = 0, sampler: str = "euler", batch_size: int = CHUNK) -> Tensor:
    return generate(Pull(), SAMPLERS[sampler], GRID, ClassIds(torch.arange(num)), (2,), seed, batch_size)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samples_follow_from_the_seed_one_by_one(sampler: str) -> None:
    assert samples(7, sampler=sampler).equal(samples(7, sampler=sampler))
    assert samples(7, sampler=sampler)[:3].equal(samples(3, sampler=sampler))
    assert not samples(7, sampler=sampler).equal(samples(7, seed=1, sampler=sampler))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_batch_size_changes_no_sample(sampler: str) -> None:
    many = TOGETHER + CHUNK + 20
    usual = samples(many, sampler=sampler)
    for batch_size in (7, 2000):
        torch.testing.assert_close(samples(many, sampler=sampler, batch_size=batch_size), usual, rtol=1e-6, atol=1e-6)


def test_the_denoiser_is_asked_about_one_batch_at_a_time() -> None:
    pull = Pull()
    generate(pull, SAMPLERS["euler"], GRID, ClassIds(torch.zeros(9, dtype=torch.long)), (2,), 0, batch_size=4)
    assert pull.asked == [4, 4, 1] * 4


def test_the_noise_of_a_chunk_follows_from_the_seed_and_its_number() -> None:
    found = generate(lambda z, sigma, told: z, SAMPLERS["euler"], GRID, Nothing(2 * CHUNK + 3), (2,), seed=5)
    for chunk in range(3):
        generator = torch.Generator().manual_seed(5 * 1_000_003 + chunk)
        start = torch.randn(CHUNK, 2, generator=generator) * float(GRID[0])
        part = found[chunk * CHUNK : (chunk + 1) * CHUNK]
        torch.testing.assert_close(part, start[: len(part)], rtol=1e-5, atol=1e-5)


def test_batches_start_from_different_noise_of_the_top_level() -> None:
    found = generate(lambda z, sigma, told: z, SAMPLERS["euler"], GRID, Nothing(4000), (2,), 0, batch_size=1000)
    assert abs(found.std().item() - 10.0) < 0.3  # a denoiser that returns z leaves the starting noise as it is
    assert not found[:1000].equal(found[1000:2000])


def test_large_seeds_have_noise_too() -> None:
    for seed in (2**62, -(2**62), 2 * 10**13):
        assert samples(3, seed=seed).isfinite().all()
    assert not samples(3, seed=2**62).equal(samples(3, seed=2**62 + 1))


def test_no_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size=0 is not a batch size; use 1 or more"):
        samples(3, batch_size=0)
