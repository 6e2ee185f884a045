"""Layers of diffusers' SANA-Video with our own code, which streams: the same weights, the same answers.

``convert`` takes the whole of ``SanaVideoTransformer3DModel`` with the library's code, which sees all frames at once.
``video_layer`` makes of one of its blocks a ``models.video_layers.VideoLayer``, which can also be given one block of
frames after the other, with a memory that does not grow. Stem and head of the library differ from ours.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from oneblock.models.video_layers import VideoLayer, VideoLayerConfig

SELF, CROSS = ("attn1", "attention"), ("attn2", "cross")


def video_layer(block: nn.Module) -> VideoLayer:
    """Of a ``SanaVideoTransformerBlock`` of diffusers, a layer of ours with copies of its weights, in their type.

    Raises:
        ValueError: the block has parts that ours lacks.
    """
    given = dict(block.state_dict())
    config = _config(block, given)
    weights = {"table": given.pop("scale_shift_table"), **_perceptron(given)}
    for theirs, ours in (SELF, CROSS):
        weights |= _attention(given, theirs, ours)
    if given:
        raise ValueError(
            f"the block has {', '.join(sorted(given))}, which a layer here lacks; convert the whole network"
        )
    layer = VideoLayer(config).to(weights["table"])
    layer.load_state_dict(weights)
    for theirs, ours in (SELF, CROSS):
        for norm in ("norm_q", "norm_k"):
            layer.get_submodule(f"{ours}.{norm}").eps = block.get_submodule(f"{theirs}.{norm}").eps
    return layer


def _config(block: nn.Module, given: dict[str, Tensor]) -> VideoLayerConfig:
    for name in ("attn2.to_q.weight", "attn1.norm_q.weight", "attn2.norm_q.weight"):
        if name not in given:
            raise ValueError(f"the block has no {name}, which a layer here needs; convert the whole network")
    heads = [cast(int, block.get_submodule(name).heads) for name, _ in (SELF, CROSS)]
    width, inner = given["scale_shift_table"].shape[1], given["attn2.to_q.weight"].shape[0]
    if heads[0] != heads[1] or inner != width:
        raise ValueError(
            f"self-attention has {heads[0]} heads in {width} channels, cross-attention {heads[1]} in {inner}; a layer "
            "here has the same of both: convert the whole network"
        )
    hidden = given["ff.conv_point.weight"].shape[1]
    return VideoLayerConfig(width=width, heads=heads[0], mlp_ratio=hidden / width, context=True)


def _attention(given: dict[str, Tensor], theirs: str, ours: str) -> dict[str, Tensor]:
    """Queries, keys and values of self-attention are one map here, keys and values of cross-attention another."""
    together = {"qkv": ("to_q", "to_k", "to_v")} if ours == "attention" else {"q": ("to_q",), "kv": ("to_k", "to_v")}
    parts = {**together, "norm_q": ("norm_q",), "norm_k": ("norm_k",), "proj": ("to_out.0",)}
    weights = {}
    for name, sources in parts.items():
        for kind in ("weight",) if name == "qkv" else ("weight", "bias"):
            found = [given.pop(key) for source in sources if (key := f"{theirs}.{source}.{kind}") in given]
            if found:
                weights[f"{ours}.{name}.{kind}"] = torch.cat(found)
    return weights


def _perceptron(given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convolutions of 1 x 1 are linear here, and the three taps of that over time stand side by side."""
    time = given.pop("ff.conv_temp.weight").squeeze(3)
    return {
        "perceptron.up.weight": given.pop("ff.conv_inverted.weight").flatten(1),
        "perceptron.up.bias": given.pop("ff.conv_inverted.bias"),
        "perceptron.conv.weight": given.pop("ff.conv_depth.weight"),
        "perceptron.conv.bias": given.pop("ff.conv_depth.bias"),
        "perceptron.down.weight": given.pop("ff.conv_point.weight").flatten(1),
        "perceptron.temporal.weight": torch.cat(time.unbind(2), dim=1),
    }
