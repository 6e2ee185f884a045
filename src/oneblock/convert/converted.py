"""A network of another library as a backbone: ``stem -> layers -> head``, cut into blocks, its own code unchanged.

What a converted network computes at the start is what the original computes on clean input: the noise level, and noisy
targets that the original does not know, enter through maps that are zero. A layer i gets

    h + s_i LN(h) + b_i,    (s_i, b_i) = W_i silu(embed(noise)),    W_i = 0 at the start

(adaLN-zero, Peebles and Xie, Section 3.2, https://arxiv.org/abs/2212.09748, here before the layer and on the hidden
state, as a layer of another library cannot be opened up). A network that is told a time step keeps its layers as they
are. Where the scheduler that it was trained with is given, it is told its own time steps, under its own frame
(``schedule``), and is the denoiser that it was. Otherwise it is told EDM's noise conditioning in their place.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from oneblock.backbone import as_backbone
from oneblock.checks import shown
from oneblock.convert.block import ConvertedBackbone, ConvertedLayer
from oneblock.convert.copies import Copier
from oneblock.convert.discover import find_layers, layers_of
from oneblock.convert.generators import Image
from oneblock.convert.kind import Kind
from oneblock.convert.kinds import kind_of, settings_of, width_of
from oneblock.convert.prompts import as_prompts
from oneblock.convert.schedulers import as_frame
from oneblock.convert.taps import forms_of, without_layers
from oneblock.schedule import Parametrisation, frame_from_dict, frame_to_dict

KEPT_FRAME = "kept_frame"
"""Attribute of a block whose network keeps its frame: the frame as plain values."""


class Converted(ABC):
    """A network with its weights as a builder of backbones; give it to ``train`` as ``backbone``.

    Blocks have copies of what stands before and behind the layers, and of their own layers; the network stays as it is.
    Layer i of a plan is layer ``picks[i]`` of the network: all in order for blocks, all of them again for every expert
    (``pick``), or those that each band needs most.

    Args:
        count: layers of the network; ``width`` of its hidden state, 0 where that is not known.
        named: class of the network and fingerprint, by which a plan tells it from others.
    """

    frame: Parametrisation | None = None
    """What the network was trained under, if it keeps that; None is EDM's preconditioning."""
    hollow = False
    """The network was built for its shapes, and has any numbers for weights: blocks are filled from their files."""
    frozen = False
    """Blocks do not train the network's own weights, and hold them in its memory; what is new in them they train."""

    def __init__(self, count: int, width: int, named: str, picks: Sequence[int] = ()) -> None:
        self.count, self.width, self.named = count, width, named
        self.picks = tuple(picks) or tuple(range(count))
        chosen = "" if self.picks == tuple(range(count)) else f", layers {' '.join(map(str, self.picks))}"
        self.__qualname__ = f"Converted[{named}{chosen}]"

    @property
    def depth(self) -> int:
        """Layers of all blocks together."""
        return len(self.picks)

    def pick(self, layers: Sequence[int]) -> Self:
        """The same network with these of its layers, in this order; a layer may be taken several times, by several
        blocks."""
        wrong = [i for i in layers if not 0 <= i < self.count]
        if wrong or not layers:
            raise ValueError(f"layers={list(layers)} are not layers of this network; use some of 0 to {self.count - 1}")
        made = copy(self)
        Converted.__init__(made, self.count, self.width, self.named, layers)
        return made

    def renamed(self, named: str) -> Self:
        """The same network by another name."""
        made = copy(self)
        Converted.__init__(made, self.count, self.width, named, self.picks)
        return made

    def under(self, frame: Parametrisation) -> Self:
        """The same network, which keeps the ``frame`` that it was trained under."""
        made = copy(self)
        made.frame = frame
        return made

    def __call__(self, layers: range) -> nn.Module:
        """The block with these layers of a plan."""
        if layers.start < 0 or layers.stop > self.depth:
            raise ValueError(
                f"layers {layers.start} to {layers.stop - 1} are asked for, but there are {self.depth}; use "
                f"depth={self.depth} in the recipe"
            )
        made: Any = self.block({str(i): self.picks[i] for i in layers})
        if self.frame is not None:
            setattr(made, KEPT_FRAME, frame_to_dict(self.frame))
        return cast(nn.Module, made)

    @property
    @abstractmethod
    def original(self) -> nn.Module:
        """The network that was converted."""

    @abstractmethod
    def block(self, layers: Mapping[str, int]) -> nn.Module:
        """A backbone of copies: names of its layers -> those of the network."""


class ConvertedLibrary(Converted):
    """A network of another library.

    Args:
        prompts: what it is told of each class besides (``convert.prompts``).
        told: the arguments of ``convert``, with which the same network is converted again.
    """

    def __init__(
        self,
        network: nn.Module,
        path: str,
        kind: Kind,
        noisy: int,
        prompts: Mapping[str, Tensor] | None = None,
        told: Mapping[str, Any] | None = None,
    ) -> None:
        self.network = network
        self.told = dict(told or {})
        self.path = path
        self.kind, self._noisy, self._prompts = kind, noisy, prompts or {}
        layers = layers_of(network, path)
        self._forms = forms_of(network, layers, path, self.example())
        named = f"{type(network).__name__}, {fingerprint(network, settings_of(network), self._prompts)}"
        super().__init__(len(layers), width_of(network), named)

    @property
    def original(self) -> nn.Module:
        return self.network

    def example(self) -> dict[str, Any]:
        """Arguments of a call of the network, on its device."""
        texts = {name: table[:2] for name, table in self._prompts.items()}
        return self.kind.with_texts(self.kind.example(self.network), texts)

    def block(self, layers: Mapping[str, int]) -> ConvertedBackbone:
        copied = Copier(self.frozen)
        every, forms = layers_of(self.network, self.path), self._forms
        ends, line = without_layers(self.network, every, forms, copied)
        modulated = 0 if self.kind.knows_noise else self.width
        own = {name: ConvertedLayer(copied(every[i]), i, modulated, forms[i]) for name, i in layers.items()}
        kind = self.kind
        if isinstance(kind, Image) and self.frame is not None:
            kind = replace(kind, time_steps=1.0)
        return ConvertedBackbone(ends, line, own, self.width, kind, self._noisy, self._prompts)


class ConvertedBackboneOf(Converted):
    """A backbone (``oneblock.backbone``) with weights, for example that of a trained model.

    Args:
        settings: what the fingerprint is made of besides the weights.
    """

    def __init__(self, backbone: nn.Module, width: int = 0, settings: Mapping[str, Any] | None = None) -> None:
        self.backbone = backbone
        layers = as_backbone(backbone).layers
        named = f"{type(backbone).__name__}, {fingerprint(backbone, settings or {})}"
        super().__init__(len(layers), width, named)

    @property
    def original(self) -> nn.Module:
        return self.backbone

    def block(self, layers: Mapping[str, int]) -> nn.Module:
        every = list(as_backbone(self.backbone).layers.values())
        empty = {id(self.backbone.layers): nn.ModuleDict()}  # copied without layers, which then join
        copied = Copier(self.frozen)
        made: Any = copied(self.backbone, empty)
        for name, i in layers.items():
            made.layers[name] = copied(every[i])
        made.requires_grad_(not self.frozen)
        trained: nn.Module = made.train()
        return trained


def convert(
    network: nn.Module,
    *,
    outputs: int = 0,
    layers: str = "",
    noisy: int = 0,
    special_id: int | None = None,
    scheduler: object = None,
    prompts: Mapping[str, Tensor] | None = None,
) -> Converted:
    """A network that exists as a backbone, with its weights: a language model or a classifier of images of the
    transformers library, a vision transformer of timm, a transformer of diffusers that generates images (DiT, PixArt,
    Sana, SD3, Flux, AuraFlow), or a backbone of one's own (``stem``, ``layers``, ``head``). It is cut into blocks by
    ``train(recipe, backbone=convert(network, ...), ...)``.

    The recipe's task must be what the network is for: a causal language model is trained by a ``CausalRecipe``, a
    masked one by a ``MaskedRecipe``, a classifier of images by a ``ClassifyRecipe``, and a generator by an
    ``ImageRecipe``. Depth and width of the recipe become those of the network.

    Args:
        network: as its library makes it; it stays as it is. Its weights are those that every block starts with.
        outputs: symbols of the vocabulary, classes, or channels of images; its head must have as many, or more. A
            backbone of one's own needs none.
        layers: path of the list of its layers, e.g. ``"transformer.h"``, or of several lists that follow each other,
            joined by commas; empty looks for it.
        noisy: width of the noisy targets that it is shown; 0 is ``outputs``, as for evidence (``precondition``).
        special_id: the id that stands before a text, or for a masked place; None is the network's own, or the first
            that is no symbol.
        scheduler: that a generator of images was trained with: one of diffusers, the values of its
            ``scheduler_config.json``, or a frame (``schedule``). The network keeps its time steps, its levels and what
            it predicts. None is for a network with fresh weights, which is to be trained under EDM's preconditioning;
            of a block of a converted network it is what that one keeps.
        prompts: what a generator that is told texts is told of each class: arguments of its own call, e.g.
            ``encoder_hidden_states`` (k + 1, t, d), with a row for each of the k classes and a last one for no class.
            They are no part of a checkpoint, and are not trained.

    Raises:
        ValueError: the network cannot be cut (``convert.discover``), its answers and ids do not fit, or its scheduler
            has no frame (``convert.schedulers``).
    """
    if all(hasattr(network, part) for part in ("stem", "layers", "head")):
        known = frame_from_dict(getattr(network, KEPT_FRAME)) if hasattr(network, KEPT_FRAME) else None
        return _kept(ConvertedBackboneOf(network), known if scheduler is None else scheduler)
    path = find_layers(network, layers)
    kind = kind_of(network).of(network, outputs, special_id)
    if not isinstance(kind, Image) and scheduler is not None:
        raise ValueError(
            f"{type(network).__name__} is told no time step, so that scheduler={shown(scheduler)} has no part in it; "
            "leave it out"
        )
    texts = as_prompts(network, kind.texts(network), prompts)
    told = {"outputs": outputs, "layers": path, "noisy": noisy or outputs, "special_id": kind.special_id}
    if texts:
        told["prompts"] = texts
    return _kept(ConvertedLibrary(network, path, kind, noisy or outputs, texts, told), scheduler)


def _kept(made: Converted, scheduler: object) -> Converted:
    return made if scheduler is None else made.under(as_frame(scheduler))


BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes of a number -> whole numbers of as many."""


def fingerprint(network: nn.Module, settings: Mapping[str, Any], prompts: Mapping[str, Tensor] | None = None) -> str:
    """16 hex digits of a network's settings and weights, and of what it is told of each class."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in {**network.state_dict(), **dict(sorted((prompts or {}).items()))}.items():
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        # sums in place of all bytes: a network of billions is read once, and a single tensor of it is copied at a time;
        # of whole numbers, as the last digits of others depend on the number of threads
        whole = tensor.detach().contiguous().view(BITS[tensor.element_size()]).long()
        digest.update(repr([int(whole.sum()), int(whole.square().sum())]).encode())
    return digest.hexdigest()[:16]
