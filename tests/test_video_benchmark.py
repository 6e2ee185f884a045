"""The benchmark of streams runs: linear attention keeps as many bytes at every block, softmax more and more."""

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "video_stream.py"


def test_bytes_of_every_block(capsys: pytest.CaptureFixture[str]) -> None:
    spec = spec_from_file_location("video_stream", BENCHMARK)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(["--blocks", "6", "--repeats", "1", "--width", "16", "--heads", "2", "--side", "8", "--clock", "cpu"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kept = {
        attention: {
            row["block"]: row["attention_bytes"] for row in rows if row.get("name") == attention and "block" in row
        }
        for attention in ("linear", "softmax")
    }
    one = 2 * 4 * (2 * 8 * 8 + 2 * 8)  # two layers, float32: S and z of two heads of 8 channels
    assert kept["linear"] == dict.fromkeys((1, 2, 4, 6), one)
    block = 2 * 4 * 2 * 4 * 16 * 16  # two layers, float32: keys and values of 4 frames of 16 places
    assert kept["softmax"] == {number: number * block for number in (1, 2, 4, 6)}
    assert len({row["frames_bytes"] for row in rows if "block" in row}) == 1
    assert {row["name"] for row in rows if "last_by_first" in row} == {"linear", "softmax"}
    assert "linear_is_faster_from_block" in rows[-1]
    assert module.shown_blocks(160, 0) == {1, 2, 4, 8, 16, 32, 64, 128, 160}
    assert module.shown_blocks(10, 4) == {1, 4, 8, 10}
