"""Library code that looks at the values of tensors, run on tensors that have none (``memory.fake_tensors``)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def faking() -> bool:
    """Whether tensors that are made here are fake."""
    from torch._subclasses.fake_tensor import FakeTensor

    return isinstance(torch.empty(0), FakeTensor)


@contextmanager
def as_of_real_tensors() -> Iterator[None]:
    """What is counted inside is what real tensors need.

    transformers looks whether several texts are packed into one sequence, and makes a mask of them where it cannot
    look. Texts are never packed here, and on real tensors no such mask is made.
    """
    masks: Any = sys.modules.get("transformers.masking_utils")
    if masks is None or not hasattr(masks, "find_packed_sequence_indices") or not faking():
        yield
        return
    looked = masks.find_packed_sequence_indices
    masks.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masks.find_packed_sequence_indices = looked
