from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tyro
from commands import TINY
from oneblock.cli.image_options import ImageOptions
from oneblock.cli.options import changed_words, parse_bytes
from oneblock.cli.text_options import MaskedOptions, num_symbols

from oneblock.cli.plan import Cost, PlanImages, PlanMaskedText
from oneblock.data import Bytes
from oneblock.presets import training_flops, training_peak

pytest.importorskip("torch.distributed._tools.mem_tracker")
OPTIONS = PlanImages(
    image_size=8, channels=1, model=ImageOptions(size="nano", depth=4, width=16, heads=2, blocks=2, batch_size=16)
)


@pytest.fixture(scope="module")
def costs() -> dict[str, Cost]:
    return {cost.name: cost for cost in OPTIONS.costs()}


def test_every_strategy_is_there_and_costs_less_the_less_it_holds(costs: dict[str, Cost]) -> None:
    ways = ["end-to-end"] + [f"{way}, {blocks} blocks" for blocks in (2, 4) for way in ("all resident", "own block")]
    assert set(costs) == {f"{way}{more}" for way in ways for more in ("", ", checkpointing")}
    peak = {name: cost.peak.total for name, cost in costs.items()}
    assert peak["own block, 4 blocks"] < peak["own block, 2 blocks"] < peak["end-to-end"]
    assert peak["own block, 2 blocks"] < peak["all resident, 2 blocks"]
    assert peak["end-to-end, checkpointing"] < peak["end-to-end"]
    assert all(cost.peak.total == sum(cost.peak.by_kind.values()) for cost in costs.values())


def test_the_same_budget_is_about_the_same_work(costs: dict[str, Cost]) -> None:
    plain = {name: cost.total_flops for name, cost in costs.items() if not cost.checkpointing}
    # stems and heads come once per block, and are large beside layers of width 16
    assert max(plain.values()) < 1.5 * plain["end-to-end"]
    assert costs["end-to-end, checkpointing"].total_flops > 1.1 * plain["end-to-end"]


def test_fit_answers_with_the_fewest_blocks(costs: dict[str, Cost]) -> None:
    def answer(limit: int) -> list[str] | None:
        return OPTIONS.fitting(list(costs.values()), limit)

    peak = {name: cost.peak.total for name, cost in costs.items()}
    own = ["--size", "nano", "--depth", "4", "--width", "16", "--heads", "2", "--batch-size", "16"]
    assert answer(peak["end-to-end"]) == [*own, "--strategy", "end-to-end"]
    assert answer(peak["end-to-end"] - 1) == [*own, "--strategy", "end-to-end", "--checkpointing"]
    assert answer(peak["end-to-end, checkpointing"] - 1) == [*own, "--blocks", "2"]
    assert answer(min(peak.values()) - 1) == [*own, "--accumulate", "2", "--blocks", "4", "--checkpointing"]
    assert answer(1000) is None


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--size", "XL", "--patch", "2", "--budget", "300k"],
        ["--layers", "1", "2", "3", "--overlap", "0.1", "--flip", "--precision", "bf16", "--seed", "7"],
        ["--optimizer", "adamw8bit"],
    ],
)
def test_the_words_of_options_give_the_options(words: list[str]) -> None:
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    options = tyro.cli(ImageOptions, args=words, config=config)
    found = changed_words(options, ImageOptions())
    assert tyro.cli(ImageOptions, args=found, config=config) == options
    assert sorted(found) == sorted(words)


def test_the_answer_leaves_out_what_it_decides(costs: dict[str, Cost]) -> None:
    model = ImageOptions(layers=(1, 3), depth=4, branch=0.5, blocks=2)
    uneven = PlanImages(model=model)
    assert uneven.options(costs["own block, 2 blocks"], 1) == ["--depth", "4", "--layers", "1", "3", "--branch", "0.5"]
    assert uneven.options(costs["end-to-end"], 1) == ["--depth", "4", "--strategy", "end-to-end"]


def test_micro_batches_grow_from_those_asked_for(costs: dict[str, Cost]) -> None:
    options = replace(OPTIONS, model=replace(OPTIONS.model, accumulate=2))
    limit = min(cost.peak.total for cost in costs.values()) - 1
    answer = options.fitting(list(costs.values()), limit)
    assert answer is not None and answer[answer.index("--accumulate") + 1] == "4"


def test_the_command(tmp_path: Path, ok: Callable[..., list[dict[str, Any]]]) -> None:
    words = ("plan", "images", *TINY, "--layers", "1", "3", "--image-size", "8", "--channels", "1")
    (found,) = ok(*words, "--json", "--fit", "1GiB", "--chart", tmp_path / "bars.png")
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")
    assert found["fit"] == {"limit": 2**30, "options": [*TINY[:-2], "--strategy", "end-to-end"]}
    assert {cost["blocks"] for cost in found["costs"]} == {1, 2}


def test_nothing_fits(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, costs: dict[str, Cost]) -> None:
    monkeypatch.setattr(PlanImages, "costs", lambda self: costs.values())
    said = refused("plan", "images", *TINY, "--image-size", "8", "--channels", "1", "--fit", "1kB")
    assert "nothing here trains in --fit 1kB" in said
    assert "24 quid" in refused("plan", "images", "--fit", "24 quid")


TEXT = MaskedOptions(size="nano", depth=4, width=16, heads=2, blocks=2, batch_size=16, length=16)


def test_text_is_counted_by_its_length_and_the_number_of_symbols() -> None:
    def count(blocks: int, vocabulary: str, model: MaskedOptions = TEXT) -> tuple[dict[str, int], int]:
        plan = PlanMaskedText(model=model, vocabulary=vocabulary).plan(blocks)
        return training_peak(plan).by_kind, training_flops(plan).layer

    few, many, long = count(2, "characters"), count(2, "bpe:300"), count(2, "characters", replace(TEXT, length=32))
    # 273 more symbols: a row of the embedding, a row of the head and its bias each, 4 bytes a number
    assert many[0]["Parameter"] - few[0]["Parameter"] == 273 * (16 + 16 + 1) * 4
    assert many[1] == few[1] < long[1] / 2  # operations of a layer grow faster than the length, by attention
    assert long[0]["Activation"] > 1.9 * few[0]["Activation"]
    assert count(1, "bytes")[0] == training_peak(replace(TEXT, blocks=1).plan_for(Bytes())).by_kind


def test_the_command_for_text(ok: Callable[..., list[dict[str, Any]]], refused: Callable[..., str]) -> None:
    words = ("plan", "masked-text", *TINY, "--length", "16", "--vocabulary", "bpe:300")
    (found,) = ok(*words, "--json", "--fit", "1GiB")
    own = [*TINY[:-2], "--length", "16", "--strategy", "end-to-end", "--vocabulary", "bpe:300"]
    assert found["fit"] == {"limit": 2**30, "options": own}
    assert [cost["samples_per_step"] for cost in found["costs"] if cost["strategy"] != "all resident"] == [
        *(48, 48),
        *(24, 24),
        *(12, 12),
    ]
    assert "vocabulary='bpe:256' is unknown; use characters, bytes or bpe:4096" in refused(*words[:-1], "bpe:256")


def test_sizes() -> None:
    assert parse_bytes("24GiB") == 24 * 2**30
    assert parse_bytes("80GB") == 80 * 10**9
    assert parse_bytes("1.5MiB") == 3 * 2**19
    assert parse_bytes("12") == 12
    for wrong in ("", "GiB", "-1GB", "24 quid", "0"):
        with pytest.raises(ValueError, match="is not a number of bytes; write 24GiB"):
            parse_bytes(wrong)


def test_vocabularies_by_name() -> None:
    assert [num_symbols(name) for name in ("characters", "bytes", "bpe:4096")] == [27, 256, 4096]
    for wrong in ("", "words", "bpe", "bpe:", "bpe:-300", "bpe:256", "words:300"):
        with pytest.raises(ValueError, match=r"is unknown; use characters, bytes or bpe:4096 \(more than the 256"):
            num_symbols(wrong)
