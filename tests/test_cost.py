"""What training will cost: every strategy, and the fewest blocks that fit."""

from dataclasses import replace
from typing import Any

import pytest

from oneblock.data import Bytes, vocabulary_size
from oneblock.presets import (
    CausalRecipe,
    ClassifyRecipe,
    ImageFacts,
    ImageRecipe,
    MaskedRecipe,
    Recipe,
    TextFacts,
    recurrent_recipe,
    training_peak,
)
from oneblock.presets.cost import job_peaks
from oneblock.presets.counted import counted_plan
from oneblock.presets.fit import Cost, Costs, Fit, Prices, Way, _micro_batches, cost, fitting, parse_bytes, ways

pytest.importorskip("torch.distributed._tools.mem_tracker")
RECIPE = ImageRecipe(size="nano", depth=4, width=16, heads=2, blocks=2, batch_size=16)
FACTS = ImageFacts(shape=(1, 8, 8), num_classes=10)


@pytest.fixture(scope="module")
def prices() -> Prices:
    """What is counted once is not counted again."""
    return Prices()


def priced(recipe: Recipe, blocks: int) -> Cost:
    """What a recipe costs in so many blocks, without checkpointing."""
    way, prices = next(way for way in ways(recipe, FACTS) if way.blocks == blocks), Prices()
    return prices.cost(way, prices.peak(way))


def small(recipe: Recipe, **changes: Any) -> Costs:
    return cost(replace(recipe, **changes), image_size=8, channels=1)


@pytest.fixture(scope="module")
def costs() -> dict[str, Cost]:
    return {row.name: row for row in small(RECIPE).rows}


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


Answer = tuple[bool, int, bool, int]


def answer(prices: Prices, limit: int, recipe: Recipe = RECIPE) -> Answer:
    """Whether something fits; blocks, checkpointing and micro-batches of what does, or of what needs least."""
    fits, found = fitting(list(ways(recipe, FACTS)), limit, prices)
    assert (prices.peak(found).total <= limit) == fits
    return fits, found.blocks, found.checkpointing, found.recipe.accumulate


def test_fit_answers_with_the_fewest_blocks(costs: dict[str, Cost], prices: Prices) -> None:
    peak = {name: row.peak.total for name, row in costs.items()}
    assert answer(prices, peak["end-to-end"]) == (True, 1, False, 1)
    assert answer(prices, peak["end-to-end"] - 1) == (True, 1, True, 1)
    assert answer(prices, peak["end-to-end, checkpointing"] - 1) == (True, 2, False, 1)
    assert answer(prices, min(peak.values()) - 1)[:3] == (True, 4, False)  # which micro-batches make superfluous
    assert answer(prices, 1000) == (False, 4, True, 4)  # a sample each


@pytest.mark.parametrize("asked", [1, 3])
def test_micro_batches_are_as_few_as_fit_of_all_that_cut_the_batch(prices: Prices, asked: int) -> None:
    """Twelve samples a step: from as many parts as were asked for to a sample each."""
    recipe = replace(RECIPE, depth=2, block_batch_size=12, batch_size=12, accumulate=asked)

    def peak(count: int) -> int:
        way = Way(replace(recipe, accumulate=count), FACTS, 2, checkpointing=True)
        return training_peak(way.plan, checkpointing=True).total

    cuts = [count for count in (2, 3, 4, 6, 12) if count > asked]  # parts of 6, 4, 3, 2 and 1 samples
    peaks = {count: peak(count) for count in cuts}
    assert sorted(set(peaks.values()), reverse=True) == list(dict.fromkeys(peaks.values()))
    for count in cuts[:2]:
        assert answer(prices, peaks[count], recipe)[3] == count


def test_micro_batches_cut_the_batches_of_all_jobs(prices: Prices) -> None:
    """Two blocks have batches of 8 and four of 4, the trunk one of 16."""
    recipe = replace(RECIPE, branch=0.5)
    for way in list(ways(recipe, FACTS))[1:]:
        for count in _micro_batches(way):
            dry_run = job_peaks(replace(way.cut(count), checkpointing=True).plan, parts=1)
            assert dry_run.keys() == {"trunk", *(f"block-{b}" for b in range(way.blocks))}
    assert [_micro_batches(way) for way in ways(recipe, FACTS)] == [[2, 3, 4, 6, 8, 16], [2, 3, 4, 6, 8], [2, 3, 4]]


def test_every_job_counts_the_trunk_too() -> None:
    """A small network with a large batch of the trunk, and uneven blocks of which the last is the largest."""
    branched, plain = (counted_plan(replace(RECIPE, branch=branch), FACTS) for branch in (0.5, 0.0))
    equal = counted_plan(replace(RECIPE, block_batch_size=16), FACTS)
    assert training_peak(plain).total < training_peak(branched).total == training_peak(equal).total
    uneven = counted_plan(replace(RECIPE, layers=(1, 3)), FACTS)
    largest = counted_plan(replace(RECIPE, depth=6, blocks=2), FACTS)
    assert training_peak(uneven) == training_peak(largest)


def test_what_cannot_be_trained_is_left_out_with_the_reason() -> None:
    """Four blocks have batches of 4."""
    found = small(RECIPE, accumulate=5)
    assert {row.blocks for row in found.rows} == {1, 2}
    left_out, rivals = found.left_out
    assert (left_out.name, rivals.name) == ("4 blocks", "fused Adafactor and block swap")
    assert rivals.reason.endswith("cannot be added up (accumulate=5)")
    assert "a batch of 4 cannot be cut for 1 processes x accumulate=5" in left_out.reason
    with pytest.raises(ValueError, match=r"a batch of 16 cannot be cut .*accumulate=17"):
        small(RECIPE, accumulate=17)
    with pytest.raises(ValueError, match="heads"):
        small(RECIPE, heads=5)
    skips = small(ClassifyRecipe(size="nano", depth=2, width=16, heads=2), skip=True, inputs="scaled", table="random")
    assert [(one.name, row.blocks) for one in skips.left_out for row in skips.rows[-1:]] == [("end-to-end", 2)]


def test_cost_asks_for_what_fits(costs: dict[str, Cost]) -> None:
    limit = costs["own block, 4 blocks"].peak.total
    found = cost(RECIPE, image_size=8, channels=1, fit=limit)
    assert found.limit == limit
    assert isinstance(found.fit, Fit)
    assert found.fit.cost == costs[found.fit.cost.name]
    assert (found.fit.strategy, found.fit.recipe.blocks, found.least) == ("all", 4, None)
    assert small(RECIPE).fit is None
    nothing = cost(replace(RECIPE, depth=1), image_size=8, channels=1, fit=1000)
    assert nothing.fit is None
    assert nothing.least is not None and nothing.least.recipe.accumulate == 16


def test_an_answer_without_blocks_forgets_what_only_they_can_have() -> None:
    """Shares and levels to cut at stay with the blocks that they fit, and end-to-end training is offered without."""
    recipe = replace(RECIPE, branch=0.5, whole_share=0.25, bands=(2.5,), blocks=2)
    found = cost(recipe, image_size=8, channels=1, fit="1GiB")
    assert {row.blocks for row in found.rows} == {1, 2}
    assert {one.name: one.reason.split(";")[0] for one in found.left_out} == {
        "4 blocks": "bands=(2.5,) cuts the noise into 2 bands"
    }
    assert found.fit is not None and found.fit.strategy == "end-to-end"
    assert found.fit.recipe == replace(recipe, branch=0.0, whole_share=0.0, bands="equal-mass")
    assert found.fit.recipe.of_several() == "" != recipe.of_several()


def test_given_layers_are_the_only_split(costs: dict[str, Cost]) -> None:
    rows = small(RECIPE, layers=(1, 3)).rows
    assert {row.blocks for row in rows} == {1, 2}


RECURRENT: dict[str, Any] = {"size": "nano", "width": 16, "heads": 2, "length": 16, "batch_size": 4}


def test_a_network_of_recurrent_depth_is_one_block_and_no_ordinary_network() -> None:
    recipe = replace(recurrent_recipe(), **RECURRENT, depth=2)
    found = cost(recipe, fit="1GiB")
    assert [(row.strategy, row.checkpointing) for row in found.rows] == [
        *(("end-to-end", False), ("end-to-end", True)),
        *(("own block", False), ("own block", True)),
    ]
    assert found.fit is not None
    assert (found.fit.strategy, found.fit.recipe) == ("all", recipe)
    assert found.fit.cost.peak == training_peak(counted_plan(recipe, FACTS))
    assert [way.name for way in ways(replace(recipe, blocks=2), FACTS)] == ["end-to-end", "one block", "2 blocks"]


@pytest.mark.parametrize(
    ("recipe", "width"),
    [
        (CausalRecipe(table="co-occurrence"), 16),
        (CausalRecipe(table="co-occurrence", width=32), 27),
        (CausalRecipe(table="co-occurrence", label_width=8, inputs="scaled"), 8),
        (CausalRecipe(table="random", label_width=40, vocabulary="bytes"), 40),
        (CausalRecipe(vocabulary="bpe:300"), 300),
        (ClassifyRecipe(table="prototypes", inputs="scaled"), 64),
        (ClassifyRecipe(table="orthonormal"), 16),
    ],
)
def test_vectors_that_come_from_the_data_are_counted_by_their_length(recipe: Recipe, width: int) -> None:
    recipe = replace(recipe, size="nano", depth=2, heads=2, width=recipe.width or 16, blocks=2)
    plan = counted_plan(recipe, FACTS)
    assert plan.recipe["table_width"] == width
    if plan.recipe["inputs"] == "scaled":
        assert plan.architecture["label_width"] == width
    assert training_peak(plan).total > 0


def test_vectors_of_co_occurrence_have_at_most_one_number_for_each_symbol() -> None:
    with pytest.raises(ValueError, match=r"width=28 does not fit co-occurrence vectors; use 1 to .* 27"):
        cost(CausalRecipe(table="co-occurrence", label_width=28))


def test_published_settings_and_choices_are_counted_as_they_train() -> None:
    """tiny-imagenet has two blocks unless another number than the usual three is asked for, so three are given as
    layers; the paper's choices share stem and head."""
    tiny = ClassifyRecipe(settings="tiny-imagenet", width=16, heads=2, depth=6, batch_size=6, block_batch_size=3)
    found = {way.name: way.recipe for way in ways(tiny, FACTS)}
    assert [(recipe.blocks, recipe.layers) for recipe in found.values()] == [
        *((3, ()), (2, ()), (3, (2, 2, 2)), (6, ()))
    ]
    assert [counted_plan(recipe, FACTS).num_blocks for name, recipe in found.items() if name != "end-to-end"] == [
        *(2, 3, 6)
    ]
    paper = small(ClassifyRecipe(recipe="paper", size="nano", depth=2, width=16, heads=2, batch_size=4))
    assert [row.name for row in paper.rows if not row.checkpointing] == ["end-to-end", "all resident, 2 blocks"]


def test_operations_are_those_of_the_network_that_trains() -> None:
    """A block of text that carries noisy targets beside the tokens does twice the work of an ordinary layer."""
    recipe = CausalRecipe(size="nano", depth=2, width=16, heads=2, length=16, batch_size=4, streams="two")
    one = replace(recipe, streams="one")
    assert priced(recipe, 1).total_flops == priced(one, 1).total_flops  # of an ordinary network, either way
    assert 1.5 * priced(one, 2).step_flops < priced(recipe, 2).step_flops


TEXT = MaskedRecipe(size="nano", depth=4, width=16, heads=2, blocks=2, batch_size=16, length=16)


def test_text_is_counted_by_its_length_and_the_number_of_symbols() -> None:
    def count(blocks: int, **changes: Any) -> Cost:
        return priced(replace(TEXT, **changes), blocks)

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
