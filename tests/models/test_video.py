"""One network in three modes, against plain twins of its parts."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from oneblock.backbone import check_backbone
from oneblock.condition import ClassIds, Condition, Nothing, Tokens
from oneblock.models.video import Video, VideoConfig, VideoState, frame_blocks
from oneblock.models.video_layers import TemporalMixFFN, VideoLayerConfig, neighbours
from oneblock.ops import Rope, masked_quadratic

N, FRAMES, C, H, W = 2, 7, 2, 4, 6
CONFIG: dict[str, Any] = {"shape": (FRAMES, C, H, W), "depth": 2, "width": 12, "heads": 2, "patch": 2}
MODES: list[dict[str, Any]] = [
    {},
    {"rope": "before"},
    {"rope": "none"},
    {"temporal": False},
    {"attention": "softmax"},
    {"window": 1},
    {"attention": "softmax", "window": 2},
]


def randomised(dtype: torch.dtype = torch.float64, layers: range | None = None, **changes: Any) -> Video:
    torch.manual_seed(0)
    network = Video(VideoConfig(**CONFIG | {"num_classes": 3, "block_frames": 2} | changes), layers).double()
    with torch.no_grad():
        for p in network.parameters():
            p.normal_(std=0.3)
    return network.to(dtype)


def inputs(dtype: torch.dtype = torch.float64, seed: int = 1) -> tuple[Tensor, Tensor, ClassIds]:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(N, FRAMES, C, H, W, generator=generator, dtype=torch.float64).to(dtype)
    noise = torch.rand(N, FRAMES, generator=generator, dtype=torch.float64).to(dtype)
    return z.requires_grad_(), noise, ClassIds(torch.tensor([1, 3]))


def streamed(
    network: Video, z: Tensor, noise: Tensor, condition: Condition, sizes: Sequence[int]
) -> tuple[Tensor, VideoState]:
    """One block after the other; each is first read with other values, which leave nothing behind."""
    state: VideoState | None = None
    out = []
    for frames, level in zip(z.split(list(sizes), dim=1), noise.split(list(sizes), dim=1), strict=True):
        network.step(frames + 1, level + 1, condition, state)
        answer, state = network.step(frames, level, condition, state)
        out.append(answer)
    assert state is not None and state.position == FRAMES
    return torch.cat(out, dim=1), state


def gradients(network: Video, out: Tensor, z: Tensor) -> list[Tensor]:
    weights = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)
    return [out, *torch.autograd.grad((out * weights).sum(), [z, *network.parameters()], materialize_grads=True)]


def assert_same(found: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    for one, other in zip(found, wanted, strict=True):
        scale = max(1.0, other.abs().max().item())
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("changes", MODES, ids=str)
def test_streaming_equals_all_blocks_at_once(changes: dict[str, Any]) -> None:
    network, (z, noise, condition) = randomised(**changes), inputs()
    sizes = frame_blocks(FRAMES, 2)
    assert sizes == (3, 2, 2)
    wanted = gradients(network, network(z, noise, condition), z)
    assert_same(gradients(network, streamed(network, z, noise, condition, sizes)[0], z), wanted, 1e-12)


def test_streaming_equals_all_blocks_at_once_in_single_precision() -> None:
    network, (z, noise, condition) = randomised(torch.float32), inputs(torch.float32)
    wanted = [network(z, noise, condition)]
    assert_same([streamed(network, z, noise, condition, (3, 2, 2))[0]], wanted, 1e-5)


@pytest.mark.parametrize("changes", MODES, ids=str)
def test_one_block_is_bidirectional(changes: dict[str, Any]) -> None:
    whole, (z, noise, condition) = randomised(**changes | {"block_frames": 0}), inputs()
    wanted = gradients(whole, whole(z, noise, condition), z)
    one = randomised(**changes | {"block_frames": FRAMES})
    assert_same(gradients(one, one(z, noise, condition), z), wanted, 1e-12)
    assert_same(gradients(whole, whole.step(z, noise, condition)[0], z), wanted, 1e-12)


@pytest.mark.parametrize("changes", [{}, {"window": 1}, {"rope": "none"}, {"block_frames": 0}], ids=str)
def test_the_network_equals_its_plain_twin(changes: dict[str, Any]) -> None:
    """Attention from all products of queries and keys, the convolution over time frame by frame."""
    network, (z, noise, condition) = randomised(**changes), inputs()
    wanted = gradients(network, network(z, noise, condition), z)

    def quadratic(
        q: Tensor, k: Tensor, v: Tensor, rope: Rope | None, state: Any, sizes: Any, window: Any, earlier: Any
    ) -> tuple[Tensor, None]:
        return masked_quadratic(q, k, v, rope, sizes, window), None

    for layer in network.layers.values():
        layer.attention.attend = quadratic  # type: ignore[assignment, union-attr]
        layer.perceptron.forward = plain_perceptron(layer.perceptron)  # type: ignore[arg-type, assignment, method-assign, union-attr]
    assert_same(gradients(network, network(z, noise, condition), z), wanted, 1e-12)


def plain_perceptron(module: TemporalMixFFN) -> Any:
    assert module.temporal is not None
    before, here, behind = module.temporal.weight.chunk(3, dim=1)

    def call(h: Tensor, modulation: Any, memory: None) -> tuple[Tensor, None]:
        u = module._in_space(h)
        block = [b for b, size in enumerate(modulation.blocks) for _ in range(size)]
        out = []
        for i in range(FRAMES):
            mixed = u[:, i] + u[:, i] @ here.mT
            if i:
                mixed = mixed + u[:, i - 1] @ before.mT
            if i + 1 < FRAMES and block[i + 1] == block[i]:
                mixed = mixed + u[:, i + 1] @ behind.mT
            out.append(mixed)
        return torch.stack(out, dim=1), None

    return call


def test_in_space_the_perceptron_is_a_gated_convolution() -> None:
    module = TemporalMixFFN(VideoLayerConfig(width=4, heads=1, mlp_ratio=1.5)).double()
    h = torch.randn(2, 3, 5, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = torch.zeros_like(h)
    padded = F.pad(F.silu(h @ module.up.weight.mT + module.up.bias), (0, 0, 1, 1, 1, 1))
    for y in range(5):
        for x in range(4):
            near = padded[:, :, y : y + 3, x : x + 3]
            value = (near * module.conv.weight[:, 0].movedim(0, -1)).sum((2, 3)) + module.conv.bias
            wanted[:, :, y, x] = (value[..., :6] * F.silu(value[..., 6:])) @ module.down.weight.mT
    torch.testing.assert_close(module._in_space(h), wanted)


@pytest.mark.parametrize("changes", MODES, ids=str)
def test_two_streams_are_what_sampling_does(changes: dict[str, Any]) -> None:
    """A noisy block sees the clean blocks before it, and itself."""
    network, (noisy, noise, condition) = randomised(**changes | {"streams": "two"}), inputs()
    clean, level, _ = inputs(seed=2)
    out = network(torch.cat([clean, noisy], 1), torch.cat([level, noise], 1), condition)
    assert_same([out[:, :FRAMES]], [randomised(**changes)(clean, level, condition)], 1e-12)
    state: VideoState | None = None
    start = 0
    for size in (3, 2, 2):
        own = slice(start, start + size)
        answer, _ = network.step(noisy[:, own], noise[:, own], condition, state)
        assert_same([out[:, FRAMES:][:, own]], [answer], 1e-12)
        _, state = network.step(clean[:, own], level[:, own], condition, state)
        start += size


def test_a_network_in_two_streams_has_the_same_weights() -> None:
    one, (z, noise, condition) = randomised(), inputs()
    other = one.in_two_streams()
    twice = torch.cat([z, z], 1), torch.cat([noise, noise], 1)
    assert torch.equal(other(*twice, condition), randomised(streams="two")(*twice, condition))
    torch.testing.assert_close(one(z, noise, condition), randomised()(z, noise, condition))  # is what it was
    assert [id(p) for p in other.parameters()] == [id(p) for p in one.parameters()]


def test_a_frame_sees_its_block_and_those_before() -> None:
    network, (z, noise, condition) = randomised(), inputs()
    before = network(z, noise, condition)
    for frame, seen_by in {0: range(7), 2: range(7), 3: range(3, 7), 4: range(3, 7), 6: range(5, 7)}.items():
        changed = z.detach().clone()
        changed[:, frame] += 1.0
        moved = ((network(changed, noise, condition) - before).abs().amax((0, 2, 3, 4)) > 1e-9).tolist()
        assert moved == [i in seen_by for i in range(FRAMES)]


def test_every_frame_has_its_level() -> None:
    network, (z, noise, condition) = randomised(depth=1), inputs()
    network.layers.clear()
    changed = noise.clone()
    changed[:, 3] += 0.5
    moved = ((network(z, changed, condition) - network(z, noise, condition)).abs().amax((0, 2, 3, 4)) > 1e-9).tolist()
    assert moved == [i == 3 for i in range(FRAMES)]
    one = torch.full((N,), 0.25, dtype=torch.float64)
    torch.testing.assert_close(network(z, one, condition), network(z, one[:, None].expand(N, FRAMES), condition))


def test_the_scale_of_the_noise_conditioning() -> None:
    (z, noise, condition), scaled = inputs(), randomised(noise_scale=0.004)
    torch.testing.assert_close(scaled(z, 250 * noise, condition), randomised()(z, noise, condition))


def test_classes_and_texts_are_attended_to() -> None:
    (z, noise, _), network = inputs(), randomised()
    assert not torch.allclose(*(network(z, noise, ClassIds(torch.full((N,), c))) for c in (0, 1)))
    reader = randomised(num_classes=0, token_width=5)
    values = torch.randn(N, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    text = Tokens(values)
    masked = Tokens(values, torch.tensor([[True, True, False, False]]).expand(N, 4))
    torch.testing.assert_close(reader(z, noise, masked), reader(z, noise, Tokens(values[:, :2])))
    assert not torch.allclose(reader(z, noise, text), reader(z, noise, masked))
    assert reader(z, noise, text.null()).isfinite().all()  # the vector that is always there is left
    with pytest.raises(ValueError, match="this network needs Tokens"):
        reader(z, noise, Nothing(N))


def test_untrained_layers_change_nothing_and_the_answer_is_zero() -> None:
    network, (z, noise, condition) = Video(VideoConfig(**CONFIG, num_classes=3)).double(), inputs()
    h, modulation = network.stem(z, noise, condition)
    for layer in network.layers.values():
        assert torch.equal(layer(h, modulation), h)
    assert torch.equal(network(z, noise, condition), torch.zeros_like(z))


def test_an_image_network_is_not_changed_by_the_convolution_over_time() -> None:
    module = TemporalMixFFN(VideoLayerConfig(width=4, heads=1))
    h = torch.randn(1, 3, 2, 2, 4)
    modulation: Any = type("Blocks", (), {"blocks": (3,), "two": False})
    assert torch.equal(module(h, modulation, None)[0], module._in_space(h))


def test_neighbours_of_frames() -> None:
    u = torch.arange(1.0, 6.0).view(1, 5, 1)
    found = neighbours(u, 10 * u, torch.tensor([[[7.0]]]), (2, 3))
    assert found[0].tolist() == [[7, 1, 2], [1, 2, 0], [20, 3, 4], [3, 4, 5], [4, 5, 0]]


def test_the_state_of_linear_attention_keeps_its_size() -> None:
    sizes: dict[str, list[int]] = {}
    for attention in ("linear", "softmax"):
        network, (z, noise, condition) = randomised(torch.float32, attention=attention), inputs(torch.float32)
        state, found = None, []
        for _ in range(4):
            _, state = network.step(z, noise, condition, state)
            found.append(state.detach().nbytes)
        sizes[attention] = found
        parts = state.cache_bytes()
        assert parts["frames"] == 2 * N * (H // 2) * (W // 2) * 12 * 4
        assert parts["attention"] + parts["frames"] == state.nbytes
    assert sizes["linear"] == [sizes["linear"][0]] * 4
    steps = [b - a for a, b in zip(sizes["softmax"], sizes["softmax"][1:], strict=False)]
    assert steps == [2 * 2 * N * FRAMES * (H // 2) * (W // 2) * 12 * 4] * 3


def test_a_state_is_detached_and_cloned() -> None:
    network, (z, noise, condition) = randomised(), inputs()
    _, state = network.step(z, noise, condition)
    frame = state.layers["1"].frame
    assert frame is not None and frame.requires_grad
    detached, cloned = state.detach().layers["1"].frame, state.clone().layers["1"].frame
    assert detached is not None and not detached.requires_grad and detached.data_ptr() == frame.data_ptr()
    assert cloned is not None and torch.equal(cloned, frame) and cloned.data_ptr() != frame.data_ptr()
    assert not state.detach().layers["0"].attention.S.requires_grad  # type: ignore[union-attr]


@pytest.mark.parametrize("streams", ["one", "two"])
def test_it_keeps_the_contract_of_a_backbone(streams: Any) -> None:
    config = VideoConfig(**CONFIG, num_classes=3, block_frames=2, streams=streams)
    z = torch.randn(N, 2 * FRAMES, C, H, W)
    check_backbone(lambda layers: Video(config, layers), 2, z, torch.rand(N), ClassIds(torch.zeros(N).long()), z.shape)


def test_a_part_has_the_keys_of_the_whole() -> None:
    whole, part = randomised().state_dict(), randomised(layers=range(1, 2)).state_dict()
    assert set(part) == {key for key in whole if not key.startswith("layers.0.")}


def test_what_is_left_over_goes_to_the_first_block() -> None:
    assert frame_blocks(21, 10) == (11, 10)
    assert frame_blocks(20, 10) == (10, 10)
    assert frame_blocks(9, 0) == (9,)
    with pytest.raises(ValueError, match="there are 9 frames, fewer than block_frames=10; give more frames, or a"):
        frame_blocks(9, 10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": 4}, "patch=4 does not divide frames of 4 x 6 pixels; use a divisor of both"),
        ({"block_frames": 8}, "there are 7 frames, fewer than block_frames=8; give more frames, or a smaller block"),
        ({"max_frames": 6}, "7 frames from frame 0 on go beyond max_frames=6; use fewer frames, or a network with"),
        ({"shape": (7, 2, 4)}, r"shape=\(7, 2, 4\) is not that of a video; use \(frames, channels, height, width\)"),
        ({"window": 0}, "window=0 is not allowed; use a whole number, 1 or more"),
        ({"heads": 5}, "heads=5 does not divide width=12; use a divisor"),
        ({"heads": 4}, "heads=4 leaves 3 channels to a head of width=12, and pairs of channels are turned"),
        ({"attention": "cosine"}, "attention='cosine' is not allowed in VideoConfig; use one of linear, softmax"),
        (
            {"num_classes": 2, "token_width": 3},
            "num_classes=2 and token_width=3: the network is told a class or a text",
        ),
    ],
)
def test_wrong_shapes_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VideoConfig(**CONFIG | changes)


def test_an_odd_width_of_heads_is_possible_without_turns() -> None:
    assert VideoConfig(**CONFIG | {"heads": 4, "rope": "none"}).layer.head_width == 3


def test_frames_that_do_not_fit_are_refused() -> None:
    network, (z, noise, condition) = randomised(max_frames=10), inputs()
    with pytest.raises(ValueError, match="patch=2 does not divide frames of 4 x 5 pixels; use a divisor of both"):
        network(z[..., :5], noise, condition)
    with pytest.raises(ValueError, match=r"z has shape \(2, 2, 4, 6\); give frames"):
        network(z[:, 0], noise[:, 0], condition)
    with pytest.raises(ValueError, match=r"noise has shape \(2, 3\); give one level per sample, \(2,\), or per frame"):
        network(z, noise[:, :3], condition)
    with pytest.raises(ValueError, match="z has 7 frames; with streams='two' give as many clean as noisy ones"):
        randomised(streams="two")(z, noise, condition)
    _, state = network.step(z, noise, condition)
    network.step(z[:, :3], noise[:, :3], condition, state)
    with pytest.raises(
        ValueError, match="4 frames from frame 7 on go beyond max_frames=10; use fewer frames, or a network"
    ):
        network.step(z[:, :4], noise[:, :4], condition, state)
    with pytest.raises(ValueError, match="the state is of layers 0, 1, but this network has 1; use the state that it"):
        randomised(layers=range(1, 2)).step(z, noise, condition, state)
