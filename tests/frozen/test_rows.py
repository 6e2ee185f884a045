"""Comparisons and planned costs give the numbers that were frozen."""

from pathlib import Path
from typing import Any

import pytest
from frozen import rows
from frozen.machinery import Ok, changed, load, near, on_purpose, same_arithmetic

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

FROZEN = load(rows.FILE)
RESULTS: dict[str, Any] = FROZEN["results"]


def test_every_case_is_frozen() -> None:
    assert list(RESULTS) == list(rows.CASES), on_purpose("rows")


@pytest.mark.parametrize("case", rows.CASES)
def test_rows(case: str, desk: Path, ok: Ok) -> None:
    found, frozen = rows.measure(ok, desk / "out", case), RESULTS[case]
    assert list(found) == list(frozen), on_purpose("rows")
    wrong = {name: changed(found[name], frozen[name], lambda a, b: a == b) for name in found}
    wrong = {name: differences for name, differences in wrong.items() if differences}
    if not wrong:
        return
    assert not same_arithmetic(FROZEN), f"{on_purpose('rows')}; found and frozen: {wrong}"
    for name, row in found.items():
        kept, expected = rows.calculated(row), rows.calculated(frozen[name])
        far = changed(kept, expected, lambda a, b: near(a, b, 1e-3, 1e-3))
        assert not far, f"{on_purpose('rows')}; {name}, found and frozen: {far}"
