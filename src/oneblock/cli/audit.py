"""``oneblock audit``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from oneblock.cli import console
from oneblock.cli.opening import Opening
from oneblock.data import ImageData
from oneblock.evaluate.auditing import Auditing
from oneblock.model import ImageModel
from oneblock.report import audit
from oneblock.report.picture import check_pictures


def _own_images() -> ImageData:
    """Those of the plan."""
    return ImageData(data="")


@dataclass(frozen=True, kw_only=True)
class AuditImages(Opening):
    """What an image generator has memorised of its training images, with controls: copies, and who was trained.

    Samples are noised and denoised again and again at several amplitudes; what chains stay at is compared with the
    training images and with held-out ones. The same steps can draw training images out of a model of somebody else:
    audit models and data that are your own. No recovered image is written without --show.
    """

    out: Path | None = None
    """directory for audit.json and the pictures (default: none are written)"""
    show: bool = False
    """also write recovered images beside their training images into --out"""
    held_out: str = ""
    """images that were never trained, by name (default: the test split of --data)"""
    data: ImageData = field(default_factory=_own_images)
    auditing: Auditing = field(default_factory=Auditing)

    def run(self) -> None:
        if self.show and self.out is None:
            raise ValueError("show=True writes recovered images into --out; give --out DIR too")
        if self.out is not None:
            check_pictures()
        model = self.open(ImageModel)
        found = model.audit(
            self.data,
            held_out=replace(self.data, data=self.held_out) if self.held_out else None,
            show=self.show,
            said=console.teller(self.json),
            **asdict(self.auditing),
        )
        about = {"model": str(self.model), "plan": model.plan.hash, "data": self.data.data or model.plan.recipe["data"]}
        written = audit.write(found, self.out, about) if self.out is not None else []
        if self.json:
            console.emit(found.row)
            return
        console.report(audit.report(found))
        for path in written:
            console.say(f"written: {path}")


AUDIT: dict[str, type[Opening]] = {"image": AuditImages}
"""The options of ``oneblock audit`` by task."""
