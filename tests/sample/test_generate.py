import torch
from torch import Tensor

from oneblock.condition import ClassIds, Condition, Nothing, told
from oneblock.sample import SAMPLERS, karras_grid
from oneblock.sample.generate import generate

GRID = karras_grid(0.01, 10.0, 4)


def pull(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
    assert not torch.is_grad_enabled()
    return 0.1 * z + told(condition, ClassIds).ids.view(-1, 1)


def samples(num: int, seed: int = 0, sampler: str = "euler") -> Tensor:
    return generate(pull, SAMPLERS[sampler], GRID, ClassIds(torch.arange(num)), (2,), seed, batch_size=4)


def test_samples_follow_from_the_seed_one_by_one() -> None:
    assert samples(7).equal(samples(7))
    assert samples(7)[:3].equal(samples(3))
    assert not samples(7).equal(samples(7, seed=1))
    assert samples(6, sampler="churn").equal(samples(6, sampler="churn"))


def test_batches_start_from_different_noise_of_the_top_level() -> None:
    found = generate(lambda z, sigma, told: z, SAMPLERS["euler"], GRID, Nothing(4000), (2,), 0, batch_size=1000)
    assert abs(found.std().item() - 10.0) < 0.3  # a denoiser that returns z leaves the starting noise as it is
    assert not found[:1000].equal(found[1000:2000])
