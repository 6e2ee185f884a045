"""Every answer of ``--fit`` trains within the bytes that it promises, through the real command line and loop.

``benchmarks/fit_answers.py`` draws the options and counts; here a few small ones of each verb.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tyro

from oneblock.cli.train import TrainClassify, TrainImages, TrainMaskedText, TrainRecurrentText, TrainText
from oneblock.cli.words import CONFIG

pytest.importorskip("torch.distributed._tools.mem_tracker")
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "fit_answers.py"


TRAIN = {
    "images": TrainImages,
    "classify": TrainClassify,
    "masked-text": TrainMaskedText,
    "text": TrainText,
    "recurrent-text": TrainRecurrentText,
}


def parsed(verb: str, words: list[str]) -> tuple[Any, Any, Any]:
    """By the command line itself."""
    options = tyro.cli(TRAIN[verb], args=[*words, "--out", "run"], config=CONFIG)
    return options.model, options.strategy, options.machine


@pytest.fixture(scope="module")
def fit_answers() -> ModuleType:
    spec = spec_from_file_location("fit_answers", BENCHMARK)
    assert spec is not None and spec.loader is not None
    module = sys.modules["fit_answers"] = module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    module.parsed = parsed  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize("number", range(15))  # benchmarks/fit_answers.py has more
def test_every_answer_trains_within_the_bytes_that_it_promises(
    fit_answers: ModuleType, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEBLOCK_DATA", str(tmp_path / "data"))
    text = fit_answers.write_text(tmp_path)
    row: dict[str, Any] = fit_answers.asked(number, seed=1, text=f"file:{text}", deepest=2, batches=4)
    assert row["within"], row
    assert row["real"] <= row["promised"] <= row["limit"]
    assert row["real"] > 0.9 * row["promised"], "a promise far above what is needed answers with less than could be"
