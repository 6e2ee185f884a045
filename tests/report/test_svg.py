import math
import re
from xml.etree import ElementTree

import pytest
import torch

from oneblock.report.html.page import Dot, Dots, lines_chart, picture, png
from oneblock.report.html.svg import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, Line, chart, drawn, number


def corners(svg: str) -> list[tuple[float, float]]:
    (points,) = re.findall(r'<polyline class="[^"]*" points="([^"]*)"', svg)
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in points.split())]


def test_a_line_stands_where_its_points_are() -> None:
    (a, b, c) = corners(chart([Line("loss", [(0.0, 1.0), (5.0, 2.0), (10.0, 3.0)])], "x", "y"))
    assert a[0] < b[0] < c[0] and a[1] > b[1] > c[1], "larger values stand higher"
    assert b == (pytest.approx((a[0] + c[0]) / 2, abs=0.11), pytest.approx((a[1] + c[1]) / 2, abs=0.11))
    assert all(LEFT <= x <= WIDTH - RIGHT and TOP <= y <= HEIGHT - BOTTOM for x, y in (a, b, c))


def test_a_logarithmic_axis_has_equal_steps_for_equal_factors() -> None:
    a, b, c = corners(chart([Line("loss", [(1.0, 1.0), (10.0, 1.0), (100.0, 1.0)])], "x", "y", log_x=True))
    assert b[0] - a[0] == pytest.approx(c[0] - b[0], abs=0.2)


def test_what_cannot_be_drawn_is_left_out() -> None:
    line = Line("l", [(0.0, 1.0), (1.0, math.nan), (2.0, -1.0), (3.0, 2.0)], 0, 0, [(3.0, -1.0, 2.0)])
    (kept,) = drawn([line, Line("empty", [(0.0, math.inf)])], log_x=True, log_y=True)
    assert kept.points == [(3.0, 2.0)] and kept.ranges == []
    assert lines_chart("t", [Line("empty", [])], "x", "y") == []


@pytest.mark.parametrize(
    ("low", "high", "logarithmic", "ticks"),
    [
        (0.0, 10.0, False, [0, 2, 4, 6, 8, 10]),
        (0.31, 0.44, False, [0.325, 0.35, 0.375, 0.4, 0.425]),
        (1.0, 1000.0, True, [1, 10, 100, 1000]),
        (11.0, 80.0, True, [15, 20, 30, 40, 50, 70]),
        (10.0, 20.0, True, [10, 12, 14, 16, 18, 20]),
        (1e-3, 1e9, True, [1e-3, 1, 1e3, 1e6, 1e9]),
    ],
)
def test_ticks_are_round_and_few(low: float, high: float, logarithmic: bool, ticks: list[float]) -> None:
    assert Axis(low, high, 0, 1, logarithmic).ticks() == pytest.approx(ticks)


def test_a_single_point_has_an_axis() -> None:
    for value in (0.0, 5.0, -3.0):
        (at,) = corners(chart([Line("l", [(value, value)])], "x", "y"))
        assert LEFT < at[0] < WIDTH - RIGHT and TOP < at[1] < HEIGHT - BOTTOM
    chart([Line("l", [(5.0, 5.0)])], "x", "y", log_x=True, log_y=True)


def test_only_whole_numbers_are_marked_where_x_counts() -> None:
    line = [Line("l", [(1.0, 0.5), (2.0, 0.25)])]
    assert "1.2<" in chart(line, "call", "y")
    assert "1.2<" not in chart(line, "call", "y", whole_x=True) and ">2<" in chart(line, "call", "y", whole_x=True)


def test_names_are_text() -> None:
    root = ElementTree.fromstring(chart([Line('<a> & "b"', [(1.0, 2.0)])], "<x>", '"y" & z'))
    assert [one.text for one in root.iter("title")] == ['<a> & "b": 1, 2']
    assert root.get("aria-label") == '"y" & z against <x>'


@pytest.mark.parametrize(
    ("value", "text"), [(0.05, "0.05"), (12.0, "12"), (200_000.0, "200k"), (1.8e6, "1.8M"), (0.0, "0"), (-2e3, "-2k")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text


def test_dots_stand_on_one_scale() -> None:
    dots = Dots("t", [Dot("a", 2.0, 1.0, 3.0, ""), Dot("b", 5.0, 5.0, 5.0, "")])
    assert [dots.share(value) for value in (1.0, 2.0, 3.0, 5.0)] == [0.0, 25.0, 50.0, 100.0]
    assert Dots("t", [Dot("a", 2.0, 2.0, 2.0, "")]).share(2.0) == 50.0


def test_a_png_holds_its_pixels() -> None:
    image = pytest.importorskip("PIL.Image")
    numpy = pytest.importorskip("numpy")
    import io

    pixels = torch.randint(0, 256, (5, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with image.open(io.BytesIO(png(pixels))) as found:
        assert found.mode == "RGB" and torch.equal(torch.from_numpy(numpy.array(found)), pixels)


def test_images_stand_row_by_row() -> None:
    found = picture(torch.full((5, 1, 8, 8), 9, dtype=torch.uint8), 3, "five")
    assert (found.width, found.height, found.factor) == (3 * 9 - 1, 2 * 9 - 1, 5)
    assert found.uri.startswith("data:image/png;base64,")
