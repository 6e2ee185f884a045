"""Kinds of networks of other libraries: how one is called, what of its answer counts, and what it says of itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from oneblock.condition import Condition, Frames, Tokens, told
from oneblock.convert.generators import GENERATORS
from oneblock.convert.kind import Kind, config_of, first_of

PASSING = ("training", "fused_attn", "grad_checkpointing")
"""Attributes of modules that say how they run at the moment, not what they are."""


class _Symbols(Kind):
    """A language model: its ids are symbols, and one more."""

    own: ClassVar[str]
    what: ClassVar[str]

    @staticmethod
    def size(network: nn.Module) -> int:
        return int(config_of(network).vocab_size)

    @classmethod
    def special_id_of(cls, network: nn.Module, outputs: int) -> int:
        """The network's own start or mask, if it is no symbol; else the first id that is none."""
        own, ids = getattr(network.config, cls.own, None), cls.size(network)
        if isinstance(own, int) and outputs <= own < ids:
            return own
        if outputs < ids:
            return outputs
        raise ValueError(
            f"outputs={outputs} are all ids of {type(network).__name__}, and none is left for the {cls.what}; resize "
            f"its embeddings to {outputs + 1}, or say which id it is with special_id=..."
        )

    def example(self, network: nn.Module) -> dict[str, Any]:
        return {"input_ids": torch.full((2, 4), self.special_id, dtype=torch.long, device=first_of(network).device)}


class Text(_Symbols):
    """An autoregressive language model; a text is told, and noisy targets for its symbols."""

    name = "text"
    endings = ("ForCausalLM", "LMHeadModel")
    own, what = "bos_token_id", "start of a text"

    def example(self, network: nn.Module) -> dict[str, Any]:
        return {**super().example(network), "use_cache": False}

    def call(self, z: Tensor, noise: Tensor, condition: Condition) -> dict[str, Any]:
        tokens = told(condition, Tokens).values
        start = tokens.new_full((len(tokens), 1), self.special_id)
        return {"input_ids": torch.cat([start, tokens[:, :-1]], dim=1), "use_cache": False}


class MaskedText(_Symbols):
    """A masked language model."""

    name = "masked-text"
    endings = ("ForMaskedLM",)
    knows_targets = True
    own, what = "mask_token_id", "mask"

    def call(self, z: Tensor, noise: Tensor, condition: Condition) -> dict[str, Any]:
        return {"input_ids": torch.where(z == self.outputs, self.special_id, z)}


class Classify(Kind):
    """A classifier of images; an image is told, and noisy targets for its class."""

    name = "classify"
    endings = ("ForImageClassification",)

    @staticmethod
    def size(network: nn.Module) -> int:
        return int(config_of(network).num_labels)

    def example(self, network: nn.Module) -> dict[str, Any]:
        config, first = config_of(network), first_of(network)
        size = getattr(config, "image_size", 0)
        height, width = size if isinstance(size, list | tuple) else (size, size)
        images = torch.zeros(2, getattr(config, "num_channels", 3), height, width, device=first.device)
        return {"pixel_values": images.to(first.dtype)}

    def call(self, z: Tensor, noise: Tensor, condition: Condition) -> dict[str, Any]:
        return {"pixel_values": told(condition, Frames).values}


@dataclass(frozen=True)
class TimmClassify(Kind):
    """The same of timm, whose networks have no configuration.

    Args:
        shape: (channels, height, width) of the images that it takes; 0 for any height or width.
    """

    shape: tuple[int, int, int] = (0, 0, 0)

    name = "classify"
    endings = ()

    @classmethod
    def fits(cls, network: type) -> bool:
        return any(base.__module__.startswith("timm.models.") for base in network.__mro__)

    @classmethod
    def of(cls, network: nn.Module, outputs: int, special_id: int | None) -> Self:
        patches = _patches(network)
        height, width = patches.img_size if patches.strict_img_size else (0, 0)
        shape = patches.proj.in_channels, height, width
        return replace(super().of(network, outputs, special_id), shape=shape)

    @staticmethod
    def size(network: nn.Module) -> int:
        size: Any = network.num_classes
        return int(size)

    def example(self, network: nn.Module) -> dict[str, Any]:
        first = first_of(network)
        images = torch.zeros(2, self.shape[0], *_patches(network).img_size, device=first.device)
        return {"x": images.to(first.dtype)}

    def call(self, z: Tensor, noise: Tensor, condition: Condition) -> dict[str, Any]:
        images = told(condition, Frames).values
        given = tuple(images.shape[1:])
        if any(known not in (0, size) for known, size in zip(self.shape, given, strict=True)):
            raise ValueError(
                f"the images are {given}, and the network was made for {self.shape} (0: any); make it with "
                f"in_chans={given[0]}, img_size={given[1:]}"
            )
        return {"x": images}

    def answer(self, found: Any, shape: torch.Size) -> Tensor:
        logits: Tensor = found[..., : self.outputs]
        return logits


KINDS: tuple[type[Kind], ...] = (Text, MaskedText, Classify, TimmClassify, *GENERATORS)


def kind_of(network: nn.Module) -> type[Kind]:
    """What a network is for; one that is for nothing known is a ``ValueError``."""
    return kind_of_class(type(network))


def kind_of_class(network: type) -> type[Kind]:
    """What the networks of a class are for; errors as ``kind_of``."""
    for kind in KINDS:
        if kind.fits(network):
            return kind
    allowed = ", ".join(ending for kind in KINDS for ending in kind.endings)
    raise ValueError(
        f"{network.__name__} is of no kind that is known; a class whose name ends with {allowed} is allowed (the "
        "network with its head), or a vision transformer of timm"
    )


def width_of(network: nn.Module) -> int:
    """Width of the hidden state of a network."""
    config: Any = getattr(network, "config", network)
    for name in ("hidden_size", "n_embd", "dim", "d_model", "embed_dim"):
        if getattr(config, name, None):
            return int(getattr(config, name))
    if hasattr(config, "attention_head_dim"):
        return int(config.num_attention_heads * config.attention_head_dim)
    raise ValueError(f"{type(network).__name__} does not say how wide its hidden state is (config.hidden_size)")


WRITTEN = ("architectures", "dtype", "torch_dtype", "transformers_version")
"""Settings that a library adds when it saves or loads a network; those that begin with _ are others."""


def settings_of(network: nn.Module) -> dict[str, Any]:
    """What a network was made with, the same whether it was saved and loaded since or not: its configuration, or the
    plain attributes of its modules."""
    config: Any = getattr(network, "config", None)
    if config is None:
        return {name: (type(module).__name__, _plain(module)) for name, module in network.named_modules()}
    every = dict(config.to_dict() if hasattr(config, "to_dict") else config)
    return {name: value for name, value in every.items() if name not in WRITTEN and not name.startswith("_")}


def _plain(module: nn.Module) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and name not in PASSING and isinstance(value, int | float | str | tuple | None)
    }


def _patches(network: nn.Module) -> Any:
    """The module of timm that makes patches of images, which knows their size."""
    found: Any = getattr(network, "patch_embed", None)
    if getattr(found, "img_size", None) is None or not hasattr(found, "strict_img_size"):
        raise ValueError(
            f"{type(network).__name__} has no patch_embed that knows the size of images; of timm, vision transformers "
            "with a fixed size of images are converted"
        )
    return found
