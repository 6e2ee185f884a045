import math
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from tiny import FACTS, IMAGES, tiny_classify_plan, tiny_classify_recipe, tiny_plan
from torch import Tensor

from oneblock.calibrate import entropy_law
from oneblock.data import Characters, Samples, to_float
from oneblock.models.vit import ViTConfig
from oneblock.noise import LogNormal
from oneblock.plan import Plan, differences
from oneblock.precondition import Evidence, Logits, Precondition
from oneblock.presets import (
    SIZES,
    MaskedRecipe,
    Size,
    TextFacts,
    blockwise,
    build_backbone,
    classify_task,
    image_shape,
    image_task,
    label_table,
    masked_task,
    plan_task,
    training_peak,
)
from oneblock.presets.classify import vit_config
from oneblock.table import orthonormal, random_unit, simplex
from oneblock.train.block import BlockLearner, block_learner, train_step
from oneblock.train.step import JobSpec, OptimizerSettings
from oneblock.train.strategy import job_specs, plan_budget, plan_optimizer


def test_every_size_builds() -> None:
    assert set(get_args(Size)) == set(SIZES)
    for size, (depth, width, _) in SIZES.items():
        plan = tiny_plan(size=size, depth=0, width=0, heads=0)
        with torch.device("meta"):
            block = build_backbone(plan)(plan.layer_range(1))
        assert len(block.get_submodule("layers")._modules) == depth // 2
        assert block.get_submodule("stem.embed").out_features == width


def test_what_goes_into_a_plan_comes_out() -> None:
    settings = OptimizerSettings(learning_rate=0.2, accumulate=2, precision="bf16")
    plan = tiny_plan(optimizer=settings, branch=0.25, warmup=0.1, budget=999, sigma_data=0.7, label_dropout=0.2)
    assert plan_optimizer(plan) == settings
    budget = plan_budget(plan)
    assert (budget.layer_evaluations, budget.branch, budget.warmup, budget.batch_size) == (999, 0.25, 0.1, 8)
    assert image_shape(plan) == (1, 8, 8)
    assert (image_task(plan).num_classes, image_task(plan).label_dropout) == (3, 0.2)
    assert image_task(plan).frame == Precondition(0.7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"facts": replace(FACTS, shape=(1, 8, 6))}, "images are 8 x 6; use square images"),
        ({"layers": (1, 2)}, r"layers=\(1, 2\) adds up to 3, but the depth is 4"),
        ({"blocks": 3}, "num_blocks=3 does not divide depth=4; use 1, 2 or 4"),
        ({"size": "huge"}, "size='huge' is not allowed in ImageRecipe; use one of nano, micro"),
        ({"warmup": 1.0}, "warmup=1.0 is not a fraction"),
    ],
)
def test_wrong_recipes_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_plan(**changes)


def test_plans_for_other_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="architecture 'mamba' is unknown; this version of oneblock builds: dit, vit"):
        build_backbone(replace(tiny_plan(), architecture={"name": "mamba"}))
    with pytest.raises(ValueError, match=r"architecture \['dit'\] is unknown"):
        build_backbone(replace(tiny_plan(), architecture={"name": ["dit"]}))
    with pytest.raises(ValueError, match="task='chess' is unknown; this version of oneblock trains: image, classify"):
        plan_task(replace(tiny_plan(), task="chess"))
    with pytest.raises(ValueError, match="task='text': this plan is not for images"):
        image_task(replace(tiny_plan(), task="text"))
    with pytest.raises(ValueError, match="task='image': this plan is not for classification; use a plan with task 'cl"):
        classify_task(tiny_plan())
    with pytest.raises(ValueError, match="the plan's recipe lacks layer_evaluations, batch_size"):
        plan_budget(replace(tiny_plan(), recipe={"data": "x"}))


PROTOTYPES = (3.0, 0.0, 0.0, 0.0, 2.0, 0.0, -1.0, -1.0, 1.0)
CHOICES: list[dict[str, Any]] = [
    {},
    {"table": "orthonormal"},
    {"table": "random", "label_width": 5},
    {"table": "prototypes", "prototypes": PROTOTYPES},
    {"law": "log-normal"},
    {"inputs": "bayes"},
    {"inputs": "scaled"},
    {"inputs": "scaled", "table": "random", "skip": True},
    {"noisy_token": "class"},
    {"noisy_token": "none"},
    {"modulated": True},
    {"weighting": "edm"},
    {"weighting": "clipped"},
    {"weighting": "normalised"},
    {"loss": "squared"},
    {"label_smoothing": 0.1},
    {"layers": (1, 3)},
]


def reread(plan: Plan) -> Plan:
    return Plan.from_json(plan.to_json())


@pytest.mark.parametrize("changes", CHOICES)
def test_a_classification_plan_survives_its_file(changes: dict[str, Any]) -> None:
    plan = tiny_classify_plan(**changes)
    back = reread(plan)
    assert back == plan
    assert back.hash == plan.hash
    assert not differences(back, plan)
    assert back.partition.law == plan.partition.law
    assert vit_config(back) == vit_config(plan)
    assert label_table(back).equal(label_table(plan))


def test_the_law_of_a_plan_is_calibrated_to_its_table() -> None:
    plan = reread(tiny_classify_plan(table="random", label_width=5))
    assert plan.partition.law == entropy_law(random_unit(3, 5, seed=0))
    mass = plan.partition.law.cdf(torch.tensor(plan.edges, dtype=torch.float64))
    assert mass.tolist() == pytest.approx([1.0, 0.5, 0.0], abs=1e-9)
    assert tiny_classify_plan(law="log-normal").partition.law == LogNormal()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, simplex(3)),
        ({"table": "orthonormal"}, orthonormal(3, 16, seed=4)),
        ({"table": "orthonormal", "label_width": 2}, orthonormal(3, 3, seed=4)),
        ({"table": "random"}, random_unit(3, 16, seed=4)),
        ({"table": "random", "label_width": 5}, random_unit(3, 5, seed=4)),
        (
            {"table": "prototypes", "prototypes": PROTOTYPES},
            torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-(3**-0.5), -(3**-0.5), 3**-0.5]]),
        ),
    ],
)
def test_every_machine_has_the_same_table(changes: dict[str, Any], expected: Tensor) -> None:
    plan = tiny_classify_plan(seed=4, **changes)
    torch.manual_seed(1)  # the global generator must not matter
    table = label_table(reread(plan))
    torch.testing.assert_close(table, expected)
    assert plan.recipe["table_width"] == table.shape[1]
    assert classify_task(plan).table.equal(table)
    if changes.get("table") == "random":
        assert not label_table(tiny_classify_plan(seed=5, **changes)).equal(table)


def test_the_papers_choices() -> None:
    plan = tiny_classify_plan(recipe="paper", branch=0.5, inputs="bayes", label_width=3, sigma_data=0.9)
    assert (plan.overlap, plan.sigma_data, plan.shared) == (0.05, 0.5, "joint")
    assert plan.partition.law == LogNormal()
    assert plan_budget(plan).branch == 0.0
    assert plan.edges == tiny_plan().edges
    assert label_table(plan).equal(random_unit(3, 16, seed=0))
    config = vit_config(plan)
    assert (config.modulated, config.skip_sigma_data, config.label_width) == (True, 0.5, 16)
    task = classify_task(plan)
    assert (task.kind, task.weighting, task.label_smoothing) == ("cross-entropy", "edm", 0.0)
    assert task.precondition == Precondition(0.5)
    assert blockwise(plan).denoiser(1).frame == Logits(Precondition(0.5))
    assert plan.recipe["layer_evaluations"] == tiny_classify_recipe().budget


def test_what_goes_into_a_classification_plan_comes_out() -> None:
    plan = reread(
        tiny_classify_plan(weighting="clipped", loss="squared", label_smoothing=0.2, sigma_data=0.7, inputs="bayes")
    )
    task = plan_task(plan)
    assert isinstance(task, type(classify_task(plan)))
    assert (task.weighting, task.kind, task.label_smoothing) == ("clipped", "squared", 0.2)
    assert task.precondition == Precondition(0.7)
    assert image_shape(plan) == (1, 8, 8)
    expected = ViTConfig(image_size=8, channels=1, num_classes=3, label_width=3, depth=4, width=16, heads=2, patch=4)
    assert vit_config(plan) == expected
    assert vit_config(tiny_classify_plan(table="random", label_width=5)).label_width == 3, "one evidence per class"
    assert vit_config(tiny_classify_plan(table="random", label_width=5, inputs="scaled")).label_width == 5
    frames = {name: blockwise(tiny_classify_plan(inputs=name)).denoiser(0).frame for name in ("evidence", "bayes")}
    assert isinstance(frames["evidence"], Evidence)
    assert {name: frame.skip for name, frame in frames.items()} == {"evidence": False, "bayes": True}  # type: ignore[union-attr]
    assert frames["bayes"].table.equal(simplex(3))  # type: ignore[attr-defined]


def job_and_batch(plan: Plan, block: int) -> tuple[JobSpec, BlockLearner, Any]:
    spec = replace(job_specs(plan)[block], batch_size=2)
    learner = block_learner(spec, blockwise(plan).denoiser(block), plan_optimizer(plan))
    generator = torch.Generator().manual_seed(0)
    sigma = plan.partition.levels(*spec.band, 2, generator)
    samples = Samples(to_float(IMAGES.images[:2]), IMAGES.labels[:2])
    return spec, learner, plan_task(plan).draw(samples, sigma, block, generator)


@pytest.mark.parametrize("changes", CHOICES)
def test_every_choice_trains(changes: dict[str, Any]) -> None:
    """The head begins at zero, so the first answer is an even guess, or Bayes' rule with one."""
    plan = tiny_classify_plan(**changes)
    spec, learner, batch = job_and_batch(plan, 1)
    task, rows = classify_task(plan), label_table(plan)
    z, sigma = batch.noised.z, batch.noised.sigma
    guess = torch.zeros(2, 3)
    if changes.get("inputs") == "bayes":
        guess = -0.5 * (z[:, None] - rows).square().sum(-1) / sigma[:, None] ** 2
    p, even = guess.softmax(-1), [-math.log(1 / 3)] * 2
    if changes.get("loss") == "squared":
        expected = (p @ rows - rows[batch.targets]).square().sum(-1)
    else:
        expected = -p[torch.arange(2), batch.targets].log()
        assert changes.get("inputs") == "bayes" or expected.tolist() == pytest.approx(even)
    first = train_step(spec, learner, task, batch)
    assert first.plain == pytest.approx(expected.mean().item(), rel=1e-4)
    assert first.grad_norm > 0
    assert first.layer_evaluations == 2 * plan.layers[1]
    plain = [train_step(spec, learner, task, batch).plain for _ in range(2)]
    assert plain[-1] < first.plain, "two steps on the same two images help"
    moved = [name for name, p in learner.weights.items() if not p.equal(learner.averages[name])]
    assert any(name.startswith(f"layers.{plan.depth - 1}.") for name in moved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"table": "prototypes"}, "prototypes=0 numbers do not make 3 rows; give those of oneblock.table.prototypes"),
        ({"table": "prototypes", "prototypes": (1.0, 2.0)}, "prototypes=2 numbers do not make 3 rows"),
        ({"facts": replace(FACTS, num_classes=1)}, "num_classes=1 leaves nothing to tell apart"),
        ({"skip": True, "inputs": "scaled"}, "label_width=3 is not width=16, which skip_sigma_data needs"),
        ({"noisy_token": "none", "modulated": True}, "noisy_token='none' with modulated=True"),
        ({"patch": 3}, "patch=3 does not divide image_size=8"),
        ({"facts": replace(FACTS, shape=(1, 8, 6))}, "images are 8 x 6; use square images"),
        ({"blocks": 3}, "num_blocks=3 does not divide depth=4"),
    ],
)
def test_wrong_classification_recipes_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_classify_plan(**changes)


def test_even_weights_of_masked_text_know_the_mean_share_of_every_band() -> None:
    recipe, facts = MaskedRecipe(length=8, blocks=2, overlap=0.0), TextFacts(vocabulary=Characters())
    bound = replace(recipe, weighting="bound").plan(facts)
    assert masked_task(bound).mean_shares is None
    assert "weighting" not in bound.recipe
    even = recipe.plan(facts)
    assert training_peak(even).total > 0  # counted without looking at the shares
    shares = masked_task(even).mean_shares
    assert shares == pytest.approx({None: 0.5, 0: 0.75, 1: 0.25}, abs=1e-3)
