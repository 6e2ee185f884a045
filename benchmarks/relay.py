"""Relay on 6 x 6 Sudoku: does a state that calls hand on solve more, at equal training calls and at matched calls?

Four arms, one network and one loop: masks at random (mlm), rollouts (rollout), rollouts with a state without gradients
through it (relay-sg) and with them (relay). Each model is decoded at several taus, which gives exact match against
calls per puzzle; arms are compared at fixed numbers of calls, interpolated. Controls: no state in decoding ("off"),
a shuffled and a noised one, and places revealed in an order of chance.

    python benchmarks/relay.py --out runs/relay-sudoku                     # 3 seeds
    python benchmarks/relay.py --out runs/relay-sudoku --seeds 1 --calls 3700 --arms mlm relay
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from oneblock.backbone import Modulation
from oneblock.blockwise import BlockDenoiser
from oneblock.condition import Condition
from oneblock.data.sudoku import CELLS, SIDE, SYMBOLS, Sudokus, box_of, sudokus
from oneblock.models.layers import Layer, LayerConfig
from oneblock.noise import LinearMask
from oneblock.precondition import MaskedTokens
from oneblock.relay import RelayAdapter
from oneblock.sample.policy import Policy, Schedule, Uncertainty
from oneblock.sample.relay import reveal_by
from oneblock.state import START, Hidden, State
from oneblock.tasks.base import Loss
from oneblock.tasks.relay import RelayLoss, RolloutBuffer
from oneblock.train.learner import Learner, learn
from oneblock.train.step import Course, OptimizerSettings

ARMS = ("mlm", "rollout", "relay-sg", "relay")
LAW, MASK = LinearMask(), SYMBOLS
TAUS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0)
AT = (4.0, 6.0, 8.0, 10.0, 16.0)
"""Calls per puzzle at which arms are compared."""


class Board(nn.Module):
    """Digits with the embeddings of their row, column and box; it is not told the masked share."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.symbol, self.row, self.column, self.box = (
            nn.Embedding(size, width) for size in (SYMBOLS + 1, SIDE, SIDE, SIDE)
        )
        self.layers = nn.ModuleDict({str(i): Told(LayerConfig(width=width, heads=4)) for i in range(depth)})
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, SYMBOLS)

    def stem(self, z: Tensor, noise: Tensor, condition: Condition) -> tuple[Tensor, Modulation]:
        cells = torch.arange(CELLS, device=z.device)
        boxes = torch.tensor([box_of(cell) for cell in range(CELLS)], device=z.device)
        return self.symbol(z) + self.row(cells // SIDE) + self.column(cells % SIDE) + self.box(boxes), None

    def head(self, h: Tensor, modulation: Modulation) -> Tensor:
        logits: Tensor = self.out(self.norm(h))
        return logits


class Told(Layer):
    """A plain layer, told nothing besides the tokens."""

    def forward(self, h: Tensor, modulation: Modulation) -> Tensor:  # type: ignore[override]
        return super().forward(h)


def built(arm: str, seed: int, width: int, depth: int) -> BlockDenoiser:
    """The network of an arm; all have the same weights but for the way of the state."""
    torch.manual_seed(seed)
    network: nn.Module = Board(width, depth)
    if arm.startswith("relay"):
        network = RelayAdapter(network, inject="all", zero_init=False, width=width)
    return BlockDenoiser(network, MaskedTokens())


@dataclass(frozen=True)
class Spent:
    """What training took: optimizer steps, calls forward and backward, fresh puzzles, seconds of the processor."""

    steps: int
    calls: int
    fresh: int
    seconds: float


def trained(arm: str, seed: int, train: Sudokus, args: argparse.Namespace) -> tuple[BlockDenoiser, Spent]:
    """A model of an arm, with averaged weights. Every arm makes ``args.calls`` calls of the denoiser."""
    began = time.process_time()
    per_step = 1 if arm == "mlm" else args.per_step
    steps = args.calls // per_step
    settings = OptimizerSettings(learning_rate=args.rate, clip=0.5)
    course = Course(name=f"{arm}-{seed}", first_step=0, last_step=steps, warmup=max(1, steps // 50), hold=steps)
    learner = Learner(course, built(arm, seed, args.width, args.depth), settings)
    loss = RelayLoss(mask=MASK, law=LAW, calls=per_step, carry=arm.startswith("relay"), detach=arm == "relay-sg")
    buffer, fresh = RolloutBuffer(mask=MASK), 0
    for step in range(steps):
        generator = torch.Generator().manual_seed((seed + 1) * 1_000_003 + step)
        tokens = train.batch(step, args.batch, seed).values
        if arm == "mlm":
            buffer = RolloutBuffer(mask=MASK)  # its first filling has any share of the places masked
        rollout = buffer.filled(tokens, generator, tokens < SIDE)
        fresh += int((rollout.age == 0).sum())
        learn([learner], [partial(_loss, learner, loss, buffer, rollout, generator)], args.batch)
    spent = Spent(steps, steps * per_step, fresh, time.process_time() - began)
    return learner.freeze(), spent


def _loss(learner: Learner[Any], loss: RelayLoss, buffer: RolloutBuffer, rollout: Any, generator: Any) -> Loss:
    found, after = loss(learner.network, rollout, generator)
    buffer.keep(after)
    return found


class Changed:
    """A denoiser whose states are changed before they enter; a control."""

    def __init__(self, denoiser: BlockDenoiser, change: Callable[[Tensor], Tensor]) -> None:
        self.denoiser, self.change = denoiser, change

    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition, state: State = START) -> Any:
        if isinstance(state, Hidden):
            state = Hidden(self.change(state.tokens), state.owner)
        return self.denoiser(z, sigma, condition, state)


def decoded(denoiser: Any, test: Sudokus, policy: Policy, carry: bool, seed: int) -> dict[str, float]:
    """Exact match, share of right digits, and mean calls per puzzle."""
    start = torch.where(test.free, MASK, test.puzzles)
    found = reveal_by(denoiser, LAW, start, MASK, policy, carry=carry, free=test.free, most=CELLS, seed=seed)
    right = found.tokens == test.puzzles
    hard = test.hard
    return {
        "exact": float(right.all(1).double().mean()),
        "exact_hard": float(right[hard].all(1).double().mean()) if bool(hard.any()) else float("nan"),
        "digits": float(right[test.free].double().mean()),
        "calls": float(found.calls.double().mean()),
    }


def at_calls(rows: Sequence[dict[str, float]], calls: float) -> float | None:
    """Exact match at so many calls, linear between two decodings; None outside of them."""
    known = sorted((row["calls"], row["exact"]) for row in rows)
    for (left, low), (right, high) in pairwise(known):
        if left <= calls <= right and right > left:
            return low + (high - low) * (calls - left) / (right - left)
    return None


def controls(denoiser: BlockDenoiser, test: Sudokus, seed: int) -> dict[str, dict[str, float]]:
    """The same model with its state changed, at the usual tau."""
    generator, policy = torch.Generator().manual_seed(seed), Uncertainty(spread=0.0)

    def noisy(size: float, tokens: Tensor) -> Tensor:
        scale = size * tokens.std(-1, keepdim=True)
        return tokens + scale * torch.randn(tokens.shape, generator=generator)

    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "shuffled": lambda tokens: tokens[torch.randperm(len(tokens), generator=generator)],
        "noise 0.5": partial(noisy, 0.5),
        "noise 1": partial(noisy, 1.0),
    }
    found = {name: decoded(Changed(denoiser, change), test, policy, True, seed) for name, change in changes.items()}
    return {"off": decoded(denoiser, test, policy, False, seed), **found}


def row_of(arm: str, seed: int, data: tuple[Sudokus, Sudokus], args: argparse.Namespace) -> dict[str, Any]:
    """Train and score one model."""
    train, test = data
    denoiser, spent = trained(arm, seed, train, args)
    carry = arm.startswith("relay")
    rows = [{"tau": tau, **decoded(denoiser, test, Uncertainty(tau=tau, spread=0.0), carry, seed)} for tau in TAUS]
    usual = next(row["calls"] for row in rows if row["tau"] == Uncertainty.tau)
    by_chance = decoded(denoiser, test, Schedule(steps=max(1, round(usual))), carry, seed)
    return {
        "arm": arm,
        "seed": seed,
        "parameters": sum(p.numel() for p in denoiser.parameters()),
        **vars(spent),
        "decoded": rows,
        "at_calls": {str(calls): at_calls(rows, calls) for calls in AT},
        "order of chance": by_chance,
        "controls": controls(denoiser, test, seed) if carry else {},
        "opening": cast(RelayAdapter, denoiser.backbone).opening if carry else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--calls", type=int, default=3700, help="calls of the denoiser in training, the same for all arms"
    )
    parser.add_argument("--per-step", type=int, default=2, help="calls of a step of rollouts")
    parser.add_argument("--puzzles", type=int, nargs=2, default=(2200, 500), help="to train on, and to test with")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=1e-3)
    args = parser.parse_args()
    data = sudokus(*args.puzzles)
    args.out.mkdir(parents=True, exist_ok=True)
    print(f"{len(data[0])} puzzles, {len(data[1])} to test with, {int(data[1].hard.sum())} of them hard")
    for seed in range(args.seeds):
        for arm in args.arms:
            path = args.out / f"{arm}-seed{seed}.json"
            if not path.exists():
                path.write_text(json.dumps(row_of(arm, seed, data, args), indent=2) + "\n")
            row = json.loads(path.read_text())
            shown = ", ".join(f"{c}: {e:.3f}" for c, e in row["at_calls"].items() if e is not None)
            print(f"{arm} seed {seed}, {row['seconds']:.0f} s, exact match at calls: {shown}", flush=True)


if __name__ == "__main__":
    main()
