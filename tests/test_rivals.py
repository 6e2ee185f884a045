"""Rivals in a plan: what is counted from one pass, against training for real."""

import sys
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from oneblock.memory import DryRun, Moment, PeakBytes, passage, peak_bytes
from oneblock.optim.adamw import bytes_8bit, make_adamw, make_state, state_tensors
from oneblock.plan import Plan
from oneblock.presets import (
    CausalRecipe,
    ClassifyRecipe,
    ImageFacts,
    ImageRecipe,
    MaskedRecipe,
    Recipe,
    costliest_job,
    end_to_end,
    training_peak,
)
from oneblock.presets.cost import dry_pass
from oneblock.presets.counted import counted_plan
from oneblock.presets.rivals import Network, Rival, fsdp_offload, rivals

pytest.importorskip("torch.distributed._tools.mem_tracker")

SMALL: dict[str, Any] = {"size": "nano", "depth": 4, "width": 16, "heads": 2, "batch_size": 6}
FACTS = ImageFacts(shape=(1, 8, 8), num_classes=10)
RECIPES: dict[str, Recipe] = {
    "images": ImageRecipe(**SMALL),
    "classify": ClassifyRecipe(**SMALL),
    "masked-text": MaskedRecipe(**SMALL, length=16),
    "text": CausalRecipe(**SMALL, length=16, vocabulary="bpe:2000"),
}


def whole(task: str = "images", **changes: Any) -> Plan:
    return counted_plan(end_to_end(replace(RECIPES[task], **changes)), FACTS)


def counted(plan: Plan, checkpointing: bool = False) -> dict[str, Rival]:
    return {one.name: one for one in rivals(plan, training_peak(plan, checkpointing), checkpointing)}


def really_fused(plan: Plan, checkpointing: bool, weights: torch.dtype) -> PeakBytes:
    """Trained for real: PyTorch's Adafactor in a hook of every parameter."""

    def setup() -> DryRun:
        run = dry_pass(plan, costliest_job(plan), checkpointing, weights)
        made = {p: torch.optim.Adafactor([p], foreach=False) for p in run.module.parameters() if p.requires_grad}

        def update(parameter: torch.Tensor) -> None:
            made[parameter].step()  # type: ignore[index]
            parameter.grad = None

        def step() -> None:
            for parameter in made:
                parameter.register_post_accumulate_grad_hook(update)
            run.step()

        first, *others = made.values()
        return DryRun(run.module, first, run.others, step, tuple(others))

    return peak_bytes(setup, real=True)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("task", "precision"),
    # a CPU does not normalise a ViT's tensors of 32 bits with weights of 16
    [
        (task, precision)
        for task in RECIPES
        for precision in ("fp32", "bf16")
        if (task, precision) != ("classify", "bf16")
    ],
)
def test_fused_adafactor_is_counted_as_it_trains(task: str, checkpointing: bool, precision: str) -> None:
    check_fused(whole(task, precision=precision), checkpointing, precision)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_an_update_needs_for_itself_is_counted(precision: str) -> None:
    """The embedding is so large that the peak is where it changes."""
    plan = whole("text", depth=1, vocabulary="bpe:8000", batch_size=1, length=2, precision=precision)
    found = check_fused(plan, False, precision)
    assert found.by_kind["Gradient"] == found.by_kind["Parameter"] * 8000 * 16 // Network.of(plan).numel()
    assert found.by_kind["Optstate"] > found.by_kind["Gradient"]


def check_fused(plan: Plan, checkpointing: bool, precision: str) -> PeakBytes:
    weights = torch.bfloat16 if precision == "bf16" else torch.float32
    found = counted(plan, checkpointing)["fused Adafactor"].peak
    assert found.total == sum(found.by_kind.values()) == really_fused(plan, checkpointing, weights).total
    return found


def test_every_gradient_is_let_go_at_its_moment() -> None:
    plan = whole()
    network, moments = Network.of(plan), passed(plan)
    assert sorted(one.name for one in moments if one.event == "gradient") == sorted(network.shapes)
    assert [one.name for one in moments if one.event == "enter"] == list("0123")
    assert [one.name for one in moments if one.event == "return"] == list("3210")
    assert [one.event for one in passed(plan, True)] == [one.event for one in moments]
    assert all(sum(one.high.values()) >= sum(one.now.values()) for one in moments)
    runs: list[DryRun] = []

    def setup() -> DryRun:
        runs.append(dry_pass(plan, costliest_job(plan)))
        return runs[0]

    passage(setup, lambda module: {})
    assert all(p.grad is None for p in runs[0].module.parameters())


def passed(plan: Plan, checkpointing: bool = False) -> list[Moment]:
    return passage(
        lambda: dry_pass(plan, costliest_job(plan), checkpointing),
        lambda module: dict(module.layers.items()),  # type: ignore[operator, union-attr]
    )


TOY = Network(
    shapes={"a": torch.Size((1,)), "b": torch.Size((2, 5)), "c": torch.Size((20, 5))},
    owner={"a": "", "b": "0", "c": "1"},
    swapped=frozenset(),
    dtype=torch.float32,
)


def moment(event: Any, name: str, now: int, high: int) -> Moment:
    return Moment(event, name, {"Activation": now}, {"Activation": high})


def test_offloading_by_hand() -> None:
    """A number of stem and head, 10 of the first layer, 100 of the second."""
    moments = [
        moment("start", "", 0, 0),
        moment("enter", "0", 0, 1000),  # 1 + 10 numbers here, beside them the activations
        moment("leave", "0", 0, 0),
        moment("enter", "1", 0, 0),  # 1 + 100, and 100 as they come
        moment("leave", "1", 0, 0),
        moment("return", "1", 0, 0),
        moment("gradient", "c", 50, 0),  # the weights are gone; 1, 100 gradients, 100 in one tensor, or that one twice
        moment("return", "0", 60, 10),  # 1 + 10, 10 as they come, and the tensor still
        moment("gradient", "b", 0, 0),
        moment("gradient", "a", 0, 0),
    ]

    def peak(of: list[Moment]) -> int:
        return fsdp_offload(TOY, of).peak.total

    assert peak(moments) == 4 * 11 + 1000
    assert peak([moments[0], *moments[2:]]) == 50 + 4 * 201
    assert peak([moments[0], *moments[3:6]]) == 4 * 201
    late = [*moments[:1], *moments[3:7], moment("return", "0", 400, 0)]
    assert peak(late) == 400 + 4 * 121
    half = replace(TOY, dtype=torch.bfloat16)
    assert fsdp_offload(half, moments[6:7]).peak.total == 50 + 2 * 1 + 4 * 200  # two tensors of 32 bits
    host = 4 * 111
    found = fsdp_offload(TOY, moments, accumulate=3)
    assert (found.host, found.bus) == (5 * host, 3 * (4 * (1 + 2 * 110) + host))


def test_what_goes_over_the_bus() -> None:
    plan = whole()
    sizes, found = Network.of(plan), counted(plan)
    layer = 16 * (3 * 16 + 16 + 8 * 16) + 16 * 6 * 16  # matrices of attention, perceptron and modulation
    assert found["block swap"].host == 2 * 4 * layer
    assert found["block swap"].bus == 4 * found["block swap"].host
    assert found["fused Adafactor"].peak.total - found["block swap"].peak.total == found["block swap"].host
    assert found["FSDP2 offload"].host == 5 * 4 * sizes.numel()
    assert found["FSDP2 offload"].bus == 4 * (3 * sizes.numel() - sizes.numel(""))
    assert {name: (one.host, one.bus) for name, one in found.items() if name in ("8-bit Adam", "fused Adafactor")} == {
        "8-bit Adam": (0, 0),
        "fused Adafactor": (0, 0),
    }
    assert "block swap" not in counted(whole(depth=2))


def test_weights_of_16_bits_are_half_as_large() -> None:
    found = [counted(whole(precision=precision)) for precision in ("fp32", "bf16")]
    weights = [one["fused Adafactor"].peak.by_kind["Parameter"] for one in found]
    assert weights[0] == 2 * weights[1]
    assert found[0]["block swap"].host == 2 * found[1]["block swap"].host
    assert found[0]["FSDP2 offload"].host == found[1]["FSDP2 offload"].host  # cast on the device


def test_what_cannot_be_asked_of_a_rival_is_left_out() -> None:
    names = ["8-bit Adam", "fused Adafactor", "block swap", "FSDP2 offload"]
    assert list(counted(whole())) == names
    assert list(counted(whole(accumulate=2))) == ["8-bit Adam", "FSDP2 offload"]


def test_moments_of_8_bits_are_counted_as_torchao_keeps_them() -> None:
    pytest.importorskip("torchao")
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in [(64, 64), (63, 64), (4095,), (4097,), (33, 256)]]
    optimizer = make_adamw(parameters, "adamw8bit", learning_rate=1.0, beta1=0.9, beta2=0.9, weight_decay=0.0)
    make_state(optimizer)
    for p in parameters:
        assert bytes_8bit(p.numel()) == sum(t.nbytes for t in state_tensors(optimizer, p).values())
    plan = whole(width=64, batch_size=32)  # of smaller batches the peak is in the optimizer's step
    eight = replace(plan, recipe={**plan.recipe, "optimizer": "adamw8bit"})
    assert counted(plan)["8-bit Adam"].peak == training_peak(eight)
    assert "8-bit Adam" not in counted(eight)


class OnDevice(TorchDispatchMode):
    """The most bytes of storages that live at a time, but for those of ``host``; sizes may change."""

    def __init__(self, host: Iterable[torch.Tensor], tensors: Iterable[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.host, self.peak = {tensor.untyped_storage()._cdata for tensor in host}, 0
        self.living: dict[int, weakref.ref[Any]] = {}
        self.see(tensors)

    def see(self, tensors: Iterable[torch.Tensor]) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self.living[storage._cdata] = weakref.ref(storage)
        held = [(key, ref()) for key, ref in self.living.items()]
        self.living = {key: self.living[key] for key, storage in held if storage is not None}
        self.peak = max(self.peak, sum(s.nbytes() for key, s in held if s is not None and key not in self.host))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented
        result = func(*args, **(kwargs or {}))
        self.see(t for t in tree_leaves(result) if isinstance(t, torch.Tensor))
        return result


@pytest.fixture
def one_process() -> Iterator[Any]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def really_offloaded(run: DryRun, mesh: Any, precision: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """The most bytes beside those in host memory, with PyTorch's FSDP2 offloading to it. The device is a CPU too, where
    nothing would move, so that what moves is copied."""
    half = torch.bfloat16 if precision == "bf16" else None
    mixed = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32, cast_forward_inputs=False)
    policy: dict[str, Any] = {"mesh": mesh, "mp_policy": mixed, "offload_policy": CPUOffloadPolicy(pin_memory=False)}
    module: Any = run.module
    for layer in module.layers.values():
        fully_shard(layer, **policy)
    fully_shard(module, **policy)
    shards = [p.to_local() for p in module.parameters()]
    moved: list[torch.Tensor] = []

    def copied(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        made = plain(tensor, *args, **kwargs)
        caller = sys._getframe(1).f_code.co_name
        if caller == "all_gather_inputs":
            return made.clone()
        if caller == "foreach_reduce":
            with _disable_current_modes():
                made = made.clone()
            moved.append(made)
        return made

    plain = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", copied)
    with OnDevice(shards, [*run.others, *module.buffers()]) as device:
        run.step()
    assert len(moved) == len(shards)
    return device.peak


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("changes", [{}, {"width": 128, "batch_size": 1}])
def test_offloading_is_counted_as_fully_shard_does_it(
    changes: dict[str, Any],
    checkpointing: bool,
    precision: str,
    one_process: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With much to compute, and with large weights."""
    plan = whole(**changes, precision=precision)
    found = counted(plan, checkpointing)["FSDP2 offload"].peak
    run = dry_pass(plan, costliest_job(plan), checkpointing)
    real = really_offloaded(run, one_process, precision, monkeypatch)
    assert found.total == pytest.approx(real, rel=0.005)
