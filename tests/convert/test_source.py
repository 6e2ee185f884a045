"""Networks by name, from the disk of this machine alone; everything else is refused with the reason."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("transformers")
pytest.importorskip("diffusers")

from convert.networks import network

import oneblock as ob
from oneblock.convert.source import read_scheduler, source_scheduler

DITS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def dit(tmp_path: Path) -> Path:
    """A DiT beside its scheduler, as a pipeline of diffusers has them."""
    from diffusers import DDPMScheduler

    saved: Any = network("DiT")
    saved.save_pretrained(tmp_path / "pipe" / "transformer")
    DDPMScheduler(beta_schedule="scaled_linear").save_pretrained(tmp_path / "pipe" / "scheduler")
    (tmp_path / "pipe" / "model_index.json").write_text("{}")
    return tmp_path / "pipe" / "transformer"


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return type(a) is type(b) and left.keys() == right.keys() and all(left[key].equal(right[key]) for key in left)


def test_a_network_is_loaded_with_its_weights(dit: Path, tmp_path: Path) -> None:
    assert same(ob.load_network(f"diffusers:{dit}"), network("DiT"))
    assert same(ob.load_network(f"diffusers:{dit.parent}"), network("DiT")), "of a pipeline, its transformer"
    saved: Any = network("BERT").half()
    saved.save_pretrained(tmp_path / "bert")
    found = ob.load_network(f"transformers:{tmp_path / 'bert'}")
    assert same(found, network("BERT").half().float()), "in 32 bits"
    assert found.training


def test_the_scheduler_beside_a_network_is_found(dit: Path, tmp_path: Path) -> None:
    for place in (dit, dit.parent):
        found = source_scheduler(f"diffusers:{place}")
        assert found is not None and found["beta_schedule"] == "scaled_linear"
    assert read_scheduler(dit.parent / "scheduler") == found
    assert source_scheduler(f"transformers:{dit}") is None
    with pytest.raises(ValueError, match=r"has no scheduler_config\.json; give the directory of a scheduler"):
        read_scheduler(dit)


def test_a_name_of_timm_gives_fresh_weights_that_follow_from_the_seed(tmp_path: Path) -> None:
    network("timm ViT")
    settings: dict[str, Any] = {"img_size": 8, "patch_size": 4, "embed_dim": 12, "depth": 2}
    random = torch.random.get_rng_state()
    found = [ob.load_network("timm:test_vit", seed=seed) for seed in (0, 0, 1)]
    assert torch.random.get_rng_state().equal(random)
    assert same(found[0], found[1]) and not same(found[0], found[2])
    import timm

    made = timm.create_model("vit_tiny_patch16_224", **settings)
    timm.models.save_for_hf(made, str(tmp_path / "vit"), safe_serialization=True)
    assert same(ob.load_network(f"timm:{tmp_path / 'vit'}"), made)
    with pytest.raises(ValueError, match=r"names the architecture 'no_such', which is not in timm 1\.\d"):
        ob.load_network("timm:no_such")
    with pytest.raises(ValueError, match="names the architecture 'hf-hub:evil/model', which is not in timm"):
        ob.load_network("timm:hf-hub:evil/model")


def changed(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / DITS), folder / "diffusion_pytorch_model.bin")
    (folder / DITS).unlink()


def cut_short(folder: Path) -> None:
    (folder / DITS).write_bytes((folder / DITS).read_bytes()[:-9])


def without_a_tensor(folder: Path) -> None:
    weights = load_file(folder / DITS)
    del weights["proj_out_2.weight"]
    save_file(weights, folder / DITS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(_class_name="os.system"), r"names the class 'os.system', which is not in diffusers 0\.\d+"),
        (changed(_class_name="NoSuchModel"), "names the class 'NoSuchModel', which is not in diffusers"),
        (changed(_class_name=None), "names the class None, which is not in diffusers"),
        (changed(_class_name="DDPMScheduler"), "names the class 'DDPMScheduler', which is not in diffusers"),
        (changed(_class_name="AutoencoderKL"), "AutoencoderKL is of no kind that is known"),
        (changed(auto_map={"AutoModel": "evil.Model"}), r"names code of its own .*evil\.Model.*, which is never run"),
        (changed(quantization_config={"bits": 4}), "are quantised; give the network in 32 or 16 bits"),
        (pickled, r"has only diffusion_pytorch_model\.bin, and reading it could run code; save the network as safet"),
        (lambda folder: (folder / DITS).unlink(), "has no weights; save the network as safetensors"),
        (lambda folder: (folder / "config.json").unlink(), r"has no config\.json; give the directory of a network"),
        (lambda folder: (folder / "config.json").write_text("[1]"), "holds a list; the configuration of a network is"),
        (lambda folder: (folder / "config.json").write_text("{"), "is not JSON"),
        (cut_short, "does not hold a DiTTransformer2DModel"),
        (without_a_tensor, r"are not those of its DiTTransformer2DModel .*proj_out_2\.weight.* random numbers"),
    ],
    ids=lambda value: "" if callable(value) else str(value)[:25],
)
def test_what_is_no_network_is_refused(change: Callable[[Path], None], message: str, dit: Path) -> None:
    change(dit)
    with pytest.raises(ValueError, match=message):
        ob.load_network(f"diffusers:{dit}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("gpt2", "source='gpt2' does not name a network; write transformers:DIR, diffusers:DIR, timm:NAME or timm:DIR"),
        ("keras:model", "source='keras:model' does not name a network"),
        ("transformers:", "source='transformers:' does not name a network"),
        ("transformers:openai-community/gpt2", "openai-community/gpt2 is not a directory; give that of a network on"),
    ],
)
def test_a_name_of_nothing_is_refused(source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ob.load_network(source)


def test_transformers_must_say_the_class(tmp_path: Path) -> None:
    import transformers
    from convert.networks import GPT2

    transformers.GPT2Config(**GPT2).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"does not say which class of transformers it is of \(architectures\)"):
        ob.load_network(f"transformers:{tmp_path}")


@pytest.mark.parametrize("name", ["transformers", "diffusers", "timm"])
def test_a_library_that_is_missing_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [one for one in sys.modules if one.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]
    values = {"architectures": ["BertForMaskedLM"], "_class_name": "DiTTransformer2DModel", "architecture": "vit"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ImportError, match=rf"a network of {name} needs {name}.*pip install"):
        ob.load_network(f"{name}:{tmp_path}")
