"""A network of your own on a Dataset of your own, trained by oneblock: resumable, one block in memory, sampled.

python examples/own_network.py
"""

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import oneblock as ob

WIDTH, DEPTH, PATCH, SIDE = 64, 6, 4, 16


class MixerLayer(nn.Module):
    """Mixes tokens, then channels (Tolstikhin et al., Section 2, https://arxiv.org/abs/2105.01601)."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.tokens = nn.Sequential(nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Linear(2 * tokens, tokens))
        self.channels = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, h: Tensor, modulation: Tensor) -> Tensor:
        h = h + self.tokens((self.norms[0](h) + modulation).mT).mT
        return h + self.channels(self.norms[1](h) + modulation)


class Stem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.noise, self.label = (
            nn.Conv2d(3, WIDTH, PATCH, PATCH),
            nn.Linear(1, WIDTH),
            nn.Embedding(4, WIDTH),
        )

    def forward(self, z: Tensor, noise: Tensor, condition: ob.ClassIds) -> tuple[Tensor, Tensor]:
        return self.patches(z).flatten(2).mT, (self.noise(noise[:, None]) + self.label(condition.ids))[:, None]


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.ConvTranspose2d(WIDTH, 3, PATCH, PATCH)

    def forward(self, h: Tensor, modulation: Tensor) -> Tensor:
        return self.out((h + modulation).mT.unflatten(2, (SIDE // PATCH, -1)))


class Mixer(nn.Module):
    """``stem -> layers -> head``, built for the layers of one block alone."""

    def __init__(self, layers: range) -> None:
        super().__init__()
        self.stem, self.head = Stem(), Head()
        self.layers = nn.ModuleDict({str(i): MixerLayer((SIDE // PATCH) ** 2) for i in layers})


def main(out: str = "runs/own-network", budget: str = "60k") -> None:
    labels = torch.arange(600) % 3  # bright, grey and dark images; the fourth class stands for none of them
    images = (labels.view(-1, 1, 1, 1) * 0.8 - 0.8 + 0.1 * torch.randn(600, 3, SIDE, SIDE)).clamp(-1, 1)
    recipe = ob.ImageRecipe(depth=DEPTH, width=WIDTH, blocks=3, budget=budget, learning_rate=2e-3)
    ob.train(recipe, backbone=Mixer, data=TensorDataset(images, labels), out=out)
    samples = ob.Model.open(out, backbone=Mixer).sample([0, 1, 2] * 8).float().mean((1, 2, 3)).view(8, 3)
    print("mean brightness of each class:", samples.mean(0).round().tolist())


if __name__ == "__main__":
    main()
