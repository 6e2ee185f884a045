"""Charts as SVG that stands within a page: text and axes take the colour of the text around them, lines the colours of
the page's classes ``c0`` to ``c7`` and the dashes of ``d0`` to ``d2``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 440, 270
"""Of the view box; small, so that letters can be read where a chart is as wide as a phone."""
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 40
COLORS, DASHES = 8, 3
TICKS = 6
"""On an axis, about."""
STEPS = ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,))
"""Of a logarithmic axis, times powers of ten: the first that gives few enough ticks."""
FEW = 40
"""Points of a line up to which each is marked."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A named line.

    Args:
        points: (x, y); what is not finite, or not above 0 on a logarithmic axis, is left out.
        ranges: (x, lowest, highest) around it.
        color, dash: which it has; taken in turn.
    """

    name: str
    points: Sequence[Point]
    color: int = 0
    dash: int = 0
    ranges: Sequence[tuple[float, float, float]] = ()

    @property
    def style(self) -> str:
        """Classes of the page's style sheet."""
        return f"c{self.color % COLORS} d{self.dash % DASHES}"


@dataclass(frozen=True)
class Axis:
    """From ``low`` to ``high`` over ``start`` to ``stop`` in the view box."""

    low: float
    high: float
    start: float
    stop: float
    logarithmic: bool

    def at(self, value: float) -> float:
        """Where a value stands."""
        low, high, value = (math.log(one) if self.logarithmic else one for one in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Round values, in order: of a logarithmic axis over a factor of 4 or more some times powers of ten."""
        if not self.logarithmic or self.high < 4 * self.low:
            return _linear(self.low, self.high)
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for steps in STEPS:
            found = [step * 10.0**power for power in powers for step in steps]
            found = [value for value in found if self.low <= value <= self.high]
            if len(found) <= TICKS:
                return found
        return found[:: -(-len(found) // TICKS)]


def chart(
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
    whole_x: bool = False,
) -> str:
    """An SVG element of some lines, which must have a point among them (``drawn``).

    Args:
        whole_x: x counts something: only whole numbers are marked.
    """
    shown = drawn(lines, log_x, log_y)
    edges = [(x, value) for line in shown for x, *values in line.ranges for value in values]
    points = [point for line in shown for point in line.points] + edges
    x = _axis([x for x, _ in points], LEFT, WIDTH - RIGHT, log_x, 0.02)
    y = _axis([y for _, y in points], HEIGHT - BOTTOM, TOP, log_y, 0.06)
    marks = [value for value in x.ticks() if not whole_x or math.isclose(value, round(value))]
    parts = [*_frame(x, y, marks, x_label, y_label)]
    for line in shown:
        parts += _line(line, x, y)
    label = escape(f"{y_label} against {x_label}", quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def drawn(lines: Sequence[Line], log_x: bool = False, log_y: bool = False) -> list[Line]:
    """The lines with what of them can be drawn, those that have a point."""

    def fits(x: float, *values: float) -> bool:
        finite = all(math.isfinite(value) for value in (x, *values))
        return finite and (x > 0 or not log_x) and (min(values) > 0 or not log_y)

    found = [
        Line(
            line.name,
            [point for point in line.points if fits(*point)],
            line.color,
            line.dash,
            [point for point in line.ranges if fits(*point)],
        )
        for line in lines
    ]
    return [line for line in found if line.points]


def number(value: float) -> str:
    """``0.05``, ``12``, ``200k``, ``1.8M``."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.6g}{unit}"
    return f"{value:.6g}"


def _axis(values: Sequence[float], start: float, stop: float, logarithmic: bool, margin: float) -> Axis:
    """An axis that holds all values, with a margin."""
    low, high = min(values), max(values)
    if logarithmic:
        factor = max(high / low, 1.2) ** margin
        return Axis(low / factor, high * factor, start, stop, True)
    room = (high - low) * margin or abs(high) * 0.1 or 1.0
    return Axis(low - room, high + room, start, stop, False)


def _linear(low: float, high: float) -> list[float]:
    power = 10.0 ** math.floor(math.log10((high - low) / TICKS))
    for step in (size * power for size in (1, 2, 2.5, 5, 10, 20)):
        found = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
        if len(found) <= TICKS:
            break
    return [i * step for i in found]


def _frame(x: Axis, y: Axis, marks: Sequence[float], x_label: str, y_label: str) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>']
    for value in y.ticks():
        at = y.at(value)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{right}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{number(value)}</text>')
    for value in marks:
        at = x.at(value)
        parts.append(f'<path class="grid" d="M{at:.1f} {TOP}V{bottom}"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{number(value)}</text>')
    middle = (LEFT + right) / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    turned = f'transform="translate(13 {(TOP + bottom) / 2:.0f}) rotate(-90)"'
    parts.append(f'<text {turned} text-anchor="middle">{escape(y_label)}</text>')
    return parts


def _line(line: Line, x: Axis, y: Axis) -> list[str]:
    parts = []
    if line.ranges:
        around = [(at, high) for at, _, high in line.ranges] + [(at, low) for at, low, _ in reversed(line.ranges)]
        corners = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in around)
        parts.append(f'<polygon class="range {line.style}" points="{corners}"/>')
    path = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in line.points)
    parts.append(f'<polyline class="line {line.style}" points="{path}"/>')
    if len(line.points) <= FEW:
        for a, b in line.points:
            said = escape(f"{line.name}: {number(a)}, {b:.6g}")
            parts.append(
                f'<circle class="{line.style}" cx="{x.at(a):.1f}" cy="{y.at(b):.1f}" r="2.5"><title>{said}</title>'
                "</circle>"
            )
    return parts
