import itertools
from collections.abc import Iterator

import pytest

from oneblock.train import lines as module
from oneblock.train.lines import Pace, lines
from oneblock.train.progress import progress
from oneblock.train.step import StepReport

TOTALS = {"trunk": (0, 50), "block-0": (50, 2000)}


def reports(job: str, *steps: int) -> Iterator[StepReport]:
    for step in steps:
        yield StepReport(
            job=job,
            block=None if job == "trunk" else 0,
            first_step=TOTALS[job][0],
            step=step,
            num_steps=TOTALS[job][1],
            loss=0.25,
            plain=0.25,
            grad_norm=1.0,
            learning_rate=0.1,
            layer_evaluations=8,
            work=8 * step,
        )


def test_lines_come_more_and_more_seldom() -> None:
    seconds = itertools.count()
    pace = Pace(lambda: float(next(seconds)) / 3)  # is asked three times or less
    found = [pace.seconds for _ in range(900) if pace.due()]
    gaps = [after - before for before, after in itertools.pairwise(found)]
    assert found[0] == pytest.approx(10, abs=1.5)
    assert gaps[:3] == [pytest.approx(gap, abs=1.5) for gap in (10, 20, 40)]
    assert all(gap == pytest.approx(60, abs=1.5) for gap in gaps[3:]) and len(gaps) > 5


def test_a_line_tells_job_step_loss_and_time() -> None:
    now, written = [0.0], list[str]()

    def timed() -> Iterator[StepReport]:
        for report in itertools.chain(reports("trunk", 50), reports("block-0", *range(51, 2001))):
            now[0] += 2.0
            yield report

    passed = list(lines(timed(), TOTALS, "run", written.append, lambda: now[0]))
    assert len(passed) == 1951
    assert written[0] == "run block-0 (2 of 2) 4/1950 loss 0.250, 0:00:10, about 1:04:52 left"
    assert written[-1].startswith("run block-0 (2 of 2) 19") and len(written) < 70


def test_a_short_training_writes_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(list(progress(reports("block-0", 51, 52), TOTALS, ""))) == 2
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(module, "FIRST", 0.0)
    alone = {"block-0": TOTALS["block-0"]}
    assert len(list(progress(reports("block-0", 51, 52), alone, ""))) == 2  # standard error is no terminal here
    assert capsys.readouterr().err.splitlines()[0] == "block-0 1/1950 loss 0.250, 0:00:00"
