import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oneblock.noise import CosineMask, LogNormal, NoiseLaw
from oneblock.partition import Partition, make_partition, split_layers

numbers = st.integers(1, 12)
gammas = st.floats(0.0, 1.0)


@st.composite
def sigma_laws(draw: st.DrawFn) -> LogNormal:
    middle, spread = draw(st.floats(-2.0, 1.0)), draw(st.floats(0.3, 2.0))
    low = math.exp(middle - spread * draw(st.floats(0.5, 4.0)))
    high = math.exp(middle + spread * draw(st.floats(0.5, 4.0)))
    return LogNormal(middle, spread, low, high)


laws = sigma_laws() | st.just(CosineMask())


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(law=laws, blocks=numbers)
def test_bands_of_equal_mass_cover_the_range_once(law: NoiseLaw, blocks: int) -> None:
    partition = make_partition(law, blocks)
    bands = [partition.band(b) for b in range(blocks)]
    assert bands[0][1] == law.high
    assert bands[-1][0] == law.low
    assert all(above[0] == below[1] for above, below in itertools.pairwise(bands))
    masses = [float(law.cdf(double(upper)) - law.cdf(double(lower))) for lower, upper in bands]
    assert masses == pytest.approx([1 / blocks] * blocks, abs=1e-7)


@given(law=laws, blocks=numbers, share=st.floats(0.01, 0.99))
def test_block_at_inverts_band(law: NoiseLaw, blocks: int, share: float) -> None:
    partition = make_partition(law, blocks)
    inside = [lower + share * (upper - lower) for lower, upper in map(partition.band, range(blocks))]
    assert partition.block_at(double(*inside)).tolist() == list(range(blocks))


@given(law=laws, blocks=numbers)
def test_a_level_on_an_edge_belongs_to_the_block_below(law: NoiseLaw, blocks: int) -> None:
    partition = make_partition(law, blocks)
    assert partition.block_at(double(*partition.edges[:-1])).tolist() == list(range(blocks))
    assert partition.block_at(double(law.low)).item() == blocks - 1
    single = double(*partition.edges).float()  # samplers hand over float32, rounded beyond the ends at times
    assert partition.block_at(single).tolist() == [*range(blocks), blocks - 1]


@given(law=sigma_laws(), blocks=numbers, gamma=gammas)
def test_training_band_grows_by_the_ratio_to_the_gamma(law: LogNormal, blocks: int, gamma: float) -> None:
    partition = make_partition(law, blocks, gamma)
    for b in range(blocks):
        lower, upper = partition.band(b)
        factor = (upper / lower) ** gamma
        expected = max(law.low, lower / factor), min(law.high, upper * factor)
        assert partition.training_band(b) == pytest.approx(expected, rel=1e-12)


@given(law=laws, blocks=numbers, gamma=gammas, num=st.integers(1, 50), seed=st.integers(0, 10))
def test_draws_stay_in_the_band_one_in_each_slice(
    law: NoiseLaw, blocks: int, gamma: float, num: int, seed: int
) -> None:
    partition = make_partition(law, blocks, gamma)
    b = seed % blocks
    lower, upper = partition.training_band(b)
    sigma = partition.draw(b, num, seeded(seed))
    assert sigma.dtype == torch.float32
    assert bool(((sigma >= lower * (1 - 1e-6)) & (sigma <= upper * (1 + 1e-6))).all())
    q_low, q_high = law.cdf(double(lower, upper)).tolist()
    place = (law.cdf(sigma) - q_low) / (q_high - q_low) * num
    slices = torch.arange(num, dtype=torch.float64)
    assert bool(((place >= slices - 0.02) & (place <= slices + 1.02)).all())


@pytest.mark.parametrize("law", [LogNormal(), CosineMask()])
def test_draws_lie_evenly_over_each_slice(law: NoiseLaw) -> None:
    """Places within 20,000 slices: those of a slice's lower half alone would leave the other levels untrained."""
    partition, num = make_partition(law, 3, 0.05), 20_000
    q_low, q_high = law.cdf(double(*partition.training_band(1))).tolist()
    u = (law.cdf(partition.draw(1, num, seeded()).double()) - q_low) / (q_high - q_low) * num
    tenths = torch.histc(u - torch.arange(num), bins=10, min=0.0, max=1.0)
    assert tenths.sum() > 0.95 * num  # levels of 32 bits put some into the next slice
    assert tenths.tolist() == pytest.approx([num / 10] * 10, rel=0.1)


def test_draws_follow_the_law_and_the_generator() -> None:
    partition = make_partition(LogNormal(), 3, 0.05)
    assert partition.draw(1, 64, seeded()).equal(partition.draw(1, 64, seeded()))
    assert not partition.draw(1, 64, seeded()).equal(partition.draw(1, 64, seeded(1)))
    lower, upper = partition.training_band(1)
    middle = float(partition.law.quantile(partition.law.cdf(double(lower, upper)).mean()))
    below = (partition.draw(1, 100_000, seeded()) < middle).double().mean().item()
    assert below == pytest.approx(0.5, abs=1e-4)


def test_without_a_generator_the_default_one_is_used() -> None:
    partition = make_partition(LogNormal(), 3)
    torch.manual_seed(4)
    drawn, levels = partition.draw(1, 8), partition.levels(*partition.training_band(1), 8)
    generator = seeded(4)
    assert drawn.equal(partition.draw(1, 8, generator))
    assert levels.equal(partition.draw(1, 8, generator))


def test_three_bands_of_the_default_law() -> None:
    # exp(-1.2 +- 1.2 * 0.4307), where 0.4307 is the two-thirds point of the normal law; the cut ends shift it slightly
    edges = make_partition(LogNormal(), 3).edges
    assert edges[1:3] == pytest.approx((0.505, 0.180), abs=1e-3)


def test_log_uniform_bands_have_equal_ratios() -> None:
    partition = make_partition(LogNormal(), 4, bands="log-uniform")
    ratios = [upper / lower for lower, upper in map(partition.band, range(4))]
    assert ratios == pytest.approx([(80 / 0.002) ** 0.25] * 4)
    # the law inside a band is still the log-normal one: block 0's draws pile up at its lower end
    assert partition.draw(0, 1000, seeded()).median() < math.sqrt(math.prod(partition.band(0)))


@pytest.mark.parametrize("level", [90.0, 0.001, float("nan")])
def test_levels_outside_are_refused(level: float) -> None:
    with pytest.raises(ValueError, match=r"is outside the bands; use \[0.002, 80.0\]"):
        make_partition(LogNormal(), 3).block_at(double(1.0, level))


@pytest.mark.parametrize(
    ("edges", "overlap", "message"),
    [
        ((80.0,), 0.0, "do not descend; give at least two"),
        ((80.0, 1.0, 1.0, 0.002), 0.0, "do not descend"),
        ((0.002, 80.0), 0.0, "do not descend"),
        ((70.0, 0.002), 0.0, "they must cover the noise law, from 80.0 to 0.002"),
        ((80.0, 0.002), -0.1, r"overlap=-0.1 is outside \[0, 1\]"),
        ((80.0, 0.002), float("nan"), r"overlap=nan is outside \[0, 1\]"),
    ],
)
def test_wrong_partitions_are_refused(edges: tuple[float, ...], overlap: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Partition(LogNormal(), edges, overlap)


def test_wrong_numbers_are_refused() -> None:
    partition = make_partition(LogNormal(), 3)
    for block in (-1, 3):
        with pytest.raises(ValueError, match=rf"block={block} does not exist; use 0 \(noisiest\) to 2"):
            partition.band(block)
    with pytest.raises(ValueError, match="num_samples=0 is not a number of draws; use 1 or more"):
        partition.draw(0, 0, seeded())
    with pytest.raises(ValueError, match="num_blocks=0 is not a number of blocks"):
        make_partition(LogNormal(), 0)


def test_layers_are_split_evenly_or_refused() -> None:
    assert split_layers(12, 3) == (4, 4, 4)
    assert split_layers(7, 1) == (7,)
    with pytest.raises(ValueError, match="num_blocks=4 does not divide depth=6; use 1, 2, 3 or 6"):
        split_layers(6, 4)
    with pytest.raises(ValueError, match="num_blocks=0 does not divide depth=1; use 1"):
        split_layers(1, 0)
