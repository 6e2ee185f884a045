"""Converted networks on the command line: found by name."""

import json
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from convert.networks import network

import oneblock as ob
from oneblock.cli.__main__ import main
from oneblock.train.checkpoint import checkpoints
from oneblock.train.drive import Watch


@pytest.mark.filterwarnings("ignore:file:")
def test_a_job_finds_a_converted_network_by_its_name(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_networks.py").write_text(
        "import oneblock as ob\nfrom convert.networks import network\n"
        "BACKBONE = ob.convert(network('GPT-2'), outputs=27)\nOTHER = ob.convert(network('Llama'), outputs=27)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe = ob.CausalRecipe(blocks=3, length=16, batch_size=16, block_batch_size=16, budget=16 * 6 * 4)
    builder = ob.convert(network("GPT-2"), outputs=27)
    ob.train(recipe, backbone=builder, data=text, out="run", strategy="plan-only", watch=Watch(bars=False))
    words = ["job", "run", "--block", "1", "--threads", "1", "--backbone"]
    assert main([*words, "my_networks:OTHER"]) == 2
    assert (
        "the plan was made for backbone 'oneblock.convert.converted:Converted[GPT2LMHeadModel"
        in capsys.readouterr().err
    )
    assert main([*words, "my_networks:BACKBONE"]) == 0
    assert len(checkpoints(tmp_path / "run" / "block-1")) == 1


def test_the_planner_finds_a_converted_network_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the words that train it name it too."""
    pytest.importorskip("torch.distributed._tools.mem_tracker")
    (tmp_path / "planned_network.py").write_text(
        "import oneblock as ob\nfrom convert.networks import network\n"
        "BACKBONE = ob.convert(network('GPT-2'), outputs=27).pick((0, 0))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["--layers", "1", "1", "--length", "16", "--batch-size", "8", "--budget", "10k", "--fit", "1GiB", "--json"]
    assert main(["plan", "text", *words, "--backbone", "planned_network:BACKBONE"]) == 0
    found = json.loads(capsys.readouterr().out)
    peaks = {row["name"]: row["peak"]["by_kind"] for row in found["costs"]}
    weights = sum(p.nbytes for p in ob.convert(network("GPT-2"), outputs=27)(range(1)).parameters())
    assert peaks["own block, 2 blocks"]["Parameter"] == weights
    assert found["fit"]["options"][-4:] == ["--strategy", "end-to-end", "--backbone", "planned_network:BACKBONE"]
