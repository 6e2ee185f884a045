"""A benchmark of methods: two tasks, two protocols, and how far the rankings agree."""

import inspect
import re
import warnings
from pathlib import Path
from statistics import fmean

import pytest
import torch

import oneblock as ob
from oneblock.evaluate.images import Sampling
from oneblock.evaluate.protocol import PROTOCOL, RETRIEVAL_PROTOCOL
from oneblock.experiment.bench import ATTRIBUTES, GUIDANCES, SCORE, BenchExperiment, Benchmark, bench, reopen_bench
from oneblock.experiment.bench import METHODS as METHODS_OF_ALL
from oneblock.experiment.methods import combined
from oneblock.metrics import caption_features
from oneblock.metrics.ranking import pearson
from oneblock.presets.base import ImageFacts
from oneblock.report.bench import report

NO_FEATURES = "ignore:scores are losses alone"
"""Of pictures of scenes, where the extractor is not installed."""
METHODS = ("edm", "flow", "shallow", "blockwise")
RECIPE = ob.ImageRecipe(depth=3, width=8, heads=1, branch=0.5, budget=300, batch_size=8)
SCORING = BenchExperiment(num_samples=24, sampling=Sampling(steps=3), guided=3.0)


def run(out: Path, **changes: object) -> Benchmark:
    settings = {"methods": METHODS, "recipe": RECIPE, "experiment": SCORING, "seeds": 1} | changes
    return bench(out=out, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.filterwarnings("ignore", "scores are losses alone")
        patch.setenv("ONEBLOCK_DATA", str(tmp_path_factory.mktemp("data")))
        patch.setattr(caption_features, "MOST_STEPS", 10)
        return run(tmp_path_factory.mktemp("bench"))


def test_every_method_has_a_row_on_both_tasks(found: Benchmark) -> None:
    for task in ("classes", "captions"):
        assert [row["arm"] for row in found.tasks[task].rows] == list(METHODS)
    assert all("frechet" in row for row in found.tasks["classes"].rows)
    for row in found.tasks["captions"].rows:
        known = [row["caption_agreement"][name] for name in ATTRIBUTES]
        assert row[SCORE] == pytest.approx(fmean(known))
        assert row[f"{SCORE}_real"] == 1.0
        encoder = row[RETRIEVAL_PROTOCOL]["extractor_hash"]
        assert row["guided"][RETRIEVAL_PROTOCOL]["extractor_hash"] == encoder, "one encoder for all"
        assert row["caption_retrieval_chance"] == 1 / row["caption_retrieval_captions"]
    assert not any("caption_retrieval" in row for row in found.tasks["classes"].rows)


def test_guidance_is_all_that_the_protocols_differ_in(found: Benchmark) -> None:
    for row in found.tasks["classes"].rows:
        plain, guided = row[PROTOCOL], row["guided"][PROTOCOL]
        assert {key for key in plain if plain[key] != guided[key]} == {"guidance"}
        assert (plain["guidance"], guided["guidance"]) == (1.0, 3.0)
        assert row["frechet"] != row["guided"]["frechet"]
        assert "loss" not in row["guided"]


def test_rankings_are_correlated_by_hand(found: Benchmark) -> None:
    assert set(found.agreements) == {(one, other) for one in GUIDANCES for other in GUIDANCES}
    for (by_class, by_caption), one in found.agreements.items():
        distances = [row["frechet"] for row in found.rows("classes", by_class)]
        shares = [row[SCORE] for row in found.rows("captions", by_caption)]
        expected = pearson(*(torch.tensor(one, dtype=torch.float64) for one in (distances, shares)))
        assert one.pooled.pearson.value == pytest.approx(expected, nan_ok=True)
        assert one.sign == -1, "a distance is better where it is low"
        assert one.small == ("by blocks",)
        assert one.groups["whole"].num_methods == 3


@pytest.mark.filterwarnings(NO_FEATURES)
def test_it_goes_on_where_it_was_stopped_and_is_read_again(found: Benchmark) -> None:
    results = {path: path.stat().st_mtime_ns for path in found.out.rglob("result.json")}
    assert len(results) == 8
    again = run(found.out)
    assert {path: path.stat().st_mtime_ns for path in found.out.rglob("result.json")} == results
    read, _ = reopen_bench(found.out)
    assert {task: one.rows for task, one in read.tasks.items()} == {task: one.rows for task, one in again.tasks.items()}
    assert read.guided == 3.0


def test_tables_and_page_show_every_method_and_protocol(found: Benchmark) -> None:
    tables, said = report(found).tables, "\n".join(report(found).lines)
    for table in tables[:4]:
        assert [row[0] for row in table.rows] == list(METHODS)
    assert [row[:3] for row in tables[4].rows][::2] == [
        ("no guidance", "no guidance", "all, 4"),
        ("no guidance", "guided", "all, 4"),
        ("guided", "no guidance", "all, 4"),
        ("guided", "guided", "all, 4"),
    ]
    heads = [f"own caption nearest, {guidance}" for guidance in ("no guidance", "guided")]
    assert tables[1].columns[-4:] == (*heads, "its chance", "its real images")
    shares = [f"{100 * row['caption_retrieval']:.1f} %" for row in found.rows("captions", "guided")]
    assert [row[-3] for row in tables[1].rows] == shares
    assert "a negative correlation means that they agree" in said
    assert "recipe.captions" in said
    page = ob.report(found.out, samples=0).read_text()
    assert "a benchmark of methods" in page
    assert "do the tasks rank the methods alike?" in page
    assert page.count("blockwise") >= 4
    assert heads[1] in page


def test_the_example_of_the_page_on_scores(found: Benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "scores.md").read_text()
    (example,) = re.findall(r"```python\n(from oneblock.report.bench.*?)```", page, re.DOTALL)
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(ob, "bench", lambda **settings: asked.append(settings) or found)
    exec(example, {"ob": ob})
    (settings,) = asked
    assert settings.keys() <= inspect.signature(bench).parameters.keys()
    assert set(settings["methods"]) <= METHODS_OF_ALL.keys()  # type: ignore[call-overload]


def test_with_two_methods_or_one_task_nothing_is_correlated(found: Benchmark) -> None:
    rows = {task: one.rows[:2] for task, one in found.tasks.items()}
    two = Benchmark(
        out=found.out,
        guided=3.0,
        tasks={
            task: type(one)(task="images", out=one.out, rows=rows[task], scores=one.scores)
            for task, one in found.tasks.items()
        },
    )
    assert two.agreements == {}
    assert "three methods or more on both tasks" in "\n".join(report(two).lines)
    alone = Benchmark(out=found.out, guided=3.0, tasks={"captions": found.tasks["captions"]})
    assert alone.agreements == {}
    assert len(report(alone).tables) == 2


def test_layers_are_the_same_for_classes_and_captions(found: Benchmark) -> None:
    """Names and shapes of the trunk's parameters; the stem alone knows what is told."""
    shapes = []
    for task in found.tasks:
        model = ob.Model.open(found.out / task / "edm-300-seed0")
        network = model.denoiser.block(0).backbone
        shapes.append({name: p.shape for name, p in network.named_parameters() if name.startswith("layers.")})
    assert shapes[0] == shapes[1]
    assert shapes[0]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    for changes, said in (
        ({"tasks": ["scenes"]}, "tasks='scenes' is not allowed"),
        ({"methods": ["bogus"]}, "arm 'bogus' does not exist; use some of edm, flow"),
        ({"methods": ["edm", "edm"]}, "'edm' is named twice"),
        ({"seeds": 0}, "seeds=0"),
    ):
        with pytest.raises(ValueError, match=said):
            run(tmp_path / "none", **changes)
    with pytest.raises(ValueError, match=r"guided=1.0 and guidance=1.0: one protocol is without guidance"):
        BenchExperiment(guided=1.0)
    with pytest.raises(ValueError, match="leave guidance out"):
        BenchExperiment(sampling=Sampling(guidance=2.0))
    (tmp_path / "bench.json").write_text("[]")
    with pytest.raises(ValueError, match="is not that of a benchmark; run oneblock bench again"):
        reopen_bench(tmp_path)


def test_a_method_is_made_of_changes_in_their_order() -> None:
    facts = ImageFacts(shape=(1, 8, 8), num_classes=10, classes=tuple("0123456789"), data="x", fingerprint="")
    plan = combined("end-to-end", "flow-shifted")(RECIPE).plan(facts)
    assert (plan.num_blocks, plan.recipe["objective"], plan.recipe["shift"]) == (1, "flow", 3.0)
    assert combined("branched", "flow")(RECIPE).plan(facts).num_blocks == 3
