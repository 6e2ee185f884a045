"""Every rival through the same training: its losses, its stops, its files."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from rivalry import FRESH, SOURCE, VIT, settings_of
from torch import Tensor

from oneblock.data import Augment, Samples, random_flip, to_float
from oneblock.models.cnn import CNNConfig
from oneblock.models.gpt import GPTConfig
from oneblock.rivals import (
    ContrastiveFF,
    Greedy,
    NoPropCT,
    NoPropDT,
    PlainCNN,
    RivalSettings,
    TruncatedBPTT,
    train_rival,
    training_peak,
)
from oneblock.rivals.train import training_hash
from oneblock.train.checkpoint import CheckpointError, checkpoint_step, checkpoints
from oneblock.train.learner import NonFiniteError
from oneblock.train.loop import BusyError
from oneblock.train.record import Recorder, read_heartbeat, read_rows
from oneblock.train.step import StepReport

CNN = CNNConfig(image_size=8, channels=1, num_classes=3, label_width=3, depth=3, width=16, filters=4)
GPT = GPTConfig(vocabulary=5, context=6, label_width=5, depth=2, width=16, heads=2, streams="none", prelude=1, coda=1)


class Cycles:
    """Texts that count upwards from a random symbol."""

    def batch(self, step: int, batch_size: int, seed: int) -> Samples:
        first = torch.randint(5, (batch_size, 1), generator=torch.Generator().manual_seed(seed % 2**32 + step))
        return Samples((first + torch.arange(6)) % 5, None)


@dataclass(frozen=True)
class Case:
    """A rival, what it is trained on, and the mean losses of its steps by part."""

    make: Callable[[], Any]
    budget: int
    losses: dict[str, tuple[float, ...]]
    source: Any = SOURCE
    augment: Augment | None = None
    changes: tuple[tuple[str, Any], ...] = ()

    @property
    def settings(self) -> RivalSettings:
        return settings_of(self.budget, seed=3, warmup=0.4, hold=0.6, **dict(self.changes))

    def reports(self, rival: Any, directory: Path | None = None, **options: Any) -> Any:
        options = {"fingerprint": "data", **options}
        return train_rival(rival, self.source, self.settings, directory, self.augment, **options)

    def answers(self, rival: Any) -> Tensor:
        if isinstance(rival, TruncatedBPTT):
            return torch.stack(list(rival.log_probabilities(self.source.batch(99, 5, 0)[0], 3)))
        answers: Tensor = rival.probabilities(to_float(FRESH.images))
        return answers


CASES = {
    "greedy": Case(
        lambda: Greedy(VIT, 2),
        16 * 6 * 3,
        {"block-0": (1.0986123, 1.0842558, 1.1041582), "block-1": (1.0986123, 1.1686898, 1.0777930)},
        augment=random_flip,
    ),
    "contrastive-ff": Case(
        lambda: ContrastiveFF(VIT, classifier_share=0.5),
        16 * 4 * 6,
        {"layers": (3.2415094, 3.0944138), "classifiers": (1.1233429, 1.0797027, 1.0996473)},
        augment=random_flip,
    ),
    "noprop-dt": Case(
        lambda: NoPropDT(CNN),
        16 * 3 * 2,
        {"step-1": (0.7957509, 0.7820243), "step-2": (0.9849681, 1.0037634), "step-3": (643.79663, 650.58636)},
    ),
    "noprop-ct": Case(
        lambda: NoPropCT(replace(CNN, depth=1), num_steps=3),
        16 * 4,
        {"network": (6.9198551, 103.606194, 31198.4336, 31.1691551)},
    ),
    "cnn": Case(lambda: PlainCNN(replace(CNN, depth=1)), 16 * 4, {"cnn": (1.0986123, 1.1164933, 1.1031426, 1.1009126)}),
    "truncated-bptt": Case(
        lambda: TruncatedBPTT(GPT, iterations=4, back=2),
        16 * 4 * (2 + 2 * 5),
        {"truncated-bptt": (1.6094379, 1.5759745, 1.4777932, 1.3627894, 1.2641116)},
        source=Cycles(),
    ),
}
ALL = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
WIDE = replace(VIT, width=64)
EIGHT_BITS = replace(CASES["greedy"], make=lambda: Greedy(WIDE, 2), changes=(("optimizer", "adamw8bit"),))


@ALL
def test_losses_are_what_they_always_were(case: Case) -> None:
    found: dict[str, list[float]] = {}
    for report in case.reports(case.make()):
        found.setdefault(report.job, []).append(report.loss)
    assert {part: len(losses) for part, losses in found.items()} == {p: len(x) for p, x in case.losses.items()}
    for part, losses in case.losses.items():
        assert found[part] == pytest.approx(losses, rel=1e-4)


@ALL
def test_reports_are_those_of_a_job(case: Case) -> None:
    rival = case.make()
    for stage in rival.stages(case.source, case.settings, case.augment is not None):
        work = [sum(stage.costs[: i + 1]) for i in range(len(stage.costs))]
        reports = [report for report in case.reports(rival) if report.job == stage.part]
        assert [report.step for report in reports] == list(range(1, len(stage.costs) + 1))
        assert [report.layer_evaluations for report in reports] == list(stage.costs)
        assert [report.work for report in reports] == work
        assert {(report.block, report.first_step, report.num_steps) for report in reports} == {(None, 0, len(work))}
        assert all(report.grad_norm > 0 for report in reports)
        assert reports[0].learning_rate == pytest.approx(0.01 / max(1, round(0.4 * len(work))))


@pytest.mark.parametrize("case", [*CASES.values(), EIGHT_BITS], ids=[*CASES, "eight-bits"])
def test_a_rival_in_pieces_equals_one_in_one(tmp_path: Path, case: Case) -> None:
    """Every piece is a new object, as after a kill; some stops lie between two checkpoints, some between two parts."""
    if case is EIGHT_BITS:
        pytest.importorskip("torchao")
    whole = case.make()
    expected = list(case.reports(whole))
    seen: dict[tuple[str, int], StepReport] = {}
    for pieces in (1, 2, 3, 99):
        rival = case.make()
        reports = case.reports(rival, tmp_path, save_every=2)
        seen |= {(report.job, report.step): report for report in islice(reports, pieces)}
        reports.close()
    assert list(seen.values()) == expected
    assert torch.equal(case.answers(rival), case.answers(whole))
    again = case.make()
    assert list(case.reports(again, tmp_path)) == [], "nothing is left to do"
    assert torch.equal(case.answers(again), case.answers(whole))


@ALL
def test_steps_after_the_last_checkpoint_are_made_again(tmp_path: Path, case: Case) -> None:
    """As after a kill, which saves nothing: what was written every two steps is all there is."""
    whole = case.make()
    expected = list(case.reports(whole))
    reports = case.reports(case.make(), tmp_path, save_every=2, keep=9)
    list(islice(reports, 3))
    reports.close()
    for part in tmp_path.iterdir():
        steps = {path: checkpoint_step(path) for path in checkpoints(part)}
        for path, step in steps.items():
            if step % 2:
                path.unlink()
    rival = case.make()
    more = list(case.reports(rival, tmp_path))
    assert 0 < len(more) < len(expected)
    assert all(report in expected for report in more)
    assert torch.equal(case.answers(rival), case.answers(whole))


def test_each_part_has_a_folder_that_says_where_it_stands(tmp_path: Path) -> None:
    case, recorder = CASES["noprop-dt"], Recorder(tmp_path, every=1)
    reports = case.reports(case.make(), tmp_path)
    for report in islice(reports, 3):
        recorder.add(report)
    reports.close()
    recorder.close()
    first, second = (read_heartbeat(tmp_path / part) for part in ("step-1", "step-2"))
    assert first is not None and second is not None
    assert (first.step, first.num_steps, first.state) == (2, 2, "done")
    assert (second.step, second.num_steps, second.state) == (1, 2, "stopped")
    assert [path.name for path in checkpoints(tmp_path / "step-2")] == ["step-000000001.safetensors"]
    again = Recorder(tmp_path, every=1)
    for report in case.reports(case.make(), tmp_path):
        again.add(report)
    for part, losses in case.losses.items():
        rows = list(read_rows(tmp_path / part / "metrics.jsonl"))
        assert [row["step"] for row in rows] == [1, 2]
        assert [row["loss"] for row in rows] == pytest.approx(losses, rel=1e-4)
        assert [row["layer_evaluations"] for row in rows] == [16, 32]


def test_one_process_trains_a_part(tmp_path: Path) -> None:
    case = CASES["cnn"]
    first = case.reports(case.make(), tmp_path)
    next(first)
    with pytest.raises(BusyError, match="cnn is being trained by another process"):
        next(case.reports(case.make(), tmp_path))
    first.close()
    assert next(case.reports(case.make(), tmp_path)).step == 2


def test_files_of_another_training_are_refused(tmp_path: Path) -> None:
    case = CASES["greedy"]
    list(islice(case.reports(case.make(), tmp_path), 4))
    for rival, options in (
        (Greedy(VIT, 2), {"fingerprint": "other data"}),
        (Greedy(VIT, 4), {}),
        (Greedy(replace(VIT, heads=1), 2), {}),
    ):
        with pytest.raises(CheckpointError, match="belongs to plan"):
            next(case.reports(rival, tmp_path, **options))
    with pytest.raises(CheckpointError, match="belongs to plan"):
        next(replace(case, changes=(("clip", 0.5),)).reports(case.make(), tmp_path))
    with pytest.raises(ValueError, match="fingerprint='' does not identify the data; with a directory"):
        next(case.reports(case.make(), tmp_path, fingerprint=""))


def test_what_a_training_depends_on() -> None:
    """Not on the device, and not on how answers are found."""
    settings, ct = settings_of(1), replace(CNN, depth=1)
    same = training_hash(NoPropCT(ct), settings, "data")
    assert training_hash(NoPropCT(ct, num_steps=5, solver="euler"), replace(settings, device="cuda"), "data") == same
    others = [
        training_hash(NoPropCT(ct), settings, "other"),
        training_hash(NoPropCT(ct), settings_of(1, seed=1), "data"),
        training_hash(NoPropCT(ct), settings_of(1, beta2=0.5), "data"),
        training_hash(NoPropCT(ct, eta=0.5), settings, "data"),
        training_hash(NoPropCT(ct, table=2 * torch.eye(3)), settings, "data"),
        training_hash(PlainCNN(ct), settings, "data"),
    ]
    assert len({same, *others}) == 7


def test_a_damaged_checkpoint_costs_only_its_steps(tmp_path: Path) -> None:
    case, whole, warnings = CASES["cnn"], CASES["cnn"].make(), list[str]()
    expected = list(case.reports(whole))
    list(case.reports(case.make(), tmp_path, save_every=1))
    path = checkpoints(tmp_path / "cnn")[-1]
    path.write_bytes(path.read_bytes()[:100])
    rival = case.make()
    assert list(case.reports(rival, tmp_path, warn=warnings.append)) == expected[-1:]
    assert len(warnings) == 1 and "is damaged" in warnings[0]
    assert torch.equal(case.answers(rival), case.answers(whole))


def test_a_loss_that_is_not_finite_names_the_part_and_saves_nothing(tmp_path: Path) -> None:
    case = replace(CASES["greedy"], changes=(("learning_rate", 1e30),))
    with pytest.raises(NonFiniteError, match=r"block-0: loss .*, gradient norm .* at step \d; .*lower the learning"):
        list(case.reports(case.make(), tmp_path))
    assert checkpoints(tmp_path / "block-0") == []


def test_training_again_replaces_what_was_trained() -> None:
    for name in ("greedy", "noprop-dt", "contrastive-ff"):
        case = CASES[name]
        rival = case.make()
        list(case.reports(rival))
        expected = case.answers(rival)
        list(replace(case, changes=(("learning_rate", 0.1),)).reports(rival))
        assert not torch.equal(case.answers(rival), expected)
        list(case.reports(rival))
        assert torch.equal(case.answers(rival), expected)


def test_the_peak_with_moments_of_8_bits_is_lower() -> None:
    pytest.importorskip("torchao")
    rival = EIGHT_BITS.make()
    small, large = (training_peak(rival, case.settings) for case in (EIGHT_BITS, replace(EIGHT_BITS, changes=())))
    assert small.by_kind["Optstate"] < large.by_kind["Optstate"]
