"""``oneblock fsck``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from oneblock.cli import console
from oneblock.fsck import fsck
from oneblock.presets.tasks import load_backbone
from oneblock.report.fsck import findings_table


@dataclass(frozen=True, kw_only=True)
class Fsck:
    """Read every file of a run, a merged model or a comparison: what is wrong, and what is still good. Nothing is
    changed; the exit code is 1 when something is wrong."""

    directory: Positional[Path]
    """of a run, of a merged model or of a comparison"""
    backbone: str = ""
    """module:Class of the network, for a run that trains your own"""
    json: bool = False
    """print one JSON object per file instead of a table"""

    def run(self) -> int:
        found = fsck(self.directory, load_backbone(self.backbone) if self.backbone else None)
        if self.json:
            for file in found.files:
                console.emit({"path": str(file.path), "good": file.good, "note": file.note, "problem": file.problem})
        else:
            console.report(findings_table(found))
        return int(not found.good)
