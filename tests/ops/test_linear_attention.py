"""ReLU linear attention and its softmax twin against a sum over places, one by one: at once, in blocks, streamed."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from oneblock.ops import (
    Rope,
    masked_quadratic,
    relu_linear_attention,
    rope_3d,
    softmax_attention,
    turned,
)
from oneblock.ops.linear_attention import EPS

N, HEADS, E = 2, 2, 12
FRAMES, ROWS, COLUMNS = 5, 2, 2
SPACE = ROWS * COLUMNS
T = FRAMES * SPACE
BLOCKS = {"one": None, "equal": (4,) * 5, "first": (8, 4, 4, 4), "unequal": (4, 12, 4)}
Inputs = tuple[Tensor, Tensor, Tensor]
Call = Callable[[Tensor, Tensor, Tensor], Tensor]
ATTENTIONS: list[Any] = [relu_linear_attention, softmax_attention]


def qkv(dtype: torch.dtype = torch.float64, seed: int = 0) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(N, HEADS, T, E, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3))
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_()


def rope(start: int = 0, frames: int = FRAMES) -> Rope:
    return rope_3d(torch.arange(start, start + frames), ROWS, COLUMNS, E)


def cut(x: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    return x.split(list(sizes), dim=2)


def streamed(attend: Any, sizes: Sequence[int], by: Rope | None, window: int | None = None) -> Call:
    """One call a block, which reads twice and keeps what the second call gives."""

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        state: Any = None
        out, start = [], 0
        for block in zip(cut(q, sizes), cut(k, sizes), cut(v, sizes), strict=True):
            size = block[0].shape[2]
            here = None if by is None else Rope(*(x[start : start + size] for x in by))
            attend(block[0] + 1, block[1] - 1, block[2] + 2, rope=here, state=state, window=window)
            mixed, state = attend(*block, rope=here, state=state, window=window)
            out.append(mixed)
            start += size
        assert state is not None and state.position == T
        return torch.cat(out, dim=2)

    return call


def parallel(attend: Any, sizes: Sequence[int] | None, by: Rope | None, window: int | None = None) -> Call:
    return lambda q, k, v: attend(q, k, v, rope=by, causal_blocks=sizes, window=window)[0]


def plain(attend: Any, sizes: Sequence[int] | None, by: Rope | None, window: int | None = None) -> Call:
    """A sum over the places that a place sees, one place after the other."""
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))] if sizes else [T]
    block = [next(b for b, end in enumerate(ends) if place < end) for place in range(T)]

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        linear = attend is relu_linear_attention
        phi_q, phi_k = (q.clamp(min=0), k.clamp(min=0)) if linear else (q, k)
        turn_q, turn_k = turned(phi_q, by), turned(phi_k, by)
        out = []
        for i in range(T):
            far = len(ends) if window is None else window
            seen = [j for j in range(T) if 0 <= block[i] - block[j] <= far]
            scores = torch.stack([(turn_q[:, :, i] * turn_k[:, :, j]).sum(-1) for j in seen], -1)
            if linear:
                total = torch.stack([(phi_q[:, :, i] * phi_k[:, :, j]).sum(-1) for j in seen], -1).sum(-1, keepdim=True)
                weights = scores / (total + EPS)
            else:
                weights = (scores / E**0.5).softmax(-1)
            out.append((weights[..., None] * v[:, :, seen]).sum(2))
        return torch.stack(out, dim=2)

    return call


def gradients(call: Call, inputs: Inputs) -> tuple[Tensor, ...]:
    out = call(*inputs)
    weights = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)
    return (out, *torch.autograd.grad((out * weights).sum(), inputs))


def assert_same(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...], tolerance: float) -> None:
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("attend", ATTENTIONS)
@pytest.mark.parametrize("window", [None, 1, 2])
@pytest.mark.parametrize("sizes", BLOCKS.values(), ids=BLOCKS.keys())
def test_blocks_at_once_equal_a_sum_over_places(attend: Any, sizes: Sequence[int] | None, window: int | None) -> None:
    wanted = gradients(plain(attend, sizes, rope(), window), qkv())
    assert_same(gradients(parallel(attend, sizes, rope(), window), qkv()), wanted, 1e-12)


@pytest.mark.parametrize("attend", ATTENTIONS)
@pytest.mark.parametrize("window", [None, 1, 2])
@pytest.mark.parametrize("sizes", [(8, 4, 4, 4), (4, 12, 4)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_blocks_one_after_the_other_equal_blocks_at_once(
    attend: Any, sizes: Sequence[int], window: int | None, dtype: torch.dtype, tolerance: float
) -> None:
    wanted = parallel(attend, sizes, rope(), window)(*qkv(dtype))
    assert_same((streamed(attend, sizes, rope(), window)(*qkv(dtype)),), (wanted,), tolerance)
    if dtype == torch.float64:
        one, other = (gradients(f(attend, sizes, rope(), window), qkv()) for f in (streamed, parallel))
        assert_same(one, other, tolerance)


@pytest.mark.parametrize("by", [None, rope()])
@pytest.mark.parametrize("window", [None, 1])
@pytest.mark.parametrize("sizes", BLOCKS.values(), ids=BLOCKS.keys())
def test_the_masked_quadratic_form_equals_a_sum_over_places(
    sizes: Sequence[int] | None, window: int | None, by: Rope | None
) -> None:
    def quadratic(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return masked_quadratic(q, k, v, by, sizes, window)

    wanted = gradients(plain(relu_linear_attention, sizes, by, window), qkv())
    assert_same(gradients(quadratic, qkv()), wanted, 1e-12)
    assert_same((parallel(relu_linear_attention, sizes, by, window)(*qkv()),), wanted[:1], 1e-12)


@pytest.mark.parametrize("attend", ATTENTIONS)
@pytest.mark.parametrize("window", [None, 1])
def test_noisy_places_see_clean_ones_before_them_and_noisy_ones_of_their_block(attend: Any, window: int | None) -> None:
    sizes = (8, 8, 4)
    (q, k, v), (_, clean_k, clean_v) = qkv(), qkv(seed=1)
    found, after = attend(q, k, v, rope=rope(), causal_blocks=sizes, window=window, earlier=(clean_k, clean_v))
    state, start = None, 0
    for size, here in zip(sizes, cut(found, sizes), strict=True):
        own = slice(start, start + size)
        by = Rope(*(x[own] for x in rope()))
        noisy = (q[:, :, own], k[:, :, own], v[:, :, own])
        torch.testing.assert_close(here, attend(*noisy, rope=by, state=state, window=window)[0])
        clean = (clean_k[:, :, own], clean_v[:, :, own])
        _, state = attend(q[:, :, own], *clean, rope=by, state=state, window=window)
        start += size
    later = (x[:, :, :SPACE] for x in qkv(seed=2))
    later_q, later_k, later_v = later
    wanted = attend(later_q, later_k, later_v, rope=rope(FRAMES, 1), state=state, window=window)[0]
    torch.testing.assert_close(
        attend(later_q, later_k, later_v, rope=rope(FRAMES, 1), state=after, window=window)[0], wanted
    )


def test_only_the_linear_state_keeps_its_size() -> None:
    sizes = {}
    for attend in ATTENTIONS:
        for window in (None, 2):
            state: Any = None
            found = []
            for _ in range(5):
                _, state = attend(*qkv(torch.float32), state=state, window=window)
                found.append(state.nbytes)
            sizes[attend, window] = found
    one = N * HEADS * (E * E + E) * 4
    assert sizes[relu_linear_attention, None] == [one] * 5
    assert sizes[relu_linear_attention, 2] == [one] + [2 * one] * 4
    kept = 2 * N * HEADS * T * E * 4
    assert sizes[softmax_attention, None] == [kept * (i + 1) for i in range(5)]
    assert sizes[softmax_attention, 2] == [kept] + [2 * kept] * 4


@pytest.mark.parametrize("attend", ATTENTIONS)
def test_a_state_is_detached_and_cloned(attend: Any) -> None:
    _, state = attend(*qkv())
    tensors = [x for x in vars(state).values() if isinstance(x, Tensor)]
    assert len(tensors) == 2 and all(x.requires_grad for x in tensors)
    detached, cloned = state.detach(), state.clone()
    for name, value in vars(state).items():
        if isinstance(value, Tensor):
            assert not getattr(detached, name).requires_grad
            assert getattr(detached, name).data_ptr() == value.data_ptr() != getattr(cloned, name).data_ptr()
            assert torch.equal(getattr(cloned, name), value)
        else:
            assert getattr(detached, name) == getattr(cloned, name) == value


def test_sums_are_exact_to_float32_whatever_the_inputs_are() -> None:
    q, k, v = (x.detach().to(torch.bfloat16) for x in qkv())
    exact = relu_linear_attention(q.double(), k.double(), v.double(), rope=rope())[0]
    with torch.autocast("cpu", torch.bfloat16):
        found, state = relu_linear_attention(q, k, v, rope=rope())
    assert (found.dtype, state.S.dtype, state.z.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    torch.testing.assert_close(found, exact.bfloat16(), rtol=2**-7, atol=1e-6)  # its last bit
    coarse = relu_linear_attention(q, k, v, rope=rope(), accum_dtype=torch.bfloat16)[0]
    assert (coarse - exact).abs().max() > 2 * (found - exact).abs().max()


def test_a_query_below_zero_gets_nothing() -> None:
    _, k, v = qkv()
    q = -torch.ones_like(k)
    out, _ = relu_linear_attention(q, k, v, rope=rope())
    assert torch.equal(out, torch.zeros_like(out))


def test_turns_depend_on_how_far_places_are_apart() -> None:
    x, y = (torch.randn(E, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(2))

    def product(start: int) -> Tensor:
        by = rope(start, 3)
        return turned(x.expand(len(by.cos), E), by) @ turned(y.expand(len(by.cos), E), by).mT

    torch.testing.assert_close(product(0), product(9000), rtol=1e-9, atol=1e-9)
    one = product(0)
    for step in (1, COLUMNS, SPACE):  # a column, a row and a frame further
        assert not torch.isclose(one[0, 0], one[0, step])


def test_angles_are_those_of_frame_row_and_column() -> None:
    """Of 12 channels 4 turn with the frame, 4 with the row, 4 with the column, the second pair 100 times slower."""
    by = rope(5, 2)
    place = 1 * SPACE + 1 * COLUMNS + 0  # frame 6, row 1, column 0
    angles = torch.tensor([6, 0.06, 1, 0.01, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(by.cos[place], angles.cos())
    torch.testing.assert_close(by.sin[place], angles.sin())
    quarter = Rope(torch.zeros(1, 1), torch.ones(1, 1))
    assert turned(torch.tensor([[3.0, 5.0]]), quarter).tolist() == [[-5.0, 3.0]]


@pytest.mark.parametrize("attend", ATTENTIONS)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"causal_blocks": (4, 12)}, r"causal_blocks=\(4, 12\) have 16 places, but there are 20; give lengths of 1"),
        ({"causal_blocks": (20, 0)}, r"causal_blocks=\(20, 0\) have 20 places"),
        ({"window": 0}, "window=0 is not allowed; use a whole number, 1 or more"),
    ],
)
def test_wrong_blocks_are_refused(attend: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attend(*qkv(), **settings)


@pytest.mark.parametrize("attend", ATTENTIONS)
def test_states_of_something_else_are_refused(attend: Any) -> None:
    q, k, v = qkv()
    _, state = attend(q, k, v)
    with pytest.raises(ValueError, match="use a state that this network made for as many samples"):
        attend(q[:1], k[:1], v[:1], state=state)
    with pytest.raises(
        ValueError, match="the state was made with window=None, and this call has window=2; use the same"
    ):
        attend(q, k, v, state=state, window=2)
