from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from oneblock.condition import Frames
from oneblock.models.cnn import CNNConfig, NoisyCNN

CONFIG = CNNConfig(image_size=9, channels=3, num_classes=4, label_width=5, depth=3, width=12, filters=2)
Z, NOISE, IMAGES = torch.randn(6, 5), torch.linspace(-1, 1, 6), Frames(torch.randn(6, 3, 9, 9))


def network(config: CNNConfig = CONFIG, layers: range | None = None) -> NoisyCNN:
    torch.manual_seed(0)
    built = NoisyCNN(config, layers)
    torch.nn.init.normal_(built.head.out.weight)
    return built


def test_the_forward_pass_by_hand() -> None:
    built = network(layers=range(1, 2))
    stem, layer = built.stem, built.layers["1"]
    with torch.no_grad():
        for norm in (stem.norm_a, stem.norm_b, layer.norm, layer.norm_a, layer.norm_b):
            norm.weight.uniform_(0.5, 2.0)
            norm.bias.normal_()
        label = stem.norm_a(stem.first(Z)).clamp(min=0)
        label = label + stem.norm_b(stem.second(label))
        x = IMAGES.values
        for i, channels in enumerate((2, 4, 8)):
            x = F.max_pool2d(layer.convolutions[i](x).clamp(min=0), 2)
            assert x.shape[1] == channels
        image = layer.norm(layer.embed(x.reshape(6, 8)))
        u = layer.norm_a(layer.mix_a(torch.cat([image, label, stem.noise(NOISE)], dim=1))).clamp(min=0)
        expected = built.head.out(layer.norm_b(layer.mix_b(u)).clamp(min=0))
        torch.testing.assert_close(built(Z, NOISE, IMAGES), expected)


def test_a_block_is_a_part_of_the_whole() -> None:
    """Layers add up, each reads the image for itself, and only those asked for are built."""
    whole = network()
    assert list(NoisyCNN(CONFIG, range(1, 3)).layers) == ["1", "2"]
    h, modulation = whole.stem(Z, NOISE, IMAGES)
    parts = [layer(torch.zeros_like(h), modulation) for layer in whole.layers.values()]
    torch.testing.assert_close(whole(Z, NOISE, IMAGES), whole.head(sum(parts), modulation))


@pytest.mark.parametrize("levels", [True, False])
def test_what_the_answer_depends_on(levels: bool) -> None:
    built = network(replace(CONFIG, levels=levels))
    base = built(Z, NOISE, IMAGES)
    assert base.shape == (6, 4)
    assert torch.equal(base, built(Z, NOISE + 1, IMAGES)) is not levels
    for z, images in ((Z + 1, IMAGES), (Z, Frames(IMAGES.values + 1))):
        assert not torch.equal(base, built(z, NOISE, images))
    torch.testing.assert_close(base[:2], built(Z[:2], NOISE[:2], IMAGES.take(slice(2))))  # a sample's answer is its own
    assert sum(p.numel() for p in NoisyCNN(CONFIG).head.parameters()) == 4 * 13


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"image_size=7 is too small to halve 3 times; use 8 or more"):
        replace(CONFIG, image_size=7)
    with pytest.raises(ValueError, match=r"filters=0 leaves nothing to compute with; use 1 or more"):
        replace(CONFIG, filters=0)
