from pathlib import Path

import pytest


@pytest.fixture
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for decoded images: the folder that holds the files."""
    data = tmp_path_factory.mktemp("data")
    monkeypatch.setenv("ONEBLOCK_DATA", str(data))
    return data / ".cache" / "images"
