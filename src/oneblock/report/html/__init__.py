"""A page for what lies in a directory: one HTML file that needs nothing else."""
