"""Time and memory of each block of frames of a long video: linear attention beside softmax with all keys and values.

    python benchmarks/video_stream.py --blocks 160
    python benchmarks/video_stream.py --attention linear --blocks 2500 --every 250    # 10,000 frames

One network with fresh weights, the same for both but for the attention, reads block after block as sampling does when
it commits frames. A block's time is the smallest of ``--repeats`` calls; ``--clock cpu`` counts the processor's time,
which other programs on the machine do not lengthen. Prints a JSON line for the blocks 1, 2, 4, 8
and so on, or for every so many: milliseconds, bytes of what is kept, and the resident bytes of this process; then how
the last block's time compares with the first one's, and from which of these blocks on linear attention is faster. The
numbers are of this network, size and machine alone.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from oneblock.condition import Nothing
from oneblock.models.video import Video, VideoConfig, VideoState


def resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def shown_blocks(blocks: int, every: int) -> set[int]:
    """Numbers of the blocks that there is a line for, from 1 on."""
    if every:
        return {1, *range(every, blocks + 1, every), blocks}
    return {2**i for i in range(blocks.bit_length()) if 2**i <= blocks} | {blocks}


@torch.no_grad()
def stream(attention: str, options: argparse.Namespace) -> dict[int, float]:
    """Milliseconds of the blocks that are shown."""
    shape = (options.block_frames, 1, options.side, options.side)
    torch.manual_seed(0)
    config = VideoConfig(
        shape=shape,
        depth=options.depth,
        width=options.width,
        heads=options.heads,
        patch=options.patch,
        attention=attention,  # type: ignore[arg-type]
        block_frames=options.block_frames,
        max_frames=options.blocks * options.block_frames,
    )
    network = Video(config).to(options.device).eval()
    for weights in network.parameters():
        torch.nn.init.normal_(weights, std=0.05)
    z = torch.randn(1, *shape, device=options.device)
    noise, condition = torch.zeros(1, device=options.device), Nothing(1)
    network.step(z, noise, condition)  # warm
    state: VideoState | None = None
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    wanted, found = shown_blocks(options.blocks, options.every), {}
    for number in range(1, options.blocks + 1):
        after, seconds = state, []
        for _ in range(options.repeats if number in wanted else 1):
            began = clock()
            _, after = network.step(z, noise, condition, state)
            if z.is_cuda:
                torch.cuda.synchronize()
            seconds.append(clock() - began)
        state = after
        assert state is not None
        if number in wanted:
            found[number] = min(seconds) * 1000
            kept = {f"{part}_bytes": size for part, size in state.cache_bytes().items()}
            row = {"name": attention, "block": number, "ms": round(found[number], 3), **kept}
            print(json.dumps({**row, "resident_bytes": resident_bytes()}), flush=True)
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attention", nargs="+", choices=["linear", "softmax"], default=["linear", "softmax"])
    parser.add_argument("--blocks", type=int, default=160)
    parser.add_argument("--every", type=int, default=0, help="blocks between two lines (0: at powers of two)")
    parser.add_argument("--repeats", type=int, default=5)
    for name, value in (("depth", 2), ("width", 128), ("heads", 4), ("patch", 2), ("side", 16), ("block-frames", 4)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    options = parser.parse_args(arguments)
    found = {attention: stream(attention, options) for attention in options.attention}
    for attention, times in found.items():
        row = {"name": attention, "last_by_first": round(times[options.blocks] / times[1], 3)}
        print(json.dumps({**row, "threads": torch.get_num_threads(), "device": options.device, "clock": options.clock}))
    if len(found) == 2:
        faster = [number for number, ms in found["linear"].items() if ms < found["softmax"][number]]
        print(json.dumps({"linear_is_faster_from_block": min(faster, default=None)}))


if __name__ == "__main__":
    main()
