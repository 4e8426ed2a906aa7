"""The doors of a project: how a repository of one's own begins, and what stands before and after a run."""
