"""What training will cost: every strategy, and the fewest blocks that fit."""

from dataclasses import replace

import pytest

from oneblock.data import Bytes, vocabulary_size
from oneblock.presets import ImageFacts, ImageRecipe, MaskedRecipe, TextFacts, recurrent_recipe, training_peak
from oneblock.presets.cost import Cost, Fit, cost, fitting, parse_bytes

pytest.importorskip("torch.distributed._tools.mem_tracker")
RECIPE = ImageRecipe(size="nano", depth=4, width=16, heads=2, blocks=2, batch_size=16)
FACTS = ImageFacts(shape=(1, 8, 8), num_classes=10)


@pytest.fixture(scope="module")
def costs() -> dict[str, Cost]:
    return {row.name: row for row in cost(RECIPE, image_size=8, channels=1).rows}


def test_every_strategy_is_there_and_costs_less_the_less_it_holds(costs: dict[str, Cost]) -> None:
    ways = ["end-to-end"] + [f"{way}, {blocks} blocks" for blocks in (2, 4) for way in ("all resident", "own block")]
    assert set(costs) == {f"{way}{more}" for way in ways for more in ("", ", checkpointing")}
    peak = {name: row.peak.total for name, row in costs.items()}
    assert peak["own block, 4 blocks"] < peak["own block, 2 blocks"] < peak["end-to-end"]
    assert peak["own block, 2 blocks"] < peak["all resident, 2 blocks"]
    assert peak["end-to-end, checkpointing"] < peak["end-to-end"]
    assert all(row.peak.total == sum(row.peak.by_kind.values()) for row in costs.values())


def test_the_same_budget_is_about_the_same_work(costs: dict[str, Cost]) -> None:
    plain = {name: row.total_flops for name, row in costs.items() if not row.checkpointing}
    # stems and heads come once per block, and are large beside layers of width 16
    assert max(plain.values()) < 1.5 * plain["end-to-end"]
    assert costs["end-to-end, checkpointing"].total_flops > 1.1 * plain["end-to-end"]


def answer(costs: dict[str, Cost], limit: int, recipe: ImageRecipe = RECIPE) -> tuple[int, bool, int] | None:
    """Blocks, checkpointing and micro-batches of what fits."""
    found = fitting(recipe, FACTS, list(costs.values()), limit)
    return None if found is None else (found.recipe.blocks, found.cost.checkpointing, found.recipe.accumulate)


def test_fit_answers_with_the_fewest_blocks(costs: dict[str, Cost]) -> None:
    peak = {name: row.peak.total for name, row in costs.items()}
    assert answer(costs, peak["end-to-end"]) == (1, False, 1)
    assert answer(costs, peak["end-to-end"] - 1) == (1, True, 1)
    assert answer(costs, peak["end-to-end, checkpointing"] - 1) == (2, False, 1)
    assert answer(costs, min(peak.values()) - 1) == (4, True, 2)
    assert answer(costs, 1000) is None


def test_micro_batches_grow_from_those_asked_for(costs: dict[str, Cost]) -> None:
    limit = min(row.peak.total for row in costs.values()) - 1
    assert answer(costs, limit, replace(RECIPE, accumulate=2)) == (4, True, 4)


def test_cost_asks_for_what_fits(costs: dict[str, Cost]) -> None:
    limit = costs["own block, 2 blocks"].peak.total
    found = cost(RECIPE, image_size=8, channels=1, fit=limit)
    assert found.limit == limit
    assert isinstance(found.fit, Fit)
    assert found.fit.cost.peak.total <= limit
    assert cost(RECIPE, image_size=8, channels=1).fit is None


def test_given_layers_are_the_only_split(costs: dict[str, Cost]) -> None:
    rows = cost(replace(RECIPE, layers=(1, 3)), image_size=8, channels=1).rows
    assert {row.blocks for row in rows} == {1, 2}


def test_a_network_of_recurrent_depth_is_one_block() -> None:
    rows = cost(replace(recurrent_recipe(), size="nano", width=16, heads=2, length=16)).rows
    assert [(row.strategy, row.checkpointing) for row in rows] == [("end-to-end", False), ("end-to-end", True)]


TEXT = MaskedRecipe(size="nano", depth=4, width=16, heads=2, blocks=2, batch_size=16, length=16)


def test_text_is_counted_by_its_length_and_the_number_of_symbols() -> None:
    def count(blocks: int, **changes: int | str) -> Cost:
        rows = cost(replace(TEXT, **changes)).rows  # type: ignore[arg-type]
        return next(row for row in rows if row.blocks == blocks and row.strategy != "all resident")

    few, many, long = count(2), count(2, vocabulary="bpe:300"), count(2, length=32)
    # 273 more symbols: a row of the embedding, a row of the head and its bias each, 4 bytes a number
    assert many.peak.by_kind["Parameter"] - few.peak.by_kind["Parameter"] == 273 * (16 + 16 + 1) * 4
    assert few.step_flops < long.step_flops / 2  # operations grow faster than the length, by attention
    assert long.peak.by_kind["Activation"] > 1.9 * few.peak.by_kind["Activation"]
    bytes_plan = replace(TEXT, blocks=1).plan(TextFacts(vocabulary=Bytes()))
    assert count(1, vocabulary="bytes").peak == training_peak(bytes_plan)


def test_sizes() -> None:
    assert parse_bytes("24GiB") == 24 * 2**30
    assert parse_bytes("80GB") == 80 * 10**9
    assert parse_bytes("1.5MiB") == 3 * 2**19
    assert parse_bytes("12") == parse_bytes(12) == 12
    for wrong in ("", "GiB", "-1GB", "24 quid", "0"):
        with pytest.raises(ValueError, match="is not a number of bytes; write 24GiB"):
            parse_bytes(wrong)


def test_vocabularies_by_name() -> None:
    assert [vocabulary_size(name) for name in ("characters", "bytes", "bpe:4096")] == [27, 256, 4096]
    for wrong in ("", "words", "bpe", "bpe:", "bpe:-300", "bpe:256", "words:300"):
        with pytest.raises(ValueError, match=r"is unknown; use characters, bytes or bpe:4096 \(more than the 256"):
            vocabulary_size(wrong)
