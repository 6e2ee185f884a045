"""``benchmarks/device.py`` at a tiny size: the rivals that it times are trained as they should be."""

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from oneblock.plan import Plan
from oneblock.presets import ImageFacts, ImageRecipe, blockwise, plan_task
from oneblock.train.block import block_losses, train_step
from oneblock.train.strategy import job_specs

pytest.importorskip("torch.distributed._tools.mem_tracker")
BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "device.py"
SHAPE = (2, 1, 8, 8)


@pytest.fixture(scope="module")
def device() -> ModuleType:
    spec = spec_from_file_location("device_benchmark", BENCHMARK)
    assert spec is not None and spec.loader is not None
    module = sys.modules["device_benchmark"] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def plan() -> Plan:
    recipe = ImageRecipe(size="nano", depth=2, width=16, heads=2, blocks=1, batch_size=2, budget="1k")
    return recipe.plan(ImageFacts(shape=SHAPE[1:], num_classes=10))


def bench(device: ModuleType) -> Any:
    return device.Bench(torch.device("cpu"), 1, False, 0)


def initial(plan: Plan) -> dict[str, Tensor]:
    return dict(blockwise(plan).denoiser(0).backbone.named_parameters())


def test_offloading_trains_the_weights_that_training_trains(device: ModuleType, plan: Plan) -> None:
    samples, way = torch.randn(SHAPE), device.Way("FSDP2 offload")
    batch, spec = bench(device).batch(plan, samples), job_specs(plan)[0]
    plain = bench(device).learner(plan, way, 0)
    with device.alone(torch.device("cpu")) as mesh:
        offloaded = device.offloaded_learner(plan, way, bench(device), mesh)
        for learner in (plain, offloaded, plain, offloaded):
            train_step(spec, learner, plan_task(plan), batch)
        torch.testing.assert_close(offloaded.tensors(), plain.tensors())
    assert any(not torch.equal(plain.weights[name], p) for name, p in initial(plan).items())


def test_fused_adafactor_moves_every_weight_as_adafactor_does(device: ModuleType, plan: Plan) -> None:
    samples, way = torch.randn(SHAPE), device.Way("fused Adafactor")
    batch = bench(device).batch(plan, samples)
    fused, plain = device.fused_learner(plan, way, bench(device)), bench(device).learner(plan, way, 0)
    for learner in (fused, plain):
        learner.update([learner.network.train()], block_losses(learner, plan_task(plan), batch), len(samples), 0)
    assert all(p.grad is None for p in fused.weights.values())
    torch.optim.Adafactor(plain.weights.values(), lr=plain.learning_rate, foreach=False).step()
    torch.testing.assert_close(fused.weights, plain.weights)
    assert any(not torch.equal(plain.weights[name], p) for name, p in initial(plan).items())


@pytest.mark.parametrize(("name", "inputs"), [("cpu", 2), ("cuda", 1)])
def test_norms_are_planned_with_what_the_kernel_of_the_device_keeps(device: ModuleType, name: str, inputs: int) -> None:
    x, norm = torch.randn(2, 3, 64, requires_grad=True), torch.nn.RMSNorm(64)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with device.kernels_of(torch.device(name)), torch.autograd.graph.saved_tensors_hooks(keep, keep):
        norm(x)
    least = inputs * x.nbytes + 4 * 64
    assert least < sum(kept.values()) <= least + 4 * 2 * 6  # a number or two for each of six rows
    torch.testing.assert_close(norm(x).square().mean(), torch.tensor(1.0))  # it is torch's own again


@pytest.mark.slow
def test_every_strategy_gives_a_row(
    device: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    size = [
        "--size",
        "nano",
        "--length",
        "8",
        "--batch-size",
        "2",
        "--images",
        "2",
        "--sampling-steps",
        "2",
        "--steps",
        "1",
    ]
    monkeypatch.setattr(sys, "argv", ["device.py", "images", *size, "--device", "cpu"])
    device.main()
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    trained = [row for row in rows if row["measure"] == "train"]
    assert [row["strategy"] for row in trained] == [way.name for way in (*device.WHOLE, *device.RIVALS, *device.OWN)]
    for row in trained:
        assert row.get("planned_bytes", 0) > 0 or "torchao" in row["missing"]
        assert row["planned_share"] is None  # a CPU counts no peak
    assert [row["num_blocks"] for row in rows if row["measure"] == "sample"] == [1, 3]
