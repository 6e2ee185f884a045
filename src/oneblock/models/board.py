"""A small encoder of Sudokus, of which masked digits are learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from oneblock.backbone import Modulation
from oneblock.condition import Condition
from oneblock.data.sudoku import CELLS, SIDE, SYMBOLS, box_of
from oneblock.models.layers import Layer, LayerConfig


class Board(nn.Module):
    """A backbone: symbols and masks int64 (n, 36) -> logits (n, 36, ``SYMBOLS``).

    A cell is its symbol with the embeddings of its row, column and box. The network is not told the masked share.

    Args:
        last: of the last layer, how many times as wide as usual its perceptron is.
    """

    def __init__(self, width: int, depth: int, heads: int, last: int = 1) -> None:
        super().__init__()
        self.symbol, self.row, self.column, self.box = (
            nn.Embedding(size, width) for size in (SYMBOLS + 1, SIDE, SIDE, SIDE)
        )
        ratios = [LayerConfig.mlp_ratio * (last if i == depth - 1 else 1) for i in range(depth)]
        layers = [LayerConfig(width=width, heads=heads, mlp_ratio=ratio) for ratio in ratios]
        self.layers = nn.ModuleDict({str(i): _Untold(layer) for i, layer in enumerate(layers)})
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, SYMBOLS)

    def stem(self, z: Tensor, noise: Tensor, condition: Condition) -> tuple[Tensor, Modulation]:
        cells = torch.arange(CELLS, device=z.device)
        boxes = torch.tensor([box_of(cell) for cell in range(CELLS)], device=z.device)
        return self.symbol(z) + self.row(cells // SIDE) + self.column(cells % SIDE) + self.box(boxes), None

    def head(self, h: Tensor, modulation: Modulation) -> Tensor:
        logits: Tensor = self.out(self.norm(h))
        return logits


class _Untold(Layer):
    """A plain layer as a layer of a backbone: it is told nothing besides the tokens."""

    def forward(self, h: Tensor, modulation: Modulation) -> Tensor:  # type: ignore[override]
        return super().forward(h)
