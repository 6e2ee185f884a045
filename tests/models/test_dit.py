import math

import pytest
import torch
from torch import nn

from oneblock.condition import ClassIds, Tokens
from oneblock.models.dit import CaptionStem, DecoderHead, DiT, DiTConfig, Shown, Stem
from oneblock.models.layers import ModulatedLayer, NoiseEmbedder, positions_1d, positions_2d
from oneblock.presets import SIZES


def config(**changes: int) -> DiTConfig:
    values = {"image_size": 8, "channels": 2, "num_classes": 3, "depth": 3, "width": 16, "heads": 2, "patch": 4}
    return DiTConfig(**(values | changes))


def shake(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))


def inputs(c: DiTConfig, n: int = 2) -> tuple[torch.Tensor, torch.Tensor, ClassIds]:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(n, c.channels, c.image_size, c.image_size, generator=generator)
    return z, torch.linspace(-1.5, 1.0, n), ClassIds(torch.arange(n) % (c.num_classes + 1))


@pytest.mark.parametrize(("patch", "channels"), [(1, 1), (2, 3), (4, 2), (8, 1)])
def test_output_has_the_shape_of_the_input(patch: int, channels: int) -> None:
    c = config(patch=patch, channels=channels)
    z, noise, labels = inputs(c)
    assert DiT(c)(z, noise, labels).shape == z.shape


def test_at_the_start_layers_are_the_identity_and_the_output_is_zero() -> None:
    c = config()
    network = DiT(c)
    h, modulation = torch.randn(2, 4, 16), torch.randn(2, 16)
    for layer in network.layers.values():
        assert layer(h, modulation).equal(h)
    assert network(*inputs(c)).abs().max() == 0


def test_the_modulation_starts_with_about_unit_variance() -> None:
    torch.manual_seed(0)
    stem = Stem(config(width=256))
    _, modulation = stem(torch.zeros(64, 2, 8, 8), torch.linspace(-1.5, 1.0, 64), ClassIds(torch.arange(64) % 4))
    assert 1.0 < modulation.var().item() < 3.0


def test_noise_conditioning_is_smooth_enough_to_be_asked_beyond_training() -> None:
    # From sigma 40 to 80 is ln(2) / 4; training hardly ever sees either, so the embedding must change little.
    stem = Stem(config(width=256))
    low, high = stem.noise(torch.tensor([math.log(40.0) / 4, math.log(80.0) / 4]))
    assert torch.cosine_similarity(low, high, dim=0) > 0.9
    near, far = stem.noise(torch.tensor([math.log(0.05) / 4, math.log(5.0) / 4]))
    assert torch.cosine_similarity(near, far, dim=0) < 0.9


def test_a_patch_lands_where_it_was() -> None:
    """With the layers at the identity and no positions, only the patch that changes in the input changes."""
    network = DiT(config())
    shake(network)
    network.layers = nn.ModuleDict()
    z, noise, labels = inputs(network.config)
    moved = z.clone()
    moved[:, 1, 5, 2] += 1.0  # row 1, column 0 of the 2 x 2 patches
    changed = (network(moved, noise, labels) - network(z, noise, labels)).abs().sum(1) > 1e-6
    assert bool(changed[:, 4:, :4].all())
    assert not bool(changed[:, :4].any() or changed[:, 4:, 4:].any())


def test_attention_is_softmax_attention() -> None:
    layer = ModulatedLayer(config().layer).double()
    shake(layer)
    h = torch.randn(2, 5, 16, dtype=torch.float64)
    q, k, v = layer.qkv(h).split(16, dim=-1)
    heads = []
    for i in (0, 1):
        part = slice(8 * i, 8 * i + 8)
        weights = torch.softmax(q[..., part] @ k[..., part].mT / math.sqrt(8), dim=-1)
        heads.append(weights @ v[..., part])
    torch.testing.assert_close(layer.attention(h), layer.proj(torch.cat(heads, -1)))


def test_every_input_reaches_every_output() -> None:
    network = DiT(config())
    shake(network)
    z, noise, labels = inputs(network.config, 1)
    base = network(z, noise, labels)
    touched = z.clone()
    touched[0, 0, 0, 0] += 1
    next_class = ClassIds(labels.ids + 1)
    for other in (network(touched, noise, labels), network(z, noise + 0.3, labels), network(z, noise, next_class)):
        assert (other - base).abs().min() > 0


def test_samples_do_not_mix() -> None:
    network = DiT(config())
    shake(network)
    z, noise, labels = inputs(network.config, 3)
    torch.testing.assert_close(network(z, noise, labels)[1:2], network(z[1:2], noise[1:2], labels.take(slice(1, 2))))


def test_positions_tell_all_patches_apart_by_row_and_column() -> None:
    table = positions_2d(5, 16).view(5, 5, 16)
    assert torch.cdist(table.view(25, 16), table.view(25, 16)).fill_diagonal_(9.0).min() > 0.1
    assert table[2, 0, :8].equal(table[2, 4, :8])  # first half: the row
    assert table[0, 3, 8:].equal(table[4, 3, 8:])  # second half: the column


def test_some_layers_only_with_their_own_names() -> None:
    assert set(DiT(config(), range(1, 3)).layers) == {"1", "2"}


@pytest.mark.parametrize(("size", "millions"), [("S", 33), ("B", 130), ("L", 458), ("XL", 675)])
def test_sizes_have_the_papers_parameters(size: str, millions: int) -> None:
    """DiT paper, Table 1, patch 2 on 32 x 32 x 4 latents of 1000 classes. Its head also predicts a variance."""
    depth, width, heads = SIZES[size]
    with torch.device("meta"):
        network = DiT(
            DiTConfig(image_size=32, channels=4, num_classes=1000, depth=depth, width=width, heads=heads, patch=2)
        )
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": 3}, "patch=3 does not divide image_size=8; use a divisor"),
        ({"patch": 0}, "patch=0 is not allowed; use 1 or more"),
        ({"heads": 3}, "heads=3 does not divide width=16; use a divisor"),
        ({"width": 18}, "width=18 is not a multiple of 4"),
    ],
)
def test_wrong_shapes_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_a_layer_may_be_told_something_else_for_each_token() -> None:
    layer = ModulatedLayer(config().layer)
    shake(layer)
    h, told = torch.randn(2, 5, 16), torch.randn(2, 5, 16)
    alike = told[:, :1].expand(-1, 5, -1)
    torch.testing.assert_close(layer(h, alike), layer(h, told[:, 0]))
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(layer(h[:, order], told[:, order]), layer(h, told)[:, order])
    assert not torch.allclose(layer(h[:, order], told), layer(h, told)[:, order])


def test_a_decoder_sees_the_noisy_patches_anew_and_the_layers_through_the_modulation_alone() -> None:
    head = DecoderHead(config(head_layers=2, head_width=24))
    shake(head)
    h, vector, patches = torch.randn(2, 4, 16), torch.randn(2, 16), torch.randn(2, 4, 32)
    s = head.told(torch.nn.functional.silu(vector[:, None] + h))
    decoded = head.embed(patches) + positions_2d(2, 24)
    for layer in head.layers:
        decoded = layer(decoded, s)
    shift, scale = head.end.modulation(torch.nn.functional.silu(s)).chunk(2, -1)
    flat = head.end.out(torch.nn.functional.layer_norm(decoded, (24,), eps=1e-6) * (1 + scale) + shift)
    corner = head(h, Shown(vector, patches))[:, :, 4:, :4]  # patch 2: row 1, column 0
    torch.testing.assert_close(corner.flatten(1), flat[:, 2])


def test_layers_before_a_decoder_are_told_noise_and_class_and_the_decoder_what_the_stem_is_shown() -> None:
    c = config(head_layers=1)
    network = DiT(c)
    z, noise, labels = inputs(c)
    assert network(z, noise, labels).abs().max() == 0
    shake(network)
    h, shown = network.stem(z, noise, labels)
    assert shown.patches[0, 2].equal(z[0, :, 4:, :4].flatten())
    torch.testing.assert_close(shown.vector, network.stem.noise(noise) + network.stem.label(labels.ids))
    plain = ModulatedLayer(c.layer)
    plain.load_state_dict(network.layers["1"].state_dict())
    assert network.layers["1"](h, shown).equal(plain(h, shown.vector))
    assert sum(isinstance(part, NoiseEmbedder) for part in network.modules()) == 1


def test_a_head_of_layers_counts_as_work_and_its_shape_is_checked() -> None:
    counted = {(0, 0): 0, (2, 0): 2, (2, 24): 5, (1, 32): 4}
    assert {key: config(head_layers=key[0], head_width=key[1]).end_layers for key in counted} == counted
    with pytest.raises(ValueError, match="head_width=32 goes with head_layers=1 or more; leave it out"):
        config(head_width=32)
    with pytest.raises(ValueError, match="head_width=34 does not fit heads=2 and 2-D positions; use a multiple of 4"):
        config(head_layers=1, head_width=34)


def told(**changes: int) -> DiTConfig:
    return config(**{"num_classes": 0, "tokens": 4, "vocabulary": 7} | changes)


def test_the_order_of_a_caption_matters_and_what_is_behind_its_end_does_not() -> None:
    c = told()
    network = DiT(c)
    shake(network)
    z, noise, _ = inputs(c, 3)
    z, noise = z[:1].expand(3, -1, -1, -1), noise[:1].expand(3)
    mask = torch.tensor([[True, True, False, False]]).expand(3, -1)
    ids = torch.tensor([[1, 2, 3, 4], [2, 1, 3, 4], [1, 2, 6, 0]])
    first, turned, same = network(z, noise, Tokens(ids, mask))
    assert (first - turned).abs().max() > 1e-3
    torch.testing.assert_close(first, same)
    short = network(z[:1], noise[:1], Tokens(ids[:1, :2]))
    torch.testing.assert_close(short[0], first)
    nothing = network(z, noise, Tokens(ids, mask).null())
    torch.testing.assert_close(nothing[0], nothing[2])
    assert (nothing[0] - first).abs().max() > 1e-3


def test_tokens_may_be_vectors_of_a_text_encoder() -> None:
    c = told(vocabulary=0, token_width=5)
    network = DiT(c)
    shake(network)
    z, noise, _ = inputs(c)
    vectors = torch.randn(2, 3, 5, dtype=torch.float64)
    assert network(z, noise, Tokens(vectors)).shape == z.shape
    with pytest.raises(ValueError, match=r"tokens of the captions are torch\.int64; this network needs vectors"):
        network(z, noise, Tokens(torch.zeros(2, 3, dtype=torch.int64)))
    with pytest.raises(ValueError, match=r"are torch\.float32; this network needs ids"):
        DiT(told())(z, noise, Tokens(torch.zeros(2, 3, 5)))
    with pytest.raises(ValueError, match="the captions have 5 tokens, but the network was made for 4; cut them"):
        network(z, noise, Tokens(torch.zeros(2, 5, 5)))


def test_the_modulation_of_a_caption_starts_with_about_unit_variance() -> None:
    torch.manual_seed(0)
    stem = CaptionStem(told(width=256))
    ids, mask = torch.randint(7, (64, 4)), torch.arange(4) < torch.randint(1, 5, (64, 1))
    h, modulation = stem(torch.zeros(64, 2, 8, 8), torch.linspace(-1.5, 1.0, 64), Tokens(ids, mask))
    assert h.shape == (64, 4 + 4, 256)
    assert 1.0 < modulation.var().item() < 3.5
    assert (h[:, 4:] - stem.places).var().item() == pytest.approx(1.0, rel=0.2)


def test_layers_and_head_have_the_parameters_of_a_network_that_is_told_classes() -> None:
    one, other = (
        {name: p.shape for name, p in DiT(c).named_parameters() if not name.startswith("stem")}
        for c in (config(), told())
    )
    assert one == other


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_classes": 3}, "the network is told a class or a caption; set one of them to 0"),
        ({"vocabulary": 0}, "captions need tokens, and either a vocabulary or a token_width"),
        ({"token_width": 3}, "do not go together"),
        ({"tokens": 0}, "tokens=0, vocabulary=7, token_width=0 do not go together"),
    ],
)
def test_half_a_condition_is_refused(changes: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        told(**changes)


def test_positions_of_a_sequence_by_hand() -> None:
    found = positions_1d(3, 4)
    wanted = [[math.sin(2), math.sin(0.02), math.cos(2), math.cos(0.02)]]
    torch.testing.assert_close(found[2:], torch.tensor(wanted))


def test_a_decoder_sees_a_caption_through_the_layers_alone() -> None:
    """Its tokens are the patches; those of the caption, behind them, stay in the encoder."""
    c = told(head_layers=1, noise_scale=0.5)
    network = DiT(c)
    shake(network)
    z, noise, _ = inputs(c)
    text = Tokens(torch.tensor([[1, 2, 3, 4], [5, 6, 0, 1]]))
    h, shown = network.stem(z, noise, text)
    assert (h.shape[1], shown.patches.shape[1]) == (4 + 4, 4)
    for layer in network.layers.values():
        h = layer(h, shown)
    changed = torch.cat([h[:, :4], torch.randn_like(h[:, 4:])], dim=1)
    assert network.head(h, shown).equal(network.head(changed, shown))
    assert network(z, noise, text).equal(network.head(h, shown))
    assert not network(z, noise, text.null()).allclose(network(z, noise, text))
