"""Small networks with a way for states, and states for them."""

import torch
from torch import Tensor, nn

from oneblock.blockwise import BlockDenoiser
from oneblock.models.encoder import Encoder, EncoderConfig
from oneblock.precondition import MaskedTokens
from oneblock.relay import RelayAdapter
from oneblock.state import Hidden

V, T, D = 5, 7, 16
CONFIG = EncoderConfig(vocabulary=V, context=T, depth=3, width=D, heads=2)


def shaken(module: nn.Module, seed: int = 0, scale: float = 0.3) -> nn.Module:
    """Random weights everywhere: the zero initial gates would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=generator))
    return module


def encoder(seed: int = 0) -> Encoder:
    network = Encoder(CONFIG)
    shaken(network, seed)
    return network


def masked_denoiser(seed: int = 0, zero: bool = False) -> BlockDenoiser:
    """An encoder that carries states, with its way open unless ``zero``."""
    adapter = RelayAdapter(encoder(seed), mask_id=V)
    if not zero:
        shaken(adapter.relay, seed + 1, 1.0)
    return BlockDenoiser(adapter, MaskedTokens())


def random_state(count: int, seed: int = 0, owner: int = 0) -> Hidden:
    generator = torch.Generator().manual_seed(seed)
    return Hidden(torch.randn(count, T, D, generator=generator), torch.full((count,), owner))


def masked_tokens(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Sequences with some places masked, and their times."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(V + 1, (count, T), generator=generator), torch.linspace(0.1, 1.0, count)
