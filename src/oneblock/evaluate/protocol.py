"""Protocols: how a score was taken, kept beside the score, so that scores of different protocols are never compared.

The settings that are known to move a Frechet distance more than a better model does stand here: the number of samples,
which conditions they were told, solver, steps, guidance, averaged or raw weights, precision, the network whose features
are compared and its weights, and the real images. Two protocols are the same if all of that is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar, final

import torch
from torch import Tensor

from oneblock.checks import check_fields, shown
from oneblock.data.transforms import bytes_in_place

VERSION = 1
"""Of what the fields mean, and of everything that is not a field: how images enter an extractor, how a distance is
calculated."""
PROTOCOL, LOSS_PROTOCOL, FID_PROTOCOL = "protocol", "loss_protocol", "fid_protocol"
"""Under which rows of scores keep those of the generated images, of the losses and of the published FID."""
RETRIEVAL_PROTOCOL = "retrieval_protocol"
"""That of captions by retrieval."""
Conditions = Literal["classes-in-turn", "captions-in-order", "none"]
Weights = Literal["averaged", "raw"]


@dataclass(frozen=True, kw_only=True)
class AnyProtocol:
    """What both kinds of protocols say.

    Args:
        weights: the average over the training steps, or the weights of the last one.
        dtype: of the weights, such as ``"float32"``.
        version: of these objects.
    """

    weights: Weights
    dtype: str
    version: int = VERSION

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def hash(self) -> str:
        """16 hex digits: equal protocols and only they have the same."""
        values = {name: _written(getattr(self, name)) for name in _compared(self)}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]

    def as_row(self) -> dict[str, Any]:
        """The fields as plain values, as JSON gives them back."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values


@final
@dataclass(frozen=True, kw_only=True)
class Protocol(AnyProtocol):
    """How generated images were made, and what they were compared with.

    Args:
        num_samples: generated images.
        conditions: what they were told: class i modulo the number of classes, caption i, or nothing.
        sampler, grid, steps, guidance, guidance_interval, state, sample_seed: see ``evaluate.images.Sampling``.
        extractor: name of the features.
        extractor_hash: first 16 hex digits of the SHA-256 of the file with its weights; of one that is trained here, of
            what it was trained on and with (``evaluate.retrieval``); empty for one without either.
        reference: name of the real images, for people: two names of the same images are the same protocol.
        reference_hash: of the real images themselves (``hash_of_images``).
        num_reference: how many.
    """

    num_samples: int
    conditions: Conditions
    sampler: str
    grid: str
    steps: int
    guidance: float
    guidance_interval: tuple[float, float]
    state: str
    sample_seed: int
    extractor: str
    extractor_hash: str
    reference: str = field(compare=False)
    reference_hash: str
    num_reference: int


@final
@dataclass(frozen=True, kw_only=True)
class LossProtocol(AnyProtocol):
    """How losses were taken on real images.

    Args:
        held_out: name of the images, for people.
        held_out_hash: fingerprint of the data that they were drawn from.
        num_held_out: how many.
        edges: of the bands that losses are reported on: noise levels, descending, to six digits.
    """

    held_out: str = field(compare=False)
    held_out_hash: str
    num_held_out: int
    edges: tuple[float, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        # machines differ in the last digits of a quantile
        object.__setattr__(self, "edges", tuple(float(f"{edge:.6g}") for edge in self.edges))


Kind = TypeVar("Kind", Protocol, LossProtocol)


def read_protocol(values: object, kind: type[Kind], where: str = "protocol") -> Kind:
    """A protocol from its ``as_row``, also through JSON.

    Raises:
        ValueError: another version, an unknown or missing field, or a value that is not of its type.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is a {type(values).__name__}; a protocol is a JSON object")
    version = values.get("version")
    if type(version) is not int or version != VERSION:
        raise ValueError(
            f"{where} has version={shown(version)}; this version of oneblock reads {VERSION}; take the score again"
        )
    known = {one.name for one in fields(kind)}
    if set(values) != known:
        unknown, missing = sorted(set(values) - known), sorted(known - set(values))
        raise ValueError(f"{where} has unknown fields {shown(unknown)} and lacks {missing}; take the score again")
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def differences(a: AnyProtocol, b: AnyProtocol) -> list[str]:
    """Names of the fields in which two protocols of one kind differ."""
    return [name for name in _compared(a) if getattr(a, name) != getattr(b, name)]


def check_same(found: Mapping[str, AnyProtocol]) -> None:
    """Refuse to compare scores of different protocols.

    Args:
        found: a name of each score -> its protocol, all of one kind.

    Raises:
        ValueError: names two scores, the field that differs, and both of its values.
    """
    names = list(found)
    for name in names[1:]:
        apart = differences(found[names[0]], found[name])
        if apart:
            values = [shown(getattr(found[one], apart[0])) for one in (names[0], name)]
            others = f" (and {', '.join(apart[1:])})" if apart[1:] else ""
            raise ValueError(
                f"{apart[0]}={values[0]} in the protocol of {names[0]}, but {values[1]} in that of {name}{others}; "
                "their scores cannot be compared: score both in the same way"
            )


def hash_of_images(images: Tensor) -> str:
    """16 hex digits that tell these images (n, c, h, w) from others: of shape, type and values."""
    digest = hashlib.sha256(repr((tuple(images.shape), images.dtype)).encode())
    digest.update(bytes_in_place(images.detach().cpu().contiguous()))
    return digest.hexdigest()[:16]


def dtype_name(dtype: torch.dtype) -> str:
    """``"float32"`` of ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def _compared(protocol: AnyProtocol) -> list[str]:
    return [one.name for one in fields(protocol) if one.compare]


def _written(value: Any) -> Any:
    """Numbers that are equal are written alike, 2 and 2.0."""
    if isinstance(value, tuple):
        return [_written(one) for one in value]
    return float(value) if isinstance(value, int) else value
