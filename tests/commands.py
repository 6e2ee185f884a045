"""Words of the command line that keep a run tiny, and what it may learn from."""

SENTENCES = "the cat sat on the mat. a dog ran to the cat and the mat was gone. "

# 4 layers of width 16 in 2 blocks, 4 end-to-end steps of 16 images.
TINY = ["--size", "nano", "--depth", "4", "--width", "16", "--heads", "2", "--blocks", "2"]
WORK = ["--batch-size", "16", "--block-batch-size", "16", "--budget", "256", "--threads", "1"]
