import pytest
import torch
from torch import Tensor

from oneblock.models.rotary import RotaryConfig, RotaryLayer, rotate, rotation, usual_hidden
from oneblock.ops import causal, full

N, T, D, HEADS = 2, 5, 16, 4
CONFIG = RotaryConfig(width=D, heads=HEADS, kv_heads=2, hidden=24)


def randomised(config: RotaryConfig) -> RotaryLayer:
    torch.manual_seed(0)
    layer = RotaryLayer(config)
    with torch.no_grad():
        for p in layer.parameters():
            p.normal_(std=0.3)
    return layer


def test_scores_depend_on_the_distance_alone() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 8).expand(2, T, 8).double()
    near, far = (rotation(torch.arange(T) + shift, 8) for shift in (0, 37))
    scores = rotate(q, near) @ rotate(k, near).mT
    torch.testing.assert_close(rotate(q, far) @ rotate(k, far).mT, scores, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(scores[0, 1], scores[1, 0])
    torch.testing.assert_close(scores.diagonal(), (q * k).sum(-1))


def test_a_turn_is_that_of_complex_numbers() -> None:
    x = torch.randn(T, 8)
    by = rotation(torch.arange(T), 8)
    turned = torch.complex(x[:, :4], x[:, 4:]) * torch.complex(by.cos, by.sin)
    torch.testing.assert_close(rotate(x, by), torch.cat([turned.real, turned.imag], -1))
    torch.testing.assert_close(by.sin[1, 1], torch.tensor(10_000.0 ** (-2 / 8)).sin())


def naive(layer: RotaryLayer, h: Tensor, mask: Tensor | None) -> Tensor:
    """The layer written out, with keys and values repeated for every query head."""
    by = rotation(torch.arange(T), D // HEADS)
    a = layer.norm_a(h)
    q = rotate(layer.q(a).view(N, T, HEADS, -1).transpose(1, 2), by)
    kv = layer.kv(a).view(N, T, 2, 2, -1)
    k, v = (kv[:, :, i].transpose(1, 2).repeat_interleave(2, dim=1) for i in (0, 1))
    scores = q @ rotate(k, by).mT / (D // HEADS) ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    h = h + layer.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(N, T, D))
    gate, up = layer.gate_up(layer.norm_m(h)).split(24, -1)
    return h + layer.down(gate * gate.sigmoid() * up)


@pytest.mark.parametrize("masked", [False, True])
def test_the_forward_pass_follows_the_equations(masked: bool) -> None:
    layer, h = randomised(CONFIG), torch.randn(N, T, D)
    mask = torch.ones(T, T).tril().bool() if masked else None
    found = layer(h, rotation(torch.arange(T), D // HEADS), causal if masked else full)
    torch.testing.assert_close(found, naive(layer, h, mask), rtol=1e-4, atol=1e-5)


def test_layers_start_as_the_identity() -> None:
    h, by = torch.randn(N, T, D), rotation(torch.arange(T), D // HEADS)
    assert torch.equal(RotaryLayer(CONFIG)(h, by), h)
    modulated = RotaryConfig(width=D, heads=HEADS, kv_heads=HEADS, hidden=24, modulated=True)
    assert torch.equal(RotaryLayer(modulated)(h, by, level=torch.randn(N, D)), h)


def test_the_level_modulates() -> None:
    layer = randomised(RotaryConfig(width=D, heads=HEADS, kv_heads=HEADS, hidden=24, modulated=True))
    h, by, level = torch.randn(N, T, D), rotation(torch.arange(T), D // HEADS), torch.randn(N, D)
    found, other = layer(h, by, level=level), layer(h, by, level=torch.stack([level[0], level[0]]))
    torch.testing.assert_close(found[0], other[0])
    assert not torch.allclose(found[1], other[1])


def test_as_many_weights_as_a_plain_perceptron() -> None:
    assert [usual_hidden(width) for width in (768, 64)] == [2048, 176]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, "heads=5 does not divide width=16 into even parts"),
        ({"heads": 16}, "heads=16 does not divide width=16 into even parts"),
        ({"kv_heads": 3}, "kv_heads=3 does not divide heads=4; use a divisor"),
    ],
)
def test_wrong_shapes_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RotaryConfig(**{"width": 16, "heads": 4, "kv_heads": 4, "hidden": 8} | changes)
