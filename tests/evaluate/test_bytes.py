"""Bits per byte, and what they stand beside."""

import gzip
import itertools
import math

import pytest
import torch
from torch import Tensor

from oneblock.evaluate.bytes import sample_bytes, score_bytes
from oneblock.models.egg import EGG, EGGConfig, Perturbed, initial_weights
from oneblock.ops.integers import LogLikelihood

CONFIG = EGGConfig(depth=1, width=16)
TRAIN = torch.tensor(list(b"abcabcabd" * 50), dtype=torch.uint8)
TEXT = torch.tensor(list(b"abcabdabc" * 20), dtype=torch.uint8)


def model(**changes: Tensor) -> EGG:
    return EGG(CONFIG, initial_weights(CONFIG, 0) | changes)


def test_the_model_is_scored_on_pieces_that_it_reads_from_their_start() -> None:
    egg = model()
    total = 0
    for piece in TEXT[:176].view(4, 44):
        states = egg.start(1)
        for token, following in itertools.pairwise(piece):
            logits, states = egg.step(token.int()[None], states, Perturbed(egg.weights))
            total += int(LogLikelihood()(logits, following.int()[None]))
    found = score_bytes(egg, TEXT[:179], TRAIN, streams=4)
    assert found.model == pytest.approx(-total / (16 * 4 * 43))
    assert found.bytes == 4 * 43


def test_references() -> None:
    found = score_bytes(model(head=torch.zeros(256, 16, dtype=torch.int8)), TEXT, TRAIN, streams=4)
    assert found.model == pytest.approx(8.0, abs=0.1), "no logit is larger than another"
    shares = {97: 151 / 706, 98: 151 / 706, 99: 101 / 706, 100: 51 / 706}
    assert found.unigram == pytest.approx(-sum(math.log2(shares[b]) for b in TEXT.tolist()) / len(TEXT))
    assert found.gzip == 8 * len(gzip.compress(b"abcabdabc" * 20, 9)) / 180
    counts = {(97, 98): 150, (98, 99): 100, (98, 100): 50, (99, 97): 100, (100, 97): 49}
    kinds, sums = {97: 1, 98: 2, 99: 1, 100: 1}, {97: 150, 98: 150, 99: 100, 100: 49}
    bits = 0.0
    for h, c in zip(TEXT.tolist(), TEXT.tolist()[1:], strict=False):
        bits -= math.log2((counts[h, c] + kinds[h] * shares[c]) / (sums[h] + kinds[h]))
    assert found.bigram == pytest.approx(bits / 179)


def test_texts_are_drawn_as_the_model_says() -> None:
    egg = model()
    texts = list(sample_bytes(egg, 3, 12, seed=0, start=b"ab"))
    assert texts == list(sample_bytes(egg, 3, 12, seed=0, start=b"ab"))
    assert texts != list(sample_bytes(egg, 3, 12, seed=1, start=b"ab"))
    assert [len(text) for text in texts] == [12, 12, 12]
    states, w = egg.start(1), Perturbed(egg.weights)
    for byte in b"\0ab":
        logits, states = egg.step(torch.tensor([byte]), states, w)
    powers = torch.tensor([math.floor(16 * 2 ** ((y + 128) / 16)) for y in logits[0].tolist()]).double()
    first = torch.tensor([text[0] for text in sample_bytes(egg, 4000, 1, seed=2, start=b"ab")])
    share = torch.bincount(first, minlength=256).double() / 4000
    assert float((share - powers / powers.sum()).abs().max()) < 0.03


def test_refusals() -> None:
    with pytest.raises(ValueError, match="the text has 6 bytes, too few for 4 streams"):
        score_bytes(model(), TEXT[:6], TRAIN, streams=4)
    with pytest.raises(ValueError, match="count=0, length=5 leave nothing to draw"):
        list(sample_bytes(model(), 0, 5, seed=0))
