"""What an experiment is: the arms of a task, its data, and how runs are scored; one table of arms for each task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from oneblock.data import Batches
from oneblock.experiment.summary import Row, Scores
from oneblock.plan import Plan
from oneblock.presets.base import Recipe
from oneblock.presets.data import Data
from oneblock.sample.calls import Answers
from oneblock.train.drive import Watch
from oneblock.train.loop import Run
from oneblock.train.machine import Machine

AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)
Known = TypeVar("Known", bound="AtHand")
Asking = TypeVar("Asking")


class AtHand(Protocol):
    """The data of an experiment, as far as every task has them."""

    @property
    def train(self) -> Batches:
        """The training samples."""

    @property
    def facts(self) -> Any:
        """What a plan must know of them."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a comparison."""

    arm: str
    budget: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm}-{self.budget}-seed{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Case(Generic[Known]):
    """What training and scoring one run needs.

    Args:
        plans: of its networks: a single one, or one for each of an ensemble, which differ in their seeds.
        directory: of the run.
    """

    cell: Cell
    plans: Sequence[Plan]
    known: Known
    directory: Path
    machine: Machine
    watch: Watch


class Contender(Protocol[Known]):
    """A network that is trained in another way than blocks are: a rival with a procedure of its own."""

    def check(self, known: Known, machine: Machine) -> None:
        """Refuse before any work what cannot be trained."""

    def row(self, case: Case[Known]) -> Row:
        """Train and score it."""


@dataclass(frozen=True, kw_only=True)
class Arm(Generic[AnyRecipe, Asking]):
    """One way to train.

    Args:
        recipes: from the recipe of the comparison to this arm's: one, or one for each network of an ensemble. The
            budget, the seed and ``hold`` are those of the run already.
        branched: it needs a trunk, so it is refused where ``branch`` is 0.
        plan: makes the plan of a recipe from the facts of the data; None for the recipe's own.
        answers: how its blocks are asked, where they cannot be asked as the comparison says.
        rival: how it is built from the experiment and its plan, where it has a procedure of its own.
        usual: it is trained unless arms are named.
    """

    recipes: Callable[[AnyRecipe], AnyRecipe | Sequence[AnyRecipe]]
    branched: bool = False
    plan: Callable[[AnyRecipe, Any], Plan] | None = None
    answers: Answers | None = None
    rival: Callable[[Asking, Plan], Contender[Any]] | None = None
    usual: bool = True

    def plans(self, recipe: AnyRecipe, facts: Any) -> list[Plan]:
        """The plans of its networks, given the ``facts`` of the data."""
        found = self.recipes(recipe)
        several: Sequence[AnyRecipe] = (found,) if isinstance(found, Recipe) else found
        return [one.plan(facts) if self.plan is None else self.plan(one, facts) for one in several]


def usual_arms(arms: Mapping[str, Arm[Any, Any]]) -> tuple[str, ...]:
    """The names of those that are trained unless some are named."""
    return tuple(name for name, arm in arms.items() if arm.usual)


class Experiment(Protocol[AnyRecipe, Known]):
    """What is compared on the data of one task, and how: fields of a frozen dataclass say how runs are scored."""

    @property
    def task(self) -> str:
        """Its name: the word after ``oneblock compare``."""

    @property
    def usual(self) -> AnyRecipe:
        """The recipe that is compared unless the user has another: budget, batches and branch of the task."""

    @property
    def arms(self) -> Mapping[str, Arm[AnyRecipe, Any]]:
        """All ways to train, by name."""

    @property
    def scores(self) -> Scores:
        """What runs are judged by."""

    def open(self, recipe: AnyRecipe, data: Data | None, held_out: Data | None) -> Known:
        """The data, for training and for scoring (``compare``)."""

    def fitted(self, recipe: AnyRecipe, known: Known) -> AnyRecipe:
        """The recipe with what the data decide in a comparison."""

    def check(self, plans: Mapping[Cell, Sequence[Plan]], known: Known) -> None:
        """Refuse before any work what cannot be scored, given the plans of every run."""

    def asked(self, arm: str, plans: Sequence[Plan]) -> Row:
        """What a recorded result must have been made with."""

    def score(self, case: Case[Known], runs: Sequence[Run]) -> Row:
        """The scores of trained networks, as plain values."""

    def line(self, row: Row) -> str:
        """The scores of a run in a few words."""
