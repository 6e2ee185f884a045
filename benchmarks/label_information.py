"""What noisy labels leave to be learned from the image, band by band: no training, a few seconds.

    python benchmarks/label_information.py --classes 10 --blocks 3

For the law fitted to the table and for EDM's: edges of the bands, posterior entropy at the edges as a share of ln K,
and the share of a label's variance that a noisy label of the band leaves open (``oneblock.table.open_variance``). The
mean over the blocks is the share of ordinary training's information that as many samples give when they are spent on
denoising labels. Prints a JSON line for each law.
"""

import argparse
import json
import math

import torch

from oneblock.calibrate import entropy_law
from oneblock.noise import LogNormal
from oneblock.partition import make_partition
from oneblock.table import open_variance, posterior_entropy, simplex


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--overlap", type=float, default=0.05)
    parser.add_argument("--samples", type=int, default=20_000)
    options = parser.parse_args()
    table = simplex(options.classes)
    for name, law in (("entropy", entropy_law(table)), ("log-normal", LogNormal())):
        partition = make_partition(law, options.blocks, options.overlap)
        entropy = posterior_entropy(table, torch.tensor(partition.edges)) / math.log(options.classes)
        generator = torch.Generator().manual_seed(0)
        left = [
            open_variance(table, partition.draw(block, options.samples, generator)) for block in range(options.blocks)
        ]
        row = {
            "law": name,
            "edges": [round(edge, 4) for edge in partition.edges],
            "entropy": [round(value, 4) for value in entropy.tolist()],
            "open_variance": [round(value, 3) for value in left],
            "mean": round(sum(left) / len(left), 3),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
