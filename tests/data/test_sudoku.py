"""Sudokus: valid, with one solution, none to spare, and split by their grids."""

import random

import torch

from oneblock.data.sudoku import (
    CELLS,
    EMPTY,
    PEERS,
    SIDE,
    Sudokus,
    Turned,
    box_of,
    naked_singles,
    puzzle,
    solutions,
    sudokus,
)

GRID = [0, 1, 2, 3, 4, 5, 3, 4, 5, 0, 1, 2, 1, 2, 0, 4, 5, 3, 4, 5, 3, 1, 2, 0, 2, 0, 1, 5, 3, 4, 5, 3, 4, 2, 0, 1]


def groups() -> list[list[int]]:
    """Cells of rows, columns and boxes."""
    keys = [lambda cell: cell // SIDE, lambda cell: cell % SIDE, box_of]
    return [[cell for cell in range(CELLS) if key(cell) == i] for key in keys for i in range(SIDE)]


def test_a_cell_has_the_peers_of_its_row_column_and_box() -> None:
    assert {len(peers) for peers in PEERS} == {12}
    assert sorted(PEERS[0]) == [1, 2, 3, 4, 5, 6, 7, 8, 12, 18, 24, 30]
    assert [box_of(cell) for cell in (0, 2, 3, 11, 12, 35)] == [0, 0, 1, 1, 2, 5]


def test_solutions_are_counted() -> None:
    assert solutions(GRID) == [GRID]
    assert len(solutions([EMPTY] * CELLS, most=7)) == 7
    swapped = list(GRID)  # four cells whose two digits can change places
    for cell in (0, 3, 6, 9):
        swapped[cell] = EMPTY
    assert len(solutions(swapped, most=5)) == 2


def test_puzzles_have_one_solution_and_no_digit_to_spare() -> None:
    found = puzzle(random.Random(3))
    grid = [symbol % SIDE for symbol in found]
    assert all(sorted(grid[cell] for cell in group) == list(range(SIDE)) for group in groups())
    shown = [symbol - SIDE if symbol >= SIDE else EMPTY for symbol in found]
    assert solutions(shown) == [grid]
    given = [cell for cell in range(CELLS) if shown[cell] != EMPTY]
    assert 6 <= len(given) <= 16
    for cell in given:
        fewer = list(shown)
        fewer[cell] = EMPTY
        assert len(solutions(fewer)) == 2


def test_easy_ones_are_told_from_hard_ones() -> None:
    almost = [digit + SIDE for digit in GRID]
    almost[4] = GRID[4]
    assert naked_singles(almost)
    hard = [digit + SIDE for digit in GRID]
    for cell in (0, 3, 6, 9):
        hard[cell] = GRID[cell]
    assert not naked_singles(hard)


def test_the_split_is_by_grids_and_batches_follow_from_the_step() -> None:
    train, test = sudokus(6, 3, seed=1)
    assert (len(train), len(test)) == (6, 3)
    grids = {tuple(row) for part in (train, test) for row in (part.puzzles % SIDE).tolist()}
    assert len(grids) == 9
    assert torch.equal(train.free, train.puzzles < SIDE)
    assert train.hard.shape == (6,)
    again = sudokus(6, 3, seed=1)[0]
    assert torch.equal(again.puzzles, train.puzzles)
    assert torch.equal(train.batch(2, 4, 0).values, train.batch(2, 4, 0).values)
    assert not torch.equal(train.batch(2, 40, 0).values, train.batch(3, 40, 0).values)


def test_turned_puzzles_are_puzzles_of_other_grids() -> None:
    train, test = sudokus(2, 1)
    source = Turned(train, test)
    found, plain = source.batch(5, 200, 0).values, train.batch(5, 200, 0).values
    assert torch.equal(found, source.batch(5, 200, 0).values)
    assert torch.equal((found >= SIDE).sum(1), (plain >= SIDE).sum(1))
    grids = found % SIDE
    for group in groups():
        assert torch.equal(grids[:, group].sort(1).values, torch.arange(SIDE).expand(200, SIDE))
    assert len({tuple(grid) for grid in grids.tolist()}) > 190
    for symbols in found[:5].tolist():
        shown = [symbol - SIDE if symbol >= SIDE else EMPTY for symbol in symbols]
        assert solutions(shown) == [[symbol % SIDE for symbol in symbols]]
    for digit in range(SIDE):  # of a given digit every place and every name comes up
        where = found == digit + SIDE
        assert bool(where.any(0).all())


def test_no_puzzle_is_turned_into_a_held_out_one() -> None:
    train, test = sudokus(3, 1)
    turned = Turned(train, test).batch(0, 50, 0).values
    held_out = Sudokus(turned[:20] % SIDE)  # the same grids with other digits given
    again = Turned(train, held_out).batch(0, 50, 0).values
    assert torch.equal(again[:20], train.batch(0, 50, 0).values[:20])
    assert torch.equal(again[20:], turned[20:])
