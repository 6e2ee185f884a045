from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from rivalry import IMAGES, SOURCE, VIT, accuracies, same, settings_of, train, weights_of

from oneblock.blockwise import BlockDenoiser
from oneblock.condition import Frames
from oneblock.data import to_float
from oneblock.models.vit import ViT
from oneblock.precondition import Logits, Precondition
from oneblock.rivals import Greedy, train_rival
from oneblock.rivals.base import seeded
from oneblock.rivals.blocks import logits, through
from oneblock.table import simplex
from oneblock.tasks.base import Batch, Noised
from oneblock.tasks.classify import Classification
from oneblock.train.block import block_learner, train_step
from oneblock.train.step import JobSpec, OptimizerSettings

PIXELS = to_float(IMAGES.images[:8])


def test_the_first_stage_is_a_shallow_classifier_trained_alone() -> None:
    """Bit for bit what the library's own training step makes of the same batches."""
    settings = settings_of(16 * (2 + 4) * 5, seed=3)
    rival = Greedy(VIT, 2)
    reports = [report for report in train(rival, settings) if report.job == "block-0"]
    shallow = seeded(lambda: ViT(replace(VIT, depth=2)), settings.derive_seed("init", 0))
    spec = JobSpec(
        name="shallow",
        block=0,
        layers=range(2),
        sample_evaluations=2,
        band=(0.002, 80.0),
        batch_size=16,
        first_step=0,
        last_step=5,
        warmup=1,
        hold=0,
    )
    optimizer = OptimizerSettings(learning_rate=0.01, ema_gamma=4.0)
    learner = block_learner(spec, BlockDenoiser(shallow, Logits(Precondition())), optimizer)
    task = Classification(simplex(3), Precondition())
    for step in range(5):
        images, labels = SOURCE.batch(step, 16, settings.derive_seed("data", "block-0"))
        batch = Batch(Noised(torch.zeros(16, 3), torch.ones(16), 0), labels, Frames(images))
        report = train_step(spec, learner, task, batch)
        assert report.loss == reports[step].loss
        assert report.layer_evaluations == reports[step].layer_evaluations
    assert len(reports) == 5
    assert same(learner.averages, weights_of(rival.blocks[0]))


def test_a_later_block_learns_from_the_output_of_those_before() -> None:
    """Cross-entropy by hand, with a head that is not zero as heads are at the start."""
    settings, rival = settings_of(1), Greedy(VIT, 4)
    rival.blocks = [rival._learner(b, settings, 1).module for b in range(3)]  # the last is not one before
    learner = rival._learner(2, settings, 1)
    torch.nn.init.normal_(learner.module.head.out.weight)
    images, labels = SOURCE.batch(0, 16, 0)
    h, _ = rival.blocks[0].stem(torch.zeros(16, 3), torch.zeros(16), Frames(images))
    for layer in (rival.blocks[0].layers["0"], rival.blocks[1].layers["1"], learner.module.layers["2"]):
        h = layer(h, None)
    head = learner.module.head
    expected = F.cross_entropy(head.out(head.norm(h[:, 0])), labels, reduction="none")
    losses = rival._losses(2, learner, images, labels)
    torch.testing.assert_close(losses, expected)
    losses.sum().backward()
    assert not any(p.grad is not None for block in rival.blocks for p in block.parameters())
    assert all(p.grad is not None for p in learner.module.parameters())


def test_earlier_blocks_stay_as_they_are() -> None:
    settings = settings_of(16 * (1 + 2 + 3 + 4) * 3)
    rival = Greedy(VIT, 4)
    at_end_of = {}
    for report in train_rival(rival, SOURCE, settings):
        blocks = [weights_of(block) for block in rival.blocks]
        at_end_of[report.job] = blocks
    assert [len(blocks) for blocks in at_end_of.values()] == [0, 1, 2, 3]
    for earlier, later in ((1, 2), (2, 3), (1, 3)):
        assert all(map(same, at_end_of[f"block-{earlier}"], at_end_of[f"block-{later}"]))
    assert not any(p.requires_grad or p.grad is not None for block in rival.blocks for p in block.parameters())


def test_stages_are_the_heads_of_the_blocks() -> None:
    rival = Greedy(VIT, 2)
    train(rival, settings_of(16 * 6 * 2))
    found = rival.probabilities(PIXELS)
    for b, block in enumerate(rival.blocks):
        expected = logits(block, through(rival.blocks[:b], PIXELS)).softmax(-1)
        torch.testing.assert_close(found[b], expected)
    assert not torch.equal(found[0], found[1])
    assert rival.evaluation_layers == 4


@pytest.mark.parametrize(("blocks", "cost"), [(1, 4), (2, 6), (4, 10)])
def test_layer_evaluations_are_the_budget(blocks: int, cost: int) -> None:
    """Every block takes the same number of steps; a round of them costs ``cost`` layers for each sample."""
    budget = 16 * cost * 3 + 7
    reports = train(Greedy(VIT, blocks), settings_of(budget))
    assert abs(sum(report.layer_evaluations for report in reports) - budget) <= 16 * cost // 2
    parts = [report.job for report in reports]
    assert {parts.count(f"block-{b}") for b in range(blocks)} == {3}
    assert [report.step for report in reports] == [1, 2, 3] * blocks
    assert {report.num_steps for report in reports} == {3}
    assert reports[-1].work == 3 * reports[-1].layer_evaluations


def test_learns() -> None:
    rival = Greedy(VIT, 2)
    train(rival, settings_of(16 * 6 * 40))
    assert min(accuracies(rival)) > 0.6


def test_repeats_itself() -> None:
    one, two, other = Greedy(VIT, 2), Greedy(VIT, 2), Greedy(VIT, 2)
    settings = settings_of(16 * 6 * 4)
    assert train(one, settings) == train(two, settings) != train(other, settings_of(16 * 6 * 4, seed=1))
    assert torch.equal(one.probabilities(PIXELS), two.probabilities(PIXELS))
    assert not torch.equal(one.probabilities(PIXELS), other.probabilities(PIXELS))


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"num_blocks=3 does not divide depth=4"):
        Greedy(VIT, 3)
    with pytest.raises(ValueError, match=r"noisy_token='separate', modulated=True, .* use noisy_token='none'"):
        Greedy(replace(VIT, noisy_token="separate", modulated=True), 2)
    with pytest.raises(ValueError, match=r"greedy has trained 0 of 2 parts; go through train_rival\(\) to its end"):
        Greedy(VIT, 2).probabilities(PIXELS)
