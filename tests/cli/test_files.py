"""What ``status`` and ``fsck`` say of damaged files."""

from pathlib import Path

import pytest

from oneblock.cli.__main__ import main
from oneblock.train.checkpoint import checkpoints


def test_status_and_fsck_tell_what_is_wrong(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fsck", str(trained)]) == 0
    assert "files are good" in capsys.readouterr().out
    checkpoints(trained / "block-1")[-1].write_bytes(b"")
    (trained / "block-1" / "heartbeat.json").unlink()
    assert main(["status", str(trained)]) == 0
    out = capsys.readouterr().out
    assert "damaged" in out and "step-000000004.safetensors is damaged" in out
    assert main(["fsck", str(trained)]) == 1
    out = capsys.readouterr().out
    assert "WRONG" in out and "step-000000004.safetensors is damaged" in out and "1 of 6 files are wrong" in out
