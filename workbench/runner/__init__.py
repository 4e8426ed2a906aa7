"""Headless runs: papermill executes a notebook with checked parameters, the record says how it really ended.

`prepare` refuses bad parameters before a kernel starts, `run_notebook` and `run_all` execute, `list_runs`
reads the records on disk, `TerminalProgress` shows a run while it goes.
"""

from workbench.runner.decisions import Check, accept, accepted_decisions, check
from workbench.runner.events import Event
from workbench.runner.notebooks import Job, find_notebook, run_all, run_notebook
from workbench.runner.parameters import prepare
from workbench.runner.runs import RunRecord, list_runs
from workbench.runner.terminal import TerminalProgress

__all__ = [
    "Check",
    "Event",
    "Job",
    "RunRecord",
    "TerminalProgress",
    "accept",
    "accepted_decisions",
    "check",
    "find_notebook",
    "list_runs",
    "prepare",
    "run_all",
    "run_notebook",
]
