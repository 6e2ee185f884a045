from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oneblock.evaluate.images import Sampling
from oneblock.experiment.compare import compare
from oneblock.experiment.curves import curve_summaries
from oneblock.experiment.images import ImageExperiment
from oneblock.train.drive import Watch
from oneblock.train.machine import Machine

EXPERIMENT = ImageExperiment(num_samples=60, report_bands=2, sampling=Sampling(steps=2), sampling_images=30)


def point(sampler: str, steps: int, frechet: float) -> dict[str, Any]:
    return {"sampler": sampler, "steps": steps, "layer_evaluations": 2 * steps, "frechet": frechet}


def test_points_of_several_seeds_are_one() -> None:
    first = {"arm": "a", "budget": "1k", "sampling_curve": [point("euler", 4, 3.0), point("euler", 8, 2.0)]}
    second = {"arm": "a", "budget": "1k", "sampling_curve": [point("euler", 4, 5.0)]}
    other = {"arm": "a", "budget": "2k", "sampling_curve": [point("euler", 4, 1.0)]}
    found = curve_summaries([first, second, other, {"arm": "old", "budget": "1k"}])
    known = [(row["budget"], row["steps"], row["layer_evaluations"], row["seeds"], row["frechet"]) for row in found]
    assert known == [
        ("1k", 4, 8, 2, (4.0, pytest.approx(2**0.5), 3.0, 5.0)),
        ("1k", 8, 16, 1, (2.0, 0.0, 2.0, 2.0)),
        ("2k", 4, 8, 1, (1.0, 0.0, 1.0, 1.0)),
    ]


def test_a_finished_comparison_is_scored_at_more_steps_without_training(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    recipe = replace(EXPERIMENT.usual, size="nano", depth=4, width=16, heads=2, blocks=2, batch_size=16, budget=128)
    settings: dict[str, Any] = {
        "out": tmp_path,
        "recipe": recipe,
        "arms": ["end-to-end", "blockwise", "ensemble"],
        "seeds": 1,
    }
    settings |= {"machine": Machine(threads=1), "watch": Watch(bars=False)}
    plain = compare(EXPERIMENT, **settings)
    assert not plain.curves and all("sampling_curve" not in row for row in plain.rows)
    trained = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("step-*.safetensors")}
    asked = replace(EXPERIMENT, sampling_steps=(2, 4))
    found = compare(asked, **settings)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("step-*.safetensors")} == trained
    work = {row["arm"]: [point["layer_evaluations"] for point in row["sampling_curve"]] for row in found.rows}
    assert work == {"end-to-end": [8, 16, 8, 16], "blockwise": [4, 8, 4, 8], "ensemble": [8, 16, 8, 16]}
    assert len(found.curves) == 12
    assert [row["loss"] for row in found.rows] == [row["loss"] for row in plain.rows]
    assert compare(asked, **settings).rows == compare(EXPERIMENT, **settings).rows == found.rows
    fewer = compare(replace(asked, sampling_steps=(2,)), **settings)
    assert [len(row["sampling_curve"]) for row in fewer.rows] == [2, 2, 2]
    with pytest.raises(ValueError, match="sampling_steps: steps=1 is too small for a grid"):
        compare(replace(asked, sampling_steps=(1,)), **settings)
