"""Recorded calls. On a CPU nothing is replayed, and all that is around it is the same."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_blockwise import shake
from tiny import tiny_plan
from torch import Tensor, nn

from oneblock.blockwise import BlockDenoiser, Denoiser
from oneblock.condition import ClassIds, Condition, Frames, Nothing, Tokens, told
from oneblock.evaluate.images import SamplerName, Sampling, sample_images
from oneblock.guidance import Averaged, ClassifierFree, Ensemble
from oneblock.ops.recorded import WARM_UPS
from oneblock.plan import Plan
from oneblock.presets import blockwise
from oneblock.sample import SAMPLERS
from oneblock.sample.recorded import SHAPES, RecordedCall, RecordedDenoiser

PLAN = tiny_plan()
LABELS = torch.arange(7) % 3
NOISY, QUIET = 30.0, 0.02
"""Levels of the first and the last block."""


def network(plan: Plan, resident: int | None = None, made: list[BlockDenoiser] | None = None) -> Denoiser:
    blocks = blockwise(plan)

    def load(block: int) -> BlockDenoiser:
        denoiser = blocks.denoiser(block).eval()
        shake(denoiser, block)
        if made is not None:
            made.append(denoiser)
        return denoiser

    return Denoiser(plan.partition, load, resident)


def refuse(line: str) -> None:
    pytest.fail(line)


def batch(n: int, level: float, seed: int = 0) -> tuple[Tensor, Tensor, ClassIds]:
    generator = torch.Generator().manual_seed(seed)
    z = level * torch.randn(n, 1, 8, 8, generator=generator)
    return z, torch.full((n,), level), ClassIds(torch.randint(3, (n,), generator=generator), null_id=3)


@pytest.fixture(autouse=True)
def without_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The samples of each call that was recorded."""
    found: list[int] = []
    really = RecordedCall.__init__

    def watched(self: RecordedCall, block: BlockDenoiser, z: Tensor, sigma: Tensor, condition: Condition) -> None:
        found.append(len(z))
        really(self, block, z, sigma, condition)

    monkeypatch.setattr(RecordedCall, "__init__", watched)
    return found


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "jump"])
@pytest.mark.parametrize(
    ("conditional", "guidance"),
    [
        (False, {}),
        (True, {}),
        (True, {"guidance": 2.0}),
        (True, {"guidance": 3.0, "guidance_interval": (0.1, 1.0)}),
    ],
    ids=["told nothing", "classes", "guided", "guided at times"],
)
def test_samples_are_the_same(
    sampler: SamplerName, conditional: bool, guidance: dict[str, Any], recordings: list[int]
) -> None:
    plan = PLAN if conditional else tiny_plan(conditional=False)
    sampling = Sampling(steps=5, sampler=sampler, **guidance)
    labels, count = (LABELS, None) if conditional else (None, len(LABELS))
    for resident in (None, 1):
        usual, ours = (
            sample_images(network(plan, resident), plan, labels, sampling, count=count, batch_size=3, capture=capture)
            for capture in ("off", "on")
        )
        assert ours.equal(usual)
    assert recordings and set(recordings) <= {3, 1, 6, 2}
    assert len(usual.unique()) > 9, "there is something to see"


def test_where_a_step_ends_is_another_one_in_every_replay(recordings: list[int]) -> None:
    plan = tiny_plan(objective="meanflow")
    sampling = Sampling(steps=2 * plan.num_blocks, sampler="jump", grid="equal-mass")
    usual, ours = (
        sample_images(network(plan), plan, LABELS, sampling, batch_size=4, capture=capture) for capture in ("off", "on")
    )
    assert ours.equal(usual)
    assert recordings
    assert len(usual.unique()) > 9, "there is something to see"


@pytest.mark.parametrize("level", [NOISY, QUIET])
def test_every_input_is_copied(level: float) -> None:
    plain, ours = network(PLAN), RecordedDenoiser(network(PLAN), refuse)
    z, sigma, told_of = batch(4, level)
    ours(z, sigma, told_of)
    for changed in (batch(4, level, seed=1), (z, 0.9 * sigma, told_of), (z, sigma, told_of.null())):
        assert ours(*changed).equal(plain(*changed))
        assert not ours(*changed).equal(plain(z, sigma, told_of))
    z.zero_()
    assert ours(z, sigma, told_of).equal(plain(z, sigma, told_of))


class Reading(nn.Module):
    """Makes of each kind of condition a number, and gives its answer in one tensor, again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = torch.zeros(3, 2)

    def forward(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        seen = torch.zeros(3)
        for tensor in condition.tensors():
            seen = seen + tensor.double().flatten(1).sum(1) if tensor.ndim > 1 else seen + tensor
        return self.answer.copy_(z + (sigma + seen)[:, None])


def single(block: nn.Module) -> Denoiser:
    return Denoiser(tiny_plan(blocks=1).partition, lambda index: block)  # type: ignore[arg-type,return-value]


WORDS = torch.tensor([[1, 2], [3, 4], [5, 6]])
CONDITIONS = {
    "classes": lambda k: ClassIds(torch.arange(3) + k),
    "text": lambda k: Tokens(WORDS + k, WORDS > k),
    "text without a mask": lambda k: Tokens(WORDS + k),
    "frames": lambda k: Frames(torch.full((3, 2, 2), float(k))),
    "nothing": lambda k: Nothing(3),
}


@pytest.mark.parametrize("kind", CONDITIONS)
def test_conditions_of_every_kind(kind: str) -> None:
    ours, make = RecordedDenoiser(single(Reading()), refuse), CONDITIONS[kind]
    z, sigma, plain = torch.zeros(3, 2), torch.ones(3), Reading()
    for k in range(3):
        assert ours(z + k, sigma, make(k)).equal(plain(z + k, sigma, make(k)))


def test_answers_are_copied_out() -> None:
    ours = RecordedDenoiser(single(Reading()), refuse)
    first = ours(torch.zeros(3, 2), torch.ones(3), Nothing(3))
    ours(torch.full((3, 2), 5.0), torch.ones(3), Nothing(3))
    assert first.eq(1).all()


def test_a_recording_for_each_block_and_shape(recordings: list[int]) -> None:
    calls = 0

    def count(block: nn.Module, given: object, answer: object) -> None:
        nonlocal calls
        calls += 1

    made: list[BlockDenoiser] = []
    denoiser = network(PLAN, made=made)
    ours = RecordedDenoiser(denoiser, refuse)
    for level in (NOISY, QUIET):
        denoiser.block(int(level == QUIET)).register_forward_hook(count)
        for n in (4, 3, 4, 3, 4):
            ours(*batch(n, level))
    assert recordings == [4, 3, 4, 3]
    assert calls == 2 * (5 + 2 * WARM_UPS)
    RecordedDenoiser(denoiser, refuse)(*batch(4, NOISY))
    assert recordings == [4, 3, 4, 3], "blocks keep their recordings"


def test_the_shape_unused_for_longest_makes_room(recordings: list[int]) -> None:
    denoiser = network(PLAN)
    ours = RecordedDenoiser(denoiser, refuse)
    for n in (1, 2, 1, 3, 1, 2):
        ours(*batch(n, NOISY))
        assert len(denoiser.forms(0)) <= SHAPES
    assert recordings == [1, 2, 3, 2]


def test_recordings_go_with_their_block() -> None:
    """At once, whenever Python may look for cycles."""
    living: list[weakref.ref[BlockDenoiser]] = []
    blocks = blockwise(PLAN)

    def load(block: int) -> BlockDenoiser:
        assert all(ref() is None for ref in living), "the recording of a block holds it"
        denoiser = blocks.denoiser(block).eval()
        living.append(weakref.ref(denoiser))
        return denoiser

    ours = RecordedDenoiser(Denoiser(PLAN.partition, load, 1), refuse)
    gc.collect()
    gc.disable()
    try:
        for level in (NOISY, QUIET, NOISY):
            ours(*batch(2, level))
            ours(*batch(3, level))
    finally:
        gc.enable()
    assert len(living) == 3


def both_blocks() -> tuple[Tensor, Tensor, ClassIds]:
    z, _, told_of = batch(2, NOISY)
    return z, torch.tensor([NOISY, QUIET]), told_of


def test_samples_of_several_blocks_are_not_recorded(recordings: list[int]) -> None:
    lines: list[str] = []
    ours, plain = RecordedDenoiser(network(PLAN), lines.append), network(PLAN)
    for _ in range(2):
        assert ours(*both_blocks()).equal(plain(*both_blocks()))
    assert recordings == []
    assert lines == [
        "calls of the denoiser are not recorded, which may be slower: their samples belong to several blocks"
    ]
    ours(*batch(2, NOISY))
    assert recordings == [2], "other calls are"


def test_calls_with_gradients_are_not_recorded(recordings: list[int]) -> None:
    lines: list[str] = []
    ours = RecordedDenoiser(network(PLAN), lines.append)
    with torch.enable_grad():
        assert ours(*batch(2, NOISY)).requires_grad
    assert recordings == [] and len(lines) == 1 and "they keep gradients" in lines[0]


class Drawing(nn.Module):
    def forward(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return z + torch.rand_like(z)


def test_what_cannot_be_recorded_is_called_as_it_is(recordings: list[int]) -> None:
    lines: list[str] = []
    ours = RecordedDenoiser(single(Drawing()), lines.append)
    answers = [ours(torch.zeros(2, 3), torch.ones(2), Nothing(2)) for _ in range(3)]
    assert recordings == [2], "it is not tried again"
    assert len(lines) == 1 and "not recorded, which may be slower: it draws random numbers" in lines[0]
    assert not answers[0].equal(answers[1])


def test_autocast_has_recordings_of_its_own(recordings: list[int]) -> None:
    plain, ours, given = network(PLAN), RecordedDenoiser(network(PLAN), refuse), batch(4, QUIET)
    exact = ours(*given)
    with torch.autocast("cpu", torch.bfloat16):
        rough = ours(*given)
        assert rough.equal(plain(*given))
    assert recordings == [4, 4]
    assert not rough.equal(exact) and ours(*given).equal(exact)


def test_wrappers_are_seen_through(recordings: list[int]) -> None:
    wraps = (lambda one: ClassifierFree(one, 2.0), lambda one: Averaged([one, one]), lambda one: Ensemble([one]))
    for wrap in wraps:
        wrapped: Callable[[Denoiser], Any] = wrap
        images = [
            sample_images(wrapped(network(PLAN)), PLAN, LABELS, Sampling(steps=3), capture=capture)  # type: ignore[arg-type]
            for capture in ("off", "on")
        ]
        assert images[0].equal(images[1])
        assert recordings
        recordings.clear()


def test_on_a_cpu_nothing_is_recorded_unless_asked(recordings: list[int]) -> None:
    sample_images(network(PLAN), PLAN, LABELS, Sampling(steps=3))
    assert recordings == []


def test_the_condition_is_the_networks_own() -> None:
    """A network may ask for its kind of condition while it is recorded."""

    class Asking(nn.Module):
        def forward(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
            return z + told(condition, ClassIds).null().ids[:, None]

    ours = RecordedDenoiser(single(Asking()), refuse)
    for null in (7, 9):
        answer = ours(torch.zeros(2, 1), torch.ones(2), ClassIds(torch.zeros(2, dtype=torch.long), null_id=null))
        assert answer.eq(null).all()
