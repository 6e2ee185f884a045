"""Which layers of a network with weights the blocks of a plan get: slices, all of them for every expert, or any."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import IMAGES, TINY, tiny_plan, tiny_run

import oneblock as ob
from oneblock.backbone import forward
from oneblock.condition import ClassIds
from oneblock.convert.converted import Converted
from oneblock.data import MemorySource
from oneblock.models.dit import DiT
from oneblock.presets import ImageRecipe
from oneblock.presets.image import dit_config
from oneblock.train.drive import Watch
from oneblock.train.record import read_rows
from oneblock.train.strategy import all_blocks

QUIET = Watch(bars=False)
ASKED = (torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([-0.5, 0.5]))


def dit() -> DiT:
    """A network whose layers all do something, each another thing."""
    made = DiT(dit_config(tiny_plan()))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=generator))
    return made.eval().requires_grad_(False)


def answer(backbone: Any) -> torch.Tensor:
    return forward(backbone.eval(), *ASKED, ClassIds(torch.tensor([0, 2]), 3)).detach()


def test_all_layers_in_order_are_the_network() -> None:
    made = dit()
    builder = ob.convert(made)
    assert (builder.depth, builder.picks) == (4, (0, 1, 2, 3))
    assert answer(builder(range(4))).equal(answer(made))
    assert all(p.requires_grad for p in builder(range(2)).parameters()), "though the original is frozen"


@pytest.mark.parametrize("picks", [(0, 3), (3, 0), (1, 1, 2), (2,)])
def test_a_block_has_the_layers_that_were_picked(picks: tuple[int, ...]) -> None:
    made = dit()
    builder = ob.convert(made).pick(picks)
    pruned = dit()
    every = list(pruned.layers.values())
    pruned.layers = torch.nn.ModuleDict({str(i): every[layer] for i, layer in enumerate(picks)})
    found = builder(range(len(picks)))
    assert list(found.layers) == list(map(str, range(len(picks))))
    assert answer(found).equal(answer(pruned))
    weights = [p.data_ptr() for p in found.parameters()]
    assert len(set(weights)) == len(weights), "a layer that is taken twice is two layers"


def test_experts_are_the_whole_network_each(tmp_path: Path) -> None:
    builder = ob.convert(dit())
    experts = builder.pick(builder.picks * 2)
    assert answer(experts(range(4, 8))).equal(answer(builder(range(4))))
    assert list(experts(range(4, 8)).layers) == ["4", "5", "6", "7"]
    recipe = ImageRecipe(**TINY)
    done = ob.train(ob.experts(recipe), backbone=experts, data=MemorySource(IMAGES), out=tmp_path, watch=QUIET)
    assert done.plan.layers == (4, 4)


def test_a_trained_model_goes_on_as_blocks(tmp_path: Path) -> None:
    """From the weights of the teacher: the first steps of a specialist are better than those of a fresh block."""
    recipe = ImageRecipe(**{**TINY, "budget": 8 * 4 * 150, "learning_rate": 3e-3})
    data = MemorySource(IMAGES)
    ob.train(recipe, data=data, out=tmp_path / "teacher", strategy="end-to-end", watch=QUIET)
    teacher = ob.Model.open(tmp_path / "teacher")
    builder = ob.convert(teacher.network)
    short = ImageRecipe(**{**TINY, "learning_rate": 1e-5})
    starts = {}
    for name, backbone in (("on", builder), ("fresh", None)):
        ob.train(short, backbone=backbone, data=data, out=tmp_path / name, watch=QUIET)
        paths = sorted((tmp_path / name).glob("block-*/metrics.jsonl"))
        starts[name] = [float(next(iter(read_rows(path)))["loss"]) for path in paths]
    assert all(on < 0.9 * fresh for on, fresh in zip(starts["on"], starts["fresh"], strict=True)), starts
    with pytest.raises(ValueError, match="this model has 2 blocks, which are no single network"):
        _ = ob.Model.open(tmp_path / "fresh").network


def test_a_plan_tells_picks_and_weights_apart() -> None:
    builder = ob.convert(dit())
    changed = dit()
    with torch.no_grad():
        next(changed.parameters()).mul_(1.001)
    names = [one.__qualname__ for one in (builder, ob.convert(dit()), builder.pick((0, 3)), ob.convert(changed))]
    assert names[0] == names[1]
    assert len(set(names)) == 3
    assert names[2].endswith("layers 0 3]")
    assert isinstance(builder.pick((0, 3)), Converted)


@pytest.mark.parametrize(("layers", "message"), [((0, 4), "use some of 0 to 3"), ((), "use some of 0 to 3")])
def test_layers_that_are_none_are_refused(layers: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ob.convert(dit()).pick(layers)
    with pytest.raises(ValueError, match="layers 3 to 4 are asked for, but there are 4"):
        ob.convert(dit())(range(3, 5))


def test_the_network_stays_as_it_is(tmp_path: Path) -> None:
    made = dit()
    before = {name: t.clone() for name, t in made.state_dict().items()}
    recipe = ImageRecipe(**{**TINY, "learning_rate": 0.1})
    ob.train(recipe, backbone=ob.convert(made), data=MemorySource(IMAGES), out=tmp_path, watch=QUIET)
    assert all(t.equal(before[name]) for name, t in made.state_dict().items())
    assert list(all_blocks(tiny_run(tmp_path / "other")))
