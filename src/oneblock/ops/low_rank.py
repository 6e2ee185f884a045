"""Layers whose matrix is ``M + E``, where ``E = A B^T`` has rank r, without a matrix for E.

The perturbation of EGGROLL (Sarkar et al., "Evolution Strategies at the Hyperscale",
https://arxiv.org/abs/2511.16652): ``u (M + A B^T)^T = u M^T + (u B) A^T``. M (m, n) belongs to all members of a
population, A (m, r) and B (n, r) to one. Each function is that of one member. ``torch.vmap`` over A and B makes it that
of a population, whose members then share one product with M; what they share of u goes through that product once.

Each stands beside its plain twin: the same layer with the matrix of ``materialised``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Sizes = int | Sequence[int]
Padding = Sizes | Literal["valid", "same"]


def rows_and_columns(shape: Sequence[int]) -> tuple[int, int]:
    """m and n of a tensor of ``shape`` as a matrix: axes of length 1 in front do not count, the first of the others is
    that of the rows, and all others together are the columns. The kernel of a convolution is (c_out, c_in k k)."""
    lengths = list(shape)
    while len(lengths) > 2 and lengths[0] == 1:
        lengths.pop(0)
    return lengths[0], math.prod(lengths[1:])


def materialised(weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``M + A B^T``, in the shape of ``weight``."""
    return weight + (a @ b.T).view_as(weight)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """``x (M + A B^T)^T + bias``.

    Args:
        x: (..., n); weight (m, n), bias (m,), a (m, r), b (n, r).
    """
    return _corrected(F.linear(x, weight, bias), _product(x, b), a)


def transposed(x: Tensor, weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``x (M + A B^T)``; x (..., m), the others as of ``linear``."""
    return _corrected(x @ weight, _product(x, a), b)


def embedding(ids: Tensor, weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Rows ``ids`` (...) of ``M + A B^T``, (..., n)."""
    return _corrected(F.embedding(ids, weight), F.embedding(ids, a), b)


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    a: Tensor,
    b: Tensor,
    *,
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """The convolution with kernel ``M + A B^T``, in one to three dimensions: that with M, and one with r channels.

    Args:
        x: (batch, c_in, ...).
        weight: (c_out, c_in / groups, ...), M as a matrix (c_out, n); a (c_out, r), b (n, r).
    """
    convolve = (torch.conv1d, torch.conv2d, torch.conv3d)[weight.ndim - 3]
    rank = a.shape[-1]
    kernels = b.T.reshape(rank, *weight.shape[1:])
    shared = convolve(x, weight, bias, stride, padding, dilation, groups)
    found = convolve(x, kernels.repeat(groups, *[1] * (weight.ndim - 1)), None, stride, padding, dilation, groups)
    per_group = found.view(len(x), groups, rank, -1)
    own = a.view(groups, -1, rank) @ per_group
    return shared + own.view_as(shared)


def _product(x: Tensor, inner: Tensor) -> Tensor:
    """``x inner``: (..., n), (n, r) -> (..., r)."""
    if inner.shape[-1] == 1 and x.numel() == x.shape[-1]:
        return (x * inner[:, 0]).sum(-1, keepdim=True)  # of a population faster than as many products of vectors
    return x @ inner


def _corrected(out: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
    """``out + inner outer^T``: out (..., m), inner (..., r), outer (m, r), in the type of ``out``, which autocast may
    have chosen."""
    inner, outer = inner.to(out.dtype), outer.to(out.dtype)
    if outer.shape[-1] == 1:
        return torch.addcmul(out, inner, outer[:, 0])  # one pass, and no product beside it
    return out + inner @ outer.T
