"""Attention: who sees whom, each as a function of queries, keys and values.

Two streams. A sequence of t clean tokens is followed by the same t places as noisy targets. Clean place i sees clean
places up to i; noisy place i sees clean places before i, and itself. So nothing of token i or later reaches the answer
at i but its noisy target (Arriola et al., "Block Diffusion", Appendix B.6 with blocks of one token,
https://arxiv.org/abs/2503.09573). Three forms give the same values and gradients: one pass over both streams with a
mask (``concatenated``), a causal pass over the clean stream and one of the noisy queries (``two_pass``), and
FlexAttention, which skips what the mask hides (``flex``).

Shapes: queries (n, heads, t, e); keys and values (n, kv_heads, t, e), where each of their heads serves
``heads / kv_heads`` queries.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries, keys, values -> mixtures of values (n, heads, t, e)."""


def full(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Every query sees every key, or those that its row of ``mask`` (queries, keys) names."""
    return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=k.shape[1] < q.shape[1])


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Query i sees keys up to i."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=k.shape[1] < q.shape[1])


def two_streams(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Two streams, 2 t places, in the fastest form for where they are."""
    return flex(q, k, v) if q.is_cuda else two_pass(q, k, v)


def two_stream_mask(length: int, device: torch.device | None = None) -> Tensor:
    """(2 t, 2 t): which key (column) a query (row) sees."""
    place = torch.arange(2 * length, device=device)
    return _sees(place[:, None], place, length)


def concatenated(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Two streams in one pass with a mask."""
    return full(q, k, v, two_stream_mask(q.shape[2] // 2, q.device))


def two_pass(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Two streams, one after the other: three quarters of the work of ``concatenated``."""
    t = q.shape[2] // 2
    clean = causal(q[:, :, :t], k[:, :, :t], v[:, :, :t])
    noisy = full(q[:, :, t:], k, v, two_stream_mask(t, q.device)[t:])
    return torch.cat([clean, noisy], dim=2)


def flex(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Two streams by FlexAttention, compiled on a GPU."""
    mask = _block_mask(q.shape[2] // 2, q.device)
    out = _flex_attention(q.is_cuda)(q, k, v, block_mask=mask, enable_gqa=k.shape[1] < q.shape[1])
    assert isinstance(out, Tensor), "FlexAttention gives more than a tensor only when asked"
    return out


@cache
def _flex_attention(compiled: bool) -> Callable[..., object]:
    plain = cast(Callable[..., object], flex_attention)
    return torch.compile(plain, dynamic=False) if compiled else plain


@cache
def _block_mask(length: int, device: torch.device) -> BlockMask:
    def mask_mod(sample: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return _sees(query, key, length)

    return create_block_mask(mask_mod, None, None, 2 * length, 2 * length, device=device)


def _sees(query: Tensor, key: Tensor, length: int) -> Tensor:
    before = (key < length) & torch.where(query < length, key <= query, key < query - length)
    return before | (query == key)
