"""Bytes are counted from tokens, never from decoded windows, and each token of a held-out text is counted once."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from oneblock.condition import Condition
from oneblock.data import BytePair, Bytes, Characters, Vocabulary, write_tokens
from oneblock.data.tokens import TokenFile
from oneblock.evaluate.causal import bits_row
from oneblock.evaluate.masked import evaluate_masked
from oneblock.evaluate.writing import held_out, readable, tokens_per_byte, weights
from oneblock.experiment.causal import code_lengths
from oneblock.experiment.data import Texts
from oneblock.metrics import NGramScorer
from oneblock.presets import MaskedRecipe, TextFacts
from oneblock.report.scores import text_table

TEXTS = {
    "Chinese": "天地玄黄,宇宙洪荒。日月盈昃,辰宿列张。" * 40,
    "Russian": "Все счастливые семьи похожи друг на друга. " * 40,
    "emoji": "🙂 ok 👍🏽 well 🧑‍🚀 then " * 60,
}


def token_file(path: Path, text: str, vocabulary: Vocabulary) -> TokenFile:
    return write_tokens(path / "x.tokens", [vocabulary.encode(text)], vocabulary)


@pytest.mark.parametrize("length", [16, 128])
@pytest.mark.parametrize("language", TEXTS)
def test_a_byte_is_a_byte_in_every_script(tmp_path: Path, language: str, length: int) -> None:
    tokens, new = held_out(token_file(tmp_path, TEXTS[language], Bytes()), length)
    assert tokens_per_byte(tokens, Bytes(), new) == 1.0
    assert int(new.sum()) == len(TEXTS[language].encode())


@pytest.mark.parametrize("length", [16, 128])
@pytest.mark.parametrize("language", TEXTS)
def test_byte_pairs_stand_for_the_bytes_of_the_source(tmp_path: Path, language: str, length: int) -> None:
    pytest.importorskip("tokenizers")
    pairs = BytePair.train(list(TEXTS.values()), 300)
    file = token_file(tmp_path, TEXTS[language], pairs)
    tokens, new = held_out(file, length)
    assert tokens_per_byte(tokens, pairs, new) == len(file) / len(TEXTS[language].encode())


def test_every_token_counts_once(tmp_path: Path) -> None:
    file = token_file(tmp_path, "a" * 200 + "b", Bytes())
    tokens, new = held_out(file, 200)
    assert (tokens.shape, new.tolist()) == ((2, 200), [200, 1])
    nats = torch.where(tokens == ord("b"), 1000.0, 1.0)[None]
    row = bits_row(nats, tokens, Bytes(), new)
    assert row["tokens"] == 201
    assert row["nats_per_token"] == pytest.approx(1200 / 201)
    assert row["bits_per_byte"] == pytest.approx(1200 / 201 / math.log(2))
    assert bits_row(torch.ones(1, 2, 200), tokens, Bytes(), new)["error"] == pytest.approx(0.0, abs=1e-9)


def test_windows_that_do_not_meet_count_whole(tmp_path: Path) -> None:
    file = token_file(tmp_path, "abcdefghij" * 5 + "k", Bytes())
    assert held_out(file, 10).new.tolist() == [10, 10, 10, 10, 10, 1]
    assert held_out(file, 10, 2).new.tolist() == [10, 10]  # the last window has no neighbour here
    assert weights(held_out(file, 10, 2).tokens).eq(1.0).all()


def test_masked_tokens_count_once() -> None:
    """A denoiser that knows every letter but the last one of a window."""
    plan = MaskedRecipe(depth=4, width=16, heads=2, blocks=2, length=50).plan(TextFacts(vocabulary=Characters()))
    tokens = torch.full((20, 50), 1)

    def denoiser(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        sure = torch.where(torch.arange(27) == 1, 0.0, -1e9).expand(*z.shape, 27)
        return torch.where((torch.arange(50) == 49)[:, None], 0.0, sure)

    new = torch.tensor([50] * 19 + [1])
    row = evaluate_masked(denoiser, plan, tokens, times=64, new=new)
    assert row["tokens"] == 951
    assert row["nats_per_token"] == pytest.approx(20 * math.log(27) / 951, rel=0.05)


def test_n_grams_are_scored_on_whole_characters_and_in_bytes(tmp_path: Path) -> None:
    text = TEXTS["Chinese"]
    tokens, new = held_out(token_file(tmp_path, text, Bytes()), 128)
    assert "\ufffd" in Bytes().decode(tokens[1])
    assert readable(tokens[1], Bytes()) in text
    known = Texts(None, tokens, new, TextFacts(vocabulary=Bytes()))  # type: ignore[arg-type]
    nats, sizes = code_lengths(NGramScorer([text], 3), known)
    size = len(text.encode())
    assert size - 4 * len(tokens) <= sum(sizes) <= size  # at most a character is cut at either end of a window
    assert sum(nats) < sum(sizes) * 0.2  # the text itself was counted


def test_the_error_of_a_single_window_is_not_known() -> None:
    tokens = torch.full((1, 8), ord("a"))
    row = bits_row(torch.ones(1, 1, 8), tokens, Bytes())
    assert (row["bits_per_byte"], row["error"]) == (pytest.approx(1 / math.log(2)), None)
    assert ("error", "-") in text_table(row).rows
    plan = MaskedRecipe(length=8, depth=2, width=16, heads=2, blocks=2).plan(TextFacts(vocabulary=Bytes()))

    def even(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return torch.zeros(*z.shape[:2], 256)

    assert evaluate_masked(even, plan, tokens, times=1)["error"] is None
    assert evaluate_masked(even, plan, tokens, times=4)["error"] is not None
