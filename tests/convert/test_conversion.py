"""From a network's directory to a trained run: blocks, experts and specialists in one call."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("transformers")
pytest.importorskip("diffusers")

from convert.networks import network, prompts
from convert.test_converted import QUIET

import oneblock as ob
from oneblock.convert.kept import read_kept
from oneblock.plan import NETWORK_FOLDER
from oneblock.presets import conversion
from oneblock.presets.conversion import Conversion, converting

WORK: dict[str, Any] = {"budget": 16 * 6 * 2, "batch_size": 16}


def saved(name: str, folder: Path) -> str:
    made: Any = network(name)
    made.save_pretrained(folder / name)
    library = "diffusers" if name == "DiT" else "transformers"
    return f"{library}:{folder / name}"


@pytest.mark.parametrize(
    ("into", "layers", "depth"), [("blocks", (2, 2, 2), 6), ("experts", (6, 6, 6), 18), ("specialists", (1, 1, 1), 3)]
)
def test_a_network_becomes_blocks_experts_or_specialists(
    into: Any, layers: tuple[int, ...], depth: int, tmp_path: Path
) -> None:
    asked = Conversion(into=into, per_block=1 if into == "specialists" else 0, **WORK)
    told: list[str] = []
    words: dict[str, Any] = {"out": tmp_path / "run", "data": "digits", "watch": QUIET, "told": told.append}
    done = ob.train_converted(saved("DiT", tmp_path), asked, **words)
    assert (done.plan.layers, done.plan.depth) == (layers, depth)
    record = read_kept(tmp_path / "run" / NETWORK_FOLDER)
    assert record is not None and len(record.picks) == depth
    assert len(told) == (3 if into == "specialists" else 0)
    model = ob.Model.open(tmp_path / "run")
    model.export(tmp_path / "out")
    if into == "experts":
        whole = network("DiT").state_dict()
        found: Any = type(network("DiT"))
        block = found.from_pretrained(tmp_path / "out" / "block-1").state_dict()
        assert block.keys() == whole.keys(), "an expert is a whole network"
        assert not all(block[key].equal(whole[key]) for key in whole)


def test_specialists_learn_from_the_network_that_they_are_made_of(tmp_path: Path) -> None:
    from diffusers import DDPMScheduler

    source = saved("DiT", tmp_path)
    DDPMScheduler().save_pretrained(tmp_path / "scheduler")  # beside the network, as in a pipeline
    asked = Conversion(into="specialists", per_block=1, distill=True, **WORK)
    done = ob.train_converted(source, asked, out=tmp_path / "run", data="digits", watch=QUIET)
    assert len(str(done.plan.recipe["teacher"])) == 16
    (tmp_path / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(ValueError, match="a converted network without a schedule"):
        ob.train_converted(source, asked, out=tmp_path / "other", data="digits", watch=QUIET)


def test_texts_come_from_a_file(tmp_path: Path) -> None:
    made: Any = network("PixArt")
    made.save_pretrained(tmp_path / "pixart")
    source = f"diffusers:{tmp_path / 'pixart'}"
    save_file(prompts(network("PixArt")) or {}, tmp_path / "prompts.safetensors")
    asked = Conversion(prompts=tmp_path / "prompts.safetensors", **WORK)
    found: Any = converting(source, asked, "digits").backbone
    given = ob.convert(network("PixArt"), outputs=1, prompts=prompts(network("PixArt")))
    assert found.named == given.named, "the fingerprint holds the texts"
    (tmp_path / "prompts.safetensors").write_bytes(b"not this")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        converting(source, asked, "digits")
    with pytest.raises(ValueError, match=r"prompts=\[\] lack encoder_hidden_states"):
        converting(source, Conversion(**WORK), "digits")


def test_the_same_call_goes_on_and_chooses_no_layers_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = saved("DiT", tmp_path)
    asked = Conversion(into="specialists", **WORK)
    words: dict[str, Any] = {"out": tmp_path / "run", "data": "digits", "watch": QUIET}
    planned = ob.train_converted(source, asked, strategy="plan-only", **words)
    assert planned.plan.layers == (2, 2, 2)

    def refused(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("chosen again")

    monkeypatch.setattr(conversion, "choose_layers", refused)
    done = ob.train_converted(source, asked, strategy="one-block", block=1, **words)
    assert done.plan.hash == planned.plan.hash
    with pytest.raises(AssertionError, match="chosen again"):
        converting(source, Conversion(into="specialists", per_block=1, **WORK), "digits", tmp_path / "run")


@pytest.mark.filterwarnings("ignore:file:")
@pytest.mark.parametrize(
    ("name", "data", "outputs", "recipe"),
    [
        ("GPT-2", "text", 27, ob.CausalRecipe),
        ("BERT", "text", 27, ob.MaskedRecipe),
        ("ViT", "digits", 10, ob.ClassifyRecipe),
        ("DiT", "digits", 1, ob.ImageRecipe),
    ],
)
def test_recipe_and_outputs_fit_network_and_data(
    name: str, data: str, outputs: int, recipe: type[Any], tmp_path: Path, text: str
) -> None:
    """And images are given at the size that the network takes."""
    found = converting(saved(name, tmp_path), Conversion(length=16, seed=3), text if data == "text" else data)
    backbone: Any = found.backbone
    assert (type(found.recipe), backbone.told["outputs"]) == (recipe, outputs)
    assert (found.recipe.depth, found.recipe.width, found.recipe.seed) == (6, 32, 3)
    if data == "digits":
        assert isinstance(found.data, ob.ImageData)
        assert (found.data.image_size, found.data.channels) == (8, 1)


def test_a_scheduler_beside_the_network_is_its_frame(tmp_path: Path) -> None:
    from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

    source = saved("DiT", tmp_path / "pipe")
    assert converting(source, Conversion(), "digits").backbone.frame is None
    DDPMScheduler().save_pretrained(tmp_path / "pipe" / "scheduler")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(tmp_path / "flow")
    assert type(converting(source, Conversion(), "digits").backbone.frame).__name__ == "VariancePreserving"
    other = Conversion(scheduler=tmp_path / "flow")
    assert type(converting(source, other, "digits").backbone.frame).__name__ == "FlowMatching"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"into": "slices"}, "into='slices' is not allowed|into='slices'"),
        ({"into": "specialists", "per_block": 7}, "per_block=7 .*6"),
        ({"per_block": 2}, "per_block=2 goes with --into specialists, not blocks"),
        ({"blocks": 4}, "does not divide|depth=6|blocks=4"),
        ({"outputs": 3}, "outputs=3 does not fit DiTTransformer2DModel, which answers with 2"),
        ({"layers": "body"}, r"layers='body' does not exist in DiTTransformer2DModel; it has transformer_blocks \(6 x"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_does_not_fit_is_refused(words: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        ob.train_converted(
            saved("DiT", tmp_path), Conversion(**words), out=tmp_path / "run", data="digits", watch=QUIET
        )
    assert not (tmp_path / "run").exists()


def test_two_lists_of_layers_are_told(tmp_path: Path) -> None:
    made: Any = network("DiT")
    made.blocks = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(3))
    made._no_split_modules = ["BasicTransformerBlock", "Linear"]
    with pytest.raises(ValueError, match=r"several lists of layers: transformer_blocks .*, blocks \(3 x Linear\)"):
        converting(made, Conversion(), "digits")
