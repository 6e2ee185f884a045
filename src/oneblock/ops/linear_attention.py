"""ReLU linear attention over blocks of places, whose memory does not grow.

With ``phi = relu``, R_i the turn of place i (``ops.rope``) and the sum over the places j that i sees

    out_i = (R_i phi(q_i))^T sum_j (R_j phi(k_j)) v_j^T / (phi(q_i)^T sum_j phi(k_j) + eps)

(Chen et al., "SANA-Video", Section 3, https://arxiv.org/abs/2509.24695; Katharopoulos et al., "Transformers are RNNs",
Equation 5, https://arxiv.org/abs/2006.16236). The turn comes after the ReLU, which would cut it, and not below the
fraction bar, where all terms then stay at 0 or above. The two sums, ``S`` and ``z``, are all that later places need of
earlier ones. Places are cut into blocks: one sees its own block and the blocks before it, so that

    S seen in block b = S of the blocks before + S of block b

whether the blocks come at once (training) or one after the other (streaming). Shapes: n samples, t places, e channels
of a head for queries and keys, f for values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from oneblock.checks import check_count
from oneblock.ops.rope import Rope, turned

EPS = 1e-15
"""Below the fraction bar, as in SANA-Video: a query that is 0 gets 0."""


@dataclass(frozen=True, eq=False)
class LinearState:
    """What is kept of the places before: sums, one for all of them, or one for each block of a window.

    Args:
        S: (n, heads, k, e, f), sums of outer products of turned keys and values.
        z: (n, heads, k, e), sums of keys.
        position: the number of places that were taken in.
        window: how many blocks are kept apart; None keeps the sum of all, so that k is 1.
    """

    S: Tensor
    z: Tensor
    position: int
    window: int | None = None

    @property
    def nbytes(self) -> int:
        return self.S.nbytes + self.z.nbytes

    def detach(self) -> LinearState:
        return replace(self, S=self.S.detach(), z=self.z.detach())

    def clone(self) -> LinearState:
        return replace(self, S=self.S.clone(), z=self.z.clone())


def relu_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rope: Rope | None = None,
    state: LinearState | None = None,
    causal_blocks: Sequence[int] | None = None,
    window: int | None = None,
    earlier: tuple[Tensor, Tensor] | None = None,
    eps: float = EPS,
    accum_dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, LinearState]:
    """Mixtures of values (n, heads, t, f) in the dtype of ``q``, and the state after these places.

    Nothing is changed in place: a call that should only read the state lets the new one go.

    Args:
        q, k: (n, heads, t, e), as projections give them, before the ReLU.
        v: (n, heads, t, f).
        rope: of the t places, at their absolute positions; None does not turn.
        state: of the places before; None if there are none.
        causal_blocks: lengths of the blocks, in order; None is one block.
        window: how many blocks before its own a place sees; None is all.
        earlier: keys and values by which later blocks know these places, if others than ``k`` and ``v``: those of
            clean frames, where q, k and v are those of noisy ones.
        eps: added to the denominator.
        accum_dtype: at least so exact are sums, products and the division.

    Raises:
        ValueError: the blocks do not make up t places, the window is below 1, or the state is of other heads or of
            another window.
    """
    sizes = block_sizes(causal_blocks, q.shape[2])
    check_window(window)
    dtype = torch.promote_types(q.dtype, accum_dtype)
    with torch.autocast(q.device.type, enabled=False):
        known = (k, v) if earlier is None else earlier
        own = _sums(k, v, rope, sizes, dtype)
        if state is None:
            n, heads, _, e, f = own[0].shape
            state = LinearState(own[0].new_zeros(n, heads, 0, e, f), own[1].new_zeros(n, heads, 0, e), 0, window)
        _check_state(state, own[0], window)
        kept = own if earlier is None else _sums(*known, rope, sizes, dtype)
        S, z = torch.cat([state.S, kept[0]], dim=2), torch.cat([state.z, kept[1]], dim=2)
        seen_S, seen_z = _before(S, len(sizes), window) + own[0], _before(z, len(sizes), window) + own[1]
        phi = F.relu(q.to(dtype))
        numerator = _each(turned(phi, rope), seen_S, sizes)
        out = numerator / (_each(phi, seen_z[..., None], sizes) + eps)
    after = LinearState(_kept(S, window), _kept(z, window), state.position + q.shape[2], window)
    return out.to(q.dtype), after


def masked_quadratic(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rope: Rope | None = None,
    causal_blocks: Sequence[int] | None = None,
    window: int | None = None,
    eps: float = EPS,
) -> Tensor:
    """The same from all t x t products of queries and keys, without a state: the plain twin."""
    sizes = block_sizes(causal_blocks, q.shape[2])
    phi_q, phi_k = F.relu(q), F.relu(k)
    seen = sees(sizes, window, q.device)
    scores = (turned(phi_q, rope) @ turned(phi_k, rope).mT) * seen
    total = ((phi_q @ phi_k.mT) * seen).sum(-1, keepdim=True)
    return scores @ v / (total + eps)


def sees(sizes: Sequence[int], window: int | None = None, device: torch.device | None = None) -> Tensor:
    """(t, t): which place (column) a place (row) sees, in blocks of ``sizes``."""
    block = torch.arange(len(sizes), device=device).repeat_interleave(torch.tensor(sizes, device=device))
    back = block[:, None] - block
    return (back >= 0) & (back <= (len(sizes) if window is None else window))


def block_sizes(causal_blocks: Sequence[int] | None, places: int) -> tuple[int, ...]:
    """The lengths of the blocks of so many ``places``; others than make them up are a ``ValueError``."""
    sizes = (places,) if causal_blocks is None else tuple(causal_blocks)
    if sum(sizes) != places or min(sizes, default=0) < 1:
        raise ValueError(
            f"causal_blocks={sizes} have {sum(sizes)} places, but there are {places}; give lengths of 1 or more that "
            f"make up {places}"
        )
    return sizes


def check_window(window: int | None) -> None:
    """Refuse a window that leaves nothing to remember."""
    if window is not None:
        check_count("window", window)


def _check_state(state: LinearState, sums: Tensor, window: int | None) -> None:
    given, needed = (tuple(x.shape[:2] + x.shape[3:]) for x in (state.S, sums))
    if given != needed:
        raise ValueError(
            f"the state has samples, heads and sizes {given}, these queries and values {needed}; use a state that this "
            "network made for as many samples"
        )
    if state.window != window:
        raise ValueError(
            f"the state was made with window={state.window}, and this call has window={window}; use the same"
        )


def _sums(k: Tensor, v: Tensor, rope: Rope | None, sizes: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """``S`` (n, heads, blocks, e, f) and ``z`` (n, heads, blocks, e) of each block alone."""
    phi, v = F.relu(k.to(dtype)), v.to(dtype)
    S = [a.mT @ b for a, b in zip(_runs(turned(phi, rope), sizes), _runs(v, sizes), strict=True)]
    return torch.cat(S, dim=2), torch.cat([run.sum(3) for run in _runs(phi, sizes)], dim=2)


def _kept(sums: Tensor, window: int | None) -> Tensor:
    """Of the sums of all blocks (n, heads, blocks, ...), what later blocks need."""
    return sums.sum(2, keepdim=True) if window is None else sums[:, :, -window:].clone()


def _before(sums: Tensor, count: int, window: int | None) -> Tensor:
    """For the last ``count`` blocks of ``sums`` (n, heads, blocks, ...): the sum over all blocks before each, or over
    the last ``window`` of these."""
    if window is None:
        whole = F.pad(sums.movedim(2, -1), (1, 0)).cumsum(-1)
    else:
        whole = F.pad(sums.movedim(2, -1), (window, 0)).unfold(-1, window, 1).sum(-1)
    return whole[..., -count - 1 : -1].movedim(-1, 2)


def _each(x: Tensor, seen: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Each place of ``x`` (n, heads, t, e) times what its block sees, (n, heads, blocks, e, f) -> (n, heads, t, f)."""
    parts = seen.split([run.shape[2] for run in _runs(x, sizes)], dim=2)
    products = [run @ part for run, part in zip(_runs(x, sizes), parts, strict=True)]
    return torch.cat([product.flatten(2, 3) for product in products], dim=2)


def _runs(x: Tensor, sizes: tuple[int, ...]) -> Iterator[Tensor]:
    """``x`` (n, heads, t, e) as runs of blocks of equal length, each (n, heads, blocks, length, e)."""
    start = 0
    for length, run in groupby(sizes):
        count = len(list(run))
        yield x[:, :, start : start + count * length].unflatten(2, (count, length))
        start += count * length
