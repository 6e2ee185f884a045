"""The plan of every task and option is the one that was frozen: its hash names runs and checkpoints that exist."""

from pathlib import Path
from typing import Any

import pytest
from frozen import plans
from frozen.machinery import Ok, changed, load, near, on_purpose, same_arithmetic

pytest.importorskip("sklearn")
pytest.importorskip("tokenizers")

FROZEN = load(plans.FILE)
RESULTS: dict[str, Any] = FROZEN["results"]


def test_every_case_is_frozen() -> None:
    assert list(RESULTS) == list(plans.CASES), on_purpose("plans")


@pytest.mark.parametrize("case", plans.CASES)
def test_plan(case: str, desk: Path, ok: Ok) -> None:
    if "--optimizer adamw8bit" in case:
        pytest.importorskip("torchao")
    found, frozen = plans.measure(ok, desk / "run", case), RESULTS[case]
    if found["hash"] == frozen["hash"]:
        return
    expected = RESULTS[plans.base(case)]["settings"] | frozen["settings"]
    exact = changed(found["settings"], expected, lambda a, b: a == b)
    # levels and tables of vectors are the only numbers that are calculated
    close = changed(found["settings"], expected, lambda a, b: near(a, b, 1e-4, 1e-6))
    assert not close and not same_arithmetic(FROZEN), f"{on_purpose('plans')}; found and frozen: {exact or 'a new key'}"
