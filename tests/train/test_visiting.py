"""Layers that visit the device one by one: the same answers, and one layer's weights at a time."""

from typing import Any
from weakref import ReferenceType, ref

import pytest
import torch
from tiny import tiny_plan
from torch import Tensor, nn
from torch.func import functional_call

from oneblock.condition import ClassIds
from oneblock.presets.tasks import blockwise
from oneblock.train.visiting import Visiting


def asked(count: int = 4) -> tuple[torch.Tensor, torch.Tensor, ClassIds]:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(count, 1, 8, 8, generator=generator)
    return z, torch.linspace(0.1, 3.0, count), ClassIds(torch.arange(count) % 3, 3)


def test_the_answer_is_that_of_the_denoiser() -> None:
    block = blockwise(tiny_plan()).denoiser(0).eval()
    with torch.no_grad():
        for p in block.parameters():
            p.add_(0.1 * torch.randn_like(p))
        expected = block(*asked())
    found = Visiting(block, torch.device("cpu"))(*asked())
    assert found.equal(expected)
    assert not found.requires_grad


def test_one_layer_is_on_the_device_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    block = blockwise(tiny_plan()).denoiser(0).eval()
    seen: list[list[ReferenceType[Tensor]]] = []

    def watched(layer: nn.Module, here: dict[str, Tensor], args: Any) -> Tensor:
        assert all(ref() is None for layer in seen for ref in layer), "an earlier layer is still there"
        assert all(not here[name].is_set_to(p) for name, p in layer.named_parameters())
        seen.append([ref(tensor) for tensor in here.values()])
        return functional_call(layer, here, args)

    monkeypatch.setattr("oneblock.train.visiting.functional_call", watched)
    Visiting(block, torch.device("cpu"))(*asked())
    assert len(seen) == 2
