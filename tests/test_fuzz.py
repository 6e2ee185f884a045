"""Two hundred damaged files; ``benchmarks/fuzz_files.py`` does thousands."""

from collections import Counter
from pathlib import Path

import pytest
from fuzzing import SHARES, Fuzz, build

FIRST = 500
NUMBER = 200


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory: pytest.TempPathFactory) -> Fuzz:
    runs = tmp_path_factory.mktemp("fuzz") / "runs"
    build(runs)
    return Fuzz(runs, tmp_path_factory.mktemp("work") / "case")


def test_no_damage_ends_in_a_traceback_a_part_of_a_result_or_a_lost_file(fuzz: Fuzz) -> None:
    cases = [fuzz.case(seed) for seed in range(FIRST, FIRST + NUMBER)]
    assert not [case for case in cases if case.wrong]
    assert set(Counter(case.target.split()[0] for case in cases)) == set(SHARES), "not every kind of file was damaged"
    assert sum(case.refused for case in cases) > NUMBER, "hardly anything was refused: is anything damaged?"


def test_the_same_seed_is_the_same_damage(fuzz: Fuzz, tmp_path: Path) -> None:
    again = Fuzz(fuzz.template, tmp_path / "again")
    assert fuzz.case(FIRST) == again.case(FIRST)
