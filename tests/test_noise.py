import json
import math
from dataclasses import astuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oneblock.noise import (
    CosineMask,
    LawValue,
    LinearMask,
    LogNormal,
    LogUniform,
    NoiseLaw,
    Tabulated,
    law_from_dict,
    law_to_dict,
)

TABLE = Tabulated((0.1, 0.4, 1.6, 20.0), (0.0, 0.2, 0.9, 1.0))
LAWS = [
    LogNormal(),
    LogNormal(0.3, 0.5, 0.1, 3.0),
    LogUniform(),
    LogUniform(0.5, 4.0),
    TABLE,
    LinearMask(),
    CosineMask(),
]
masses = st.lists(st.floats(0.0, 1.0), min_size=2, max_size=8, unique=True)


@st.composite
def tables(draw: st.DrawFn) -> Tabulated:
    """2 to 8 levels between 0.01 and 100, with at least a thousandth of the mass between two of them."""
    parts = st.lists(st.floats(0.01, 1.0), min_size=1, max_size=7)
    steps = torch.tensor([0.0, *draw(parts)], dtype=torch.float64)
    logs = torch.tensor([0.0, *draw(st.lists(st.floats(0.01, 1.0), min_size=len(steps) - 1, max_size=len(steps) - 1))])
    levels = 0.01 * (logs.double().cumsum(0) * draw(st.floats(0.1, 1.3))).exp()
    mass = (steps.cumsum(0) / steps.sum()).tolist()
    return Tabulated(tuple(levels.tolist()), (*mass[:-1], 1.0))


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("law", LAWS)
@given(mass=masses)
def test_quantile_inverts_cdf_and_rises(law: NoiseLaw, mass: list[float]) -> None:
    sorted_mass = double(*sorted(mass))
    level = law.quantile(sorted_mass)
    torch.testing.assert_close(law.cdf(level), sorted_mass, rtol=0, atol=1e-9)
    assert bool((level.diff() >= 0).all())
    assert bool(((level >= law.low) & (level <= law.high)).all())


@pytest.mark.parametrize("law", LAWS)
def test_ends(law: NoiseLaw) -> None:
    assert law.cdf(double(law.low, law.high)).tolist() == pytest.approx([0.0, 1.0], abs=1e-12)
    assert law.quantile(double(0.0, 1.0)).tolist() == pytest.approx([law.low, law.high], rel=1e-9)


def test_log_normal_against_the_error_function() -> None:
    def normal(x: float) -> float:
        return 0.5 * (1 + math.erf(x / math.sqrt(2)))

    law = LogNormal(-1.2, 1.2, 0.002, 80.0)
    low, high = (normal((math.log(s) + 1.2) / 1.2) for s in (0.002, 80.0))
    for sigma in (0.01, 0.3, 1.0, 7.0):
        expected = (normal((math.log(sigma) + 1.2) / 1.2) - low) / (high - low)
        assert law.cdf(double(sigma)).item() == pytest.approx(expected, rel=1e-12)
    assert law.quantile(double(0.5)).item() == pytest.approx(math.exp(-1.2), rel=1e-4)  # the cut ends hardly matter


def test_log_uniform_is_a_line_in_log_sigma() -> None:
    law = LogUniform(0.01, 100.0)
    assert law.cdf(double(0.1, 1.0, 10.0)).tolist() == pytest.approx([0.25, 0.5, 0.75])
    assert law.quantile(double(0.25)).item() == pytest.approx(0.1)


def test_a_table_is_linear_in_log_sigma_between_its_levels() -> None:
    assert TABLE.cdf(double(*TABLE.levels)).tolist() == pytest.approx(list(TABLE.mass))
    assert TABLE.quantile(double(*TABLE.mass)).tolist() == pytest.approx(list(TABLE.levels))
    assert TABLE.cdf(double(0.2, 0.8, 0.4 * 4**0.25)).tolist() == pytest.approx([0.1, 0.55, 0.2 + 0.7 / 4])
    assert TABLE.quantile(double(0.55, 0.95)).tolist() == pytest.approx([0.8, math.sqrt(1.6 * 20)])
    assert TABLE.widen(0.4, 1.6, 0.5) == pytest.approx((0.2, 3.2))
    assert TABLE.widen(0.1, 0.4, 0.5) == pytest.approx((0.1, 0.8))


@given(law=tables(), mass=masses)
def test_any_table_inverts(law: Tabulated, mass: list[float]) -> None:
    levels = law.quantile(double(*sorted(mass)))
    torch.testing.assert_close(law.cdf(levels), double(*sorted(mass)), rtol=0, atol=1e-9)
    inside = law.low * (law.high / law.low) ** double(*mass)
    torch.testing.assert_close(law.quantile(law.cdf(inside)), inside, rtol=1e-9, atol=0)


def test_draws_of_a_table_follow_it() -> None:
    u = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigma = TABLE.quantile(u)
    assert bool(((sigma >= 0.1) & (sigma <= 20.0)).all())
    for level in (0.2, 0.4, 1.0, 1.6, 5.0):
        below = (sigma < level).double().mean().item()
        assert below == pytest.approx(TABLE.cdf(double(level)).item(), abs=0.01)


def test_mask_schedules() -> None:
    t = double(0.0, 0.2, 0.5, 1.0)
    assert (1 - LinearMask().cdf(t)).tolist() == pytest.approx([1.0, 0.8, 0.5, 0.0])
    cosine = [1 - math.cos(math.pi / 2 * (1 - x)) for x in t.tolist()]
    assert (1 - CosineMask().cdf(t)).tolist() == pytest.approx(cosine, abs=1e-12)
    assert (1 - CosineMask().cdf(double(*CosineMask().edges(4)))).tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1])


@pytest.mark.parametrize("law", LAWS)
def test_edges_descend_and_cut_equal_masses(law: NoiseLaw) -> None:
    edges = law.edges(5)
    assert (edges[0], edges[-1]) == (law.high, law.low)
    assert (-law.cdf(double(*edges)).diff()).tolist() == pytest.approx([0.2] * 5, abs=1e-9)


def test_widening_is_geometric_for_sigma_and_arithmetic_for_time() -> None:
    assert LogNormal().widen(0.1, 0.4, 0.5) == pytest.approx((0.05, 0.8))
    assert LogNormal().widen(0.002, 0.01, 0.5) == pytest.approx((0.002, 0.01 * math.sqrt(5)))
    assert LinearMask().widen(0.4, 0.6, 0.5) == pytest.approx((0.3, 0.7))
    assert LinearMask().widen(0.8, 1.0, 0.5) == pytest.approx((0.7, 1.0))


@pytest.mark.parametrize("law", LAWS)
def test_a_law_survives_as_plain_values(law: NoiseLaw) -> None:
    back = law_from_dict(law_to_dict(law))
    assert type(back) is type(law)
    assert astuple(back) == astuple(law)  # type: ignore[call-overload]
    assert json.loads(json.dumps(law_to_dict(law))) == law_to_dict(law)


def table(levels: list[float], mass: list[float]) -> dict[str, LawValue]:
    return {"law": "tabulated", "levels": levels, "mass": mass}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"law": "gamma"}, "noise law 'gamma' is unknown; use one of log-normal, log-uniform"),
        ({}, "noise law None is unknown"),
        ({"law": "linear-mask", "power": 2.0}, r"has settings \['power'\]; it needs exactly \[\]"),
        ({"law": "log-uniform", "sigma_min": 1.0}, r"it needs exactly \['sigma_max', 'sigma_min'\]"),
        ({"law": "log-uniform", "sigma_min": 1.0, "sigma_max": 1.0}, "is not a range; use finite 0 < sigma_min"),
        ({"law": "log-uniform", "sigma_min": 0.0, "sigma_max": 1.0}, "is not a range"),
        (table([1.0, 2.0, 2.0], [0.0, 0.5, 1.0]), r"levels=\(1.0, 2.0, 2.0\) do not ascend; give strictly ascending"),
        (
            table([1.0, float("nan"), 2.0], [0.0, 0.5, 1.0]),
            r"levels=\[1.0, nan, 2.0\] of a noise law is not allowed; use",
        ),
        (table([True, 2.0], [0.0, 1.0]), r"levels=\[True, 2.0\] of a noise law is not allowed; use finite numbers"),
        ({"law": "log-uniform", "sigma_min": "1", "sigma_max": 2.0}, "sigma_min='1' of a noise law is not allowed"),
        ({"law": ["log-uniform"]}, r"noise law \['log-uniform'\] is unknown"),
        (
            {"law": "log-normal", "p_mean": 1e6, "p_std": 1.0, "sigma_min": 0.1, "sigma_max": 1.0},
            "p_mean=1000000.0, p_std=1.0 leave nothing between sigma_min=0.1 and sigma_max=1.0",
        ),
        (table([1.0, 2.0, 3.0], [0.0, 0.6, 0.5]), r"mass=\(0.0, 0.6, 0.5\) do not ascend"),
        (table([1.0, 2.0], [0.0, 0.5, 1.0]), r"mass=\(0.0, 0.5, 1.0\) at 2 levels; give one number per level, from 0"),
        (table([1.0, 2.0], [0.0, 0.9]), r"mass=\(0.0, 0.9\) at 2 levels; give one number per level, from 0.0 to 1.0"),
        (table([1.0, 2.0], [0.1, 1.0]), r"mass=\(0.1, 1.0\) at 2 levels"),
        (table([0.0, 2.0], [0.0, 1.0]), "is not a range"),
        (table([], []), "is not a range"),
        ({"law": "tabulated", "levels": [1.0, 2.0]}, r"needs exactly \['levels', 'mass'\]"),
    ],
)
def test_wrong_laws_are_refused(values: dict[str, LawValue], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        law_from_dict(values)


def test_wrong_spread_and_unnamed_law_are_refused() -> None:
    with pytest.raises(ValueError, match=r"p_std=0.0 is not a spread; use a number above 0"):
        LogNormal(p_std=0.0)

    class Mine(LinearMask):
        pass

    with pytest.raises(ValueError, match="noise law Mine has no name in a plan"):
        law_to_dict(Mine())
