from pathlib import Path

import pytest
from frozen.machinery import prepare


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a text: a plan holds the name of its data, which must not hold a path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONEBLOCK_DATA", "data")
    prepare(tmp_path)
    return tmp_path
