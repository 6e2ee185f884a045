import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import TINY, WORK
from report.pages import read_page

import oneblock as ob

pytest.importorskip("jinja2")
pytest.importorskip("sklearn")
Ok = Callable[..., list[dict[str, Any]]]
AUDIT = ("--chains", "20", "--cycles", "2", "--cycle-steps", "3", "--start-steps", "4", "--amplitudes", "0.2", "1.0")


def test_the_command_line_is_one_call(trained: Path, tmp_path: Path, ok: Ok) -> None:
    (said,) = ok("report", trained, "--samples", "2", "--json")
    assert said == {"page": str(trained / "report.html")}
    assert ob.report(trained, samples=2, out=tmp_path / "b.html").read_text() == (trained / "report.html").read_text()


def test_an_audit_names_its_model(trained: Path, tmp_path: Path, ok: Ok) -> None:
    pytest.importorskip("matplotlib")
    ok("audit", trained, *AUDIT, "--out", tmp_path / "a", "--json")
    ok("report", tmp_path / "a")
    said = read_page(tmp_path / "a" / "report.html")
    assert f"model {trained}" in said and ob.read_plan(trained).hash in said
    found = json.loads((tmp_path / "a" / "audit.json").read_text())
    assert f"{found['membership']['auc']:.3f}" in said


@pytest.mark.parametrize(
    ("task", "more"), [("images", ("shallow", "blockwise", "--num-samples", "0")), ("classify", ("blockwise",))]
)
def test_a_comparison_that_was_made(task: str, more: tuple[str, ...], tmp_path: Path, ok: Ok) -> None:
    pytest.importorskip("matplotlib")
    (made,) = ok("compare", task, "--out", tmp_path, *TINY, *WORK, "--seeds", "1", "--json", "--arms", *more)
    ok("report", tmp_path)
    said = read_page(tmp_path / "report.html")
    key = "loss" if task == "images" else "nll"
    assert all(f"{row[key]:.4f}" in said for row in made["runs"])
    assert f"{len(made['runs'])} of {len(made['runs'])} runs have a result." in said and "What is missing" not in said
    assert ("block 1, sigma" in said) == (task == "images")


def test_refusals(tmp_path: Path, trained: Path, refused: Callable[..., str]) -> None:
    assert "is neither a run, nor a merged model, a comparison, a benchmark or an audit" in refused(
        "report", tmp_path / "x"
    )
    assert "is not the name of a page; use one that ends in .html" in refused("report", trained, "--out", "a.pdf")
