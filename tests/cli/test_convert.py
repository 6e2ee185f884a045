"""Converted networks on the command line: found by name, converted, and given back to their library."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def saved_dit(folder: Path) -> str:
    made: Any = network("DiT")
    made.save_pretrained(folder / "dit")
    return f"diffusers:{folder / 'dit'}"


def test_from_a_directory_to_a_directory(tmp_path: Path, ok: Callable[..., list[dict[str, Any]]]) -> None:
    """Planned as specialists, trained by jobs that are told nothing of the network, and exported."""
    words = ["--into", "specialists", "--per-block", "1", "--budget", "96", "--batch-size", "8", "--json"]
    run, out = tmp_path / "run", tmp_path / "out"
    (planned,) = ok("convert", saved_dit(tmp_path), *words, "--out", run, "--strategy", "plan-only")
    assert planned["jobs"] == ["block-0", "block-1", "block-2"]
    for block in range(3):
        ok("job", run, "--block", str(block), "--threads", "1", "--json")
    (merged,) = ok("merge", run, "--json")
    assert (merged["blocks"], merged["plan"]) == (3, planned["plan"])
    ok("fsck", run)
    (exported,) = ok("export", run, "--out", out, "--json")
    assert exported == {"out": str(out), "plan": planned["plan"], "blocks": 3}
    scores = [ok("evaluate", place, "--num-samples", "0", "--json") for place in (run, run / "model", out)]
    assert scores[0] == scores[1] == scores[2]
    assert json.loads((out / "block-0" / "config.json").read_text())["num_layers"] == 1


def test_a_plan_at_an_address_takes_its_network_along(tmp_path: Path, ok: Callable[..., list[dict[str, Any]]]) -> None:
    address = f"file://{tmp_path / 'remote'}"
    words = ["--budget", "96", "--batch-size", "8", "--json", "--out", address, "--strategy", "plan-only"]
    ok("convert", saved_dit(tmp_path), *words)
    ok("job", address, "--block", "2", "--threads", "1", "--scratch", tmp_path / "here", "--json")
    assert len(checkpoints(tmp_path / "remote" / "block-2")) == 1
    assert (tmp_path / "here" / "network" / "oneblock.json").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("keras:DIR",), "source='keras:DIR' does not name a network; write transformers:DIR"),
        (("diffusers:nowhere",), "nowhere is not a directory; give that of a network on this machine"),
        (
            ("DIT", "--into", "specialists", "--per-block", "7"),
            "per_block=7 is not allowed; use a whole number, 1 or",
        ),
        (("DIT", "--per-block", "2"), "per_block=2 goes with --into specialists, not blocks"),
        (("DIT", "--layers", "body"), "layers='body' does not exist in DiTTransformer2DModel"),
        (("DIT", "--block", "1"), "block=1 goes with --strategy one-block"),
        (("DIT", "--data", "books"), "'books'"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, tuple) else "",
)
def test_what_cannot_be_converted_is_refused(
    words: tuple[str, ...], message: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    source = saved_dit(tmp_path)
    given = [source if word == "DIT" else word for word in words]
    assert message in refused("convert", *given, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_exported_is_refused(trained: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    said = refused("export", trained, "--out", tmp_path / "out")
    assert "the network of this model, dit, is of no library that it could go back to" in said
