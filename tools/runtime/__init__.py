"""How any long command runs: command line, processes, checkpoints, run directory, tracking, progress."""
