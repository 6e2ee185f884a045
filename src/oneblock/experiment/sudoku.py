"""Sudoku by masked diffusion: is a state that calls hand on worth it, at equal training calls and at matched calls?

One network and one loop for all arms: masks at random (``mlm``), rollouts (``rollout``), rollouts with a state without
gradients through it (``relay-sg``) and with them (``relay``), and rollouts of a network whose last layer is wider
(``rollout-wide``: is it more weights that help?). Every model is decoded at several taus, which gives exact match
against calls per puzzle; arms are compared at fixed numbers of calls, linear between two decodings, as each arm is sure
in its own way. Controls change the state in decoding: none, another puzzle's, a noised one; and the order of revealing.

Rozonoyer et al., "Learned Relay Representations for Forward-Thinking Discrete Diffusion Models", Section 4.1,
https://arxiv.org/abs/2605.22967.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from oneblock.blockwise import BlockDenoiser
from oneblock.checks import check_choice, check_count, check_fields, check_number
from oneblock.condition import Condition
from oneblock.cpus import threads_each
from oneblock.data import Batches
from oneblock.data.sudoku import CELLS, SIDE, SYMBOLS, Sudokus, Turned, sudokus
from oneblock.experiment.grid import Comparison, end_with_parent, finished_apart
from oneblock.experiment.results import RESULT_FILE, read_result, record, recorded
from oneblock.experiment.summary import Row, Scores
from oneblock.models.board import Board
from oneblock.noise import LinearMask
from oneblock.precondition import MaskedTokens
from oneblock.relay import RelayAdapter
from oneblock.sample.policy import Policy, Schedule, Uncertainty
from oneblock.sample.relay import reveal_by
from oneblock.state import START, Hidden, State
from oneblock.tasks.base import Loss
from oneblock.tasks.relay import RelayLoss, Rollout, RolloutBuffer
from oneblock.train.learner import Learner, learn
from oneblock.train.session import in_session
from oneblock.train.step import Course, OptimizerSettings

SudokuArm = Literal["mlm", "rollout", "relay-sg", "relay", "rollout-wide"]
ARMS: tuple[SudokuArm, ...] = ("mlm", "rollout", "relay-sg", "relay")
SudokuData = Literal["sudoku6"]
LAW, MASK = LinearMask(), SYMBOLS
TAUS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0)
AT = (4.0, 6.0, 8.0, 10.0, 16.0)
"""Calls per puzzle at which arms are compared."""
JUDGED_AT = 8.0
"""The same, for the scores that decide."""
SCORES = Scores(
    judged={"exact": "higher"},
    spread=("exact", "exact_hard", "rate", "parameters", "fresh", "train_seconds", "usual_exact", "usual_calls"),
    listed="exact_at",
    ours=("relay-sg", "relay"),
    rivals=("mlm", "rollout", "rollout-wide", "relay-sg"),
)


@dataclass(frozen=True, kw_only=True)
class SudokuRecipe:
    """What all arms have in common."""

    width: int = 64
    """of the network"""
    depth: int = 2
    """layers"""
    heads: int = 4
    """of attention"""
    batch_size: int = 128
    """puzzles of a step"""
    calls: int = 3700
    """calls of the denoiser in training, forward and backward, the same for all arms"""
    calls_per_step: int = 2
    """calls of a step of rollouts"""
    rates: tuple[float, ...] = (5e-4, 1e-3, 2e-3)
    """learning rates that every arm tries on the first seed; the one that solves most is its rate for all seeds"""
    puzzles: int = 2200
    """to train on"""
    turned: bool = True
    """each time under a symmetry drawn at random: digits renamed, rows and columns exchanged"""
    held_out: int = 500
    """to be scored on; no two puzzles of all have the same complete grid"""
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("width", "depth", "batch_size", "calls_per_step", "puzzles", "held_out"):
            check_count(name, getattr(self, name))
        check_count("calls", self.calls, self.calls_per_step)
        if not self.rates or len(set(self.rates)) < len(self.rates):
            raise ValueError(f"rates={self.rates} is not allowed; name one learning rate or more, each once")
        for rate in self.rates:
            check_number("rates", rate, above=0)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One model that is trained and scored."""

    arm: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm}-{self.rate:g}-seed{self.seed}"


def compare_relay(
    out: str | Path,
    *,
    data: SudokuData = "sudoku6",
    arms: Sequence[SudokuArm] = ARMS,
    recipe: SudokuRecipe | None = None,
    seeds: int = 3,
    workers: int = 1,
    told: Callable[[str], None] | None = None,
) -> Comparison:
    """Train and score every arm with every seed, and with every rate on the first one. The same call goes on where it
    was stopped.

    Args:
        out: directory of the comparison; each model's scores have one of their own in it.
        data: Sudokus of 6 x 6 cells (``data.sudoku``), generated.
        seeds: models of an arm, with ``recipe.seed``, the next, ...
        workers: models that are trained at the same time, each in a process of its own.
        told: called with a line about every model that is finished.

    Raises:
        ValueError: anything that cannot be, before any work.
    """
    check_choice("data", data, get_args(SudokuData))
    check_count("seeds", seeds)
    check_count("workers", workers)
    for arm in arms:
        check_choice("arms", arm, get_args(SudokuArm))
    if not arms or len(set(arms)) < len(arms):
        raise ValueError(f"arms={tuple(arms)} is not allowed; name one or more, each once")
    bench = Bench(Path(out), SudokuRecipe() if recipe is None else recipe)
    tried = [Trial(arm=arm, rate=rate, seed=bench.recipe.seed) for arm in arms for rate in bench.recipe.rates]
    with in_session(bench.out, {"task": "relay", "arms": list(arms)}):
        found = dict(_told(bench.run(tried, workers), told))
        best = _best(found, tried)
        numbers = range(bench.recipe.seed, bench.recipe.seed + seeds)
        chosen = [Trial(arm=arm, rate=best[arm].rate, seed=seed) for seed in numbers for arm in arms]
        found |= dict(_told(bench.run([one for one in chosen if one not in found], workers), told))
    return Comparison(task="relay", out=bench.out, rows=_with_tried(found, tried, chosen), scores=SCORES)


def reopen_relay(directory: Path) -> Comparison:
    """The comparison in a directory as far as it has come: of every arm the models at the rate that has solved most.

    Raises:
        ValueError: it holds no result of one.
    """
    found = {}
    for path in sorted(directory.glob(f"*/{RESULT_FILE}")):
        row = read_result(path)
        if row.get("run") == path.parent.name and "decoded" in row:
            found[Trial(arm=row["arm"], rate=row["rate"], seed=row["seed"])] = row
    if not found:
        raise ValueError(f"{directory} holds no result of Sudokus; give the --out of oneblock compare relay")
    first = min(trial.seed for trial in found)
    tried = [trial for trial in found if trial.seed == first]
    best = _best(found, tried)
    order = [arm for arm in get_args(SudokuArm) if arm in best]
    chosen = sorted((t for t in found if t.rate == best[t.arm].rate), key=lambda t: (t.seed, order.index(t.arm)))
    return Comparison(task="relay", out=directory, rows=_with_tried(found, tried, chosen), scores=SCORES)


def _best(found: Mapping[Trial, Row], tried: Sequence[Trial]) -> dict[str, Trial]:
    """The model of every arm that solved most."""
    arms = dict.fromkeys(trial.arm for trial in tried)
    return {arm: max((t for t in tried if t.arm == arm), key=lambda t: found[t]["exact"] or 0.0) for arm in arms}


def _with_tried(found: Mapping[Trial, Row], tried: Sequence[Trial], chosen: Sequence[Trial]) -> list[Row]:
    """The rows of the chosen models, each with what every rate of its arm has solved."""
    return [
        {**found[one], "tried": {f"{t.rate:g}": found[t]["exact"] for t in tried if t.arm == one.arm}} for one in chosen
    ]


def _told(rows: Iterable[tuple[Trial, Row]], told: Callable[[str], None] | None) -> Iterator[tuple[Trial, Row]]:
    for trial, row in rows:
        if told is not None:
            told(f"{trial.name}: {_share(row['exact'])} solved at {JUDGED_AT:g} calls")
        yield trial, row


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


@dataclass(frozen=True)
class Bench:
    """Where models are scored, and on what."""

    out: Path
    recipe: SudokuRecipe

    def run(self, trials: Sequence[Trial], workers: int) -> Iterator[tuple[Trial, Row]]:
        """Every model as it is finished."""
        if workers == 1:
            for trial in trials:
                yield trial, self.row(trial)
            return
        yield from finished_apart(
            workers, {trial: (self.row, trial) for trial in trials}, _enter, threads_each(workers)
        )

    def row(self, trial: Trial) -> Row:
        """Train, score and record a model, unless that has been done."""
        recipe, directory = self.recipe, self.out / trial.name
        asked = {**asdict(recipe), "rates": None, "rate": trial.rate, "seed": trial.seed}
        found = recorded(directory, trial.arm, asked)
        if found is not None:
            return found
        train, test = sudokus(recipe.puzzles, recipe.held_out)
        denoiser, spent = trained(recipe, trial, Turned(train, test) if recipe.turned else train)
        return record(directory, {"arm": trial.arm, **asked, **spent, **scored(denoiser, test, trial)})


def _enter(threads: int) -> None:
    end_with_parent()
    if threads:
        torch.set_num_threads(threads)


def network_of(recipe: SudokuRecipe, trial: Trial) -> BlockDenoiser:
    """The network of a model; those of one seed start with the same weights but for the way of the state."""
    torch.manual_seed(trial.seed)
    wide = 2 if trial.arm == "rollout-wide" else 1
    network: nn.Module = Board(recipe.width, recipe.depth, recipe.heads, wide)
    if _carries(trial):
        network = RelayAdapter(network, inject="all", zero_init=False, width=recipe.width)
    return BlockDenoiser(network, MaskedTokens())


def _carries(trial: Trial) -> bool:
    return trial.arm.startswith("relay")


def trained(recipe: SudokuRecipe, trial: Trial, train: Batches) -> tuple[BlockDenoiser, Row]:
    """A model with averaged weights, and what it took: steps, calls, fresh puzzles, processor seconds."""
    began = time.process_time()
    per_step = 1 if trial.arm == "mlm" else recipe.calls_per_step
    steps = recipe.calls // per_step
    settings = OptimizerSettings(learning_rate=trial.rate, clip=0.5)
    course = Course(name=trial.name, first_step=0, last_step=steps, warmup=max(1, steps // 50), hold=steps)
    learner = Learner(course, network_of(recipe, trial), settings)
    loss = RelayLoss(mask=MASK, law=LAW, calls=per_step, carry=_carries(trial), detach=trial.arm == "relay-sg")
    buffer, fresh = RolloutBuffer(mask=MASK), 0
    for step in range(steps):
        generator = torch.Generator().manual_seed((trial.seed + 1) * 1_000_003 + step)
        tokens = train.batch(step, recipe.batch_size, trial.seed).values
        if trial.arm == "mlm":
            buffer = RolloutBuffer(mask=MASK)  # its first filling has any share of the places masked
        rollout = buffer.filled(tokens, generator, tokens < SIDE)
        fresh += int((rollout.age == 0).sum())
        learn([learner], [partial(_loss, learner, loss, buffer, rollout, generator)], recipe.batch_size)
    return learner.freeze(), {
        "steps": steps,
        "fresh": fresh,
        "train_seconds": time.process_time() - began,
        "parameters": sum(p.numel() for p in learner.weights.values()),
        "layer_evaluations": steps * per_step * recipe.batch_size * recipe.depth,
        "budget": str(recipe.calls),
        "run": trial.name,
    }


def _loss(
    learner: Learner[Any], loss: RelayLoss, buffer: RolloutBuffer, rollout: Rollout, generator: torch.Generator
) -> Loss:
    found, after = loss(learner.network, rollout, generator)
    buffer.keep(after)
    return found


def scored(denoiser: BlockDenoiser, test: Sudokus, trial: Trial) -> Row:
    """Exact match at several taus, at fixed numbers of calls, and with changed states.

    ``exact`` and ``exact_hard`` (of puzzles that naked singles do not solve) are at ``JUDGED_AT`` calls, ``usual_...``
    at the usual tau.
    """
    carry, usual = _carries(trial), Uncertainty(spread=0.0)
    decode = partial(decoded, test=test, carry=carry, seed=trial.seed)
    rows = [{"tau": tau, **decode(denoiser, policy=Uncertainty(tau=tau, spread=0.0))} for tau in TAUS]
    at_usual = next(row for row in rows if row["tau"] == usual.tau)
    by_chance = decode(denoiser, policy=Schedule(steps=max(1, round(at_usual["calls"]))))
    return {
        "exact": at_calls(rows, JUDGED_AT, "exact"),
        "exact_hard": at_calls(rows, JUDGED_AT, "exact_hard"),
        "exact_at": [at_calls(rows, calls, "exact") for calls in AT],
        "listed_at": list(AT),
        "usual_exact": at_usual["exact"],
        "usual_calls": at_usual["calls"],
        "decoded": rows,
        "controls": {"order of chance": by_chance, **(_controls(denoiser, test, trial.seed) if carry else {})},
        "opening": cast(RelayAdapter, denoiser.backbone).opening if carry else None,
    }


def decoded(denoiser: Any, test: Sudokus, policy: Policy, carry: bool, seed: int) -> dict[str, float]:
    """Exact match, of hard puzzles alone too, share of right digits, and mean calls per puzzle."""
    start = torch.where(test.free, MASK, test.puzzles)
    found = reveal_by(denoiser, LAW, start, MASK, policy, carry=carry, free=test.free, most=CELLS, seed=seed)
    right, hard = found.tokens == test.puzzles, test.hard
    return {
        "exact": float(right.all(1).double().mean()),
        "exact_hard": float(right[hard].all(1).double().mean()) if bool(hard.any()) else 0.0,
        "digits": float(right[test.free].double().mean()),
        "calls": float(found.calls.double().mean()),
    }


def at_calls(rows: Sequence[Mapping[str, float]], calls: float, score: str) -> float | None:
    """A score at so many calls, linear between two decodings; None outside of them."""
    known = sorted((row["calls"], row[score]) for row in rows)
    for (left, low), (right, high) in pairwise(known):
        if left <= calls <= right and right > left:
            return low + (high - low) * (calls - left) / (right - left)
    return None


@dataclass(frozen=True)
class _Changed:
    """A denoiser whose states are changed before they enter."""

    denoiser: BlockDenoiser
    change: Callable[[Tensor], Tensor]

    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition, state: State = START) -> Any:
        if isinstance(state, Hidden):
            state = Hidden(self.change(state.tokens), state.owner)
        return self.denoiser(z, sigma, condition, state)


def _controls(denoiser: BlockDenoiser, test: Sudokus, seed: int) -> dict[str, dict[str, float]]:
    """The same model at the usual tau, its states left out, given to other puzzles, or noised."""
    generator, policy = torch.Generator().manual_seed(seed), Uncertainty(spread=0.0)

    def noisy(size: float, tokens: Tensor) -> Tensor:
        scale = size * tokens.std(-1, keepdim=True)
        return tokens + scale * torch.randn(tokens.shape, generator=generator)

    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "shuffled": lambda tokens: tokens[torch.randperm(len(tokens), generator=generator)],
        "noise 0.5": partial(noisy, 0.5),
        "noise 1": partial(noisy, 1.0),
    }
    found = {name: decoded(_Changed(denoiser, change), test, policy, True, seed) for name, change in changes.items()}
    return {"no state": decoded(denoiser, test, policy, False, seed), **found}
