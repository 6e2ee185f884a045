"""Where the noise range is cut: by a rule, in numbers, in a file."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import FACTS, TINY

from oneblock.blockwise import Denoiser
from oneblock.condition import Nothing
from oneblock.noise import LogNormal
from oneblock.partition import make_partition
from oneblock.plan import write_plan
from oneblock.presets import ImageRecipe
from oneblock.presets.bands import cuts
from oneblock.presets.base import end_to_end, experts, shallow
from oneblock.sample import SAMPLERS, equal_mass_grid, karras_grid

THREE: dict[str, Any] = {**TINY, "depth": 6, "blocks": 3}
LAW = LogNormal()


def edges(bands: Any, **changes: Any) -> tuple[float, ...]:
    return tuple(ImageRecipe(**{**THREE, **changes, "bands": bands}).plan(FACTS).edges)


def test_numbers_are_the_inner_edges() -> None:
    wanted = (80.0, 2.5, 0.4, 0.002)
    assert edges("2.5,0.4") == edges((2.5, 0.4)) == edges(" 2.5, 0.4 ") == wanted
    partition = make_partition(LAW, 3, 0.05, (2.5, 0.4))
    assert partition.edges == wanted
    assert partition.block_at(torch.tensor([80.0, 2.6, 2.5, 0.41, 0.4, 0.002])).tolist() == [0, 0, 1, 1, 2, 2]


def test_files(tmp_path: Path) -> None:
    wanted = edges((3.0, 0.5))
    for name, text in {"list.json": "[3, 0.5]", "lines.txt": "3\n\n 0.5\n", "more.json": "[\n 3.0,\n 0.5\n]"}.items():
        (tmp_path / name).write_text(text)
        assert edges(str(tmp_path / name)) == wanted, name
    plan = write_plan(ImageRecipe(**THREE, bands=(3.0, 0.5)).plan(FACTS), tmp_path / "run")
    assert edges(str(plan)) == wanted


def test_a_plan_with_numbers_equals_one_with_the_rule_of_the_same_edges() -> None:
    ruled = ImageRecipe(**THREE).plan(FACTS)
    assert ImageRecipe(**THREE, bands=ruled.edges[1:-1]).plan(FACTS).hash == ruled.hash


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        ("2.5", r"bands=\(2\.5,\) cuts the noise into 2 bands; give 2 levels for 3 blocks, or use 2 blocks"),
        ((3.0, 2.0, 1.0), r"cuts the noise into 4 bands; give 2 levels for 3 blocks, or use 4 blocks"),
        ("0.4,2.5", r"bands=\(0\.4, 2\.5\) do not descend; give each level once, the noisiest first"),
        ("1,1", r"do not descend"),
        ("90,1", r"bands=\(90\.0, 1\.0\): 90\.0 is not inside the noise law; use levels between 0\.002 and 80\.0"),
        ("1,0.002", r"0\.002 is not inside the noise law"),
        ("1,nan", r"nan is not inside the noise law"),
        ("equal", r"bands='equal' is neither a rule, nor numbers, nor a file; use equal-mass, log-uniform, noise leve"),
        (("2.5", "0.4"), r"bands=\('2\.5', '0\.4'\) is not allowed in ImageRecipe"),
    ],
)
def test_bands_that_cannot_be_are_refused(bands: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        edges(bands)


def test_rules_have_names() -> None:
    with pytest.raises(ValueError, match="bands='even' is not a rule; use equal-mass or log-uniform, or levels to cut"):
        make_partition(LAW, 3, bands="even")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", r"bands: .*bad.json holds \{\}; use a JSON list of numbers, one number a line, or a plan.json"),
        ('{"edges": [80.0, "x", 0.002]}', r"bad.json holds \{'edges'"),
        ('["3", "0.5"]', r"bad.json holds \['3', '0.5'\]"),
        ("three\nhalf", r"bands: .*bad.json is not JSON .*; use a JSON list, one number a line, or a plan.json"),
        ("\udcff", "is not UTF-8"),
    ],
)
def test_files_of_something_else_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=message):
        cuts(str(tmp_path / "bad.json"))


def test_rivals_without_blocks_forget_numbers_and_shares() -> None:
    recipe = ImageRecipe(**THREE, bands=(2.5, 0.4), whole_share=0.25)
    for rival in (end_to_end, shallow):
        plan = rival(recipe).plan(FACTS)
        assert (plan.edges, "whole_share" in plan.recipe) == ((80.0, 0.002), False)
        assert plan.hash == rival(ImageRecipe(**THREE)).plan(FACTS).hash
    plan = experts(recipe).plan(FACTS)
    assert (plan.edges, plan.layers, plan.recipe["whole_share"]) == ((80.0, 2.5, 0.4, 0.002), (6, 6, 6), 0.25)


@pytest.mark.parametrize("bands", [(30.0, 0.01), (0.1, 0.05), (2.5, 0.4)])
def test_grids_of_uneven_bands(bands: tuple[float, float]) -> None:
    """As many steps for every block from its upper edge on, at levels of equal mass inside the band."""
    partition = make_partition(LAW, 3, 0.0, bands)
    grid = equal_mass_grid(partition, 12)
    assert partition.block_at(grid[:-1].float()).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert bool((grid.diff() < 0).all()) and float(grid[-1]) == 0.0
    for block in range(3):
        mine = LAW.cdf(grid[4 * block : 4 * block + 4])
        lower, upper = partition.band(block)
        assert float(grid[4 * block]) == upper
        ends = LAW.cdf(torch.tensor([upper, lower], dtype=torch.float64))
        torch.testing.assert_close(mine, torch.linspace(float(ends[0]), float(ends[1]), 5, dtype=torch.float64)[:4])
    owners = partition.block_at(karras_grid(LAW.low, LAW.high, 24)[:-1].float())
    assert owners.tolist() == sorted(owners.tolist()) and set(owners.tolist()) == {0, 1, 2}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampling_asks_the_owner_of_every_level(sampler: str) -> None:
    partition = make_partition(LAW, 3, 0.0, (30.0, 0.01))
    asked: list[tuple[int, float]] = []

    def load(block: int) -> Any:
        def answer(z: torch.Tensor, sigma: torch.Tensor, condition: Any) -> torch.Tensor:
            asked.append((block, float(sigma[0])))
            return torch.zeros_like(z)

        return answer

    z = torch.randn(2, 3) * 80.0
    grid = equal_mass_grid(partition, 9)
    SAMPLERS[sampler].run(Denoiser(partition, load), z, grid, Nothing(2), lambda like: torch.randn(like.shape))
    assert {block for block, _ in asked} == {0, 1, 2}
    assert all(int(partition.block_at(torch.tensor(level))) == block for block, level in asked)
