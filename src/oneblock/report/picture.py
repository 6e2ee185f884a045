"""Pictures: grids of images and curves, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

LONGEST, LINES = 24, 3
"""Characters of a line of a name that a picture shows, and its lines."""


def check_pictures() -> None:
    """Raise an ``ImportError`` where there is no matplotlib."""
    _pyplot()


def image_grid(
    images: Tensor, path: Path, columns: int, pixels: int = 64, smooth: bool = False, names: Sequence[str] = ()
) -> Path:
    """Write uint8 images (n, c, h, w) row by row as one PNG, each enlarged by a whole factor to about ``pixels``:
    every pixel a square, or smoothly. ``names`` stand before the rows."""
    pyplot = _pyplot()
    n, _, height, _width = images.shape
    rows = -(-n // columns)
    padded = torch.cat([images, images.new_full((rows * columns - n, *images.shape[1:]), 255)])
    factor = max(1, pixels // height)
    mode = "bicubic" if smooth else "nearest"
    large = F.interpolate(padded.float(), scale_factor=factor, mode=mode).round().clamp(0, 255).to(torch.uint8)
    framed = F.pad(large, (1, 1, 1, 1), value=128)
    sheet = rearrange(framed, "(r k) c h w -> (r h) (k w) c", k=columns).expand(-1, -1, 3).contiguous()
    if names:
        sheet = torch.cat([_margin(names, sheet.shape[0] // rows, rows), sheet], dim=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    pyplot.imsave(path, sheet.numpy())
    return path


def _margin(names: Sequence[str], height: int, rows: int) -> Tensor:
    """A white strip uint8 (rows * height, width, 3) with a name in the middle of each row, in ``LINES`` of ``LONGEST``;
    what is longer is cut."""
    import numpy as np
    from PIL import Image, ImageDraw

    shown = [fill(name, LONGEST, max_lines=LINES, placeholder="..") for name in names]
    blank = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    widest = max(round(blank.multiline_textbbox((0, 0), name)[2]) for name in shown)
    strip = Image.new("RGB", (widest + 8, rows * height), "white")
    draw = ImageDraw.Draw(strip)
    for row, name in enumerate(shown):
        draw.text((strip.width - 4, round((row + 0.5) * height)), name, fill="black", anchor="rm", align="right")
    return torch.from_numpy(np.array(strip))


def curves(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    path: Path,
    x_label: str,
    y_label: str,
    logarithmic: bool = False,
) -> Path:
    """Write named lines of (x, y) points as one PNG."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for (name, points), marker in zip(lines.items(), "osD^v<>Px*p" * 3, strict=False):
        axes.plot(*zip(*points, strict=True), label=name, marker=marker if len(points) < 12 else None)
    if logarithmic:
        axes.set_xscale("log")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    return _written(pyplot, figure, axes, path)


@dataclass(frozen=True)
class RangedLine:
    """A line of means with ranges around them.

    Args:
        points: (x, mean, low, high), x ascending; above 0 where axes are logarithmic.
        color, style: which of the colours and of the line styles it has, 0 for the first; lines share them.
    """

    name: str
    points: Sequence[tuple[float, float, float, float]]
    color: int
    style: int


def ranged_lines(lines: Sequence[RangedLine], path: Path, x_label: str, y_label: str, logarithmic: bool = True) -> Path:
    """Write lines as one PNG, both axes logarithmic or neither."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(8, 5))
    for line in lines:
        x, mean, low, high = zip(*line.points, strict=True)
        drawn = {"color": f"C{line.color}", "linestyle": ("--", "-", ":")[line.style], "marker": "osD"[line.style]}
        axes.plot(x, mean, label=line.name, markersize=4, **drawn)
        axes.fill_between(x, low, high, color=f"C{line.color}", alpha=0.15, linewidth=0)
    if logarithmic:
        _both_logarithmic(axes)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    return _written(pyplot, figure, axes, path)


def _both_logarithmic(axes: Any) -> None:
    from matplotlib import ticker

    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(ticker.LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
        axis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        axis.set_minor_locator(ticker.NullLocator())


@dataclass(frozen=True)
class Sweep:
    """Shares against a variance.

    Args:
        name: of the main line; ``points`` are its (x, mean, low, high), x ascending and above 0.
        others: further lines of (x, y); ``levels``: values that do not depend on x.
    """

    name: str
    points: Sequence[tuple[float, float, float, float]]
    others: Mapping[str, Sequence[tuple[float, float]]]
    levels: Mapping[str, float]


def sweep(drawn: Sweep, path: Path, x_label: str, square_label: str, y_label: str) -> Path:
    """Write a sweep as one PNG, x logarithmic, its square on a second axis."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(7, 4.8))
    x, mean, low, high = zip(*drawn.points, strict=True)
    axes.plot(x, mean, marker="o", label=drawn.name)
    axes.fill_between(x, low, high, alpha=0.2, linewidth=0)
    for (name, points), marker in zip(drawn.others.items(), "sD^v" * 3, strict=False):
        axes.plot(*zip(*points, strict=True), label=name, marker=marker, linestyle=":")
    for (name, level), style in zip(drawn.levels.items(), ("--", "-.") * 5, strict=False):
        axes.axhline(level, label=name, color="black", linestyle=style, linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    second = axes.secondary_xaxis("top", functions=(lambda value: value**2, lambda value: abs(value) ** 0.5))
    second.set_xlabel(square_label)
    axes.grid(alpha=0.3)
    return _written(pyplot, figure, axes, path)


def bars(stacks: Mapping[str, Mapping[str, float]], path: Path, x_label: str, limit: float | None = None) -> Path:
    """Write named bars, each stacked from named parts, as one PNG; ``limit`` is drawn as a line."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 0.3 * len(stacks)))
    names = list(stacks)
    left = [0.0] * len(names)
    for part in dict.fromkeys(part for stack in stacks.values() for part in stack):
        widths = [float(stacks[name].get(part, 0.0)) for name in names]
        if any(widths):
            axes.barh(names, widths, left=left, label=part)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    if limit is not None:
        axes.axvline(limit, color="black", linestyle="--", label="limit")
    axes.invert_yaxis()
    axes.set_xlabel(x_label)
    return _written(pyplot, figure, axes, path)


def _written(pyplot: Any, figure: Any, axes: Any, path: Path) -> Path:
    axes.legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return path


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("pictures need matplotlib; pip install 'oneblock[report]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
