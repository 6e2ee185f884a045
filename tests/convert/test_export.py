"""What was trained goes back to the library that the network comes from, and is opened from there to the bit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")
pytest.importorskip("diffusers")

from convert.networks import NETWORKS
from convert.test_converted import FEW, QUIET, asked, converted, recipe_and_data

import oneblock as ob
from oneblock.backbone import forward
from oneblock.convert.export import read_block, write_block
from oneblock.convert.kinds import kind_of
from oneblock.convert.libraries import library_of
from oneblock.convert.lora import lora
from oneblock.train.checkpoint import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore:file:")


def trained(name: str, folder: Path, picks: tuple[int, ...] = (), **words: Any) -> tuple[nn.Module, Path, Any]:
    """Two steps of three blocks at a rate that moves every weight."""
    made, builder = converted(name)
    backbone = builder.pick(picks) if picks else builder
    recipe, data = recipe_and_data(made, folder, blocks=3, budget=16 * 6 * 2, learning_rate=3e-2, ema_gamma=1.0)
    ob.train(recipe, backbone=backbone, data=data, out=folder / "run", watch=QUIET, **words)
    return made, folder / "run", recipe


def loaded(made: nn.Module, directory: Path) -> nn.Module:
    """A network as a user of its library loads it."""
    library: Any = library_of(made)
    if library.name == "timm":
        import timm

        return timm.create_model(f"local-dir:{directory}", pretrained=True).eval()
    network: nn.Module = type(made).from_pretrained(directory, local_files_only=True)  # type: ignore[attr-defined]
    return network.eval()


def silenced(backbone: Any) -> Any:
    """A block without what was added to the library's network: noise levels and noisy targets have no effect."""
    for name, p in backbone.named_parameters():
        if name.startswith("noisy.") or ".modulation." in name:
            nn.init.zeros_(p)
    return backbone


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_block_becomes_a_network_of_its_library_and_back(name: str, tmp_path: Path) -> None:
    """Every network, with numbers in the place of training: each block of three, answers and weights to the bit."""
    made, builder = converted(name)
    library: Any = library_of(made)
    library.save_settings(made, tmp_path)
    generator = torch.Generator().manual_seed(0)
    for b in range(3):
        block: Any = builder(range(2 * b, 2 * b + 2)).eval()
        for p in block.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
        places = write_block(builder, block, tmp_path / f"block-{b}", library.settings(tmp_path))
        found = read_block(library, tmp_path / f"block-{b}", block, places)
        for key, p in block.named_parameters():
            assert found[key].equal(p), key
        z, noise, condition, original = asked(loaded(made, tmp_path / f"block-{b}"))
        answer = original()
        if kind_of(made).name in ("text", "classify"):
            assert not forward(block, z, noise, condition).equal(answer), "noise and noisy targets have their part"
        assert forward(silenced(block), z, noise, condition).equal(answer)


FAST = [*FEW, "timm ViT"]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in NETWORKS]
)
@torch.no_grad()
def test_each_block_of_a_run_loads_in_its_library(name: str, tmp_path: Path) -> None:
    with torch.enable_grad():
        made, run, _ = trained(name, tmp_path)
    model = ob.Model.open(run)
    model.export(tmp_path / "out")
    again = ob.Model.open(tmp_path / "out")
    assert again.plan.hash == model.plan.hash
    for block in range(3):
        backbone: Any = model.denoiser.block(block).backbone
        z, noise, condition, original = asked(loaded(made, tmp_path / "out" / f"block-{block}"))
        whole = forward(backbone, z, noise, condition)
        assert forward(again.denoiser.block(block).backbone, z, noise, condition).equal(whole), "opened to the bit"
        assert forward(silenced(backbone), z, noise, condition).equal(original())


@pytest.mark.parametrize("name", FEW)
def test_an_exported_model_is_the_run(name: str, tmp_path: Path) -> None:
    """Its scores and samples are those of the run; so are those of a copy elsewhere, with one block in memory."""
    _, run, _ = trained(name, tmp_path)
    model = ob.Model.open(run)
    model.save(tmp_path / "saved")
    ob.Model.open(tmp_path / "saved").export(tmp_path / "out")
    shutil.copytree(tmp_path / "out", tmp_path / "copy")
    shutil.rmtree(tmp_path / "out")
    again = ob.Model.open(tmp_path / "copy", resident=1)
    words = {"num_samples": 0} if model.plan.task == "image" else {}
    assert again.evaluate(**words) == model.evaluate(**words)
    with pytest.raises(ValueError, match="is an exported model"):
        again.save(tmp_path / "other")
    with pytest.raises(ValueError, match="is an exported model already; copy the directory"):
        again.export(tmp_path / "other")


@pytest.mark.parametrize(("name", "picks"), [("ModernBERT", (0, 5, 0, 3, 3, 4)), ("DiT", (0, 5, 3, 4, 1, 1))])
@torch.no_grad()
def test_specialists_and_experts_go_back_too(name: str, picks: tuple[int, ...], tmp_path: Path) -> None:
    with torch.enable_grad():
        made, run, _ = trained(name, tmp_path, picks)
    model = ob.Model.open(run)
    model.export(tmp_path / "out", scores={"loss": 0.25, "per_band": [1, 2]})
    for block in range(3):
        backbone: Any = model.denoiser.block(block).backbone
        network = loaded(made, tmp_path / "out" / f"block-{block}").eval()
        z, noise, condition, original = asked(network)
        assert forward(silenced(backbone), z, noise, condition).equal(original())
    text = (tmp_path / "out" / "README.md").read_text()
    assert f"{picks[2]}, {picks[3]}" in text and f"{type(made).__name__}.from_pretrained('block-0')" in text
    assert "| loss | 0.25 |" in text and "per_band" not in text
    assert "# " in text and model.plan.hash in text


def test_what_an_exported_model_says_of_itself(tmp_path: Path) -> None:
    _, run, _ = trained("GPT-2", tmp_path)
    model = ob.Model.open(run)
    model.export(tmp_path / "out")
    values = json.loads((tmp_path / "out" / "oneblock.json").read_text())
    assert (values["library"], values["class"]) == ("transformers", "GPT2LMHeadModel")
    assert values["blocks"] == ["block-0", "block-1", "block-2"]
    assert values["edges"] == list(model.plan.edges) and values["edges"] == sorted(values["edges"], reverse=True)
    assert values["plan"] == json.loads(model.plan.to_json())
    assert values["network"]["layers"] == "transformer.h" and values["network"]["picks"] == list(range(6))
    assert values["places"] == [["transformer.h.0", "transformer.h.1"]] * 3
    names = sorted(path.name for path in (tmp_path / "out").rglob("*"))
    assert not any(name.endswith((".bin", ".pt", ".partial")) for name in names)


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    _, run, _ = trained("DiT", tmp_path)
    model = ob.Model.open(run)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="used is in use; give the exported model a directory of its own"):
        model.export(tmp_path / "used")
    next((run / "block-1").glob("step-*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="block 1 has no checkpoint"):
        ob.Model.open(run).export(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    small = ob.ImageRecipe(depth=3, width=16, heads=2, blocks=3, budget=48, batch_size=8)
    ob.train(small, data="digits", out=tmp_path / "own", watch=QUIET)
    with pytest.raises(ValueError, match=r"the network of this model, dit, is of no library .*transformers, diffusers"):
        ob.Model.open(tmp_path / "own").export(tmp_path / "out")
    assert not list(tmp_path.glob("*.partial"))


def test_a_network_that_answers_otherwise_is_not_exported(tmp_path: Path) -> None:
    """A GPT-2 whose layers divide by their place: elsewhere they are others."""
    import transformers
    from convert.networks import GPT2, TEXT

    made = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**{**TEXT, **GPT2}, scale_attn_by_inverse_layer_idx=True)
    )
    recipe, data = recipe_and_data(made, tmp_path, blocks=3, budget=16 * 6)
    ob.train(recipe, backbone=ob.convert(made, outputs=27), data=data, out=tmp_path / "run", watch=QUIET)
    with pytest.raises(ValueError, match="answers otherwise than the block"):
        ob.Model.open(tmp_path / "run").export(tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def values_of(**changes: Any) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = directory / "oneblock.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def without_weights(directory: Path) -> None:
    (directory / "block-0" / "diffusion_pytorch_model.safetensors").unlink()


def other_config(directory: Path) -> None:
    path = directory / "block-0" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_layers": 1}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (values_of(library="keras"), "library='keras' is unknown"),
        (values_of(blocks=["../a", "block-1", "block-2"]), "are not directories beside the file"),
        (values_of(blocks=["block-0"]), "are not those of the plan"),
        (values_of(plan={}), "does not say how the model is made up"),
        (lambda directory: shutil.rmtree(directory / "block-0"), "block-0 does not exist; export the model again"),
        (without_weights, "block 0 cannot be read"),
        (other_config, "block-0 is another network's than block 0 of the plan|block 0 cannot be read"),
    ],
    ids=["library", "outside", "blocks", "plan", "no block", "no weights", "config"],
)
def test_a_damaged_export_is_told(damage: Callable[[Path], None], message: str, exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "out")
    damage(tmp_path / "out")
    with pytest.raises(ValueError, match=message):
        ob.Model.open(tmp_path / "out").denoiser.block(0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    _, run, _ = trained("DiT", folder)
    ob.Model.open(run).export(folder / "out")
    return folder / "out"


@torch.no_grad()
def test_adapters_go_back_as_peft_writes_them(tmp_path: Path) -> None:
    """Experts of low rank: the run keeps the frozen network, and every band exports its adapters."""
    peft = pytest.importorskip("peft")
    made, builder = converted("DiT")
    whole = lora(builder, targets=["to_q", "to_v"], rank=2, alpha=4.0)
    recipe, data = recipe_and_data(made, tmp_path, blocks=2, budget=16 * 12 * 2, learning_rate=3e-2, ema_gamma=1.0)
    with torch.enable_grad():
        experts = whole.pick(whole.picks * 2)
        ob.train(ob.experts(recipe), backbone=experts, data=data, out=tmp_path / "run", watch=QUIET)
    model = ob.Model.open(tmp_path / "run")
    assert ob.fsck(tmp_path / "run").good
    model.save(tmp_path / "saved")
    model.export(tmp_path / "out")
    shutil.rmtree(tmp_path / "run")
    for block in range(2):
        base = loaded(made, tmp_path / "out" / "network").eval()
        z, noise, condition, original = asked(base)
        before = original()
        network: Any = peft.PeftModel.from_pretrained(base, tmp_path / "out" / f"block-{block}")
        whole_answer = forward(model.denoiser.block(block).backbone, z, noise, condition)
        torch.testing.assert_close(original(), whole_answer)
        assert not before.allclose(whole_answer, atol=1e-4)
        for again in (tmp_path / "out", tmp_path / "saved"):
            backbone = ob.Model.open(again).denoiser.block(block).backbone
            assert forward(backbone, z, noise, condition).equal(whole_answer)
        del network
    text = (tmp_path / "out" / "README.md").read_text()
    assert "DiTTransformer2DModel.from_pretrained('network')" in text and "PeftModel" in text
