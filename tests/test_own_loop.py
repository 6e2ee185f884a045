"""A network and a training loop of one's own, with nothing of ours but partition, denoiser and loss."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import oneblock as ob
from oneblock.backbone import check_backbone
from oneblock.blockwise import Denoiser
from oneblock.condition import told
from oneblock.sample import SAMPLERS, karras_grid
from oneblock.sample.generate import generate

CENTRES = 0.7 * torch.tensor([[math.cos(a), math.sin(a)] for a in (0.0, 2.1, 4.2)])
"""Of three classes of points in the plane."""


class Mine(nn.Module):
    def __init__(self, layers: range, width: int = 32) -> None:
        super().__init__()
        self.enter, self.level, self.classes = nn.Linear(2, width), nn.Linear(1, width), nn.Embedding(4, width)
        self.layers = nn.ModuleDict({str(i): Layer(width) for i in layers})
        self.leave = nn.Linear(width, 2)

    def stem(self, z: Tensor, noise: Tensor, condition: ob.Condition) -> tuple[Tensor, Tensor]:
        return self.enter(z), self.level(noise[:, None]) + self.classes(told(condition, ob.ClassIds).ids)

    def head(self, h: Tensor, modulation: Tensor) -> Tensor:
        out: Tensor = self.leave(h)
        return out


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, h: Tensor, modulation: Tensor) -> Tensor:
        out: Tensor = h + 0.5 * self.down(nn.functional.silu(self.up(h + modulation)))
        return out


def points(count: int) -> TensorDataset:
    """Points (count, 2) near the centres of their classes, which go round in turn."""
    classes = torch.arange(count) % 3
    return TensorDataset(CENTRES[classes] + 0.05 * torch.randn(count, 2), classes)


def test_blocks_that_are_trained_alone_denoise_together() -> None:
    torch.manual_seed(0)
    partition = ob.make_partition(ob.LogNormal(), num_blocks=3, overlap=0.05)
    blocks, losses = [], []
    for b in range(3):
        denoiser = ob.BlockDenoiser(Mine(layers=range(4 * b, 4 * b + 4)), ob.Precondition(sigma_data=0.5))
        optimizer = torch.optim.Adam(denoiser.parameters(), lr=3e-3)
        history = []
        for y, x in DataLoader(points(128 * 120), batch_size=128, shuffle=True):
            loss = ob.denoising_loss(denoiser, y, x, sigma=partition.draw(b, len(y)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(loss.item())
        blocks.append(denoiser.eval())
        losses.append((sum(history[:5]) / 5, sum(history[-20:]) / 20))
    assert all(last < 0.6 * first for first, last in losses), losses

    grid, classes = karras_grid(partition.law.low, partition.law.high, 12), ob.ClassIds(torch.arange(300) % 3)
    whole = Denoiser(partition, lambda b: blocks[b])
    found = generate(whole, SAMPLERS["heun"], grid, classes, (2,), seed=0)
    apart = torch.cdist(found, CENTRES)
    assert (apart.argmin(1) == classes.ids).float().mean() > 0.98
    own = apart.gather(1, classes.ids[:, None]).square().mean().sqrt().item()
    assert own == pytest.approx(0.05 * math.sqrt(2), abs=0.08)  # chance: 0.7 and more


def test_the_network_keeps_the_contract() -> None:
    z = torch.zeros(2, 2)
    check_backbone(Mine, 12, z, torch.zeros(2), ob.ClassIds(torch.arange(2)), expected=z.shape)
