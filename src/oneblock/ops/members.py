"""Networks as the members of a population: each member's parameters are those of the network plus an offset of its own.

The network is not rewritten. While ``Members`` is entered, every function of torch that is given one of the parameters
is given the member's in its place. Where the offset has low rank and ``ops.low_rank`` has the function, nothing of the
matrix's size is made; any other function gets ``M + E`` as a whole. As it is the parameter that is looked for, tied
weights have one offset wherever they are used. Under ``torch.vmap`` over offsets the members go side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from oneblock.ops import low_rank


@dataclass(frozen=True)
class LowRank:
    """An offset ``A B^T`` of a parameter seen as a matrix (``low_rank.rows_and_columns``); a (m, r), b (n, r)."""

    a: Tensor
    b: Tensor

    def added(self, parameter: Tensor) -> Tensor:
        return low_rank.materialised(parameter, self.a, self.b)


@dataclass(frozen=True)
class Full:
    """An offset of a number for each of a parameter's, in its shape."""

    values: Tensor

    def added(self, parameter: Tensor) -> Tensor:
        return parameter + self.values


Offset = LowRank | Full


class Members(TorchFunctionMode):
    """While entered, ``parameters`` are those of one member.

    Args:
        parameters, offsets: by the same names.
        made: is told the name of each parameter whose offset has low rank and which was made as a whole, with the
            function that asked for it.
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], offsets: Mapping[str, Offset], made: dict[str, str] | None = None
    ) -> None:
        super().__init__()
        self._names = {id(p): name for name, p in parameters.items()}
        self._offsets = offsets
        self._made = {} if made is None else made
        self._whole: dict[str, Tensor] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FACTS:
            return func(*args, **kwargs)
        if not any(map(self._meets, (*args, *kwargs.values()))):
            return _attention(*args, **kwargs) if func is F.scaled_dot_product_attention else func(*args, **kwargs)
        rule = _RULES.get(func)
        if rule is not None:
            out = rule(self, *args, **kwargs)
            if out is not NotImplemented:
                return out
        name = func.__name__
        if name.endswith("_") and not name.endswith("__"):
            raise ValueError(
                f"the forward pass changes a parameter in place ({name}), which members of a population share; compute "
                "a new tensor, or freeze the parameter"
            )
        args = tuple(self._replaced(value, name) for value in args)
        kwargs = {key: self._replaced(value, name) for key, value in kwargs.items()}
        # what is called from inside is not seen here, and the processor's fused attention knows no members
        with sdpa_kernel(SDPBackend.MATH):
            return func(*args, **kwargs)

    def low_rank(self, value: object) -> LowRank | None:
        """The offset of a parameter, if it has low rank."""
        offset = self._offsets.get(self._names.get(id(value), ""))
        return offset if isinstance(offset, LowRank) else None

    def whole(self, value: Any, user: str = "") -> Any:
        """The member's parameter in the place of ``value``, for the function ``user``; what is none stays."""
        name = self._names.get(id(value))
        if name is None:
            return value
        if name not in self._whole:
            self._whole[name] = self._offsets[name].added(value)
        if isinstance(self._offsets[name], LowRank):
            self._made.setdefault(name, user)
        return self._whole[name]

    def _meets(self, value: object) -> bool:
        if isinstance(value, Tensor):
            return id(value) in self._names
        return isinstance(value, tuple | list) and any(map(self._meets, value))

    def _replaced(self, value: Any, user: str) -> Any:
        if isinstance(value, tuple | list) and self._meets(value):
            return type(value)(self._replaced(one, user) for one in value)
        return self.whole(value, user) if isinstance(value, Tensor) else value


def _linear(members: Members, x: Any, weight: Tensor, bias: Tensor | None = None) -> Any:
    found = members.low_rank(weight)
    if found is None:
        return NotImplemented
    return low_rank.linear(members.whole(x, "linear"), weight, members.whole(bias), found.a, found.b)


def _matmul(members: Members, x: Any, weight: Any) -> Any:
    found = members.low_rank(weight)
    if found is None or weight.ndim != 2:
        return NotImplemented
    return low_rank.transposed(members.whole(x, "matmul"), weight, found.a, found.b)


def _addmm(members: Members, bias: Tensor, x: Any, weight: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    if beta != 1 or alpha != 1:
        return NotImplemented
    out = _matmul(members, x, weight)
    return out if out is NotImplemented else members.whole(bias, "addmm") + out


def _embedding(
    members: Members,
    ids: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    found = members.low_rank(weight)
    if found is None or max_norm is not None:
        return NotImplemented
    return low_rank.embedding(ids, weight, found.a, found.b)


def _convolution(
    members: Members,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    found = members.low_rank(weight)
    if found is None or input.ndim != weight.ndim:
        return NotImplemented
    return low_rank.convolution(
        members.whole(input, "convolution"),
        weight,
        members.whole(bias),
        found.a,
        found.b,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )


_RULES: dict[Any, Callable[..., Any]] = {
    F.linear: _linear,
    F.embedding: _embedding,
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), _convolution),
    **dict.fromkeys((torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__), _matmul),
    **dict.fromkeys((torch.addmm, Tensor.addmm), _addmm),
}
"""Functions that need no whole matrix; each may say ``NotImplemented``."""

_FACTS = {
    *(
        getattr(Tensor, name).__get__
        for name in (
            "shape",
            "dtype",
            "device",
            "ndim",
            "layout",
            "requires_grad",
            "is_leaf",
            "is_cuda",
            "is_meta",
            "grad",
        )
    ),
    *(
        getattr(Tensor, name)
        for name in ("size", "dim", "numel", "nelement", "stride", "is_contiguous", "is_floating_point", "is_complex")
    ),
    *(getattr(Tensor, name) for name in ("element_size", "data_ptr", "__len__", "__hash__")),
    *(torch.is_floating_point, torch.is_complex, torch.numel),
}
"""What the offset of a parameter does not change."""


class _Attention(torch.autograd.Function):
    """Attention whose members join the batch: the fused kernel of the processor has no rule for ``vmap``."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, words: dict[str, Any]) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, mask, **words)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """There is no backward pass."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> tuple[Tensor, int]:
        *tensors, words = inputs
        c = info.batch_size
        n = tensors[0].shape[1 if in_dims[0] is not None else 0]
        q, k, v, mask = (_joined(t, place, c, n) for t, place in zip(tensors, in_dims, strict=False))
        assert q is not None and k is not None and v is not None, "only a mask may be missing"
        out = _attention(q, k, v, mask, **words)
        return out.view(c, n, *out.shape[1:]), 0


def _joined(t: Tensor | None, place: int | None, members: int, n: int) -> Tensor | None:
    """(n, heads, ...) of each of some members -> (members n, heads, ...); a mask may have fewer axes, or 1 for n."""
    if t is None or (place is None and (t.ndim < 4 or len(t) < n)):
        return t
    moved = t.expand(members, *t.shape) if place is None else t.movedim(place, 0)
    while moved.ndim < 5:
        moved = moved.unsqueeze(1)
    return moved.expand(members, n, *moved.shape[2:]).flatten(0, 1)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    words = {"dropout_p": dropout_p, "is_causal": is_causal, "scale": scale, "enable_gqa": enable_gqa}
    if query.ndim != 4:  # has no batch, or more than one
        with sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(query, key, value, attn_mask, **words)  # type: ignore[arg-type]
    apply: Any = _Attention.apply
    return cast(Tensor, apply(query, key, value, attn_mask, words))
