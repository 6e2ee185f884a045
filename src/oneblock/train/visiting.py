"""A denoiser whose layers stay in host memory: each visits the device for its pass.

So a large network answers, without gradients, on a device that holds its stem, its head and one of its layers at a
time.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.func import functional_call

from oneblock.backbone import Modulation, as_backbone
from oneblock.blockwise import BlockDenoiser
from oneblock.condition import Condition


class Visiting:
    """``D(z, sigma, x)`` of ``block``, layer by layer on ``device``; not for training.

    Args:
        block: in host memory; its layers are read there at every call, in pinned memory where the device is a GPU, so
            that a copy neither waits nor is waited for.
        device: of z, sigma and the condition. It keeps a copy of stem and head.
    """

    def __init__(self, block: BlockDenoiser, device: torch.device) -> None:
        parts = as_backbone(block.backbone)
        self._layers = [(layer, _tensors(layer, device.type == "cuda")) for layer in parts.layers.values()]
        ends = deepcopy(block.backbone, {id(parts.layers): nn.ModuleDict()})
        self._ends = as_backbone(ends.to(device))
        self._frame, self._device = deepcopy(block.frame), device
        if isinstance(self._frame, nn.Module):
            self._frame.to(device)

    @torch.no_grad()
    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        h, modulation = self._ends.stem(self._frame.inputs(z, sigma), self._frame.noise(sigma), condition)
        for layer, kept in self._layers:
            h = self._visit(layer, kept, h, modulation)
        return self._frame.outputs(z, sigma, self._ends.head(h, modulation))

    def _visit(self, layer: nn.Module, kept: Mapping[str, Tensor], h: Tensor, modulation: Modulation) -> Tensor:
        """One layer's answer; its weights leave the device on return."""
        here = {name: tensor.to(self._device, non_blocking=True, copy=True) for name, tensor in kept.items()}
        after: Tensor = functional_call(layer, here, (h, modulation))
        return after


def _tensors(layer: nn.Module, pinned: bool) -> Mapping[str, Tensor]:
    """Parameters and buffers of a layer; in pinned memory they are copies, which the layer is given back."""
    if pinned:
        layer._apply(Tensor.pin_memory)
    return {name: tensor.detach() for name, tensor in (*layer.named_parameters(), *layer.named_buffers())}
