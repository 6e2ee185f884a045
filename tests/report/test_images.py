from pathlib import Path

import pytest
import torch
from report.test_spread import ROWS as BARE
from safetensors.torch import save_file
from tiny import metrics_line

from oneblock.experiment.images import SAMPLES_FILE, SCORES
from oneblock.report.images import draw, report

ROWS = [{**row, "extractor": "digits-cnn"} for row in BARE]


def test_the_tables_hold_the_scores() -> None:
    shown = report(ROWS, SCORES)
    assert shown.tables[0].title == "quality, held out (seeds: 2, features: digits-cnn)"
    assert shown.tables[0].rows[0][2:5] == (
        "1.5000 ± 0.7071 (1.0000 to 2.0000)",
        "1.500 ± 0.707 / 3.000 ± 1.414",
        "12.00 ± 2.83 (10.00 to 14.00)",
    )
    assert "images/s" in shown.tables[1].columns
    assert [line[:1] for line in shown.lines] == ["±", "b", "l", "f"]


def test_pictures_are_drawn_for_the_first_seed(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for found in ROWS:
        (tmp_path / found["run"] / "block-0").mkdir(parents=True)
        (tmp_path / found["run"] / "block-0" / "metrics.jsonl").write_text(metrics_line(loss=found["loss"]))
        images = torch.zeros(16, 1, 8, 8, dtype=torch.uint8)
        save_file({"images": images}, tmp_path / found["run"] / SAMPLES_FILE)
    pictures = draw(tmp_path, ROWS, SCORES)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    names = {str(path.relative_to(tmp_path)) for path in pictures}
    samples = {f"{row['run']}/samples.png" for row in ROWS if row["seed"] == 0}
    assert names == {"training.png", "loss.png", "frechet.png", *samples}
    assert (tmp_path / "branched-1k-seed1" / "samples.png").is_file()  # drawn, though not shown
