"""Texts for the classes of images: a frozen table of what a network is told of each, and of no class."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from oneblock.checks import shown
from oneblock.condition import ClassIds, Condition, told
from oneblock.convert.copies import emptied
from oneblock.convert.counting import faking
from oneblock.convert.kind import Argument, first_of


class Prompts(nn.Module):
    """Rows of arguments of a network's call, in buffers that no checkpoint holds and all blocks share in memory.

    Args:
        tables: name of an argument -> (k + 1, ...), one row for each of k classes and a last one for no class.
    """

    def __init__(self, tables: Mapping[str, Tensor]) -> None:
        super().__init__()
        fake = faking()
        for name, table in tables.items():
            self.register_buffer(name, emptied(table) if fake else table, persistent=False)

    def forward(self, condition: Condition) -> dict[str, Tensor]:
        """The rows (n, ...) of each argument for n samples that are told their classes."""
        labels = told(condition, ClassIds)
        tables = dict(self.named_buffers())
        rows = min(map(len, tables.values()))
        if labels.null_id is not None and labels.null_id != rows - 1:
            raise ValueError(
                f"prompts have {rows} rows, but there are {labels.null_id} classes; give {labels.null_id + 1}: one for "
                "each class and a last one for no class"
            )
        return {name: table[labels.ids] for name, table in tables.items()}


def as_prompts(
    network: nn.Module, wanted: Mapping[str, Argument], prompts: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """``prompts`` as ``network`` is told them, numbers in its type and on its device.

    Args:
        wanted: arguments that are told for each class (``Kind.texts``).

    Raises:
        ValueError: an argument is missing, or has another shape; the network is told none.
    """
    name = type(network).__name__
    if not wanted:
        if prompts:
            raise ValueError(f"prompts={shown(sorted(prompts))} are given, but {name} is told no texts; leave them out")
        return {}
    given = dict(prompts or {})
    missing = [argument for argument, row in wanted.items() if row.needed and argument not in given]
    unknown = [argument for argument in given if argument not in wanted]
    if missing or unknown:
        reason = f"lack {', '.join(missing)}" if missing else f"hold {', '.join(unknown)}, which is none of them"
        raise ValueError(
            f"prompts={shown(sorted(given))} {reason}; {name} is told {_listed(wanted)}: one row for each of k classes "
            "and a last one for no class"
        )
    _check_shapes(name, wanted, given)
    first = first_of(network)
    return {
        argument: table.detach().to(first.device, first.dtype if table.is_floating_point() else table.dtype, copy=True)
        for argument, table in given.items()
    }


def _check_shapes(name: str, wanted: Mapping[str, Argument], given: Mapping[str, Tensor]) -> None:
    rows = {len(table) for table in given.values() if isinstance(table, Tensor) and table.ndim}
    tokens: set[int] = set()
    for argument, table in given.items():
        shape = wanted[argument].shape
        fits = isinstance(table, Tensor) and table.ndim == len(shape) + 1
        if not fits or any(size not in (0, found) for size, found in zip(shape, table.shape[1:], strict=True)):
            found = tuple(table.shape) if isinstance(table, Tensor) else shown(table)
            raise ValueError(f"prompts[{argument!r}] is {found}; {name} is told {_listed(wanted)}, k classes, t tokens")
        tokens |= {found for size, found in zip(shape, table.shape[1:], strict=True) if size == 0}
    if len(rows) > 1 or len(tokens) > 1 or min(rows) < 2:
        shapes = ", ".join(f"{argument} {tuple(table.shape)}" for argument, table in given.items())
        raise ValueError(
            f"prompts are {shapes}; all must have the same number of rows, 2 or more, and of tokens: {_listed(wanted)}"
        )


def _listed(wanted: Mapping[str, Argument]) -> str:
    def one(name: str, row: Argument) -> str:
        sizes = ", ".join(["k + 1", *("t" if size == 0 else str(size) for size in row.shape)])
        return f"{name} ({sizes}{'' if row.needed else '; may be left out'})"

    return ", ".join(one(name, row) for name, row in wanted.items())
