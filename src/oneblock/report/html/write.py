"""``report``: a page for whatever lies in a directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from oneblock.backbone import BuildBackbone
from oneblock.checks import check_count
from oneblock.experiment.bench import BENCH_FILE
from oneblock.fsck import kind_of
from oneblock.plain import write_whole
from oneblock.report.audit import JSON_FILE
from oneblock.report.html.audit import audit_page
from oneblock.report.html.bench import bench_page
from oneblock.report.html.comparison import comparison_page
from oneblock.report.html.page import Page, check_html, html
from oneblock.report.html.parts import SAMPLES, Shown
from oneblock.report.html.run import run_page
from oneblock.report.html.sudoku import is_relay, relay_page
from oneblock.train.machine import Machine

REPORT_FILE = "report.html"
MOST_SAMPLES = 64
PAGES: dict[str, Callable[[Path, Shown], Page]] = {
    "run": run_page,
    "model": run_page,
    "comparison": comparison_page,
    "audit": audit_page,
    "benchmark": bench_page,
    "relay": relay_page,
}
"""Kind of a directory -> its page; a new kind has its place here and in ``kind``."""


def report(
    directory: str | Path,
    *,
    out: str | Path | None = None,
    samples: int = SAMPLES,
    device: str = Machine.device,
    backbone: BuildBackbone | None = None,
) -> Path:
    """Write one HTML file that tells all there is to know of a run, a merged model, a comparison, a benchmark or an
    audit, from its directory alone. The file refers to nothing outside it. What the directory lacks is said in it.

    Args:
        out: the file; None is ``report.html`` in the directory.
        samples: images that are drawn to be shown on their way through the noise levels (0: no model is opened).
        device: where they are drawn.
        backbone: the user's own network, of a run that trains one.

    Returns:
        The file.

    Raises:
        ValueError: the directory is none of these, or its plan cannot be read.
        ImportError: jinja2 is not installed.
    """
    place = Path(directory)
    check_count("samples", samples, least=0, most=MOST_SAMPLES)
    check_html()
    target = place / REPORT_FILE if out is None else Path(out)
    if target.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"out={str(target)!r} is not the name of a page; use one that ends in .html")
    page = PAGES[kind(place)](place, Shown(samples=samples, device=device, backbone=backbone))
    text = html(page)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, text)
    return target


def kind(directory: Path) -> str:
    """What a directory is, a key of ``PAGES``; ``ValueError`` for none of them."""
    if (directory / BENCH_FILE).is_file():
        return "benchmark"
    try:
        found = kind_of(directory)
        return "relay" if found == "comparison" and is_relay(directory) else found
    except ValueError as error:
        if (directory / JSON_FILE).is_file():
            return "audit"
        raise ValueError(
            f"{directory} is neither a run, nor a merged model, a comparison, a benchmark or an audit; give the "
            "directory that oneblock train, merge, compare, bench or audit --out has written"
        ) from error
