"""Words of the command line that keep a run tiny, and what it may learn from."""

import os
from pathlib import Path

SRC = Path(__file__).parents[1] / "src"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SRC)}
"""Of processes that import what is tested here, whatever is installed."""

SENTENCES = "the cat sat on the mat. a dog ran to the cat and the mat was gone. "

# 4 layers of width 16 in 2 blocks, 4 end-to-end steps of 16 images.
TINY = ["--size", "nano", "--depth", "4", "--width", "16", "--heads", "2", "--blocks", "2"]
WORK = ["--batch-size", "16", "--block-batch-size", "16", "--budget", "256", "--threads", "1"]
