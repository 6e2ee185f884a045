"""A page as data, and its HTML: one file without a reference to anything outside it (jinja2, ``page.html``)."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from oneblock.report.html.svg import Line, chart, drawn
from oneblock.report.table import Table
from oneblock.version import VERSION

TEMPLATE = Path(__file__).with_name("page.html")
PIXELS = 40
"""Small images are shown about so high."""


@dataclass(frozen=True)
class Facts:
    """Names and their values."""

    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Words:
    """Paragraphs."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Code:
    """Text as it is, folded away under its title."""

    title: str
    text: str


@dataclass(frozen=True)
class Command:
    """Something to type."""

    text: str


@dataclass(frozen=True)
class Chart:
    """A chart with the names of its lines below it (``lines_chart``)."""

    title: str
    svg: str
    lines: Sequence[Line]


@dataclass(frozen=True)
class Bar:
    """Named parts that add up; ``said`` stands behind them."""

    name: str
    parts: Sequence[float]
    said: str


@dataclass(frozen=True)
class Bars:
    """Bars on one scale, each of the parts ``names``."""

    title: str
    names: Sequence[str]
    bars: Sequence[Bar]

    @property
    def most(self) -> float:
        """The longest, and above 0."""
        return max([sum(bar.parts) for bar in self.bars], default=0.0) or 1.0


@dataclass(frozen=True)
class Dot:
    """A named value within its range; ``said`` stands behind it."""

    name: str
    mean: float
    low: float
    high: float
    said: str


@dataclass(frozen=True)
class Dots:
    """Values on one scale, from the lowest to the highest of their ranges."""

    title: str
    dots: Sequence[Dot]

    def share(self, value: float) -> float:
        """Where a value stands, in percent."""
        low, high = min(dot.low for dot in self.dots), max(dot.high for dot in self.dots)
        return 100 * (value - low) / (high - low) if high > low else 50.0


@dataclass(frozen=True)
class Picture:
    """A picture within the page (``picture``), of so many pixels, each shown as a square of ``factor``."""

    caption: str
    uri: str
    width: int
    height: int
    factor: int


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side."""

    title: str
    pictures: Sequence[Picture]
    note: str = ""


Part: TypeAlias = Table | Facts | Words | Code | Command | Chart | Bars | Dots | Pictures


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    parts: Sequence[Part]


@dataclass(frozen=True, kw_only=True)
class Page:
    """What there is to say of a directory.

    Args:
        kind: what it is, in a word or two; ``summary`` says in a sentence or more how it stands.
        missing: what a complete directory would have, a line each.
        warnings: what must be known beside the numbers, a line each.
    """

    kind: str
    directory: Path
    summary: Sequence[str]
    sections: Sequence[Section]
    missing: Sequence[str] = ()
    warnings: Sequence[str] = field(default=())


def lines_chart(
    title: str,
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
    whole_x: bool = False,
) -> list[Chart]:
    """A chart of some lines, as ``svg.chart`` draws it; none where nothing of them can be drawn."""
    shown = drawn(lines, log_x, log_y)
    return [Chart(title, chart(shown, x_label, y_label, log_x, log_y, whole_x), shown)] if shown else []


def picture(images: Tensor, columns: int, caption: str) -> Picture:
    """Images uint8 (n, c, h, w) row by row, pixel for pixel, a line of another colour between them."""
    n, _, _, _ = images.shape
    rows = -(-n // columns)
    padded = torch.cat([images, images.new_full((rows * columns - n, *images.shape[1:]), 128)])
    framed = F.pad(padded, (0, 1, 0, 1), value=128)
    sheet = rearrange(framed, "(r k) c h w -> (r h) (k w) c", k=columns)[:-1, :-1]
    colours = sheet[..., :3].expand(-1, -1, 3).contiguous()
    height, width, _ = colours.shape
    factor = max(1, PIXELS // images.shape[2])
    return Picture(caption, f"data:image/png;base64,{base64.b64encode(png(colours)).decode()}", width, height, factor)


def png(pixels: Tensor) -> bytes:
    """A PNG of uint8 (h, w, 3): 8 bits a channel, rows unfiltered (https://www.w3.org/TR/png-3/)."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + bytes(row.flatten().tolist()) for row in pixels)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def check_html() -> None:
    """Raise an ``ImportError`` where there is no jinja2."""
    _environment()


def html(page: Page) -> str:
    """The page as HTML; every text in it is escaped."""
    kinds = {section.title: [(type(part).__name__, part) for part in section.parts] for section in page.sections}
    template = _environment().from_string(TEMPLATE.read_text("utf-8"))
    text: str = template.render(page=page, kinds=kinds, version=VERSION)
    return text


def _environment() -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise ImportError("reports as HTML need jinja2; pip install 'oneblock[report]'") from error
    return jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
