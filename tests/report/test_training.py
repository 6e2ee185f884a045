from pathlib import Path

import pytest
from tiny import metrics_line

from oneblock.report.training import training_curve


@pytest.mark.parametrize("trunk", ["trunk", "seed"])  # runs of earlier versions have the second
def test_training_curve_adds_the_work_of_all_blocks(tmp_path: Path, trunk: str) -> None:
    rows = {
        trunk: [(10, 100, 5.0), (20, 200, 4.0)],
        "block-0": [(30, 100, 2.0), (40, 200, 1.0)],
        "block-1": [(30, 100, 4.0), (40, 200, 3.0)],
    }
    for job, found in rows.items():
        (tmp_path / job).mkdir()
        lines = [metrics_line(step=s, layer_evaluations=w, loss=loss) for s, w, loss in found]
        (tmp_path / job / "metrics.jsonl").write_text("".join(lines))
    assert training_curve(tmp_path) == [(100, 5.0), (200, 4.0), (400, 3.0), (600, 2.0)]


def test_training_curve_of_an_ensemble_adds_the_work_of_its_networks(tmp_path: Path) -> None:
    for network, loss in (("network-0", 1.0), ("network-1", 4.0)):
        folder = tmp_path / network / "block-0"
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_text(metrics_line(step=10, layer_evaluations=100, loss=loss))
    assert training_curve(tmp_path) == [(200, 2.5)]
