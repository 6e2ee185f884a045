"""``oneblock report``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from oneblock.cli import console
from oneblock.presets.tasks import load_backbone
from oneblock.report.html.parts import SAMPLES
from oneblock.report.html.write import report
from oneblock.train.machine import Machine


@dataclass(frozen=True, kw_only=True)
class Report:
    """One HTML page that tells all there is to know of a run, a merged model, a comparison or an audit.

    It is made of the directory alone, and refers to nothing outside itself: it can be mailed, and read on a phone.
    What the directory lacks, of a run half trained for example, is said in it.
    """

    directory: Positional[Path]
    """of a run, a merged model, a comparison or an audit (its --out)"""
    out: Path | None = None
    """file of the page (default: report.html in the directory)"""
    samples: int = SAMPLES
    """images that are drawn to be shown on their way through the noise levels (0: no model is opened)"""
    device: str = Machine.device
    """where they are drawn: cpu, cuda, cuda:1, mps"""
    backbone: str = ""
    """module:Class of the network, for a run that trains your own"""
    json: bool = False
    """print one JSON object instead of a line"""

    def run(self) -> None:
        backbone = load_backbone(self.backbone) if self.backbone else None
        page = report(self.directory, out=self.out, samples=self.samples, device=self.device, backbone=backbone)
        if self.json:
            console.emit({"page": str(page)})
        else:
            print(f"page: {page}")
