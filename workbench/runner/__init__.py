"""Headless runs: papermill executes a notebook with checked parameters, the record says how it really ended.

`prepare` refuses bad parameters before a kernel starts, `run_all` executes, `list_runs` reads the records on disk,
`TerminalProgress` shows runs while they go.
"""

from workbench.evaluation.run_record import RunRecord
from workbench.runner.accept_and_check import Check, accept, accepted_decisions, check
from workbench.runner.events import Event
from workbench.runner.headless import Job, run_all
from workbench.runner.parameters import prepare
from workbench.runner.runs import list_runs
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
    "list_runs",
    "prepare",
    "run_all",
]
