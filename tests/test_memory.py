import weakref
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import IMAGES, tiny_classify_plan
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from oneblock.memory import DryRun, PeakBytes, layers_run, peak_bytes, step_flops
from oneblock.models.layers import Layer, LayerConfig
from oneblock.optim.adamw import state_tensors
from oneblock.plan import Plan
from oneblock.presets import (
    CausalRecipe,
    ImageFacts,
    ImageRecipe,
    all_resident,
    blockwise,
    costliest_job,
    dry_run,
    training_flops,
    training_peak,
)
from oneblock.presets.counted import counted_plan
from oneblock.train.strategy import job_specs

pytest.importorskip("torch.distributed._tools.mem_tracker")


RECIPE = ImageRecipe(size="nano")
FACTS = ImageFacts(shape=(1, 28, 28), num_classes=10, data="none", fingerprint="none")
VIT = LayerConfig(width=768, heads=12)


def plan(blocks: int, batch_size: int = 16) -> Plan:
    return replace(RECIPE, blocks=blocks, batch_size=batch_size).plan(FACTS)


def linear_step() -> DryRun:
    model = nn.Linear(64, 32, bias=False)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    x = torch.zeros(16, 64)

    def step() -> None:
        model(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return DryRun(model, optimizer, (x,), step)


def test_a_linear_layer_by_hand() -> None:
    found = peak_bytes(linear_step)
    weights = 64 * 32 * 4
    assert found.by_kind["Parameter"] == weights
    assert found.by_kind["Optstate"] == 2 * weights + 4  # two moments and the step
    assert found.total == sum(found.by_kind.values())
    # the peak stands at the end of the backward pass: weights, gradients, two moments, the step, the input, two scalars
    assert found.total == 4 * weights + 4 + 16 * 64 * 4 + 8


def test_counts_repeat_themselves_byte_for_byte() -> None:
    assert training_peak(plan(3)) == training_peak(plan(3))


def test_own_block_needs_a_share_of_the_whole() -> None:
    whole, third = training_peak(plan(1)).total, training_peak(plan(3)).total
    assert third < 0.45 * whole
    assert training_peak(plan(1), checkpointing=True).total < 0.7 * whole
    assert training_peak(plan(3), checkpointing=True).total < third
    assert training_peak(plan(3, batch_size=32)).total > third


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("blocks", [1, 3])
def test_the_count_is_that_of_real_tensors(blocks: int, checkpointing: bool) -> None:
    small = plan(blocks, batch_size=4)
    assert training_peak(small, checkpointing) == training_peak(small, checkpointing, real=True)


@pytest.mark.parametrize(("blocks", "batch_size"), [(1, 6), (3, 6)])
def test_moments_of_8_bits_are_counted_by_hand(blocks: int, batch_size: int) -> None:
    """At the peak of the backward pass (one block) and at that of the optimizer's step, which is the higher for small
    batches (three blocks)."""
    pytest.importorskip("torchao")
    small = plan(blocks, batch_size)
    small = replace(small, recipe={**small.recipe, "optimizer": "adamw8bit"})
    found = training_peak(small)
    assert found == training_peak(small, real=True)
    networks = [blockwise(small).denoiser(block).backbone for block in range(blocks)]
    states = [sum(4 + 2 * moment_bytes(p.numel()) for p in network.parameters()) for network in networks]
    if blocks == 1:
        assert found.by_kind["Optstate"] == states[0]
        assert states[0] < 0.29 * training_peak(plan(1, batch_size)).by_kind["Optstate"]
    else:
        assert all_resident(small).by_kind["Optstate"] - found.by_kind["Optstate"] == 2 * states[0]


def moment_bytes(elements: int) -> int:
    """Of a code per element, a scale per 256 and a map of 256 numbers, where the moment is stored in 8 bits."""
    return elements + 4 * elements // 256 + 4 * 256 if elements >= 4096 and elements % 256 == 0 else 4 * elements


class Living(TorchDispatchMode):
    """The most bytes of storages that live at a time, found without any hook on modules or gradients."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.add(tensors)
        self.peak = sum(self.sizes.values())

    def add(self, tensors: Iterable[Tensor]) -> None:
        for storage in (t.untyped_storage() for t in tensors):
            if storage._cdata not in self.sizes:
                self.sizes[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.sizes.pop, storage._cdata)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(hasattr(kind, "tensor_attrs") for kind in types):
            return NotImplemented  # tensors inside tensors are seen one by one
        result = func(*args, **(kwargs or {}))
        self.add(t for t in tree_leaves(result) if isinstance(t, Tensor))
        self.peak = max(self.peak, sum(self.sizes.values()))
        return result


@pytest.mark.parametrize(
    ("blocks", "checkpointing", "optimizer"),
    [(1, False, "adamw"), (1, True, "adamw"), (3, False, "adamw"), (3, True, "adamw"), (3, False, "adamw8bit")],
)
def test_the_count_is_that_of_living_storages(blocks: int, checkpointing: bool, optimizer: str) -> None:
    if optimizer == "adamw8bit":
        pytest.importorskip("torchao")
    small = plan(blocks, batch_size=6)
    small = replace(small, recipe={**small.recipe, "optimizer": optimizer})
    run = dry_run(small, costliest_job(small), checkpointing)
    run.step()
    states = [t for p in run.module.parameters() for t in state_tensors(run.optimizer, p).values()]
    with Living([*run.module.parameters(), *run.module.buffers(), *states, *run.others]) as living:
        run.step()
    assert training_peak(small, checkpointing).total == living.peak


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {"blocks": 1},
        {},
        {"table": "random", "inputs": "scaled", "modulated": True, "skip": True, "noisy_token": "class"},
        {"table": "prototypes", "prototypes": (1.0, 0.0, 0.0, 1.0, -1.0, -1.0), "weighting": "normalised"},
    ],
)
def test_the_count_of_a_classifier_is_that_of_real_tensors(changes: dict[str, Any], checkpointing: bool) -> None:
    small = tiny_classify_plan(**changes)
    fake = training_peak(small, checkpointing)
    assert fake == training_peak(small, checkpointing, real=True)
    weights = sum(p.numel() for p in blockwise(small).denoiser(0).backbone.parameters())
    assert fake.by_kind["Parameter"] == 4 * weights


def test_own_block_of_a_classifier_needs_less() -> None:
    whole, half = (tiny_classify_plan(blocks=blocks) for blocks in (1, 2))
    own = training_peak(half)
    assert own.total < 0.7 * training_peak(whole).total
    both = all_resident(half).by_kind["Parameter"]
    assert both == 2 * own.by_kind["Parameter"]
    assert training_flops(half).step(costliest_job(half)) * 2 == pytest.approx(
        training_flops(whole).step(costliest_job(whole)), rel=0.1
    )


def test_micro_batches_need_less_and_are_counted_exactly() -> None:
    small = plan(3, batch_size=24)
    halves = replace(small, recipe={**small.recipe, "accumulate": 2})
    assert training_peak(halves) == training_peak(halves, real=True)
    assert training_peak(halves).total < 0.8 * training_peak(small).total


def test_all_resident_is_the_count_of_real_tensors() -> None:
    """Three blocks trained in turn for real, all of them on the device, against own block plus idle ones."""
    small = plan(3, batch_size=6)
    jobs = job_specs(small)

    def setup() -> DryRun:
        runs = [dry_run(small, job) for job in jobs]
        for idle in runs[1:]:
            idle.step()
        module = nn.ModuleList(run.module for run in runs)
        optimizer = torch.optim.AdamW(module.parameters())
        optimizer.state = {p: s for run in runs for p, s in run.optimizer.state.items()}  # type: ignore[assignment]
        runs[0].step()  # its optimizer makes its state
        optimizer.state |= dict(runs[0].optimizer.state)
        averages = [t for run in runs[1:] for t in run.others[4:]]  # after images, noisy images, labels and levels
        return DryRun(module, optimizer, (*runs[0].others, *averages), runs[0].step)

    assert all_resident(small).total == peak_bytes(setup, real=True).total


@pytest.mark.parametrize("shared", ["joint", "synced"])
def test_blocks_that_share_parts_are_all_counted_with_what_they_exchange(shared: str) -> None:
    """All three on the device, a step of each in turn; beside them the others' weights, averages and moments."""
    private = plan(3, batch_size=6)
    together = replace(private, shared=shared)  # type: ignore[arg-type]
    found = training_peak(together)
    assert found == training_peak(together, real=True) == all_resident(together)
    assert found.total >= all_resident(private).total
    assert found.by_kind["Parameter"] == 3 * training_peak(private).by_kind["Parameter"]


def test_the_mean_of_shared_parts_is_counted_where_it_is_the_peak() -> None:
    """A network that is nearly all embedding, with a batch of one token: a step needs less than the mean of the six
    embeddings, stacked."""
    recipe = CausalRecipe(size="nano", depth=6, width=4, heads=2, length=1, batch_size=6, block_batch_size=1, blocks=6)
    recipe = replace(recipe, vocabulary="bpe:3000", table="random", label_width=1, inputs="scaled", streams="none")
    joint, synced = (counted_plan(replace(recipe, shared=shared), FACTS) for shared in ("joint", "synced"))  # type: ignore[arg-type]
    assert training_peak(synced) == training_peak(synced, real=True)
    assert training_peak(synced).total > training_peak(joint).total + 4 * 3000 * 4 * 4


def test_frozen_parameters_are_counted_without_gradients() -> None:
    def setup() -> DryRun:
        run = linear_step()
        frozen = nn.Linear(64, 64, bias=False).requires_grad_(False)
        return DryRun(nn.ModuleList([run.module, frozen]), run.optimizer, run.others, run.step)

    more = {
        k: setup_size - base
        for (k, setup_size), base in zip(
            peak_bytes(setup).by_kind.items(), peak_bytes(linear_step).by_kind.values(), strict=True
        )
    }
    assert more.pop("Parameter") == 64 * 64 * 4
    assert set(more.values()) == {0}


def vit_run(
    layers: int, batch_size: int, checkpointing: bool = False, idle: int = 0, config: LayerConfig = VIT
) -> DryRun:
    built = [Layer(config) for _ in range(layers + idle)]
    return layers_run(built[:layers], (batch_size, 197, config.width), checkpointing, built[layers:])


def vit_peak(*args: int, **options: int) -> PeakBytes:
    return peak_bytes(lambda: vit_run(*args, **options))  # type: ignore[arg-type]


def test_limits_of_a_vit_base_stack() -> None:
    gib = 2**30
    assert vit_peak(4, 64).total <= 2.80 * gib
    assert vit_peak(4, 64, checkpointing=True).total <= 1.27 * gib
    assert vit_peak(4, 1).total <= 0.44 * gib


@pytest.mark.parametrize("batch_size", [64, 1])
def test_a_block_of_a_vit_needs_its_share_beside_the_fixed_parts(batch_size: int) -> None:
    """Fixed: the batch, and the temporary tensors of one layer's backward pass."""
    whole = vit_peak(12, batch_size)
    fixed = whole.by_kind["Other"] + whole.by_kind["Temp"]
    for blocks in (3, 12):
        assert vit_peak(12 // blocks, batch_size).total <= 1.03 * (fixed + (whole.total - fixed) / blocks)


def test_idle_layers_cost_weights_and_two_moments() -> None:
    alone, beside = vit_peak(1, 1), vit_peak(1, 1, idle=2)
    weights = list(Layer(VIT).parameters())
    assert beside.total - alone.total == 2 * sum(3 * 4 * p.numel() + 4 for p in weights)  # four bytes of the step


@pytest.mark.parametrize("checkpointing", [False, True])
def test_layers_are_counted_as_real_ones(checkpointing: bool) -> None:
    small = LayerConfig(width=16, heads=2)
    fake, real = (peak_bytes(lambda: vit_run(3, 2, checkpointing, config=small), real) for real in (False, True))
    assert fake == real


def test_a_third_of_the_layers_is_a_third_of_the_operations() -> None:
    third, whole = (step_flops(lambda n=n: vit_run(n, 2)) for n in (1, 3))  # type: ignore[misc]
    assert 3 * third == whole
    n, t, d = 2, 197, 768
    assert third == 2 * (3 * 12 * n * t * d * d + 2 * 7 * n * t * t * d // 2)


def test_operations_by_hand() -> None:
    # forward 2 x 16 x 64 x 32, and as much again for the weight's gradient; the input needs none
    assert step_flops(linear_step) == 2 * 2 * 16 * 64 * 32
    small, job = plan(1, batch_size=4), costliest_job(plan(1, batch_size=4))
    n, t, d, patch = 4, 49, 64, 16
    linears = n * t * (3 * d * d + d * d + 2 * 4 * d * d) + n * 6 * d * d
    attention = 2 * n * t * t * d
    stem_and_head = n * t * 2 * patch * d + n * (128 * d + d * d) + n * 2 * d * d
    products = 6 * (3 * linears + 3.5 * attention) + 3 * stem_and_head
    products -= n * t * patch * d + n * 128 * d  # the image and the sinusoids need no gradient
    assert step_flops(lambda: dry_run(small, job)) == 2 * products


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("blocks", "accumulate"), [(1, 1), (2, 2), (6, 1)])
def test_operations_of_any_depth_and_batch_follow_from_one_layer_and_two(
    blocks: int, accumulate: int, checkpointing: bool
) -> None:
    small = plan(blocks, batch_size=12)
    small = replace(small, recipe={**small.recipe, "accumulate": accumulate})
    direct = step_flops(lambda: dry_run(small, costliest_job(small), checkpointing))
    assert training_flops(small, checkpointing).step(costliest_job(small)) == direct


def test_all_resident_counts_unequal_blocks_each_with_its_layers() -> None:
    uneven = replace(RECIPE, layers=(1, 2, 3)).plan(FACTS)
    own = training_peak(uneven)
    idle = [sum(p.numel() for p in blockwise(uneven).denoiser(b).backbone.parameters()) for b in (0, 1)]
    more = all_resident(uneven).by_kind["Parameter"] - own.by_kind["Parameter"]
    assert more == 4 * sum(idle)


def test_nothing_real_is_left_behind() -> None:
    training_peak(plan(3))
    assert type(torch.zeros(1)) is torch.Tensor
    assert IMAGES.images.device.type == "cpu"
