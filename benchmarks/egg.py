"""EGG, the byte model of whole numbers: what its population buys, at equal steps and at equal processor time.

python benchmarks/egg.py [--data books --populations 2 64 1024 --steps 300 --seconds 60 --seeds 3]

Held-out bits per byte after ``--steps`` steps and after ``--seconds`` of processor time, beside unigrams and bigrams of
the training text, gzip, and a GRU of the same width with floating-point weights, trained by backpropagation and Adam on
as many streams as the largest population has. One thread.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneblock.data import Bytes, open_text
from oneblock.evaluate.bytes import score_bytes
from oneblock.model.bytes import PIECES, SCORED, spread_out
from oneblock.models.egg import SYMBOLS, EGGConfig
from oneblock.presets.bytes import stream
from oneblock.train.integer import EGGJob, VoteSettings

FOREVER = 10**9
RATE = 3e-3
"""Of the GRU's Adam."""


class GRU(nn.Module):
    """Bytes (n, t) and a state -> logits (n, t, 256) and a state."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(SYMBOLS, width)
        self.layers = nn.GRU(width, width, depth, batch_first=True)
        self.head = nn.Linear(width, SYMBOLS)

    def forward(self, tokens: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        h, state = self.layers(self.embed(tokens), state)
        return self.head(h), state


def marks(step: Callable[[], object], score: Callable[[], float], steps: int, seconds: float) -> Iterator[str]:
    """Scores after so many steps and after so much time, each with the other of the two."""
    spent, done = 0.0, 0
    by_steps = by_time = ""
    while not (by_steps and by_time):
        began = time.process_time()
        step()
        spent, done = spent + time.process_time() - began, done + 1
        if done == steps:
            by_steps = f"{score():.3f} | {spent:.1f}"
        if spent >= seconds and not by_time:
            by_time = f"{score():.3f} | {done}"
    yield from (by_steps, by_time)


def egg(population: int, config: EGGConfig, train: Tensor, seed: int) -> EGGJob:
    group = min(VoteSettings.group_size, population)
    settings = VoteSettings(
        steps=FOREVER, population=population, group_size=group, chunk=min(population, VoteSettings.chunk), seed=seed
    )
    return EGGJob(config, settings, train)


def gru(config: EGGConfig, streams: int, train: Tensor, seed: int) -> tuple[Callable[[], object], GRU]:
    """A step of its training, and the network."""
    torch.manual_seed(seed)
    network = GRU(config.depth, config.width)
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    tokens, starts = VoteSettings.tokens, torch.arange(streams) * len(train) // streams
    held: list[Tensor | None] = [None]
    at = [0]

    def step() -> None:
        part = train[(starts[:, None] + at[0] + torch.arange(tokens + 1)) % len(train)].long()
        logits, state = network(part[:, :-1], held[0])
        held[0], at[0] = state.detach(), at[0] + tokens
        optimizer.zero_grad()
        F.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten()).backward()
        optimizer.step()

    return step, network


@torch.no_grad()
def gru_bits(network: GRU, text: Tensor) -> float:
    """On ``text`` in ``PIECES``, as ``score_bytes``."""
    pieces = text[: len(text) // PIECES * PIECES].view(PIECES, -1).long()
    logits, _ = network(pieces[:, :-1], None)
    return float(F.cross_entropy(logits.flatten(0, 1), pieces[:, 1:].flatten())) / math.log(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="books")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--populations", type=int, nargs="+", default=[2, 64, 1024])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--width", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    splits = (open_text(options.data, split, Bytes(), root=options.data_dir) for split in ("train", "test"))
    train, test = map(stream, splits)
    held_out = spread_out(test, SCORED, PIECES)
    config = EGGConfig(depth=options.depth, width=options.width)
    known = score_bytes(egg(2, config, train, 0).model, held_out, train, PIECES)
    print(
        f"{options.data}: unigram {known.unigram:.3f}, bigram {known.bigram:.3f}, gzip {known.gzip:.3f} bits per byte"
    )
    print(f"| model | seed | bits after {options.steps} steps | CPU s | bits after {options.seconds:g} CPU s | steps |")
    print("|---|---|---|---|---|---|")
    streams = max(options.populations) // VoteSettings.group_size or 1
    for seed in range(options.seeds):
        for population in options.populations:
            job = egg(population, config, train, seed)
            model = job.model
            found = marks(
                job.advance,
                lambda model=model: score_bytes(model, held_out, train[:2], PIECES).model,  # type: ignore[misc]
                options.steps,
                options.seconds,
            )
            print(f"| EGG, population {population} | {seed} | {' | '.join(found)} |", flush=True)
        step, network = gru(config, streams, train, seed)
        found = marks(step, lambda network=network: gru_bits(network, held_out), options.steps, options.seconds)  # type: ignore[misc]
        print(f"| GRU, backpropagation | {seed} | {' | '.join(found)} |", flush=True)


if __name__ == "__main__":
    main()
