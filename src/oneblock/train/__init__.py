"""Training: a generator loop over jobs, one job per block."""
