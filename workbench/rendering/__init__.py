"""Plain values to safe static HTML and text, nothing else."""
