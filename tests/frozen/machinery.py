"""What the frozen results have in common: where they lie, when they must agree to the last bit, how they are measured.

A result is what the command line gives for fixed words, on data that are at hand everywhere. Floating-point arithmetic
differs between kinds of CPU and versions of torch, so every file of results holds a fingerprint of the arithmetic that
made it: where it is this machine's, results must be equal; elsewhere they must be near.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import safetensors
import torch
from commands import SENTENCES
from torch import Tensor
from torch.nn import functional as F

HERE = Path(__file__).parent
Ok = Callable[..., list[dict[str, Any]]]
TEXT_TASKS = ("masked-text", "text", "recurrent-text")


def on_purpose(group: str) -> str:
    """What a failed test says."""
    return (
        f"this is frozen: it changed, and may do so on purpose only; then run `python tests/frozen/refresh.py {group}` "
        "and say why in the commit"
    )


def prepare(directory: Path) -> None:
    """The text that is trained on, in an empty working directory."""
    (directory / "cats.txt").write_text(SENTENCES * 60)


def data_words(task: str) -> list[str]:
    """Words for data that need no download, whose names hold no path."""
    return ["--data", "file:cats.txt"] if task in TEXT_TASKS else ["--data", "digits"]


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def arithmetic() -> str:
    """16 hex digits that tell this machine's floating-point arithmetic, on one thread, from others."""
    sha = hashlib.sha256(f"{torch.__version__} {safetensors.__version__}".encode())
    with one_thread():
        for width in (8, 16):
            for result in _results(width):
                sha.update(result.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()[:16]


def _results(width: int) -> Iterator[Tensor]:
    """What training, scoring and sampling compute, at the sizes in use."""
    generator = torch.Generator().manual_seed(width)
    x = torch.randn(8, 16, width, generator=generator)
    weights = [torch.randn(n, width, generator=generator) for n in (width, 3 * width, 4 * width, 27)]
    yield x
    for weight in weights:
        weight.requires_grad_()
        yield F.linear(x, weight)
        yield F.linear(x[:, 0], weight)
    q, k, v = F.linear(x, weights[1]).reshape(8, 16, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
    loss = torch.zeros(())
    for causal in (False, True):
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        yield seen
        loss = loss + seen.square().mean()
    deep = F.gelu(F.layer_norm(F.linear(x, weights[0]), (width,)))
    yield deep
    loss = loss + F.cross_entropy(F.linear(deep, weights[3]).flatten(0, 1), torch.arange(128) % 27)
    loss.backward()
    for weight in weights:
        if weight.grad is not None:
            yield weight.grad
    optimizer = torch.optim.AdamW(weights, lr=1e-2, fused=True)
    optimizer.step()
    yield from weights
    yield from (x.exp(), x.abs().log(), x.sin(), x.softmax(-1), x.log_softmax(-1), x.sigmoid(), x.tanh(), x.var(0))
    yield F.conv2d(x.reshape(8, 1, 16, width), torch.randn(4, 1, 3, 3, generator=generator))
    yield torch.linalg.eigvalsh(x[0].double().T @ x[0].double())


def same_arithmetic(frozen: dict[str, Any]) -> bool:
    """Whether results must equal the frozen ones to the last bit; else the user is told that they are only near."""
    same: bool = frozen["arithmetic"] == arithmetic()
    if not same:
        warnings.warn("this machine calculates otherwise than the one that froze: near is enough", stacklevel=2)
    return same


def load(name: str) -> dict[str, Any]:
    """A file of frozen results."""
    found: dict[str, Any] = json.loads((HERE / name).read_text())
    return found


def store(name: str, results: dict[str, Any]) -> None:
    """Freeze results, one line for each, with the arithmetic that made them."""
    lines = [f'  "{key}": {json.dumps(value)}' for key, value in results.items()]
    body = ",\n".join(lines)
    (HERE / name).write_text(f'{{\n"arithmetic": "{arithmetic()}",\n"results": {{\n{body}\n}}\n}}\n')


def near(found: Any, frozen: Any, rel: float, absolute: float) -> bool:
    """Whether two plain values agree but for the last digits of numbers."""
    if isinstance(found, dict) and isinstance(frozen, dict):
        return found.keys() == frozen.keys() and all(near(found[k], frozen[k], rel, absolute) for k in found)
    if isinstance(found, list) and isinstance(frozen, list):
        return len(found) == len(frozen) and all(near(a, b, rel, absolute) for a, b in zip(found, frozen, strict=True))
    if _is_number(found) and _is_number(frozen):
        return bool(abs(found - frozen) <= absolute + rel * abs(frozen))
    return bool(found == frozen)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def changed(found: dict[str, Any], frozen: dict[str, Any], same: Callable[[Any, Any], bool]) -> dict[str, Any]:
    """What differs: key -> (found, frozen)."""
    return {
        key: (found.get(key, "absent"), frozen.get(key, "absent"))
        for key in sorted({*found, *frozen})
        if key not in found or key not in frozen or not same(found[key], frozen[key])
    }
