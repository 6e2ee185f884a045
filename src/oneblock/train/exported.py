"""A model in the format of the library that its network comes from: a directory with a network for each block.

``oneblock.json`` holds the plan and says which network belongs to which band, ``network/`` what is needed of the
network that all blocks were made of, and ``block-b/`` the network of block b (``convert.export``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oneblock.blockwise import BlockDenoiser, Blockwise
from oneblock.checks import check_fields, shown
from oneblock.convert.export import read_block
from oneblock.convert.kept import RECORD_FILE
from oneblock.convert.libraries import LIBRARIES
from oneblock.plain import read_plain
from oneblock.plan import Plan
from oneblock.train.checkpoint import CheckpointError
from oneblock.train.layout import shard_misfit, trained_parameters

EXPORT_FILE = RECORD_FILE
COPY = "export the model again"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an exported model says of itself.

    Args:
        plan: of the run.
        library: that the networks are of.
        blocks: directory of each block's network, the noisiest first.
        places: paths of the layers of each block in its network.
    """

    plan: Plan
    library: str
    blocks: tuple[str, ...]
    places: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        check_fields(self)
        if self.library not in LIBRARIES:
            raise ValueError(f"library={shown(self.library)} is unknown; use one of {', '.join(LIBRARIES)}")
        if tuple(map(len, self.places)) != self.plan.layers or len(self.blocks) != self.plan.num_blocks:
            raise ValueError(f"blocks={shown(self.blocks)} and places={shown(self.places)} are not those of the plan")
        if any(Path(name).name != name for name in self.blocks):
            raise ValueError(f"blocks={shown(self.blocks)} are not directories beside the file")


def is_export(directory: Path) -> bool:
    """Whether a directory holds an exported model."""
    path = directory / EXPORT_FILE
    try:
        values = read_plain(path) if path.is_file() else None
    except ValueError:
        return False
    return isinstance(values, dict) and "plan" in values


def read_export(directory: Path) -> Exported:
    """What the model in a directory says of itself.

    Raises:
        ValueError: names the file and what is wrong.
    """
    path = directory / EXPORT_FILE
    values: Mapping[str, Any] = read_plain(path)
    try:
        return Exported(
            plan=Plan.from_values(values["plan"], "plan"),
            library=values["library"],
            blocks=tuple(values["blocks"]),
            places=tuple(map(tuple, values["places"])),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not say how the model is made up ({error}); {COPY}") from error


class ExportedFiles:
    """The blocks of an exported model."""

    def __init__(self, directory: Path, blockwise: Blockwise) -> None:
        self._directory, self._blockwise = directory, blockwise
        self._record = read_export(directory)

    def start(self, block: int) -> BlockDenoiser:
        """The block with fresh weights; ``CheckpointError`` without a network of it."""
        if not self._place(block).is_dir():
            raise CheckpointError(f"{self._place(block)} does not exist; {COPY}")
        return self._blockwise.denoiser(block)

    def read(self, block: int, denoiser: BlockDenoiser) -> None:
        """Fill the block from its network; ``CheckpointError`` if that is damaged, or another one."""
        library = LIBRARIES[self._record.library]
        try:
            found = read_block(library, self._place(block), denoiser.backbone, self._record.places[block])
        except (ValueError, OSError) as error:
            raise CheckpointError(f"block {block} cannot be read ({error})") from error
        wanted = trained_parameters(denoiser.backbone)
        weights = {name: t for name, t in found.items() if name in wanted or name.startswith("layers.")}
        wrong = shard_misfit({name: t for name, t in weights.items() if name in wanted}, wanted, "")
        if wrong:
            raise CheckpointError(f"{self._place(block)} is another network's than block {block} of the plan ({wrong})")
        denoiser.backbone.load_state_dict(weights, strict=False)

    def _place(self, block: int) -> Path:
        return self._directory / self._record.blocks[block]
