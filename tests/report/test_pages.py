"""``ob.report``: pages of runs, comparisons and audits, from their directories alone."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import RECIPES, tokens
from report.pages import read_page
from report.test_spread import ROWS
from safetensors.torch import save_file
from tiny import FACTS, IMAGES, metrics_line, tiny_plan, tiny_run

import oneblock as ob
from oneblock.experiment.images import SAMPLES_FILE
from oneblock.experiment.results import RESULT_FILE, record
from oneblock.plan import PLAN_FILE, write_plan
from oneblock.report.audit import JSON_FILE
from oneblock.report.html.write import REPORT_FILE
from oneblock.train import record as records
from oneblock.train.checkpoint import job_folder
from oneblock.train.drive import Watch, drive
from oneblock.train.session import SESSIONS_FILE, in_session

pytest.importorskip("jinja2")
QUIET = Watch(bars=False)
NAMES = ("<b>cat</b>", "a & b", '"quoted"')
PLAN = tiny_plan(facts=replace(FACTS, classes=NAMES), branch=0.5)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A branched run of two blocks on classes with odd names."""
    place = tmp_path_factory.mktemp("pages") / "run"
    drive(tiny_run(place, PLAN), watch=QUIET)
    return place


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_a_run_tells_its_numbers(run: Path) -> None:
    page = ob.report(run)
    assert page == run / REPORT_FILE
    said = read_page(page)
    assert "3 of 3 jobs are trained to their end." in said
    for job in ("trunk", "block-0", "block-1"):
        (*_, last) = records.read_rows(job_folder(run, job) / records.METRICS_FILE)
        assert f"{float(last['loss']):.4f}" in said, f"the last loss of {job}"
    assert PLAN.hash in said and f"{PLAN.edges[1]:.4g}" in said
    assert "layer_evaluations" in said, "the plan as it is kept"
    levels = [f"block {b}, sigma" for b in (0, 1)]
    assert all(words in said for words in levels), "samples block by block"
    assert "torch " + torch.__version__ in said and "seed 0" in said
    assert "counted from the plan" in said and "activations" in said
    assert "What is missing scores on held-out data: none are kept in this directory" in said


def test_text_of_the_data_is_text(run: Path) -> None:
    page = ob.report(run, out=run.parent / "<i>&.html")
    assert "<b>cat</b>" in read_page(page), "its text"
    text = page.read_text("utf-8")
    assert "&lt;b&gt;cat&lt;/b&gt;" in text and "<b>" not in text
    assert "a & b" not in text


def test_pictures_are_within_the_page(run: Path) -> None:
    with_samples, without = ob.report(run).read_text("utf-8"), ob.report(run, samples=0).read_text("utf-8")
    assert with_samples.count('src="data:image/png;base64,') == PLAN.num_blocks
    assert "<img" not in without and "Each column is a noise level" not in without


def test_a_run_half_trained_says_what_is_missing(tmp_path: Path) -> None:
    plan = tiny_plan()
    drive(tiny_run(tmp_path, plan), "block-0", watch=QUIET)
    said = read_page(ob.report(tmp_path))
    assert "1 of 2 jobs are trained to their end." in said
    assert "block-1 is not trained to its end: step 0 of 6, not started" in said
    assert "samples: " in said and "has no checkpoint of block 1" in said


def test_a_plan_alone_has_a_page(tmp_path: Path) -> None:
    write_plan(tiny_plan(), tmp_path)
    said = read_page(ob.report(tmp_path))
    assert "0 of 2 jobs" in said and "No job has written a row of metrics yet." in said
    assert "This was not recorded" in said


def test_what_was_measured_on_a_gpu_stands_beside_the_plan(run: Path) -> None:
    path = run / "block-1" / SESSIONS_FILE
    path.write_text(path.read_text().replace('"gpu_bytes": null', '"gpu_bytes": 123456789'))
    said = read_page(ob.report(run, samples=0))
    assert "block-1, measured on the GPU 123 MB" in said and "block-0, measured" not in said


@pytest.mark.parametrize("name", ["masked", "text"])
def test_a_run_of_text_writes(tmp_path: Path, name: str) -> None:
    ob.train(RECIPES[name], data=tokens(tmp_path), out=tmp_path / "run", watch=QUIET)
    said = read_page(ob.report(tmp_path / "run", samples=1))
    (text,) = ob.Model.open(tmp_path / "run").sample(1)  # type: ignore[attr-defined]
    assert f"as it is written 0 {' '.join(text.split())}" in said


def test_a_damaged_checkpoint_is_a_warning(run: Path) -> None:
    newest = sorted((run / "block-1").glob("step-*.safetensors"))[-1]
    newest.write_bytes(newest.read_bytes()[:40])
    said = read_page(ob.report(run))
    assert "Warnings block-1, " in said and newest.name in said
    assert "2 of 3 jobs" in said


def test_a_model_has_a_page_without_jobs(run: Path, tmp_path: Path) -> None:
    ob.Model.open(run).save(tmp_path / "model")
    said = read_page(ob.report(tmp_path / "model"))
    assert "oneblock report of a model" in said and "block 1, sigma" in said
    assert "jobs are trained" not in said


def test_scores_beside_a_run_are_shown(run: Path) -> None:
    record(run, {"arm": "branched", "seed": 0, "loss": 0.123456, "band_losses": [0.25, 0.5], "note": "few <samples>"})
    said = read_page(ob.report(run))
    assert "0.12346" in said and "0.25 / 0.5" in said and "few <samples>" in said
    assert "What is missing" not in said


def compared(place: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    """A comparison as ``compare`` leaves it, with one more run that was asked for and one that has begun."""
    names = [row["run"] for row in rows]
    with in_session(place, {"task": "images", "runs": [*names, "shallow-1k-seed0", "experts-1k-seed0"]}):
        for row in rows:
            run = place / row["run"]
            write_plan(tiny_plan(seed=row["seed"]), run)
            keys = ("arm", "seed", "layer_evaluations", "band_losses", *[k for k in row if k not in ("budget", "run")])
            record(run, {**{key: row[key] for key in keys}, "extractor": "digits-cnn"})
            (run / "block-0").mkdir()
            (run / "block-0" / "metrics.jsonl").write_text(metrics_line(loss=row["loss"]))
            save_file({"images": torch.zeros(24, 1, 8, 8, dtype=torch.uint8)}, run / SAMPLES_FILE)
        write_plan(tiny_plan(), place / "shallow-1k-seed0")
    return place


def test_a_comparison_tells_its_numbers(tmp_path: Path) -> None:
    said = read_page(ob.report(compared(tmp_path / "c"), samples=0))
    assert "6 of 8 runs have a result." in said
    assert "1.5000 ± 0.7071 (1.0000 to 2.0000)" in said, "means, spreads and ranges"
    assert "12.00 ± 2.83 (10.00 to 14.00)" in said
    assert "branched against end-to-end: lower loss in 2 of 3 runs" in said
    assert "shallow-1k-seed0 has begun, and has no result yet" in said
    assert "experts-1k-seed0 has not begun" in said
    assert tiny_plan(seed=1).hash in said
    assert "held-out loss (lower is better)" in said


def test_a_comparison_shows_samples_of_the_first_seed(tmp_path: Path) -> None:
    for name, rows in (("one budget", ROWS[:4]), ("two budgets", ROWS)):
        text = ob.report(compared(tmp_path / name, rows), samples=0).read_text("utf-8")
        assert text.count("data:image/png") == 2, "two arms, of the first seed and the last budget"


def test_a_comparison_without_results_has_a_page(tmp_path: Path) -> None:
    write_plan(tiny_plan(), tmp_path / "blockwise-1k-seed0")
    said = read_page(ob.report(tmp_path))
    assert "0 of 1 runs have a result." in said and "results: no run has one yet" in said


def test_results_of_another_scoring_are_a_warning(tmp_path: Path) -> None:
    rows = [{**row, "num_samples": 10 + row["seed"]} for row in ROWS]
    said = read_page(ob.report(compared(tmp_path / "c", rows), samples=0))
    assert "Warnings the runs were not all scored with the same num_samples" in said


def test_a_damaged_result_is_left_out_and_named(tmp_path: Path) -> None:
    place = compared(tmp_path / "c")
    (place / ROWS[0]["run"] / RESULT_FILE).write_text("{")
    said = read_page(ob.report(place, samples=0))
    assert "5 of 8 runs have a result." in said and f"{ROWS[0]['run']} has begun" in said
    assert "is not JSON as oneblock writes it" in said


def audit_row() -> dict[str, Any]:
    share = [0.25, 0.125, 0.5]
    one = {"q": 0.1, "samples": 20, "copies": share, "distinct": 3, "false_copies": [0.0, 0.0, 0.1], "calls": 99}
    one |= {"degenerate": 0.1, "attractors": 4, "copied_attractors": 2}
    cycles = [{**one, "how": "cycles", "sampler": "ancestral", "sigma": sigma} for sigma in (0.2, 0.4)]
    members = {"auc": 0.731, "tpr": 0.2, "fpr": 0.01, "members": 40, "others": 30, "chance": 0.6}
    return {
        "asked": {"reverse": "ancestral", "cycles": 3, "amplitudes": []},
        "kappa": 0.33,
        "held_out_images": 30,
        "held_out_copies": 0,
        "base_rate": [0.0, 0.0, 0.1],
        "rows": [{**one, "how": "one-shot", "sampler": "ancestral"}, *cycles],
        "survival": [{"sigma": 0.2, "training": [1.0, 0.5, 0.5], "held_out": [0.5, 0.25, 0.0]}],
        "memories": [{"image": 7, "copies": 5, "samples": 6, "half_at": 0.3}],
        "membership": {**members, "band_auc": [0.6, 0.8], "edges": [80.0, 0.5, 0.002]},
        "verdict": "copies",
    }


def test_an_audit_tells_its_numbers(tmp_path: Path) -> None:
    (tmp_path / JSON_FILE).write_text(json.dumps(audit_row()))
    said = read_page(ob.report(tmp_path))
    assert "VERDICT: this model has memorised training images." in said
    assert "0.731" in said and "25.0 (12.5 to 50.0)" in said
    assert "which model was audited" in said, "of an earlier version"


def test_an_audit_in_a_run_is_part_of_its_page(run: Path) -> None:
    (run / JSON_FILE).write_text(json.dumps(audit_row()))
    (run / "recovered.png").write_bytes(b"")
    said = read_page(ob.report(run, samples=0))
    assert "VERDICT: this model has memorised" in said and "recovered.png in the directory shows" in said
    assert "<img" not in (run / REPORT_FILE).read_text("utf-8"), "no recovered image is handed on"


@pytest.mark.parametrize("content", ["[]", "{}", '{"rows": []}', "{"])
def test_what_is_no_audit_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / JSON_FILE).write_text(content)
    with pytest.raises(ValueError, match=r"audit\.json is not"):
        ob.report(tmp_path)


def test_other_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="neither a run, nor a merged model, a comparison, a benchmark or an audit; give"
    ):
        ob.report(tmp_path)
    with pytest.raises(ValueError, match="neither a run"):
        ob.report(tmp_path / "nowhere")
    write_plan(tiny_plan(), tmp_path)
    with pytest.raises(ValueError, match=r"is not the name of a page; use one that ends in \.html"):
        ob.report(tmp_path, out=tmp_path / "page.pdf")
    with pytest.raises(ValueError, match="samples=-1 is not allowed"):
        ob.report(tmp_path, samples=-1)
    (tmp_path / PLAN_FILE).write_text("{}")
    with pytest.raises(ValueError, match=r"plan\.json"):
        ob.report(tmp_path)


def test_no_training_data_are_needed(run: Path) -> None:
    assert not (run / "data.json").exists() and len(IMAGES) == 48, "the images are made in memory"
    assert (run / "block-0" / SESSIONS_FILE).is_file()
    assert "pytest" in read_page(ob.report(run, samples=0)), "the command that trained it"
