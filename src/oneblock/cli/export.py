"""``oneblock export``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from oneblock.cli import console
from oneblock.model import Model
from oneblock.presets.tasks import load_backbone


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the model of a converted network as the library of that network does: a network for each block.

    Each loads in its library by from_pretrained; README.md in the directory says how. `oneblock sample` and `oneblock
    evaluate` take the directory too.
    """

    model: Positional[Path]
    """directory of a run or of a merged model"""
    out: Path
    """directory of the exported model"""
    backbone: str = ""
    """module:Class of the network, for a run that does not keep it"""
    json: bool = False
    """print one JSON object instead of text"""

    def run(self) -> None:
        model = Model.open(self.model, resident=1, backbone=load_backbone(self.backbone) if self.backbone else None)
        model.export(self.out)
        if self.json:
            console.emit({"out": str(self.out), "plan": model.plan.hash, "blocks": model.plan.num_blocks})
        else:
            console.say(f"exported {model.plan.num_blocks} blocks into {self.out}; {self.out / 'README.md'} says more")
