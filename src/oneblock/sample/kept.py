"""Streams of video on disk: what is kept of the frames that were made, to go on from there another day.

A safetensors file has the sums, or keys and values, and the last frame of every layer, for each block of layers; the
last block of frames, which is not committed yet; the state of the noise; and what an autoencoder that compresses time
keeps to decode on. A stream that goes on from it makes the frames that it would have made. It belongs to the plan,
labels and guidance that it was made with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from oneblock.checks import check_fields
from oneblock.models.video import VideoState
from oneblock.models.video_layers import Memory
from oneblock.ops import AttentionState, KeyValueState, LinearState
from oneblock.sample.stream import Stream

FORMAT = "oneblock-stream"
DECODER = "decoder."
"""Before the names of what is kept to decode frames, where they are latents."""


@dataclass(frozen=True, kw_only=True)
class Belongs:
    """Whose frames they are.

    Args:
        plan: hash of the plan.
        labels: the class of each sample.
        guided: whether a past is kept for guidance too.
    """

    plan: str
    labels: tuple[int, ...]
    guided: bool

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """What a layer's tensors do not say of themselves; ``frames`` is the position of the whole state."""

    frames: int
    kind: Literal["linear", "softmax"]
    position: int
    window: int | None
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)


def save_stream(path: Path, stream: Stream, belongs: Belongs, decoder: Mapping[str, Tensor] | None = None) -> None:
    """Write ``path``, whole or not at all, with what a ``decoder`` of the frames keeps.

    Raises:
        ValueError: nothing was made yet.
    """
    if stream.made is None:
        raise ValueError(f"nothing was made yet that {path} could keep; make a block of frames first")
    tensors, layers = {"made": stream.made, "noise": stream.noise_state}, {}
    tensors |= {f"{DECODER}{name}": tensor for name, tensor in (decoder or {}).items()}
    for told, reading in stream.reading.readings().items():
        for block, state in reading.past.items():
            for name, memory in state.layers.items():
                key = f"{told}.{block}.{name}"
                found, layer = _taken_apart(state.position, memory)
                tensors |= {f"{key}.{part}": tensor for part, tensor in found.items()}
                layers[key] = asdict(layer)
    said = {"format": FORMAT, "belongs": json.dumps(asdict(belongs)), "layers": json.dumps(layers)}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, partial, metadata=said)
    partial.replace(path)


def restore_stream(path: Path, stream: Stream, belongs: Belongs, device: torch.device) -> dict[str, Tensor]:
    """Let a new ``stream`` go on from ``path``; what was kept of the decoder of its frames.

    Raises:
        ValueError: the file holds no stream, or one of another plan, of other labels or another guidance.
    """
    tensors, said = _read(path)
    _check(path, Belongs(**_tuples(json.loads(said["belongs"]))), belongs)
    layers = {key: _Layer(**_tuples(values)) for key, values in json.loads(said["layers"]).items()}
    readings = {}
    for told, reading in stream.reading.readings().items():
        past: dict[int, VideoState] = {}
        for key in (key for key in layers if key.startswith(f"{told}.")):
            _, block, name = key.split(".")
            parts = {part: tensors[f"{key}.{part}"].to(device) for part in _PARTS if f"{key}.{part}" in tensors}
            known = past.get(int(block), VideoState(layers[key].frames, {}))
            past[int(block)] = VideoState(known.position, {**known.layers, name: _put_together(parts, layers[key])})
        readings[told] = type(reading)(reading.denoiser, past)
    stream.go_on(stream.reading.with_readings(readings), tensors["made"].to(device), tensors["noise"])
    return {name.removeprefix(DECODER): one for name, one in tensors.items() if name.startswith(DECODER)}


_PARTS = ("S", "z", "k", "v", "frame")


def _taken_apart(frames: int, memory: Memory) -> tuple[dict[str, Tensor], _Layer]:
    attention = memory.attention
    tensors = {} if memory.frame is None else {"frame": memory.frame}
    common: dict[str, Any] = {"frames": frames, "position": attention.position, "window": attention.window}
    if isinstance(attention, LinearState):
        return {**tensors, "S": attention.S, "z": attention.z}, _Layer(kind="linear", **common)
    layer = _Layer(kind="softmax", sizes=attention.sizes, **common)
    return {**tensors, "k": attention.k, "v": attention.v}, layer


def _put_together(tensors: Mapping[str, Tensor], layer: _Layer) -> Memory:
    attention: AttentionState
    if layer.kind == "linear":
        attention = LinearState(tensors["S"], tensors["z"], layer.position, layer.window)
    else:
        attention = KeyValueState(tensors["k"], tensors["v"], layer.sizes, layer.position, layer.window)
    return Memory(attention, tensors.get("frame"))


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            said = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read ({error}); give a file that a stream was saved in") from error
    if said.get("format") != FORMAT:
        raise ValueError(f"{path} holds no stream; give a file that a stream was saved in")
    return tensors, cast(dict[str, str], said)


def _check(path: Path, found: Belongs, asked: Belongs) -> None:
    if found.plan != asked.plan:
        raise ValueError(
            f"{path} holds a stream of the plan {found.plan}, but this model has the plan {asked.plan}; go on with the "
            "model that made it"
        )
    if found.labels != asked.labels:
        raise ValueError(
            f"{path} holds videos of the classes {list(found.labels)}, but {list(asked.labels)} are asked for; ask for "
            "the same"
        )
    if found.guided != asked.guided:
        have = "a past for guidance" if found.guided else "no past for guidance"
        raise ValueError(f"{path} holds {have}; go on with guidance {'other than 1' if found.guided else '1'}")


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists alone."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
