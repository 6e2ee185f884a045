from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import tiny_plan
from torch import Tensor, nn

from oneblock.backbone import Backbone, as_backbone, check_backbone, forward, hidden
from oneblock.blockwise import BlockDenoiser, Blockwise
from oneblock.condition import ClassIds, Condition, Nothing, told
from oneblock.models.dit import DiT, DiTConfig
from oneblock.precondition import Precondition
from oneblock.presets import build_backbone

N, D = 3, 4
Z, NOISE, CLASSES = torch.randn(N, 2), torch.linspace(-1, 1, N), ClassIds(torch.arange(N))


class Mine(nn.Module):
    """Vectors (n, 2) of a class; stem and head are methods. ``kind`` says which part of the contract is broken."""

    def __init__(self, layers: range, kind: str = "") -> None:
        super().__init__()
        self.kind = kind
        made = {"ignores": range(6), "from zero": range(len(layers))}.get(kind, layers)
        parts = {str(i): Layer(i, kind) for i in made}
        self.enter, self.leave = nn.Linear(2, D), nn.Linear(D, 3 if kind == "wide" else 2)
        self.classes, self.dropout = nn.Embedding(4, D), nn.Dropout(0.5)
        if kind == "list":
            self.layers = nn.ModuleList(parts.values())
        elif kind != "no layers":
            self.layers = nn.ModuleDict(parts)

    def stem(self, z: Tensor, noise: Tensor, condition: Condition) -> Any:
        h, modulation = self.dropout(self.enter(z)), self.classes(told(condition, ClassIds).ids) + noise[:, None]
        return h if self.kind == "stem" else (h, modulation)

    def head(self, h: Tensor, modulation: Tensor) -> Any:
        out = self.leave(h + modulation)
        return (out, None) if self.kind == "pair" else out


class Layer(nn.Module):
    def __init__(self, index: int, kind: str) -> None:
        super().__init__()
        self.linear = nn.Linear(D, D)
        self.halves = kind == "halves" and index == 2

    def forward(self, h: Tensor, modulation: Tensor) -> Tensor:
        out = h + self.linear(h * modulation).tanh()
        return out[:, ::2] if self.halves else out


def check(build: Callable[[range], Any], num_layers: int = 4) -> None:
    check_backbone(build, num_layers, Z, NOISE, CLASSES, expected=(N, 2))


def test_the_forward_pass_is_stem_layers_head() -> None:
    mine = Mine(range(2, 4)).eval()
    h, modulation = mine.stem(Z, NOISE, CLASSES)
    for i in ("2", "3"):
        h = mine.layers[i](h, modulation)
    found, passed = hidden(as_backbone(mine), Z, NOISE, CLASSES)
    assert found.equal(h) and passed.equal(modulation)
    assert forward(as_backbone(mine), Z, NOISE, CLASSES).equal(mine.leave(h + modulation))


def test_a_layer_that_stands_in_two_places_is_called_twice() -> None:
    mine = Mine(range(2)).eval()
    mine.layers["1"] = mine.layers["0"]
    h, modulation = mine.stem(Z, NOISE, CLASSES)
    twice = mine.layers["0"](mine.layers["0"](h, modulation), modulation)
    assert hidden(as_backbone(mine), Z, NOISE, CLASSES)[0].equal(twice)
    assert BlockDenoiser(mine, Precondition()).num_layers == 2


def test_checkpointing_leaves_the_gradients_and_calls_layers_again() -> None:
    mine, calls = Mine(range(3)).eval(), []
    mine.layers["1"].register_forward_pre_hook(lambda *_: calls.append(1))
    gradients = []
    for checkpointing in (False, True):
        mine.zero_grad()
        forward(as_backbone(mine), Z, NOISE, CLASSES, checkpointing).square().sum().backward()
        gradients.append([p.grad.clone() for p in mine.parameters() if p.grad is not None])
    assert all(a.equal(b) for a, b in zip(*gradients, strict=True))
    assert len(calls) == 1 + 2
    with torch.no_grad():
        forward(as_backbone(mine), Z, NOISE, CLASSES, checkpointing=True)
    assert len(calls) == 4


def test_ours_are_backbones() -> None:
    config = DiTConfig(image_size=8, channels=1, num_classes=3, depth=2, width=16, heads=2, patch=4)
    dit: Backbone = DiT(config)  # for the type checker
    assert as_backbone(dit) is dit
    z = torch.randn(2, 1, 8, 8)
    check_backbone(build_backbone(tiny_plan()), 4, z, torch.zeros(2), ClassIds(torch.arange(2)), z.shape)


def test_a_sound_builder_passes_and_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    check(Mine)
    assert torch.get_rng_state().equal(state)
    with pytest.raises(ValueError):
        check(lambda layers: Mine(layers, "wide"))
    assert torch.get_rng_state().equal(state)


def test_every_layer_is_built_alone() -> None:
    asked: list[range] = []

    def build(layers: range) -> nn.Module:
        asked.append(layers)
        return Mine(layers)

    check(build)
    assert asked == [range(i, i + 1) for i in range(4)]


def bare(**parts: Any) -> nn.Module:
    found = nn.Module()
    for name, part in parts.items():
        setattr(found, name, part)
    return found


NEEDS = r"stem\(z, noise, condition\) -> \(h, modulation\), layers and head\(h, modulation\)"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda layers: (1, 2), "the backbone is a tuple; give a torch.nn.Module with " + NEEDS),
        (lambda layers: bare(head=nn.Identity()), "Module has no stem and no layers; a backbone needs " + NEEDS),
        (lambda layers: Mine(layers, "no layers"), "Mine has no layers; a backbone needs " + NEEDS),
        (
            lambda layers: bare(stem=1, layers=nn.ModuleDict(), head=nn.Identity()),
            "Module.stem cannot be called; a backbone needs " + NEEDS,
        ),
        (
            lambda layers: Mine(layers, "list"),
            'Mine.layers is a ModuleList; a torch.nn.ModuleDict is allowed, from the index .*, {"4": ..., "5": ...}',
        ),
        (
            lambda layers: Mine(layers, "ignores"),
            r"Mine was asked for 1 of its layers, range\(0, 1\), and made 6; the builder must make the layers of",
        ),
        (
            lambda layers: Mine(layers, "from zero"),
            r"the layers of Mine are named 0; those of range\(1, 2\) must be named 1, after their place in the",
        ),
        (
            lambda layers: Mine(layers, "halves"),
            r"layer 2 of Mine takes h of shape \(3, 4\) and returns \(3, 2\); the layers of a residual network must",
        ),
        (
            lambda layers: Mine(layers, "stem"),
            r"the stem of Mine returns Tensor; it must return a pair, \(h, modulation\)",
        ),
        (
            lambda layers: Mine(layers, "wide"),
            r"the head of Mine returns \(3, 3\); it must return \(3, 2\) for z of shape \(3, 2\)",
        ),
        (lambda layers: Mine(layers, "pair"), r"the head of Mine returns tuple; it must return \(3, 2\) for z"),
    ],
)
def test_what_breaks_the_contract_is_refused(build: Callable[[range], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(build)


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="num_layers=0 leaves no layer to call; use 1 or more"):
        check(Mine, 0)


def test_blocks_are_checked_where_they_are_built() -> None:
    plan = tiny_plan()
    with pytest.raises(ValueError, match=r"Mine was asked for 2 of its layers, range\(0, 2\), and made 6"):
        Blockwise(lambda layers: Mine(layers, "ignores"), plan).denoiser(0)
    with pytest.raises(ValueError, match=r"are named 0, 1; those of range\(2, 4\) must be named 2, 3"):
        Blockwise(lambda layers: Mine(layers, "from zero"), plan).denoiser(1)
    with pytest.raises(ValueError, match="Identity has no stem and no layers and no head"):
        BlockDenoiser(nn.Identity(), Precondition())


def test_a_condition_of_another_number_of_samples_is_refused() -> None:
    denoiser = BlockDenoiser(Mine(range(1)), Precondition())
    with pytest.raises(ValueError, match="the condition is for 2 samples, but z has 3; give one entry per sample"):
        denoiser(Z, torch.ones(N), CLASSES.take(slice(2)))
    with pytest.raises(ValueError, match="the condition is Nothing; this network needs ClassIds"):
        denoiser(Z, torch.ones(N), Nothing(N))
