"""What the verbs that open a model have in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tyro.conf import Positional

from oneblock.model import Model
from oneblock.presets.tasks import load_backbone
from oneblock.train.machine import Machine

AnyModel = TypeVar("AnyModel", bound=Model)


@dataclass(frozen=True, kw_only=True)
class Opening:
    """Which model, and where it works."""

    model: Positional[Path]
    """directory of a run or of a merged model"""
    json: bool = False
    """print JSON instead of text"""
    backbone: str = ""
    """module:Class of the network of your own that the run was trained with"""
    device: str = Machine.device
    """cpu, cuda, cuda:1, mps"""
    threads: int = Machine.threads
    """CPU threads (0: OMP_NUM_THREADS, else the CPUs that this process may use)"""
    resident: int | None = None
    """blocks kept in memory; 1 holds a single block at any time"""

    def open(self, kind: type[AnyModel]) -> AnyModel:
        """The model."""
        device = Machine(device=self.device, threads=self.threads).torch_device()
        backbone = load_backbone(self.backbone) if self.backbone else None
        return kind.open(self.model, device=device, resident=self.resident, backbone=backbone)
