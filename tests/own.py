"""A network of a user's own, for images 1 x 8 x 8 of ten classes."""

import torch
from torch import Tensor, nn

from oneblock.condition import ClassIds

WIDTH = 8


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)

    def forward(self, h: Tensor, modulation: Tensor) -> Tensor:
        return h + self.inner(torch.tanh(h + modulation))


class Stem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pixels, self.noise, self.label = nn.Linear(64, WIDTH), nn.Linear(1, WIDTH), nn.Embedding(11, WIDTH)

    def forward(self, z: Tensor, noise: Tensor, condition: ClassIds) -> tuple[Tensor, Tensor]:
        return self.pixels(z.flatten(1)), self.noise(noise[:, None]) + self.label(condition.ids)


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(WIDTH, 64)

    def forward(self, h: Tensor, modulation: Tensor) -> Tensor:
        return self.out(h + modulation).unflatten(1, (1, 8, 8))


class Own(nn.Module):
    def __init__(self, layers: range) -> None:
        super().__init__()
        self.stem, self.head = Stem(), Head()
        self.layers = nn.ModuleDict({str(i): Layer() for i in layers})
