import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneblock.memory import layers_run, peak_bytes, step_flops
from oneblock.models.layers import Layer, LayerConfig

pytest.importorskip("torch.distributed._tools.mem_tracker")
CONFIG = LayerConfig(width=32, heads=4)
N, T, D = 3, 10, 32


class PlainLayer(Layer):
    """Keeps all that autograd keeps by itself."""

    def perceptron(self, h: Tensor) -> Tensor:
        out: Tensor = self.down(F.gelu(self.up(h)))
        return out


def outcome(kind: type[Layer], dtype: torch.dtype) -> list[Tensor]:
    """Output, gradient of the input, and gradients of the weights under autocast to ``dtype``."""
    torch.manual_seed(0)
    layers = nn.Sequential(kind(CONFIG), kind(CONFIG))
    x = torch.randn(N, T, D, requires_grad=True)
    with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        y = layers(x)
    y.float().square().mean().backward()
    return [y, *(p.grad for p in (x, *layers.parameters()) if p.grad is not None)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_bitwise_those_of_the_plain_layer(dtype: torch.dtype) -> None:
    ours, plain = outcome(Layer, dtype), outcome(PlainLayer, dtype)
    assert len(ours) == len(plain) == 2 + 2 * 12
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))


def kept(kind: type[Layer]) -> int:
    """Bytes that a further layer adds to the activations at the peak, which large batches have before backward."""
    three, four = (
        peak_bytes(lambda n=n: layers_run([kind(CONFIG) for _ in range(n)], (64 * N, T, D)))  # type: ignore[misc]
        for n in (3, 4)
    )
    return four.by_kind["Activation"] - three.by_kind["Activation"]


def test_a_layer_keeps_12_vectors_per_token_instead_of_16() -> None:
    vectors = 4 * 64 * N * T * D
    statistics = 4 * 64 * N * T * (4 + CONFIG.heads)  # of two norms and of the softmax
    assert kept(PlainLayer) == 16 * vectors + statistics
    assert kept(Layer) == 12 * vectors + statistics


def test_no_product_is_computed_twice() -> None:
    ours, plain = (
        step_flops(lambda kind=kind: layers_run([kind(CONFIG)], (N, T, D)))  # type: ignore[misc]
        for kind in (Layer, PlainLayer)
    )
    assert ours == plain


def test_the_forward_pass_follows_the_equations() -> None:
    torch.manual_seed(0)
    layer, x = Layer(CONFIG), torch.randn(N, T, D)
    with torch.no_grad():
        for parameter in (layer.norm_a.weight, layer.norm_m.bias):
            parameter.normal_()
        q, k, v = layer.qkv(layer.norm_a(x)).view(N, T, 3, 4, 8).permute(2, 0, 3, 1, 4)
        scores = (q @ k.mT / 8**0.5).softmax(-1)
        h = x + layer.proj((scores @ v).transpose(1, 2).reshape(N, T, D))
        expected = h + layer.down(F.gelu(layer.up(layer.norm_m(h))))
        torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer(x), expected)


def test_heads_divide_the_width() -> None:
    for heads in (0, 5):
        with pytest.raises(ValueError, match=f"heads={heads} does not divide width=32; use a divisor"):
            LayerConfig(width=32, heads=heads)
