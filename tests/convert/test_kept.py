"""A run keeps the network that it started from: it is opened, trained and checked without being given it again."""

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

from convert.networks import NETWORKS, network
from convert.test_converted import FEW, QUIET, asked, converted, recipe_and_data

import oneblock as ob
from oneblock.backbone import forward
from oneblock.convert.kept import RECORD_FILE, TENSORS_FILE, keep, rebuilt
from oneblock.convert.libraries import LIBRARIES, Unfilled
from oneblock.plan import NETWORK_FOLDER
from oneblock.schedule import frame_to_dict
from oneblock.train.checkpoint import checkpoints

pytestmark = pytest.mark.filterwarnings("ignore:file:")


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_what_is_kept_is_the_network(name: str, tmp_path: Path) -> None:
    made, builder = converted(name)
    z, noise, condition, original = asked(made)
    picked = builder.pick((0, 5, 0, 3))
    assert keep(picked, tmp_path / "network")
    assert keep(picked, tmp_path / "network"), "it stays"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["network"]
    random = torch.random.get_rng_state()
    again = rebuilt(tmp_path / "network", weights=True)
    empty = rebuilt(tmp_path / "network", weights=False)
    assert torch.random.get_rng_state().equal(random)
    assert again.__qualname__ == empty.__qualname__ == picked.__qualname__
    whole = again.pick(range(6))(range(6)).eval()
    assert forward(whole, z, noise, condition).equal(original())
    shapes = [{key: p.shape for key, p in one(range(4)).named_parameters()} for one in (picked, empty)]
    assert shapes[0] == shapes[1]


def trained(name: str, folder: Path, **words: Any) -> tuple[Path, Any]:
    _, builder = converted(name)
    recipe, data = recipe_and_data(builder.network, folder, blocks=3, budget=16 * 6 * 3)
    ob.train(recipe, backbone=builder, data=data, out=folder / "run", watch=QUIET, **words)
    return folder / "run", builder


@pytest.mark.parametrize("name", FEW)
def test_a_run_is_complete_in_itself(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of it elsewhere: opened without the weights that it started from, trained on with them."""
    first, builder = trained(name, tmp_path)
    run = tmp_path / "elsewhere" / "copy"
    run.parent.mkdir()
    first.rename(run)
    model = ob.Model.open(run)
    given = ob.Model.open(run, backbone=builder)
    for block in range(3):
        mine, theirs = (one.denoiser.block(block).state_dict() for one in (model, given))
        assert mine.keys() == theirs.keys()
        assert all(mine[key].equal(theirs[key]) for key in mine)
    assert ob.fsck(run).good
    model.save(tmp_path / "model")
    assert ob.merge(run).blocks == 3
    for saved in (tmp_path / "model", run / "model"):
        names = sorted(path.name for path in (saved / NETWORK_FOLDER).iterdir())
        weights = [one for one in names if one.endswith(".safetensors") and one != TENSORS_FILE]
        assert RECORD_FILE in names and not weights
        assert ob.Model.open(saved).denoiser.block(2).state_dict().keys() == mine.keys()
        assert ob.fsck(saved).good
    last = checkpoints(run / "block-1")[-1]
    bytes_of_all = last.read_bytes()
    last.unlink()
    ob.run_job(run, 1, watch=QUIET)
    assert last.read_bytes() == bytes_of_all, "the job starts with the weights that are kept"


def test_a_network_that_is_opened_has_no_numbers_before_they_are_read(tmp_path: Path) -> None:
    """Nothing is drawn, so that the pages of its memory stay empty; and no run starts from it."""
    run, _ = trained("GPT-2", tmp_path)
    library, random = LIBRARIES["transformers"], torch.random.get_rng_state()
    with Unfilled():
        made = library.fresh(library.settings(run / NETWORK_FOLDER))
    assert torch.random.get_rng_state().equal(random)
    assert all(p.requires_grad for p in made.parameters())
    backbone: Any = ob.Model.open(run).backbone
    next((run / "block-1").glob("step-*")).unlink()
    with pytest.raises(ValueError, match="is that of an opened model, without the weights that its run started from"):
        ob.run_job(run, 1, backbone=backbone, watch=QUIET)


def test_the_same_call_goes_on_without_the_network(tmp_path: Path) -> None:
    run, builder = trained("DeiT", tmp_path, strategy="plan-only")
    assert (run / NETWORK_FOLDER / "model.safetensors").is_file()
    recipe, data = recipe_and_data(builder.network, tmp_path, blocks=3, budget=16 * 6 * 3)
    done = ob.train(recipe, data=data, out=run, watch=QUIET)
    assert done.plan.architecture["name"] == f"oneblock.convert.converted:{builder.__qualname__}"
    assert len(checkpoints(run / "block-2")) == 1


def test_a_start_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the plan, while the network was written, and between the two."""
    made, builder = converted("DiT")
    recipe, data = recipe_and_data(made, tmp_path, blocks=3, budget=16 * 6 * 3)
    words: dict[str, Any] = {"data": data, "out": tmp_path / "run", "strategy": "plan-only", "watch": QUIET}
    (tmp_path / "run" / "network.123.partial").mkdir(parents=True)
    (tmp_path / "run" / "network.123.partial" / "config.json").write_text("{")
    ob.train(recipe, backbone=builder, **words)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["network", "plan.json"]
    (tmp_path / "run" / "plan.json").unlink()
    with pytest.raises(ValueError, match=r"holds GPT2LMHeadModel|holds DiTTransformer2DModel.*use another directory"):
        ob.train(recipe, backbone=converted("DiT", seed=1)[1], **words)
    ob.train(recipe, backbone=builder, **words)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"is not empty and does not hold plan\.json"):
        ob.train(recipe, backbone=builder, **{**words, "out": tmp_path / "other"})
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["notes.txt"]


def test_a_fingerprint_is_that_of_the_same_network_elsewhere(tmp_path: Path) -> None:
    """Saved and loaded, and counted with any number of threads."""
    import transformers

    made, builder = converted("GPT-2")
    saved: Any = made
    saved.save_pretrained(tmp_path / "a")
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "a")
    assert ob.convert(again, outputs=27).__qualname__ == builder.__qualname__
    large = nn.Linear(600, 600)
    threads = torch.get_num_threads()
    try:
        names = []
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            from oneblock.convert.converted import fingerprint

            names.append(fingerprint(large, {}))
    finally:
        torch.set_num_threads(threads)
    assert len(set(names)) == 1


class Mine(nn.Module):
    """A class that no library has."""


def changed(made: nn.Module) -> nn.Module:
    network: Any = made
    network.lm_head = nn.Linear(32, 50)
    return made


@pytest.mark.parametrize(
    "make",
    [
        lambda: changed(network("GPT-2")),
        lambda: type("MyLMHeadModel", (type(network("GPT-2")),), {"__module__": "mine"})(network("GPT-2").config),
    ],
    ids=["changed", "subclass"],
)
def test_a_network_that_its_library_could_not_build_is_asked_for(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    builder = ob.convert(make(), outputs=27)
    assert not keep(builder, tmp_path / "network")
    assert list(tmp_path.iterdir()) == []


def record(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / RECORD_FILE
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def config(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def other_weights(folder: Path) -> None:
    saved: Any = network("GPT-2", seed=1)
    saved.save_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (record(library="keras"), "library='keras' is unknown; use one of transformers, diffusers, timm"),
        (record(picks="all"), "does not say which network the run started from"),
        (config(architectures=["LlamaForCausalLM"]), "holds a network of another class than GPT2LMHeadModel"),
        (config(auto_map={"AutoModel": "mine.Model"}), "names code of its own"),
        (other_weights, r"holds GPT2LMHeadModel, \w+, but the run started from GPT2LMHeadModel"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights; save the network as safetensors"),
    ],
    ids=["library", "picks", "class", "code", "weights", "no weights"],
)
def test_a_damaged_network_is_told(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    run, _ = trained("GPT-2", tmp_path, strategy="plan-only")
    damage(run / NETWORK_FOLDER)
    with pytest.raises(ValueError, match=message):
        ob.run_job(run, 0, watch=QUIET)
    findings = ob.fsck(run)
    assert not findings.good
    assert [one.path for one in findings.files if not one.good] == [run / NETWORK_FOLDER]
    shutil.rmtree(run / NETWORK_FOLDER)
    with pytest.raises(ValueError, match="the network of this run is the user's own"):
        ob.run_job(run, 0, watch=QUIET)


def test_what_is_kept_keeps_its_schedule(tmp_path: Path) -> None:
    from diffusers import DDPMScheduler

    made = ob.convert(network("DiT"), outputs=1, scheduler=DDPMScheduler(beta_schedule="scaled_linear"))
    assert keep(made, tmp_path / "network")
    again = rebuilt(tmp_path / "network", weights=True)
    assert made.frame is not None and again.frame is not None
    assert frame_to_dict(again.frame) == frame_to_dict(made.frame)
