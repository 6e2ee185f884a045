"""Training gives the checkpoints that were frozen, byte for byte, also when it was killed in the middle."""

from pathlib import Path
from typing import Any

import pytest
import torch
from frozen import training
from frozen.machinery import HERE, Ok, load, on_purpose, same_arithmetic
from torch import Tensor

pytest.importorskip("sklearn")

FROZEN = load(training.FILE)
RESULTS: dict[str, Any] = FROZEN["results"]
NEAR = 1e-4
"""Four steps move weights by about 1e-2. Other instruction sets of one CPU (ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA,
MKL_ENABLE_INSTRUCTIONS) moved them by 2.3e-5 at most."""


def check(out: Path, case: str) -> None:
    found = training.measure(out)
    assert found.keys() == RESULTS[case].keys(), on_purpose("checkpoints")
    wrong = [job for job in found if found[job] != RESULTS[case][job]]
    if wrong:
        assert not same_arithmetic(FROZEN), f"{on_purpose('checkpoints')}; jobs that differ: {', '.join(wrong)}"
        near(out, case)


def near(out: Path, case: str) -> None:
    frozen = {k: v for k, v in training.tensors(HERE / training.AVERAGES).items() if k.startswith(f"{case}/")}
    found = training.averages(out, case)
    assert found.keys() == frozen.keys(), on_purpose("checkpoints")
    for name, tensor in found.items():
        seen = [felt(name, value) for value in (tensor, frozen[name])]
        torch.testing.assert_close(*seen, rtol=NEAR, atol=NEAR, msg=lambda m, n=name: f"{n}: {m}")


def felt(name: str, tensor: Tensor) -> Tensor:
    """What training feels of averaged weights: all but the bias of the keys, which a softmax over them cancels. Its
    gradient is nothing but rounding, and AdamW makes whole steps of it."""
    if not name.endswith("qkv.bias"):
        return tensor
    query, _, value = tensor.chunk(3)
    return torch.cat([query, value])


def test_every_case_is_frozen() -> None:
    assert list(RESULTS) == list(training.CASES), on_purpose("checkpoints")


@pytest.mark.parametrize("case", training.CASES)
def test_checkpoints(case: str, desk: Path, ok: Ok) -> None:
    training.run(ok, desk / "run", case)
    check(desk / "run", case)


@pytest.mark.parametrize("case", training.CASES)
def test_checkpoints_of_a_run_that_was_killed(case: str, desk: Path, ok: Ok) -> None:
    training.run(ok, desk / "run", case, "--save-every", "1", "--keep", "99")
    training.interrupt(desk / "run")
    training.run(ok, desk / "run", case, "--save-every", "1", "--keep", "99")
    check(desk / "run", case)
