"""A user's own Dataset and network, and how they train them; run as a program it trains into the directory named."""

import sys

import torch
from torch import nn

import oneblock as ob


class Cifar(torch.utils.data.Dataset):  # like CIFAR: 3 x 32 x 32 bytes, ten classes
    def __len__(self):
        return 500

    def __getitem__(self, i):
        generator = torch.Generator().manual_seed(i)
        return torch.randint(25 * (i % 10), 25 * (i % 10) + 30, (3, 32, 32), generator=generator).byte(), i % 10


class Mix(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.channels = nn.Linear(16, 16), nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 32), nn.GELU())

    def forward(self, h, modulation):
        h = h + self.tokens(h.mT).mT
        return h + self.channels(h + modulation)


class Mixer(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.patch, self.noise, self.label = nn.Conv2d(3, 32, 8, 8), nn.Linear(1, 32), nn.Embedding(11, 32)
        self.layers = nn.ModuleDict({str(i): Mix() for i in layers})
        self.out = nn.ConvTranspose2d(32, 3, 8, 8)

    def stem(self, z, noise, condition):
        return self.patch(z).flatten(2).mT, (self.noise(noise[:, None]) + self.label(condition.ids))[:, None]

    def head(self, h, modulation):
        return self.out(h.mT.unflatten(2, (4, 4)))


RECIPE = ob.ImageRecipe(depth=6, width=32, blocks=3, batch_size=48, budget="15k")
if __name__ == "__main__":
    ob.train(RECIPE, backbone=Mixer, data=Cifar(), out=sys.argv[1], machine=ob.Machine(threads=1, save_every=20))
