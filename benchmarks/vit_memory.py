"""Peak memory and operations of a ViT-Base-shaped stack: 12 layers of width 768 on 197 tokens, fp32, fused AdamW.

    python benchmarks/vit_memory.py

Counted from shapes by ``oneblock.memory``, in half a minute and without a GPU: no stem, no head, no weight average. The
step ends in a squared error against a target of the layers' own shape. FLOP are those of one step; with B blocks the
same work is B times as many steps.

``fixed`` is what no number of blocks makes smaller: the batch (input and target) and the temporary tensors of one
layer's backward pass, both read off end-to-end training at its peak. ``bound`` is fixed + (end-to-end - fixed) / B.
``average`` is what an exponential moving average of the trained weights would add on the device. ``--plain`` takes
layers that keep GELU's output instead of computing it again.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch.nn.functional as F
from torch import Tensor

from oneblock.memory import DryRun, PeakBytes, layers_run, peak_bytes, step_flops
from oneblock.models.layers import Layer, LayerConfig

DEPTH, TOKENS = 12, 197
VIT_BASE = LayerConfig(width=768, heads=12)
GIB = 2**30


class PlainLayer(Layer):
    """The same layer, with all that autograd keeps by itself."""

    def perceptron(self, h: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(h)))


@dataclass(frozen=True)
class Way:
    """A way of training: blocks, what of the other blocks lies on the device, checkpointing."""

    name: str
    blocks: int = 1
    resident: bool = False
    checkpointing: bool = False


WAYS = (
    Way("end-to-end"),
    Way("end-to-end, checkpointing", checkpointing=True),
    Way("all resident, 3 blocks", 3, resident=True),
    Way("all resident, 3 blocks, checkpointing", 3, resident=True, checkpointing=True),
    Way("own block, 3 blocks", 3),
    Way("own block, 3 blocks, checkpointing", 3, checkpointing=True),
    Way("own block, 12 blocks", 12),
)


@dataclass(frozen=True)
class Row:
    """Bytes at the peak and operations of a step, and what they are measured against."""

    way: Way
    batch_size: int
    peak: PeakBytes
    flops: int
    fixed: int
    bound: float
    average: int


def rows(batch_size: int, kind: type[Layer]) -> Iterator[Row]:
    """Every way of training at one batch size; the first row is end-to-end training."""
    whole: PeakBytes | None = None
    for way in WAYS:
        peak, flops = count(way, batch_size, kind)
        whole = whole or peak
        fixed = whole.by_kind["Other"] + whole.by_kind["Temp"]
        held = DEPTH if way.resident else DEPTH // way.blocks
        average = whole.by_kind["Parameter"] * held // DEPTH
        yield Row(way, batch_size, peak, flops, fixed, fixed + (whole.total - fixed) / way.blocks, average)


def count(way: Way, batch_size: int, kind: type[Layer]) -> tuple[PeakBytes, int]:
    own = DEPTH // way.blocks
    shape = (batch_size, TOKENS, VIT_BASE.width)

    def setup() -> DryRun:
        layers = [kind(VIT_BASE) for _ in range(DEPTH if way.resident else own)]
        return layers_run(layers[:own], shape, way.checkpointing, layers[own:])

    return peak_bytes(setup), step_flops(setup)


def cells(row: Row, whole: Row) -> tuple[str, ...]:
    own = row.way.blocks > 1 and not row.way.resident
    return (
        row.way.name,
        str(row.batch_size),
        f"{row.peak.total / GIB:.3f}",
        f"{whole.peak.total / row.peak.total:.1f}x",
        f"{row.flops / whole.flops:.2f}",
        f"{row.fixed / GIB:.3f}",
        f"{row.bound / GIB:.3f}" if own else "-",
        f"{row.peak.total / row.bound:.3f}" if own else "-",
        f"+{row.average / GIB:.3f}",
    )


def show(lines: Sequence[Sequence[str]]) -> None:
    """Lines of cells, each column as wide as its widest."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *rest in lines:
        aligned = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *aligned]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 1])
    parser.add_argument("--plain", action="store_true", help="layers that keep GELU's output")
    parser.add_argument("--json", action="store_true", help="JSON lines instead of a table")
    options = parser.parse_args()
    kind = PlainLayer if options.plain else Layer
    for batch_size in options.batch_sizes:
        found = list(rows(batch_size, kind))
        if options.json:
            for row in found:
                print(json.dumps({**asdict(row), "flops_share": row.flops / found[0].flops}))
            continue
        columns = ("strategy", "images", "peak GiB", "less", "FLOP", "fixed", "bound", "of bound", "average")
        print(f"{DEPTH} layers, d={VIT_BASE.width}, {TOKENS} tokens")
        show([columns, *(cells(row, found[0]) for row in found)])


if __name__ == "__main__":
    main()
