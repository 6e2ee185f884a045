"""The choice of layers before training: those without which the loss is worst stay."""

import math
from itertools import combinations

import pytest
import torch
from tiny import IMAGES, TINY, tiny_plan

import oneblock as ob
from oneblock.blockwise import BlockDenoiser
from oneblock.convert.converted import Converted
from oneblock.data import MemorySource
from oneblock.models.dit import DiT
from oneblock.presets import ImageRecipe, image_task, specialists
from oneblock.presets.image import dit_config

DATA = MemorySource(IMAGES)
RECIPE = ImageRecipe(**TINY)


def network(useful: tuple[int, ...], depth: int = 5) -> Converted:
    """A DiT that denoises with its ``useful`` layers; the others add noise to the hidden state, or nothing."""
    plan = tiny_plan(depth=depth, blocks=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = DiT(dit_config(plan))
        with torch.no_grad():
            for name, p in made.named_parameters():
                if "modulation" in name or "head.out" in name:
                    p.copy_(0.1 * torch.randn(p.shape))
    layers = torch.nn.ModuleDict({str(i): made.layers[str(layer)] for i, layer in enumerate(useful)})
    whole, made.layers = made.layers, layers
    _trained(made)
    made.layers = whole
    return ob.convert(made)


def _trained(made: DiT) -> None:
    """A few steps of ordinary training, on the whole noise range."""
    plan = tiny_plan(blocks=1)
    task, denoiser = image_task(plan), BlockDenoiser(made, plan.precondition)
    optimizer = torch.optim.Adam(made.parameters(), lr=3e-3)
    for step in range(150):
        generator = torch.Generator().manual_seed(step)
        batch = task.draw(DATA.batch(step, 16, 0), plan.partition.draw(0, 16, generator), 0, generator)
        task.loss(denoiser, batch.noised, batch.targets, batch.condition).weighted.mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("useful", [(0, 3), (2, 4)])
@pytest.mark.parametrize("tried", [250, 1], ids=["all", "one by one"])
def test_the_layers_that_were_trained_are_chosen(
    useful: tuple[int, ...], tried: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For every band, whether all choices are tried or layers are taken away one by one."""
    monkeypatch.setattr(specialists, "ALL_TRIED", tried)
    told: list[str] = []
    assert ob.choose_layers(network(useful), RECIPE, 2, DATA, told=told.append) == useful * 2
    assert [line.partition(", loss")[0] for line in told] == [
        f"block {block}: layers {useful[0]} {useful[1]}" for block in (0, 1)
    ]


def test_how_many_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[int, ...]] = []

    def loss(made: Converted, plan: object, batch: object, layers: tuple[int, ...]) -> float:
        tried.append(tuple(layers))
        return math.fsum(layers)

    monkeypatch.setattr(specialists, "_loss", loss)
    made = ob.convert(DiT(dit_config(tiny_plan(depth=5, blocks=1))))
    assert ob.choose_layers(made, ImageRecipe(**{**TINY, "blocks": 1, "depth": 5}), 2, DATA) == (0, 1)
    assert tried == list(combinations(range(5), 2))
    tried.clear()
    monkeypatch.setattr(specialists, "ALL_TRIED", 9)
    assert ob.choose_layers(made, ImageRecipe(**{**TINY, "blocks": 1, "depth": 5}), 2, DATA) == (0, 1)
    assert [len(layers) for layers in tried] == [4] * 5 + [3] * 4 + [2] * 3


def test_bands_may_need_other_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(made: Converted, plan: object, batch: ob.Plan, layers: tuple[int, ...]) -> float:
        noisy = float(batch.noised.sigma.mean()) > 0.5  # type: ignore[attr-defined]
        return math.fsum(layers) * (-1 if noisy else 1)

    monkeypatch.setattr(specialists, "_loss", loss)
    made = ob.convert(DiT(dit_config(tiny_plan(depth=5, blocks=1))))
    assert ob.choose_layers(made, RECIPE, 2, DATA) == (3, 4, 0, 1)


@pytest.mark.parametrize(
    ("per_block", "samples", "message"), [(6, 8, "per_block=6"), (0, 8, "per_block=0"), (2, 0, "samples=0")]
)
def test_numbers_that_do_not_fit_are_refused(per_block: int, samples: int, message: str) -> None:
    made = ob.convert(DiT(dit_config(tiny_plan(depth=5, blocks=1))))
    with pytest.raises(ValueError, match=message):
        ob.choose_layers(made, RECIPE, per_block, DATA, samples=samples)
