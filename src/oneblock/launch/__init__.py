"""Starting jobs, and finding their files: a job is a command line, a directory with a plan, and a block index."""
