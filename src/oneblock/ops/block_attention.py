"""Softmax attention over blocks of places, with all keys and values kept: the baseline of ``ops.linear_attention``.

The same interface, and a state that grows by the keys and values of every block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from oneblock.ops.linear_attention import LinearState, block_sizes, check_window
from oneblock.ops.rope import Rope, turned


@dataclass(frozen=True, eq=False)
class KeyValueState:
    """Keys, turned, and values (n, heads, t, e) of the places before.

    Args:
        k, v: (n, heads, t, e).
        sizes: the lengths of the blocks that are kept, which make up t.
        position: the number of places that were taken in.
        window: how many blocks are kept; None is all.
    """

    k: Tensor
    v: Tensor
    sizes: tuple[int, ...]
    position: int
    window: int | None = None

    @property
    def nbytes(self) -> int:
        return self.k.nbytes + self.v.nbytes

    def detach(self) -> KeyValueState:
        return replace(self, k=self.k.detach(), v=self.v.detach())

    def clone(self) -> KeyValueState:
        return replace(self, k=self.k.clone(), v=self.v.clone())


AttentionState = LinearState | KeyValueState
"""What an attention over blocks keeps of the places before."""


class BlockAttention(Protocol):
    """An attention over blocks; see ``relu_linear_attention``."""

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rope: Rope | None,
        state: AttentionState | None,
        causal_blocks: Sequence[int] | None,
        window: int | None,
        earlier: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, AttentionState]: ...


def softmax_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rope: Rope | None = None,
    state: KeyValueState | None = None,
    causal_blocks: Sequence[int] | None = None,
    window: int | None = None,
    earlier: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, KeyValueState]:
    """Mixtures of values (n, heads, t, e), and the state after these places; see ``relu_linear_attention``."""
    sizes = block_sizes(causal_blocks, q.shape[2])
    check_window(window)
    q, k = turned(q, rope), turned(k, rope)
    known_k, known_v = (k, v) if earlier is None else (turned(earlier[0], rope), earlier[1])
    if state is None:
        state = KeyValueState(k[:, :, :0], v[:, :, :0], (), 0, window)
    _check_state(state, k, window)
    all_k, all_v = torch.cat([state.k, known_k], dim=2), torch.cat([state.v, known_v], dim=2)
    all_sizes = state.sizes + sizes
    out, start = [], 0
    for number, size in enumerate(sizes, start=len(state.sizes)):
        end = sum(all_sizes[:number])
        first = 0 if window is None else sum(all_sizes[: max(0, number - window)])
        own = slice(start, start + size)
        keys = torch.cat([all_k[:, :, first:end], k[:, :, own]], dim=2)
        values = torch.cat([all_v[:, :, first:end], v[:, :, own]], dim=2)
        out.append(F.scaled_dot_product_attention(q[:, :, own], keys, values))
        start += size
    if window is not None:
        all_sizes = all_sizes[-window:]
        all_k, all_v = (x[:, :, -sum(all_sizes) :].clone() for x in (all_k, all_v))
    return torch.cat(out, dim=2), KeyValueState(all_k, all_v, all_sizes, state.position + q.shape[2], window)


def _check_state(state: KeyValueState, k: Tensor, window: int | None) -> None:
    given, needed = (tuple(x.shape[:2] + x.shape[3:]) for x in (state.k, k))
    if given != needed:
        raise ValueError(
            f"the state has samples, heads and sizes {given}, these keys {needed}; use a state that this network made "
            "for as many samples"
        )
    if state.window != window:
        raise ValueError(
            f"the state was made with window={state.window}, and this call has window={window}; use the same"
        )
