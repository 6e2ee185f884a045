"""timm without torchvision, of which no CPU build stands beside this torch.

timm imports it, and its networks need nothing of it. While timm is imported, empty modules stand in its place; then
they go, so that no other library takes them for torchvision.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

NAMES = ("torchvision", *(f"torchvision.{name}" for name in (
    "datasets", "models", "models.feature_extraction", "ops", "ops.misc", "transforms", "transforms.functional", "utils"
)))  # fmt: skip

MODES = ["NEAREST", "BILINEAR", "BICUBIC", "BOX", "HAMMING", "LANCZOS"]


class _Empty(ModuleType):
    """A module of which every name is a class that does nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made: Any = Enum(name, MODES) if name == "InterpolationMode" else type(name, (), {})
        setattr(self, name, made)
        return made


@contextmanager
def absent() -> Iterator[None]:
    """Empty modules in the place of torchvision where it is not installed."""
    if "timm" in sys.modules or find_spec("torchvision") is not None:
        yield
        return
    for name in NAMES:
        module = _Empty(name)
        module.__path__, module.__spec__ = [], ModuleSpec(name, None, is_package=True)
        sys.modules[name] = module
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, module)
    try:
        yield
    finally:
        for name in NAMES:
            del sys.modules[name]
