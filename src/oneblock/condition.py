"""Conditions: what a denoiser is told besides the noisy target and its level.

A condition is a batch of n samples that can be taken by index, split, moved, joined and nulled, so that guidance,
batching and routing know no task. There are five kinds:

- ``ClassIds``: one class for each sample
- ``Tokens``: a text for each sample
- ``Frames``: an image to classify, or the frames before
- ``Nothing``: the denoiser is told nothing
- ``Until``: any of these, and the noise level at which the step ends
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar, final

import torch
from torch import Tensor

Index = Tensor | slice
"""Which samples: a slice, int64 (m,) in any order and with repeats, or bool (n,)."""


class Condition(ABC):
    """What n samples are told. Kinds are final; a network asks for the one that it knows with ``told``."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of samples n."""

    @abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors that it holds, each (n, ...); a count of memory must include them."""

    @abstractmethod
    def take(self, index: Index) -> Condition:
        """The samples of ``index``, in its order. Another type or shape of index is a ``ValueError``."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Condition:
        """The same on ``device``."""

    @abstractmethod
    def null(self) -> Condition:
        """As many samples, told nothing: what classifier-free guidance compares with.

        Raises:
            ValueError: this condition has no null: the network was never trained to be told nothing in this way.
        """

    @abstractmethod
    def join(self, other: Condition) -> Condition:
        """These samples, then those of ``other``, which must be of the same kind; else a ``ValueError``."""

    def split(self, count: int) -> list[Condition]:
        """``count`` parts in order, as equal as can be; the first ones are the larger ones (``torch.tensor_split``)."""
        if count < 1:
            raise ValueError(f"count={count} is not a number of parts; use 1 or more")
        size, more = divmod(len(self), count)
        ends = [i * size + min(i, more) for i in range(count + 1)]
        return [self.take(slice(start, end)) for start, end in pairwise(ends)]


@final
@dataclass(frozen=True, eq=False)
class ClassIds(Condition):
    """A class for each sample.

    Args:
        ids: int64 (n,).
        null_id: the class that stands for "no class" in a network that was trained with label dropout; None if it
            has none.
    """

    ids: Tensor
    null_id: int | None = None

    def __post_init__(self) -> None:
        if self.ids.ndim != 1 or self.ids.dtype != torch.int64:
            raise ValueError(f"ids is {_of(self.ids)}; torch.int64 (n,) is allowed: one class for each sample")

    def __len__(self) -> int:
        return len(self.ids)

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.ids,)

    def take(self, index: Index) -> ClassIds:
        return replace(self, ids=_taken(self.ids, index))

    def to(self, device: torch.device | str) -> ClassIds:
        return replace(self, ids=self.ids.to(device))

    def null(self) -> ClassIds:
        if self.null_id is None:
            raise ValueError(
                "null_id=None: these labels have no null class; if the network was trained with label dropout, use "
                "ClassIds(ids, null_id=...), else leave guidance out (scale 1)"
            )
        return replace(self, ids=torch.full_like(self.ids, self.null_id))

    def join(self, other: Condition) -> ClassIds:
        other = _same_of(self, other)
        if other.null_id != self.null_id:
            raise ValueError(
                f"null_id={self.null_id} and null_id={other.null_id} cannot be joined; use the same for both"
            )
        return replace(self, ids=torch.cat([self.ids, other.ids]))


@final
@dataclass(frozen=True, eq=False)
class Tokens(Condition):
    """A text for each sample.

    Args:
        values: the symbols, integers (n, t), or a vector for each of them, floating point (n, t, d).
        mask: bool (n, t), True where a token counts; None is everywhere.
    """

    values: Tensor
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != (3 if self.values.is_floating_point() else 2) or self.values.dtype == torch.bool:
            raise ValueError(f"values is {_of(self.values)}; integers (n, t) or floating point (n, t, d) are allowed")
        if self.mask is not None and (self.mask.dtype != torch.bool or self.mask.shape != self.values.shape[:2]):
            raise ValueError(
                f"mask is {_of(self.mask)}; torch.bool {tuple(self.values.shape[:2])} is allowed: True where a token "
                "of the values counts"
            )

    def __len__(self) -> int:
        return len(self.values)

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.values,) if self.mask is None else (self.values, self.mask)

    def take(self, index: Index) -> Tokens:
        return Tokens(_taken(self.values, index), None if self.mask is None else _taken(self.mask, index))

    def to(self, device: torch.device | str) -> Tokens:
        return Tokens(self.values.to(device), None if self.mask is None else self.mask.to(device))

    def null(self) -> Tokens:
        """No token counts."""
        return Tokens(self.values, torch.zeros_like(self._whole_mask()))

    def join(self, other: Condition) -> Tokens:
        other = _same_of(self, other)
        _check_join(self.values, other.values)
        mask = None
        if self.mask is not None or other.mask is not None:
            mask = torch.cat([self._whole_mask(), other._whole_mask()])
        return Tokens(torch.cat([self.values, other.values]), mask)

    def _whole_mask(self) -> Tensor:
        if self.mask is not None:
            return self.mask
        return torch.ones(self.values.shape[:2], dtype=torch.bool, device=self.values.device)


@final
@dataclass(frozen=True, eq=False)
class Frames(Condition):
    """An image to classify, the frames before, or any other tensor for each sample.

    Args:
        values: (n, ...).
    """

    values: Tensor

    def __post_init__(self) -> None:
        if self.values.ndim < 1:
            raise ValueError(f"values is {_of(self.values)}; (n, ...) is allowed: the first axis counts the samples")

    def __len__(self) -> int:
        return len(self.values)

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.values,)

    def take(self, index: Index) -> Frames:
        return Frames(_taken(self.values, index))

    def to(self, device: torch.device | str) -> Frames:
        return Frames(self.values.to(device))

    def null(self) -> Frames:
        raise ValueError(
            f"frames {tuple(self.values.shape)} cannot be nulled: no image stands for 'nothing'; leave guidance out ("
            "scale 1), or use ClassIds or Tokens, which have a null"
        )

    def join(self, other: Condition) -> Frames:
        other = _same_of(self, other)
        _check_join(self.values, other.values)
        return Frames(torch.cat([self.values, other.values]))


@final
@dataclass(frozen=True, eq=False)
class Nothing(Condition):
    """``count`` samples (0 or more) of which nothing is told."""

    count: int

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count={self.count} is not a number of samples; use 0 or more")

    def __len__(self) -> int:
        return self.count

    def tensors(self) -> tuple[Tensor, ...]:
        return ()

    def take(self, index: Index) -> Nothing:
        return Nothing(len(_taken(torch.arange(self.count), index if isinstance(index, slice) else index.cpu())))

    def to(self, device: torch.device | str) -> Nothing:
        return self

    def null(self) -> Nothing:
        return self

    def join(self, other: Condition) -> Nothing:
        return Nothing(self.count + _same_of(self, other).count)


@final
@dataclass(frozen=True, eq=False)
class Until(Condition):
    """A condition, and where the step ends that the denoiser is asked for.

    Args:
        condition: of n samples.
        level: noise levels (n,), at most those that the denoiser is asked at; a network is given what its frame tells
            of them, as of its own level.
    """

    condition: Condition
    level: Tensor

    def __post_init__(self) -> None:
        if self.level.shape != (len(self.condition),) or not self.level.is_floating_point():
            raise ValueError(f"level is {_of(self.level)}; one number for each sample is allowed")

    def __len__(self) -> int:
        return len(self.level)

    def tensors(self) -> tuple[Tensor, ...]:
        return *self.condition.tensors(), self.level

    def take(self, index: Index) -> Until:
        return Until(self.condition.take(index), _taken(self.level, index))

    def to(self, device: torch.device | str) -> Until:
        return Until(self.condition.to(device), self.level.to(device))

    def null(self) -> Until:
        return Until(self.condition.null(), self.level)

    def join(self, other: Condition) -> Until:
        other = _same_of(self, other)
        return Until(self.condition.join(other.condition), torch.cat([self.level, other.level]))


Kind = TypeVar("Kind", bound=Condition)


def told(condition: Condition, kind: type[Kind]) -> Kind:
    """``condition`` as the kind that a network knows; any other is a ``ValueError``."""
    if not isinstance(condition, kind):
        raise ValueError(
            f"the condition is {type(condition).__name__}; this network needs {kind.__name__} "
            f"(oneblock.condition.{kind.__name__})"
        )
    return condition


def as_condition(x: Condition | Tensor | None, count: int) -> Condition:
    """What ``count`` samples are told by ``x``.

    None is ``Nothing``, integers (n,) are ``ClassIds`` without a null class, any other tensor (n, ...) is ``Frames``,
    and a condition stays as it is. Another number of samples than ``count`` is a ``ValueError``.
    """
    if x is None:
        return Nothing(count)
    if isinstance(x, Tensor):
        integers = not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)
        x = ClassIds(x.long()) if x.ndim == 1 and integers else Frames(x)
    if len(x) != count:
        raise ValueError(
            f"the condition is for {len(x)} samples, but there are {count}; give one entry for each sample"
        )
    return x


def _taken(values: Tensor, index: Index) -> Tensor:
    """``values[index]``, for the three kinds of index that every condition takes."""
    if isinstance(index, Tensor):
        whole = index.dtype == torch.bool and index.shape == values.shape[:1]
        if not whole and (index.dtype != torch.int64 or index.ndim != 1):
            raise ValueError(
                f"index is {_of(index)}; torch.int64 (m,), torch.bool ({len(values)},) or a slice is allowed"
            )
    return values[index]


def _same_of(mine: Kind, other: Condition) -> Kind:
    if not isinstance(other, type(mine)):
        raise ValueError(
            f"{type(mine).__name__} and {type(other).__name__} cannot be joined; use one kind for all samples"
        )
    return other


def _check_join(mine: Tensor, other: Tensor) -> None:
    if mine.shape[1:] != other.shape[1:] or mine.dtype != other.dtype:
        raise ValueError(
            f"values {_of(mine)} and {_of(other)} cannot be joined; use one dtype and one shape behind the first axis"
        )


def _of(values: Tensor) -> str:
    return f"{values.dtype} {tuple(values.shape)}"
