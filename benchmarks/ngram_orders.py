"""Bits per byte of held-out text under n-grams of the training text, for several n.

python benchmarks/ngram_orders.py --data books --orders 4 5 6 7 8
"""

from __future__ import annotations

import argparse
import json
import math
import time

import torch

from oneblock.data import Characters, open_text
from oneblock.evaluate.writing import held_out
from oneblock.metrics import NGramScorer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="books")
    parser.add_argument("--orders", type=int, nargs="+", default=[4, 5, 6, 7, 8])
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--windows", type=int, default=512)
    options = parser.parse_args()
    torch.set_num_threads(1)
    train, test = (open_text(options.data, split, Characters()) for split in ("train", "test"))
    known = train.vocabulary.decode(train.tokens.long())
    windows = [test.vocabulary.decode(row) for row in held_out(test, options.length, options.windows).tokens]
    for order in options.orders:
        began = time.process_time()
        nats = sum(likelihood.nats for likelihood in NGramScorer([known], order)(windows))
        bits = nats / math.log(2) / sum(map(len, windows))
        seconds = time.process_time() - began
        print(json.dumps({"order": order, "bits_per_byte": round(bits, 4), "cpu_seconds": round(seconds, 1)}))


if __name__ == "__main__":
    main()
