import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneblock.backbone import hidden
from oneblock.condition import Frames
from oneblock.models.layers import positions_2d
from oneblock.models.vit import LevelLayer, TokenLayer, ViT, ViTConfig

VARIANTS: list[dict[str, Any]] = [
    {},
    {"noisy_token": "class"},
    {"noisy_token": "none"},
    {"modulated": True},
    {"noisy_token": "class", "modulated": True, "skip_sigma_data": 0.5, "label_width": 16},
    {"skip_sigma_data": 0.5, "label_width": 16},
]


def config(**changes: Any) -> ViTConfig:
    values = {"image_size": 8, "channels": 2, "num_classes": 3, "label_width": 5}
    return ViTConfig(**(values | {"depth": 3, "width": 16, "heads": 2, "patch": 4} | changes))


def network(**changes: Any) -> ViT:
    """With random weights everywhere: zeros at the start would hide mistakes."""
    found, generator = ViT(config(**changes)).double(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in found.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return found


def inputs(c: ViTConfig, n: int = 3) -> tuple[Tensor, Tensor, Frames]:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(n, c.label_width, generator=generator).double()
    images = torch.randn(n, c.channels, c.image_size, c.image_size, generator=generator).double()
    return z, torch.linspace(-0.7, 0.7, n).double(), Frames(images)


def linear(x: Tensor, layer: nn.Linear | None) -> Tensor:
    assert layer is not None
    return x @ layer.weight.mT + layer.bias


def attention(h: Tensor, layer: Any) -> Tensor:
    q, k, v = linear(h, layer.qkv).split(16, dim=-1)
    heads = []
    for part in (slice(0, 8), slice(8, 16)):
        weights = torch.softmax(q[..., part] @ k[..., part].mT / math.sqrt(8), dim=-1)
        heads.append(weights @ v[..., part])
    return linear(torch.cat(heads, -1), layer.proj)


def norm(h: Tensor) -> Tensor:
    return (h - h.mean(-1, keepdim=True)) / (h.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()


def naive_layer(h: Tensor, layer: Any, level: Tensor) -> Tensor:
    if isinstance(layer, TokenLayer):
        h = h + attention(norm(h) * layer.norm_a.weight + layer.norm_a.bias, layer)
        u = norm(h) * layer.norm_m.weight + layer.norm_m.bias
        return h + linear(F.gelu(linear(u, layer.up)), layer.down)
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = linear(F.silu(level), layer.modulation)[:, None].split(16, -1)
    h = h + gate_a * attention(norm(h) * (1 + scale_a) + shift_a, layer)
    u = linear(norm(h) * (1 + scale_m) + shift_m, layer.up)
    return h + gate_m * linear(F.gelu(u, approximate="tanh"), layer.down)


def naive(vit: ViT, z: Tensor, noise: Tensor, images: Frames) -> Tensor:
    c, stem, head = vit.config, vit.stem, vit.head
    positions = positions_2d(2, 16).double()
    tokens = []
    if c.noisy_token != "class":
        tokens.append(stem.class_token.expand(len(z), -1))
    label, level = torch.zeros(len(z), 16), torch.zeros(len(z), 16)
    if c.noisy_token != "none":
        level = stem.noise(noise)
        label = linear(z, stem.label) + (0 if c.modulated else level)
    if c.noisy_token == "class":
        tokens.append(label)
    for row in (0, 1):
        for column in (0, 1):
            pixels = images.values[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].flatten(1)
            tokens.append(linear(pixels, stem.embed) + positions[2 * row + column])
    if c.noisy_token == "separate":
        tokens.append(label)
    h = torch.stack(tokens, 1)
    for i in range(c.depth):
        h = naive_layer(h, vit.layers[str(i)], level)
    token = norm(h[:, 0]) * head.norm.weight + head.norm.bias
    if c.skip_sigma_data:
        sigma, sd = torch.exp(4 * noise)[:, None], c.skip_sigma_data
        total = (sigma**2 + sd**2).sqrt()
        token = sd**2 / total**2 * (z * total) + sigma * sd / total * token
    if c.modulated:
        shift, scale = linear(F.silu(level), head.modulation).split(16, -1)
        token = token * (1 + scale) + shift
    return linear(token, head.out)


@pytest.mark.parametrize("changes", VARIANTS)
def test_the_forward_pass_follows_the_equations(changes: dict[str, Any]) -> None:
    vit = network(**changes)
    for layer in vit.layers.values():
        assert isinstance(layer, LevelLayer if vit.config.modulated else TokenLayer)
    z, noise, images = inputs(vit.config)
    out = vit(z, noise, images)
    assert out.shape == (3, 3)
    torch.testing.assert_close(out, naive(vit, z, noise, images))


def test_without_a_noisy_token_it_is_an_ordinary_vit() -> None:
    vit = network(noisy_token="none")
    z, noise, images = inputs(vit.config)
    out = vit(z, noise, images)
    assert vit(torch.full_like(z, 7.0), noise + 3.0, images).equal(out)
    assert not vit(z, noise, Frames(images.values + 0.1)).equal(out)
    names = {name.rsplit(".", 1)[0] for name in vit.stem.state_dict()}
    assert names == {"class_token", "embed"}


@pytest.mark.parametrize("changes", [v for v in VARIANTS if v.get("noisy_token") != "none"])
def test_label_level_and_image_reach_every_logit(changes: dict[str, Any]) -> None:
    vit = network(**changes)
    z, noise, images = inputs(vit.config, 1)
    base = vit(z, noise, images)
    touched, moved = Frames(images.values.clone()), z.clone()
    touched.values[0, 1, 7, 0] += 1
    moved[0, 2] += 1
    for other in (vit(moved, noise, images), vit(z, noise + 0.3, images), vit(z, noise, touched)):
        assert (other - base).abs().min() > 1e-6


@pytest.mark.parametrize(("kind", "tokens"), [("none", 5), ("class", 5), ("separate", 6)])
def test_the_label_is_one_more_token_or_stands_in_the_class_tokens_place(kind: str, tokens: int) -> None:
    vit = network(noisy_token=kind)
    z, noise, images = inputs(vit.config)
    h, modulation = vit.stem(z, noise, images)
    assert h.shape == (3, tokens, 16)
    assert modulation.z is z
    assert modulation.noise is noise
    label = {"none": None, "class": 0, "separate": 5}[kind]
    moved, _ = vit.stem(z + 1, noise, images)
    changed = (moved != h).any(-1).any(0).nonzero()[:, 0].tolist()
    assert changed == ([] if label is None else [label])


def test_samples_do_not_mix() -> None:
    for changes in VARIANTS:
        vit = network(**changes)
        z, noise, images = inputs(vit.config)
        alone = vit(z[1:2], noise[1:2], images.take(slice(1, 2)))
        torch.testing.assert_close(vit(z, noise, images)[1:2], alone)


@pytest.mark.parametrize("changes", VARIANTS)
def test_some_layers_only_with_their_names_in_the_whole(changes: dict[str, Any]) -> None:
    c = config(depth=4, **changes)
    whole, part = ViT(c).state_dict(), ViT(c, range(2, 4)).state_dict()
    kept = {name: t.shape for name, t in whole.items() if not name.startswith(("layers.0.", "layers.1."))}
    assert {name: t.shape for name, t in part.items()} == kept
    assert len(kept) < len(whole)


def test_answers_start_at_zero_and_modulated_layers_as_the_identity() -> None:
    for changes in VARIANTS:
        vit = ViT(config(**changes)).double()
        assert vit(*inputs(vit.config)).abs().max() == 0
    h, modulation = ViT(config(modulated=True)).double().stem(*inputs(config()))
    for layer in ViT(config(modulated=True)).double().layers.values():
        assert layer(h, modulation).equal(h)


def class_token(vit: ViT, shown: Tensor, noise: Tensor, images: Frames) -> Tensor:
    h, _ = hidden(vit, shown, noise, images)
    return vit.head.norm(h[:, 0])


@pytest.mark.parametrize("sigma", [1e-5, 1e5])
def test_with_the_skip_the_classifier_reads_z_at_low_noise_and_the_token_at_high(sigma: float) -> None:
    vit = network(skip_sigma_data=0.5, label_width=16)
    y, _, images = inputs(vit.config)
    z = y if sigma < 1 else sigma * y
    noise = torch.full((3,), math.log(sigma) / 4, dtype=torch.float64)
    shown = z / math.sqrt(sigma**2 + 0.25)
    reads = z if sigma < 1 else 0.5 * class_token(vit, shown, noise, images)
    torch.testing.assert_close(vit(shown, noise, images), vit.head.out(reads), rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": 3}, "patch=3 does not divide image_size=8; use a divisor"),
        ({"patch": 0}, "patch=0 is not allowed; use 1 or more"),
        ({"heads": 3}, "heads=3 does not divide width=16; use a divisor"),
        ({"width": 18}, "width=18 is not a multiple of 4"),
        ({"skip_sigma_data": 0.5}, "label_width=5 is not width=16, which skip_sigma_data needs"),
        (
            {"noisy_token": "none", "modulated": True},
            "noisy_token='none' with modulated=True, skip_sigma_data=0.0: both",
        ),
        (
            {"noisy_token": "none", "skip_sigma_data": 0.5, "label_width": 16},
            "noisy_token='none' with modulated=False, skip_sigma_data=0.5: both need the noisy label; use noisy_token=",
        ),
    ],
)
def test_wrong_shapes_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**changes)
