"""Rows of runs: compared only where their protocols are the same."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from oneblock.evaluate.protocol import LossProtocol, Protocol
from oneblock.experiment.base import Cell
from oneblock.experiment.compare import finished
from oneblock.experiment.images import ImageExperiment
from oneblock.experiment.protocols import check_protocols, score_of_arms

MADE = Protocol(
    num_samples=9,
    conditions="none",
    sampler="euler",
    grid="karras",
    steps=4,
    guidance=1.0,
    guidance_interval=(0.0, 80.0),
    state="private",
    sample_seed=0,
    weights="averaged",
    dtype="float32",
    extractor="digits-cnn",
    extractor_hash="0",
    reference="digits",
    reference_hash="1",
    num_reference=48,
)
LOSS = LossProtocol(
    weights="averaged", dtype="float32", held_out="digits", held_out_hash="ab", num_held_out=9, edges=(8.0, 0.1)
)


def row(arm: str, seed: int, frechet: float, made: Protocol = MADE, **more: Any) -> dict[str, Any]:
    scores = {"frechet": frechet, "protocol": made.as_row(), "loss_protocol": LOSS.as_row()}
    return {"arm": arm, "seed": seed, "budget": "9", "run": f"{arm}-9-seed{seed}", **scores, **more}


def point(made: Protocol) -> dict[str, Any]:
    return {"sampler": made.sampler, "steps": made.steps, "frechet": 1.0, "protocol": made.as_row()}


def test_equal_protocols_pass_and_rows_without_one_too() -> None:
    check_protocols([row("a", 0, 1.0), row("b", 0, 2.0, replace(MADE, reference="elsewhere"))])
    check_protocols([row("a", 0, 1.0), {"arm": "b", "run": "b-9-seed0", "loss": 1.0}])
    steps = [point(replace(MADE, steps=count)) for count in (4, 8)]
    check_protocols([row("a", 0, 1.0, sampling_curve=steps), row("b", 0, 1.0, sampling_curve=steps[:1])])


def test_another_protocol_is_refused_with_the_runs_and_the_field() -> None:
    rows = [row("a", 0, 1.0), row("b", 1, 2.0, replace(MADE, guidance=2.0))]
    with pytest.raises(ValueError, match=r"guidance=1.0 in the protocol of a-9-seed0, but 2.0 in that of b-9-seed1"):
        check_protocols(rows)
    with pytest.raises(ValueError, match=r"delete result\.json of the older run, and it is scored again"):
        score_of_arms(rows, "frechet", "lower")
    for key, other in (
        ("loss_protocol", replace(LOSS, held_out_hash="cd").as_row()),
        ("fid_protocol", replace(MADE, extractor_hash="9").as_row()),
    ):
        with pytest.raises(ValueError, match="_hash="):
            check_protocols([row("a", 0, 1.0, fid_protocol=MADE.as_row()), row("b", 0, 2.0) | {key: other}])
    curves = [[point(replace(MADE, sample_seed=seed))] for seed in (0, 1)]
    with pytest.raises(ValueError, match="sample_seed=0"):
        check_protocols([row(arm, 0, 1.0, sampling_curve=curve) for arm, curve in zip("ab", curves, strict=True)])


def test_a_score_of_arms_is_the_mean_over_the_seeds() -> None:
    rows = [row("a", 0, 1.0), row("b", 0, 5.0), row("a", 1, 2.0), row("b", 1, 6.0)]
    found = score_of_arms(rows, "frechet", "lower")
    assert (found.name, found.better, dict(found.values)) == ("frechet", "lower", {"a": 1.5, "b": 5.5})


def test_rows_that_are_no_score_are_refused() -> None:
    twice = [row("a", 0, 1.0), row("a", 0, 2.0)]
    with pytest.raises(ValueError, match="arm 'a' has two rows of seed 0"):
        score_of_arms(twice, "frechet", "lower")
    with pytest.raises(ValueError, match=r"arm 'b' has the seeds \[1\], but 'a' \[0\]"):
        score_of_arms([row("a", 0, 1.0), row("b", 1, 1.0)], "frechet", "lower")
    with pytest.raises(ValueError, match="loss=None of a-9-seed0 is not a number"):
        score_of_arms([row("a", 0, 1.0)], "loss", "lower")


def test_a_comparison_of_mixed_results_is_refused() -> None:
    cells = [Cell(arm=arm, budget="9", seed=0) for arm in ("a", "b")]

    def comparison(other: Protocol) -> Any:
        rows = [(cells[0], row("a", 0, 1.0)), (cells[1], row("b", 0, 2.0, other))]
        grid = SimpleNamespace(experiment=ImageExperiment(), cells=cells, out=Path("out"), run=lambda workers: rows)
        return finished(grid, 1, None)  # type: ignore[arg-type]

    assert [found["run"] for found in comparison(MADE).rows] == ["a-9-seed0", "b-9-seed0"]
    with pytest.raises(
        ValueError, match="extractor_hash='0' in the protocol of a-9-seed0, but '7' in that of b-9-seed0"
    ):
        comparison(replace(MADE, extractor_hash="7"))


def test_the_examples_of_the_page_on_scores(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "scores.md").read_text()
    refused, ranked, _ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    rows = {"ours": row("a", 0, 1.0), "theirs": row("b", 0, 2.0, replace(MADE, guidance=2.0))}
    with pytest.raises(ValueError) as error:
        exec(refused, {"rows": rows})
    said = re.search(r"# ValueError: (.*) \.\.\.", refused)
    assert said is not None and str(error.value).startswith(said[1])
    exec(ranked, {})
    assert "a negative correlation means that they agree" in capsys.readouterr().out
