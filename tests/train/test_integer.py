"""EGG in training: only whole numbers, the same for any chunk and after any stop, and it learns."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import last_files
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from oneblock.models.egg import EGGConfig, Perturbed
from oneblock.ops.integers import LogLikelihood
from oneblock.optim.votes import IntegerNoise
from oneblock.train.integer import JOB, EGGJob, VoteSettings
from oneblock.train.loop import steps

CONFIG = EGGConfig(depth=1, width=16)
TEXT = torch.tensor(list(b"the cat sat on the mat and the dog sat on the log. " * 40), dtype=torch.uint8)
SMALL: dict[str, Any] = {"steps": 6, "population": 16, "group_size": 4, "tokens": 5}


def job(directory: Path | None = None, text: Tensor = TEXT, **changes: Any) -> EGGJob:
    return EGGJob(CONFIG, VoteSettings(**SMALL | changes), text, directory=directory, fingerprint="text")


def weights(one: EGGJob) -> Tensor:
    return torch.cat([w.flatten() for w in one.model.weights.values()])


class Types(TorchDispatchMode):
    """Notes the types of all tensors that are made while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.seen |= {leaf.dtype for leaf in tree_leaves(out) if isinstance(leaf, Tensor)}
        return out


def test_no_step_makes_a_floating_point_number() -> None:
    one, types = job(), Types()
    with types:
        for _ in range(3):
            one.advance()
    assert torch.int8 in types.seen
    assert not [dtype for dtype in types.seen if dtype.is_floating_point or dtype.is_complex], types.seen


def test_a_member_is_scored_on_its_stream_and_remembers_it() -> None:
    """Members one by one, with the weights moved in between."""
    one = job()
    score = LogLikelihood()
    states = one.model.start(16)
    for step in range(2):
        tokens = one._tokens(step)
        starts = [g * len(TEXT) // 4 + 5 * step for g in range(4)]
        assert tokens.T.tolist() == [TEXT[s : s + 6].tolist() for s in starts]
        factors = IntegerNoise(CONFIG.shapes, 0).draw(step, range(8))
        expected, after = [], []
        for i in range(16):
            pair = {name: (a[i // 2 : i // 2 + 1], b[i // 2 : i // 2 + 1]) for name, (a, b) in factors.items()}
            both = states[:, i // 2 * 2 : i // 2 * 2 + 2]
            total = 0
            for t in range(5):
                logits, both = one.model.step(tokens[t, i // 4].expand(2), both, Perturbed(one.model.weights, pair))
                total += int(score(logits, tokens[t + 1, i // 4].expand(2))[i % 2])
            expected.append(total)
            after.append(both[:, i % 2])
        states = torch.stack(after, 1)
        before = {name: w.clone() for name, w in one.model.weights.items()}
        (report,) = one.advance()
        assert one._states.equal(states)
        assert report.loss == pytest.approx(-sum(expected) / (16 * 5 * 16))
        signs = [(a > b) - (a < b) for a, b in zip(expected[::2], expected[1::2], strict=True)]
        a, b = factors["head"]
        z = sum(s * torch.outer(a[p].int(), b[p].int()) for p, s in enumerate(signs))
        if step == 0:  # all weights move, whose votes are not even
            assert isinstance(z, Tensor)
            assert one.model.weights["head"].equal((before["head"] + z.sign()).clamp(-127, 127).to(torch.int8))


def test_the_step_is_the_same_for_any_chunk() -> None:
    whole, parts = job(), job(chunk=6)
    for _ in range(4):
        assert whole.advance() == parts.advance()
    assert weights(whole).equal(weights(parts))
    assert whole._states.equal(parts._states)


def test_a_run_in_pieces_equals_a_run_in_one(tmp_path: Path) -> None:
    list(steps(job(tmp_path / "whole"), 100))
    for count in (2, 99):
        reports = steps(job(tmp_path / "parts"), 3)
        list(islice(reports, count))
        reports.close()
    assert last_files(tmp_path / "parts") == last_files(tmp_path / "whole")
    with pytest.raises(ValueError, match="plan"):
        list(steps(job(tmp_path / "whole", tokens=4), 100))


def test_it_learns() -> None:
    one = job(steps=60, population=256, group_size=64, tokens=10)
    losses = [report.loss for report in steps(one, 100)]
    assert sum(losses[:3]) / 3 > 7
    assert sum(losses[-5:]) / 5 < 4.5
    shares = [one.settings.share(step) for step in (0, 100)]
    assert shares == pytest.approx([1.0, 0.4])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"population": 15}, "population=15 is odd"),
        ({"group_size": 3}, "group_size=3 must be even"),
        ({"group_size": 0}, "group_size=0 is not allowed"),
        ({"chunk": 1}, "chunk=1 splits a pair"),
        ({"chunk": 5}, "chunk=5 splits a pair"),
        ({"noise_shift": -1}, "noise_shift=-1 is not allowed"),
        ({"steps": 0}, "steps=0 is not allowed"),
        ({"text": TEXT[:20]}, "the text has 20 bytes, too few for 4 streams"),
    ],
)
def test_refusals(words: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        job(**words)


def test_reports_are_of_the_job() -> None:
    (report,) = job().advance()
    assert (report.job, report.step, report.num_steps, report.layer_evaluations) == (JOB, 1, 6, 16 * 5)
    assert report.learning_rate == 1.0
    assert 0.5 < report.grad_norm <= 1.0
