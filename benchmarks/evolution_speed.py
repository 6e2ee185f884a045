"""What evolution costs beside inference: one linear layer, a population that does not share its inputs.

python benchmarks/evolution_speed.py [--device cuda --dtype bfloat16 --width 8192]

Each number is the share of plain inference's speed, of the same inputs through the unperturbed layer. "drawn before"
has the noise at hand; "drawn again" includes drawing it. Full rank makes every member's matrix, a chunk of members at a
time.
Processor time on a CPU, with one thread; elapsed time on a GPU.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from oneblock.ops.low_rank import linear
from oneblock.ops.members import Full, LowRank, Offset
from oneblock.optim.perturbation import Noise

WHOLE = 64
"""Members whose whole matrices are made at once."""


def best(work: Callable[[], object], device: torch.device, tries: int) -> float:
    """Seconds of the fastest of some tries."""
    found = []
    for _ in range(tries + 1):  # the first warms up
        _wait(device)
        began = time.perf_counter() if device.type == "cuda" else time.process_time()
        work()
        _wait(device)
        found.append((time.perf_counter() if device.type == "cuda" else time.process_time()) - began)
    return min(found[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def low_rank(x: Tensor, weight: Tensor, offset: Offset) -> Tensor:
    assert isinstance(offset, LowRank), "rank is 1 or more"
    return torch.vmap(lambda x, a, b: linear(x, weight, None, a, b))(x, offset.a, offset.b)


def drawn_again(x: Tensor, weight: Tensor, noise: Noise) -> Tensor:
    return low_rank(x, weight, noise.offsets(0, range(len(x)))["weight"])


def full_rank(x: Tensor, weight: Tensor, noise: Noise) -> Tensor:
    parts = []
    for start in range(0, len(x), WHOLE):
        members = range(start, min(start + WHOLE, len(x)))
        offset = noise.offsets(0, members)["weight"]
        assert isinstance(offset, Full), "rank is 0"
        parts.append(torch.bmm(x[start : members.stop], (weight + offset.values).transpose(1, 2)))
    return torch.cat(parts)


@torch.inference_mode()
def row(width: int, inputs: int, population: int, device: torch.device, dtype: torch.dtype, tries: int) -> list[float]:
    """Milliseconds of plain inference, and the three shares."""
    weight = torch.randn(width, width, device=device, dtype=dtype) / width**0.5
    x = torch.randn(population, inputs, width, device=device, dtype=dtype)
    some, whole = (Noise({"weight": weight}, sigma=0.05, rank=rank, seed=0) for rank in (1, 0))
    offset = some.offsets(0, range(population))["weight"]
    plain = best(partial(torch.nn.functional.linear, x.flatten(0, 1), weight), device, tries)
    before = best(partial(low_rank, x, weight, offset), device, tries)
    again = best(partial(drawn_again, x, weight, some), device, tries)
    full = best(partial(full_rank, x, weight, whole), device, 1)
    return [1000 * plain, plain / before, plain / again, plain / full]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--inputs", type=int, nargs="+", default=[1, 16], help="of each member")
    parser.add_argument("--population", type=int, default=1024)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tries", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"population {options.population}, {options.dtype}, {options.device}, rank 1")
    print("| width | inputs of a member | inference, ms | drawn before | drawn again | full rank |")
    print("|---|---|---|---|---|---|")
    for width in options.width:
        for inputs in options.inputs:
            device, dtype = torch.device(options.device), getattr(torch, options.dtype)
            plain, *shares = row(width, inputs, options.population, device, dtype, options.tries)
            print(f"| {width} | {inputs} | {plain:.2f} | " + " | ".join(f"{share:.3f}" for share in shares) + " |")


if __name__ == "__main__":
    main()
