"""The adapters of a trained model, in files that other programs load."""

from __future__ import annotations

from pathlib import Path

from oneblock.convert.lora import write_adapter
from oneblock.model.base import Model


def save_adapters(model: Model, directory: str | Path) -> list[Path]:
    """Write the adapters of every block of a model whose network ``lora`` has made, in peft's format
    (``convert.lora.write_adapter``).

    Args:
        directory: gets a directory for each block, ``block-0`` of the noisiest band and so on.

    Returns:
        These directories, in order. ``PeftModel.from_pretrained(network, path)`` makes the expert of a band.

    Raises:
        ValueError: the blocks have no adapters.
        CheckpointError: a block is missing or damaged.
    """
    places = [Path(directory) / f"block-{block}" for block in range(model.plan.num_blocks)]
    for block, place in enumerate(places):
        write_adapter(model.denoiser.block(block).backbone, place)
    return places
