"""The README's Python, as it is printed."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from test_own_loop import Mine
from torch.utils.data import DataLoader, TensorDataset

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS: list[str] = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
BUDGET = '"200k"'


def run_first(budget: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    pytest.importorskip("sklearn")
    monkeypatch.chdir(directory)
    code = BLOCKS[0]
    assert code.count("\n") == 8 and code.count(BUDGET) == 1
    names: dict[str, Any] = {}
    exec(code.replace(BUDGET, budget), names)
    return names


def check_first(names: dict[str, Any], directory: Path) -> None:
    assert (names["images"].dtype, names["images"].shape) == (torch.uint8, (3, 1, 8, 8))
    assert {"band_losses", "loss", "frechet", "frechet_floor"} <= names["scores"].keys()
    assert len(list((directory / "model").glob("block-*.safetensors"))) == 3


def test_six_lines_train_and_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With less work than is printed."""
    check_first(run_first('"3k"', tmp_path, monkeypatch), tmp_path)


@pytest.mark.slow
def test_six_lines_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_first(BUDGET, tmp_path, monkeypatch)
    check_first(names, tmp_path)
    assert names["scores"]["class_agreement"] > 0.5, "what they show is recognised"


def test_a_loop_of_ones_own_as_printed() -> None:
    """``Mine`` and ``loader`` are the reader's; the dots are their optimizer."""
    points, labels = torch.randn(64, 2), torch.arange(64) % 3
    names: dict[str, Any] = {"Mine": Mine, "loader": DataLoader(TensorDataset(points, labels), batch_size=16)}
    exec(f"import oneblock as ob\n{BLOCKS[1]}", names)
    assert (names["b"], names["loss"].shape) == (2, ())
    names["loss"].backward()
    assert sorted(names["denoiser"].layers) == ["10", "11", "8", "9"]
    assert all(p.grad is not None for p in names["denoiser"].backbone.parameters())
