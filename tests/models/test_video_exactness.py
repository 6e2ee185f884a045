"""Four ways to the same values and gradients: one block, all blocks at once, one after the other, and a plain twin.

For attention, for the convolution over time and for a network of two layers, in equal and unequal blocks. The plain
twins take all products of queries and keys, and sum over neighbouring frames one by one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from oneblock.condition import ClassIds
from oneblock.models.video import Video, VideoConfig, VideoState
from oneblock.models.video_layers import Modulation, TemporalMixFFN, VideoLayer, VideoLayerConfig
from oneblock.ops import LinearState, Rope, masked_quadratic, relu_linear_attention, rope_3d

FRAMES, ROWS, COLUMNS, D, HEADS = 7, 2, 3, 12, 2
SPACE = ROWS * COLUMNS
BLOCKS = [(7,), (3, 2, 2), (1, 4, 2)]
DTYPES = [(torch.float64, 1e-12), (torch.float32, 1e-5)]
Way = Callable[[], tuple[Tensor, Sequence[Tensor]]]
"""The output, and the tensors that its gradients are taken to."""
pytestmark = [
    pytest.mark.parametrize("blocks", BLOCKS, ids=str),
    pytest.mark.parametrize(("dtype", "tolerance"), DTYPES, ids=["float64", "float32"]),
]


def assert_one_answer(ways: Sequence[Way], tolerance: float) -> None:
    """Values and gradients of all ways are those of the first, up to ``tolerance`` of the largest of each."""
    found = []
    for way in ways:
        out, leaves = way()
        weights = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)
        found.append([out, *torch.autograd.grad((out * weights).sum(), leaves, materialize_grads=True)])
    for other in found[1:]:
        for one, another in zip(found[0], other, strict=True):
            scale = max(1.0, one.abs().max().item())
            torch.testing.assert_close(another, one, rtol=tolerance, atol=tolerance * scale)


def random(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn.to(dtype).requires_grad_()


def modulation(blocks: tuple[int, ...], frames: int = FRAMES) -> Any:
    nothing = torch.zeros(1, 1, D)
    return Modulation(nothing, nothing, None, None, rope(0, frames), blocks, False)


def rope(start: int, frames: int) -> Rope:
    return rope_3d(torch.arange(start, start + frames), ROWS, COLUMNS, D // HEADS)


def test_attention(blocks: tuple[int, ...], dtype: torch.dtype, tolerance: float) -> None:
    q, k, v = qkv = [random(2, HEADS, FRAMES * SPACE, D // HEADS, dtype=dtype, seed=seed) for seed in range(3)]
    sizes = [frames * SPACE for frames in blocks]

    def streamed() -> tuple[Tensor, Sequence[Tensor]]:
        state: LinearState | None = None
        out, start = [], 0
        cut = zip(*(x.split(sizes, dim=2) for x in qkv), strict=True)
        for frames, (one_q, one_k, one_v) in zip(blocks, cut, strict=True):
            mixed, state = relu_linear_attention(one_q, one_k, one_v, rope(start, frames), state)
            out.append(mixed)
            start += frames
        return torch.cat(out, dim=2), qkv

    ways: list[Way] = [
        lambda: (masked_quadratic(q, k, v, rope(0, FRAMES), sizes), qkv),
        lambda: (relu_linear_attention(q, k, v, rope(0, FRAMES), causal_blocks=sizes)[0], qkv),
        streamed,
    ]
    if len(blocks) == 1:
        ways.append(lambda: (relu_linear_attention(q, k, v, rope(0, FRAMES))[0], qkv))
    assert_one_answer(ways, tolerance)


def test_the_convolution_over_time(blocks: tuple[int, ...], dtype: torch.dtype, tolerance: float) -> None:
    module = TemporalMixFFN(VideoLayerConfig(width=D, heads=HEADS)).to(dtype)
    with torch.no_grad():
        for number, weights in enumerate(module.parameters()):
            weights.copy_(random(*weights.shape, dtype=dtype, seed=number) * 0.2)
    h = random(2, FRAMES, ROWS, COLUMNS, D, dtype=dtype, seed=9)
    leaves = [h, *module.parameters()]

    def streamed() -> tuple[Tensor, Sequence[Tensor]]:
        before: Tensor | None = None
        out = []
        for part in h.split(blocks, dim=1):
            mixed, before = module(part, modulation((part.shape[1],)), before)
            out.append(mixed)
        return torch.cat(out, dim=1), leaves

    ways: list[Way] = [
        lambda: (by_hand(module, h, blocks), leaves),
        lambda: (module(h, modulation(blocks), None)[0], leaves),
        streamed,
    ]
    assert_one_answer(ways, tolerance)


def by_hand(module: TemporalMixFFN, h: Tensor, blocks: tuple[int, ...]) -> Tensor:
    """The module's answer with a sum over the neighbours of every frame, one by one."""
    assert module.temporal is not None
    before, here, behind = module.temporal.weight.chunk(3, dim=1)
    u = module._in_space(h)
    block = [b for b, frames in enumerate(blocks) for _ in range(frames)]
    out = []
    for i in range(FRAMES):
        mixed = u[:, i] + u[:, i] @ here.mT
        if i > 0:
            mixed = mixed + u[:, i - 1] @ before.mT
        if i + 1 < FRAMES and block[i + 1] == block[i]:
            mixed = mixed + u[:, i + 1] @ behind.mT
        out.append(mixed)
    return torch.stack(out, dim=1)


def test_a_network_of_two_layers(blocks: tuple[int, ...], dtype: torch.dtype, tolerance: float) -> None:
    network, condition = network_of(dtype), ClassIds(torch.tensor([1, 3]))
    z, noise = (random(2, FRAMES, *rest, dtype=dtype, seed=20) for rest in ((2, 2 * ROWS, 2 * COLUMNS), ()))
    leaves = [z, *network.parameters()]

    def at_once(network: Video, blocks: tuple[int, ...] | None) -> Way:
        def way() -> tuple[Tensor, Sequence[Tensor]]:
            h, told = network.stem.enter(z, noise, condition, 0, blocks)
            for layer in network.layers.values():
                h = layer(h, told)
            return network.head(h, told), [z, *network.parameters()]

        return way

    def streamed() -> tuple[Tensor, Sequence[Tensor]]:
        state: VideoState | None = None
        out = []
        for frames, level in zip(z.split(blocks, dim=1), noise.split(blocks, dim=1), strict=True):
            answer, state = network.step(frames, level, condition, state)
            out.append(answer)
        return torch.cat(out, dim=1), leaves

    ways = [at_once(plain_twin(dtype), blocks), at_once(network, blocks), streamed]
    if len(blocks) == 1:
        ways.append(lambda: (network(z, noise, condition), leaves))
    assert_one_answer(ways, tolerance)


def network_of(dtype: torch.dtype) -> Video:
    config = VideoConfig(
        shape=(FRAMES, 2, 2 * ROWS, 2 * COLUMNS), depth=2, width=D, heads=HEADS, patch=2, num_classes=3
    )
    network = Video(config).to(dtype)
    with torch.no_grad():
        for number, weights in enumerate(network.parameters()):
            weights.copy_(random(*weights.shape, dtype=dtype, seed=number) * 0.2)
    return network


def plain_twin(dtype: torch.dtype) -> Video:
    network = network_of(dtype)

    def quadratic(
        q: Tensor, k: Tensor, v: Tensor, rope: Rope | None, state: Any, sizes: Any, window: Any, earlier: Any
    ) -> tuple[Tensor, None]:
        return masked_quadratic(q, k, v, rope, sizes, window), None

    def plain(module: TemporalMixFFN) -> Any:
        return lambda h, told, memory: (by_hand(module, h, told.blocks), None)

    for layer in network.layers.values():
        assert isinstance(layer, VideoLayer)
        layer.attention.attend = quadratic  # type: ignore[assignment]
        layer.perceptron.forward = plain(layer.perceptron)  # type: ignore[method-assign]
    return network
