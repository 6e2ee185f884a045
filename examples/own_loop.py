"""Your network, your loop, your optimizer: points on a spiral, each block on its own band of noise.

python examples/own_loop.py
"""

import torch
from torch import Tensor, nn

import oneblock as ob

DEPTH, BLOCKS, WIDTH = 6, 3, 64


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 128), nn.GELU(), nn.Linear(128, WIDTH))

    def forward(self, h: Tensor, modulation: None) -> Tensor:
        return h + self.f(h)


class Mine(nn.Module):
    """``stem -> layers -> head``, built for the layers of one block alone."""

    def __init__(self, layers: range) -> None:
        super().__init__()
        self.lift, self.out = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 2)
        self.layers = nn.ModuleDict({str(i): Layer() for i in layers})

    def stem(self, z: Tensor, noise: Tensor, condition: ob.Condition) -> tuple[Tensor, None]:
        return self.lift(torch.cat([z, noise[:, None]], dim=-1)), None

    def head(self, h: Tensor, modulation: None) -> Tensor:
        return self.out(h)


def main(steps: int = 400) -> list[float]:
    turn = torch.rand(4096) * 9
    points = torch.stack([turn.cos(), turn.sin()], dim=1) * turn[:, None] / 9
    partition = ob.make_partition(ob.LogNormal(), num_blocks=BLOCKS, overlap=0.05)
    losses = []
    for b in range(BLOCKS):
        layers = range(b * DEPTH // BLOCKS, (b + 1) * DEPTH // BLOCKS)
        denoiser = ob.BlockDenoiser(Mine(layers), ob.Precondition(sigma_data=0.5))
        optimizer = torch.optim.Adam(denoiser.parameters(), 2e-3)
        for _ in range(steps):
            y = points[torch.randint(len(points), (256,))]
            loss = ob.denoising_loss(denoiser, y, None, sigma=partition.draw(b, len(y)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
        print(f"block {b}: loss {loss.item():.3f}")
    return losses


if __name__ == "__main__":
    main()
