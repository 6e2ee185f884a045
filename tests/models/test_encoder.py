import pytest
import torch

from oneblock.condition import Nothing
from oneblock.models.encoder import Encoder, EncoderConfig

CONFIG = EncoderConfig(vocabulary=7, context=6, depth=4, width=16, heads=4)


def randomised(layers: range | None = None) -> Encoder:
    torch.manual_seed(0)
    encoder = Encoder(CONFIG, layers)
    with torch.no_grad():
        for p in encoder.parameters():
            p.normal_(std=0.3)
    return encoder


def test_every_place_sees_every_other_and_the_level() -> None:
    encoder, tokens, noise = randomised(), torch.tensor([[0, 3, 7, 2, 7, 6]]), torch.tensor([0.5])
    whole = encoder(tokens, noise, Nothing(len(tokens)))
    assert whole.shape == (1, 6, 7)
    for place in range(6):
        changed = tokens.clone()
        changed[0, place] = 5
        moved = (encoder(changed, noise, Nothing(len(tokens))) - whole).abs().amax(-1)[0]
        assert bool((moved > 1e-4).all())
    assert not torch.allclose(encoder(tokens, noise + 1, Nothing(len(tokens))), whole)


def test_order_matters_and_samples_do_not_meet() -> None:
    encoder, tokens = randomised(), torch.randint(8, (3, 6), generator=torch.Generator().manual_seed(1))
    noise = torch.rand(3)
    whole = encoder(tokens, noise, Nothing(len(tokens)))
    torch.testing.assert_close(encoder(tokens[1:2], noise[1:2], Nothing(1)), whole[1:2])
    turned = encoder(tokens.flip(1), noise, Nothing(len(tokens))).flip(1)
    assert not torch.allclose(turned, whole, atol=1e-3)


def test_a_part_has_the_keys_of_the_whole() -> None:
    whole, part = Encoder(CONFIG).state_dict(), Encoder(CONFIG, range(2, 4)).state_dict()
    assert set(part) == {key for key in whole if not key.startswith(("layers.0.", "layers.1."))}


def test_an_untrained_network_says_nothing() -> None:
    tokens = torch.tensor([[7, 7, 1]])
    assert torch.equal(Encoder(CONFIG)(tokens, torch.tensor([0.1]), Nothing(len(tokens))), torch.zeros(1, 3, 7))


def test_refusals() -> None:
    with pytest.raises(ValueError, match="the sequence has 7 tokens, but the network was made for 6; cut it"):
        Encoder(CONFIG)(torch.zeros(1, 7, dtype=torch.long), torch.zeros(1), Nothing(1))
    with pytest.raises(ValueError, match="vocabulary=0 leaves nothing to learn"):
        EncoderConfig(vocabulary=0, context=6, depth=4, width=16, heads=4)
