import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import TINY
from oneblock.cli.text_options import TextOptions
from torch import Tensor

from oneblock.cli.__main__ import main
from oneblock.cli.compare_masked import MASKED_ARMS, CompareMaskedText, arm_plans
from oneblock.cli.comparison import Cell
from oneblock.condition import Condition
from oneblock.data import TokenFile
from oneblock.partition import make_partition
from oneblock.plan import Plan
from oneblock.presets import blockwise, masked_task, plan_budget
from oneblock.tasks.masked import nelbo
from oneblock.train.shards import open_denoiser, open_plan

Ok = Callable[..., list[dict[str, Any]]]
Refused = Callable[..., str]
# 4 layers in 4 blocks
SMALL = (*TINY[:-1], "4", "--length", "16", "--batch-size", "4", "--block-batch-size", "4", "--threads", "1")
SCORING = ("--windows", "6", "--times", "2", "--reveals", "2", "--count", "3")


@pytest.fixture
def options(tmp_path: Path, text: str) -> CompareMaskedText:
    model = replace(
        CompareMaskedText(out=tmp_path).model, depth=4, width=16, heads=2, blocks=4, length=16, batch_size=8
    )
    return CompareMaskedText(out=tmp_path / "out", data=TextOptions(data=text), model=model)


def plans(options: CompareMaskedText, file: TokenFile, seed: int = 0) -> dict[str, list[Plan]]:
    return {arm: arm_plans(options, Cell(arm=arm, budget="1k", seed=seed), file) for arm in options.arms}


def test_the_arms_are_what_they_are_called(options: CompareMaskedText) -> None:
    found = plans(options, options.open(), seed=3)
    layers = {arm: [plan.layers for plan in several] for arm, several in found.items()}
    assert layers == {
        "mdlm": [(4,)],
        "end-to-end": [(4,)],
        "shallow": [(1,)],
        "ensemble": [(1,)] * 4,
        "blockwise": [(1, 1, 1, 1)],
        "two-blocks": [(2, 2)],
        "branched": [(1, 1, 1, 1)],
    }
    budgets = {arm: [plan_budget(plan) for plan in several] for arm, several in found.items()}
    assert {arm: sum(one.layer_evaluations for one in several) for arm, several in budgets.items()} == dict.fromkeys(
        MASKED_ARMS, 1000
    )
    assert {arm for arm, several in budgets.items() if several[0].branch} == {"branched"}
    weightings = {arm: {plan.recipe.get("weighting") for plan in several} for arm, several in found.items()}
    assert weightings == {arm: {None if arm == "mdlm" else "even"} for arm in MASKED_ARMS}
    assert {arm: {one.batch_size for one in several} for arm, several in budgets.items()} == {
        **{arm: {8} for arm in ("mdlm", "end-to-end", "ensemble", "blockwise", "two-blocks")},
        **{arm: {32} for arm in ("shallow", "branched")},
    }
    assert {one.block_batch_size for several in budgets.values() for one in several} == {4}
    assert {one.hold for several in budgets.values() for one in several} == {0.5}
    assert {plan.seed for arm, several in found.items() if arm != "ensemble" for plan in several} == {3}


def test_ensembles_of_different_runs_share_no_network(options: CompareMaskedText) -> None:
    file = options.open()
    seeds = [plan.seed for seed in range(3) for plan in plans(options, file, seed)["ensemble"]]
    assert len(set(seeds)) == 12


def test_every_arm_is_scored_at_equal_work_and_goes_on(tmp_path: Path, text: str, ok: Ok) -> None:
    words = ("compare", "masked-text", "--out", tmp_path, "--data", text, "--seeds", "1", "--budget", "256", "--json")
    (first,) = ok(*words, *SMALL, *SCORING)
    arms = {row["arm"]: row for row in first["runs"]}
    assert set(arms) == set(MASKED_ARMS)
    assert all(0.9 * 256 <= row["layer_evaluations"] <= 256 for row in arms.values())  # whole steps
    assert arms["ensemble"]["layers"] == arms["blockwise"]["layers"] == [1, 1, 1, 1]
    assert arms["ensemble"]["parameters"] == 4 * arms["shallow"]["parameters"] == arms["blockwise"]["parameters"]
    peaks = {arm: row["peak_bytes"] for arm, row in arms.items()}
    assert peaks["ensemble"] == peaks["blockwise"] < peaks["two-blocks"] < peaks["end-to-end"]
    assert peaks["blockwise"] < peaks["shallow"] < peaks["branched"] * 1.01  # four times the texts of a step
    assert arms["end-to-end"]["peak_bytes_checkpointing"] < peaks["end-to-end"]
    for row in arms.values():
        assert len(row["nats_per_band"]) == 3
        assert row["bits_per_character"] == pytest.approx(sum(row["nats_per_band"]) / math.log(2))
        assert [len(sample) for sample in row["samples"]] == [16, 16]
        assert row["tokens"] == 6 * 16
    (second,) = ok(*words, *SMALL, *SCORING)
    assert second["runs"] == first["runs"]
    (other,) = ok(*words, *SMALL, *SCORING, "--report-bands", "2", "--arms", "shallow")
    assert len(other["runs"][0]["nats_per_band"]) == 2


class Averaged:
    """The mean probability of the networks below a directory, as logits."""

    def __init__(self, directory: Path) -> None:
        places = sorted(directory.glob("network-*")) or [directory]
        self.plan = open_plan(places[0])
        self.networks = [open_denoiser(at, blockwise(open_plan(at)), torch.device("cpu")) for at in places]

    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        answers = [network(z, sigma, condition).softmax(-1) for network in self.networks]
        return (sum(answers, torch.zeros(())) / len(answers)).log()


def test_scores_are_those_of_the_trained_networks_at_the_same_masks(
    options: CompareMaskedText, text: str, ok: Ok
) -> None:
    words = ("--out", options.out, "--data", text, "--seeds", "1", "--budget", "1k", "--json")
    (found,) = ok("compare", "masked-text", *words, *SMALL, *SCORING, "--arms", "ensemble", "two-blocks")
    held_out = replace(options, windows=6).held_out(options.open(), 16)
    networks = {row["arm"]: Averaged(options.out / row["run"]) for row in found["runs"]}
    assert {arm: len(one.networks) for arm, one in networks.items()} == {"ensemble": 4, "two-blocks": 1}
    for row in found["runs"]:
        plan = networks[row["arm"]].plan
        bound = nelbo(networks[row["arm"]], masked_task(plan), make_partition(plan.partition.law, 3), held_out, 2)
        assert row["nats_per_band"] == pytest.approx(bound.bands, rel=1e-5)
        assert row["error"] == pytest.approx(bound.bits()[1], rel=1e-4)


def test_bits_are_drawn_against_work(tmp_path: Path, text: str, ok: Ok, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("compare", "masked-text", "--out", tmp_path, "--data", text, "--seeds", "1", "--budgets", "64,128")
    arms = ("--arms", "ensemble", "blockwise")
    (found,) = ok(*words, *SMALL, *SCORING, *arms, "--json")
    assert {Path(path).name for path in found["pictures"]} == {"nats_per_band.png", "training.png", "budgets.png"}
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in found["pictures"])
    assert main([str(word) for word in (*words, *SMALL, *SCORING, *arms)]) == 0
    shown = capsys.readouterr().out
    assert "blockwise against ensemble: fewer bits in" in shown
    assert "bits_per_character of blockwise against ensemble:" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--branch", "0"], "arm 'branched' needs --branch above 0"),
        (["--times", "0"], "times=0, report_bands=3, reveals=64: use at least one of each"),
        (["--report-bands", "0"], "report_bands=0"),
        (["--reveals", "0"], "reveals=0"),
        (["--windows", "0"], "windows=0 leaves nothing to score; use 1 or more"),
        (["--count", "0"], "count=0 writes nothing"),
        (["--prompt", "the cat sat on the mat"], "has 22 tokens, the network sees 16; cut the prompt"),
        (["--length", "5000"], "length=5000 does not fit"),
        (["--blocks", "3"], "num_blocks=3 does not divide depth=4"),
        (["--depth", "3", "--blocks", "3"], "num_blocks=2 does not divide depth=3"),
        (["--budget", "15"], "budget=15 does not pay for one step of every block"),
    ],
)
def test_bad_options_are_refused_before_any_work(
    tmp_path: Path, text: str, refused: Refused, words: list[str], message: str
) -> None:
    out = tmp_path / "out"
    assert message in refused("compare", "masked-text", "--out", out, "--data", text, *SMALL, *words)
    assert not out.exists()
