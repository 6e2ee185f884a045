"""Captions read by a frozen text encoder of transformers, given by the user as a directory; nothing is downloaded, and
nothing that came with a checkpoint is run.

Of networks with several parts the one that reads text is taken: the encoder of an encoder and decoder (T5), the text
model of two towers (CLIP).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oneblock.convert.libraries import EXTRA
from oneblock.data.transforms import bytes_in_place

TOGETHER = 64
"""Captions that are encoded at once."""
MOST_LENGTH = 2**16
"""Tokenizers that know no bound name a very large number in its place."""


@dataclass(frozen=True)
class Encoded:
    """Captions as vectors: float32 (n, t, d), the mask bool (n, t) of what counts, and how many captions were cut."""

    vectors: Tensor
    mask: Tensor
    cut: int


class TextEncoder:
    """A frozen encoder and its tokenizer.

    Args:
        directory: as ``save_pretrained`` of both writes it.

    Raises:
        ValueError: the directory does not hold them.
        ImportError: transformers is not installed.
    """

    def __init__(self, directory: Path) -> None:
        try:
            from transformers import AutoModel, AutoTokenizer
        except ImportError as error:
            raise ImportError(f"a text encoder needs transformers ({error}); {EXTRA}") from error
        try:
            if not directory.is_dir():
                raise ValueError("it is not a folder")
            self._tokenizer: Any = AutoTokenizer.from_pretrained(directory, local_files_only=True)
            model: Any = AutoModel.from_pretrained(directory, local_files_only=True, use_safetensors=True)
        except Exception as error:  # transformers raises any error for files that are not its own
            reason = str(error).splitlines()[0][:200]
            raise ValueError(
                f"{directory} does not hold a text encoder of transformers ({reason}); give a directory with its "
                "config.json, model.safetensors and tokenizer.json"
            ) from error
        model = model.get_encoder() if model.config.is_encoder_decoder else getattr(model, "text_model", model)
        self._model = model.float().eval().requires_grad_(False)
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return int(self._model.config.hidden_size)

    @property
    def length(self) -> int:
        """Tokens of a caption that it takes at most."""
        bounds = (self._tokenizer.model_max_length, getattr(self._model.config, "max_position_embeddings", None))
        return min([int(bound) for bound in bounds if bound and bound > 0] + [MOST_LENGTH])

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that tell its weights and its vocabulary from others."""
        digest = hashlib.sha256(repr(sorted(self._tokenizer.get_vocab().items())).encode())
        for name, tensor in sorted(self._model.state_dict().items()):
            digest.update(name.encode())
            digest.update(bytes_in_place(tensor.contiguous()))
        return digest.hexdigest()[:16]

    def count(self, captions: Sequence[str]) -> list[int]:
        """Tokens of each caption."""
        return [len(ids) for ids in self._tokenizer(list(captions), verbose=False)["input_ids"]]

    @torch.no_grad()
    def read(self, captions: Sequence[str], length: int) -> Encoded:
        """The last hidden states of ``captions``, cut to ``length`` tokens, or to what the encoder takes if it takes
        less; of an empty one nothing counts."""
        most = min(length, self.length)
        vectors = torch.zeros(len(captions), length, self.width)
        mask = torch.zeros(len(captions), length, dtype=torch.bool)
        for start in range(0, len(captions), TOGETHER):
            some = list(captions[start : start + TOGETHER])
            asked = self._tokenizer(some, padding=True, truncation=True, max_length=most, return_tensors="pt")
            ids, counts = asked["input_ids"], asked["attention_mask"]
            states = self._model(input_ids=ids, attention_mask=counts).last_hidden_state
            told = torch.tensor([bool(caption.strip()) for caption in some])[:, None]
            held = counts.bool() & told
            vectors[start : start + len(some), : ids.shape[1]] = torch.where(held[..., None], states, 0.0)
            mask[start : start + len(some), : ids.shape[1]] = held
        return Encoded(vectors, mask, sum(count > most for count in self.count(captions)))


@lru_cache(maxsize=1)
def open_text_encoder(directory: Path) -> TextEncoder:
    """The encoder in a directory; the last one that was asked for stays in memory."""
    return TextEncoder(directory)
