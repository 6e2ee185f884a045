"""Sudokus of 6 x 6 cells in boxes of 2 x 3, with a single solution each; there are 28,200,960 complete grids.

A puzzle is a row of 36 symbols, its complete grid: 0 to 5 for digits that are to be found, 6 to 11 for digits that are
given. So a model sees which digits are given, and which places may be masked follows from the symbols (``free``).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from oneblock.checks import check_count
from oneblock.data.memory import Samples

SIDE, ROWS, COLUMNS = 6, 2, 3
"""Of a grid, and of its boxes."""
CELLS = SIDE * SIDE
SYMBOLS = 2 * SIDE
"""Digits to find, then digits that are given."""
EMPTY = -1


def box_of(cell: int) -> int:
    """The box of a cell, both counted row by row."""
    row, column = divmod(cell, SIDE)
    return row // ROWS * (SIDE // COLUMNS) + column // COLUMNS


def _peers(cell: int) -> tuple[int, ...]:
    row, column = divmod(cell, SIDE)
    return tuple(
        other
        for other in range(CELLS)
        if other != cell and (other // SIDE == row or other % SIDE == column or box_of(other) == box_of(cell))
    )


PEERS = tuple(_peers(cell) for cell in range(CELLS))
"""Cells that must hold other digits than a cell."""


def solutions(grid: Sequence[int], most: int = 2, rng: random.Random | None = None) -> list[list[int]]:
    """The first solutions of a grid with ``EMPTY`` cells, at most so many; with ``rng`` in an order of chance."""
    found: list[list[int]] = []
    _search(list(grid), most, rng, found)
    return found


def _search(grid: list[int], most: int, rng: random.Random | None, found: list[list[int]]) -> None:
    fewest: tuple[int, list[int]] | None = None
    for cell in range(CELLS):
        if grid[cell] == EMPTY:
            digits = _possible(grid, cell)
            if fewest is None or len(digits) < len(fewest[1]):
                fewest = cell, digits
            if len(digits) < 2:
                break
    if fewest is None:
        found.append(list(grid))
        return
    cell, digits = fewest
    if rng is not None:
        rng.shuffle(digits)
    for digit in digits:
        grid[cell] = digit
        _search(grid, most, rng, found)
        if len(found) >= most:
            break
    grid[cell] = EMPTY


def _possible(grid: Sequence[int], cell: int) -> list[int]:
    taken = {grid[peer] for peer in PEERS[cell]}
    return [digit for digit in range(SIDE) if digit not in taken]


def puzzle(rng: random.Random) -> list[int]:
    """The symbols of a puzzle: a grid of which no given digit can be spared."""
    (grid,) = solutions([EMPTY] * CELLS, 1, rng)
    shown = list(grid)
    for cell in rng.sample(range(CELLS), CELLS):
        shown[cell] = EMPTY
        if len(solutions(shown)) > 1:
            shown[cell] = grid[cell]
    return [digit if given == EMPTY else digit + SIDE for digit, given in zip(grid, shown, strict=True)]


def naked_singles(symbols: Sequence[int]) -> bool:
    """Whether a puzzle can be solved by filling, again and again, cells that have one digit left: an easy one."""
    grid = [symbol - SIDE if symbol >= SIDE else EMPTY for symbol in symbols]
    while EMPTY in grid:
        certain = [(cell, _possible(grid, cell)) for cell in range(CELLS) if grid[cell] == EMPTY]
        certain = [(cell, digits) for cell, digits in certain if len(digits) == 1]
        if not certain:
            return False
        for cell, (digit,) in certain:
            grid[cell] = digit
    return True


@dataclass(frozen=True)
class Sudokus:
    """Puzzles int64 (n, 36); a source of training samples."""

    puzzles: Tensor

    def __len__(self) -> int:
        return len(self.puzzles)

    @property
    def free(self) -> Tensor:
        """bool (n, 36): cells whose digits are to be found."""
        return self.puzzles < SIDE

    @cached_property
    def hard(self) -> Tensor:
        """bool (n,): puzzles that naked singles do not solve."""
        return torch.tensor([not naked_singles(symbols) for symbols in self.puzzles.tolist()])

    def batch(self, step: int, batch_size: int, seed: int) -> Samples:
        """Puzzles drawn with replacement; they follow from (seed, step)."""
        generator = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
        return Samples(self.puzzles[torch.randint(len(self), (batch_size,), generator=generator)], None)


@dataclass(frozen=True)
class Turned:
    """The same source, each puzzle under a symmetry drawn at random: digits renamed, bands and stacks exchanged, and
    rows and columns within them; 2,488,320 of them. Each turned puzzle is one with a single solution.

    Args:
        puzzles: those that are turned.
        held_out: whose complete grids never come up; a puzzle that would be turned into one is left as it is.
    """

    puzzles: Sudokus
    held_out: Sudokus

    def batch(self, step: int, batch_size: int, seed: int) -> Samples:
        found = self.puzzles.batch(step, batch_size, seed).values
        generator = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63 ^ 1)
        turned = turn(found, generator)
        seen = torch.isin(_codes(turned), self._kept_apart)
        return Samples(torch.where(seen[:, None], found, turned), None)

    @cached_property
    def _kept_apart(self) -> Tensor:
        return _codes(self.held_out.puzzles)


def turn(puzzles: Tensor, generator: torch.Generator) -> Tensor:
    """Puzzles (n, 36), each under a symmetry of its own."""

    def shuffled(*shape: int) -> Tensor:
        return torch.rand(len(puzzles), *shape, generator=generator).argsort(-1)

    def lines(groups: int, size: int) -> Tensor:
        """(n, 6): groups of lines in an order of chance, each with its lines in such an order."""
        return (shuffled(groups)[..., None] * size + shuffled(groups, size)).flatten(1)

    names = shuffled(SIDE)
    renamed = names.gather(1, puzzles % SIDE) + puzzles // SIDE * SIDE
    rows, columns = lines(SIDE // ROWS, ROWS), lines(SIDE // COLUMNS, COLUMNS)
    cells = (rows[:, :, None] * SIDE + columns[:, None, :]).flatten(1)
    return renamed.gather(1, cells)


def _codes(puzzles: Tensor) -> Tensor:
    """A number int64 (n,) for each complete grid; two that differ have the same one with probability 2^-64."""
    factors = torch.randint(2**62, (CELLS,), generator=torch.Generator().manual_seed(0))
    return (puzzles % SIDE * (2 * factors + 1)).sum(1)  # modulo 2^64


def sudokus(count: int, held_out: int, seed: int = 0) -> tuple[Sudokus, Sudokus]:
    """So many puzzles to train on, and others to test with. No two of all of them have one complete grid."""
    check_count("count", count)
    check_count("held_out", held_out)
    rng, seen, rows = random.Random(seed), set[tuple[int, ...]](), list[list[int]]()
    while len(rows) < count + held_out:
        found = puzzle(rng)
        grid = tuple(symbol % SIDE for symbol in found)
        if grid not in seen:
            seen.add(grid)
            rows.append(found)
    puzzles = torch.tensor(rows)
    return Sudokus(puzzles[held_out:]), Sudokus(puzzles[:held_out])
