"""A backbone in training that also shows its hidden tokens, projected: what representation alignment compares.

    answer, projection(h)        h the hidden tokens after one of the layers

The projection is three linear maps with SiLU between them, as in REPA (Yu et al., "Representation Alignment for
Generation", Section 3.2 and Appendix D, https://arxiv.org/abs/2410.06940). Its weights are trained and resumed with
their block, and are no part of the generator: merged and opened models are built without them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from oneblock.backbone import Backbone, as_backbone, through
from oneblock.condition import Condition
from oneblock.state import Hidden

PROJECTION = "projection"
"""What the names of its weights begin with."""


class Projecting(nn.Module):
    """A ``Backbone`` with a projection; without being asked for it, it computes exactly what the network computes.

    Args:
        network: a ``Backbone``, whose parts it takes over under their own names.
        width: of its hidden tokens, d.
        features: of the projection, f.
        after: how many of its layers come before the tokens that are projected, 1 or more.
    """

    def __init__(self, network: nn.Module, width: int, features: int, after: int) -> None:
        super().__init__()
        parts = as_backbone(network)
        self.stem, self.layers, self.head = parts.stem, parts.layers, parts.head
        self.config = getattr(network, "config", None)
        self.after = after
        hidden = 2 * width
        self.projection = nn.Sequential(
            nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, features)
        )


def projected(
    backbone: Backbone, z: Tensor, noise: Tensor, condition: Condition, checkpointing: bool = False
) -> tuple[Tensor, Hidden]:
    """The prediction of a ``Projecting`` backbone for ``z`` (n, ...), and its projected tokens (n, t, f)."""
    assert isinstance(backbone, Projecting), "others have no projection"
    h, modulation = backbone.stem(z, noise, condition)
    layers = list(backbone.layers.values())
    h = shown = through(layers[: backbone.after], h, modulation, checkpointing)
    h = through(layers[backbone.after :], h, modulation, checkpointing)
    tokens: Tensor = backbone.projection(shown)
    return backbone.head(h, modulation), Hidden(tokens, torch.zeros(len(z), dtype=torch.int64, device=z.device))
