"""A network of your own on a Dataset of your own, trained by oneblock: resumable, one block in memory, sampled.

python examples/own_network.py
"""

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import oneblock as ob

WIDTH, DEPTH, PATCH, TOKENS = 64, 6, 4, 16


class Layer(nn.Module):
    """Mixes tokens, then channels (Tolstikhin et al., Section 2, https://arxiv.org/abs/2105.01601)."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Sequential(nn.Linear(TOKENS, 32), nn.GELU(), nn.Linear(32, TOKENS))
        self.channels = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 128), nn.GELU(), nn.Linear(128, WIDTH))

    def forward(self, h: Tensor, modulation: Tensor) -> Tensor:
        h = h + self.tokens(h.mT).mT
        return h + self.channels(h + modulation)


class Mixer(nn.Module):
    """``stem -> layers -> head``, built for the layers of one block alone."""

    def __init__(self, layers: range) -> None:
        super().__init__()
        self.patches, self.noise, self.label = (
            nn.Linear(3 * PATCH**2, WIDTH),
            nn.Linear(1, WIDTH),
            nn.Embedding(4, WIDTH),
        )
        self.layers = nn.ModuleDict({str(i): Layer() for i in layers})
        self.out = nn.Linear(WIDTH, 3 * PATCH**2)

    def stem(self, z: Tensor, noise: Tensor, condition: ob.ClassIds) -> tuple[Tensor, Tensor]:
        patches = nn.functional.unfold(z, PATCH, stride=PATCH).mT
        return self.patches(patches), (self.noise(noise[:, None]) + self.label(condition.ids))[:, None]

    def head(self, h: Tensor, modulation: Tensor) -> Tensor:
        return nn.functional.fold(self.out(h + modulation).mT, (16, 16), PATCH, stride=PATCH)


def main(out: str = "runs/own-network", budget: str = "60k") -> None:
    labels = torch.arange(600) % 3  # dark, grey and bright images; the network's fourth class stands for none of them
    images = (labels.view(-1, 1, 1, 1) * 0.8 - 0.8 + 0.1 * torch.randn(600, 3, 16, 16)).clamp(-1, 1)
    recipe = ob.ImageRecipe(depth=DEPTH, width=WIDTH, blocks=3, budget=budget, learning_rate=2e-3)
    ob.train(recipe, backbone=Mixer, data=TensorDataset(images, labels), out=out)
    samples = ob.Model.open(out, backbone=Mixer).sample([0, 1, 2] * 8)
    print("mean brightness of each class:", samples.float().mean((1, 2, 3)).view(8, 3).mean(0).round().tolist())


if __name__ == "__main__":
    main()
