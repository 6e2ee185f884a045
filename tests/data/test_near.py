from pathlib import Path

import pytest
import torch

from oneblock.data import Bytes, near, write_tokens
from oneblock.data.near import PASSAGE, near_copies
from oneblock.data.tokens import TokenFile


def letters(count: int, seed: int) -> torch.Tensor:
    return torch.randint(97, 123, (count,), generator=torch.Generator().manual_seed(seed))


def file(path: Path, *documents: torch.Tensor) -> TokenFile:
    return write_tokens(path, list(documents), Bytes())


def test_passages_and_documents_that_are_near_copies(tmp_path: Path) -> None:
    known = letters(2000, 0)
    train = file(tmp_path / "train", known, letters(500, 1))
    edited = known[100:400].clone()
    edited[150] = 32
    quoting = torch.cat([letters(300, 2), known[700:760]])
    test = file(tmp_path / "test", edited, quoting, letters(300, 3), known[:10])
    found = near_copies(train, test)
    # all but those that hold the edit; those of the quotation; none; and none in ten tokens, but at their edge
    shared = (300 - PASSAGE + 1 - PASSAGE) + (60 - PASSAGE + 1)
    passages = len(test) - PASSAGE + 1
    assert found.passages == pytest.approx(shared / passages)
    assert found.documents == pytest.approx(1 / 3)


def test_other_texts_share_nothing(tmp_path: Path) -> None:
    found = near_copies(file(tmp_path / "a", letters(900, 0)), file(tmp_path / "b", letters(900, 1)))
    assert (found.passages, found.documents) == (0.0, 0.0)
    short = near_copies(file(tmp_path / "c", letters(900, 0)), file(tmp_path / "d", letters(9, 1)))
    assert (short.passages, short.documents) == (0.0, 0.0)


def test_long_texts_are_read_in_pieces_and_compared_by_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = letters(20_000, 0)
    train = file(tmp_path / "train", known)
    test = file(tmp_path / "test", torch.cat([known[5000:9000], letters(4000, 1)]))
    exact = near_copies(train, test).passages
    assert exact == pytest.approx(0.5, abs=0.01)
    monkeypatch.setattr(near, "PIECE", 700)
    assert near_copies(train, test).passages == exact
    monkeypatch.setattr(near, "KEPT", 5000)
    assert near_copies(train, test).passages == pytest.approx(exact, abs=0.05)
