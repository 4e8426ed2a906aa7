"""Headless runs: papermill executes a notebook with checked parameters, the record says how it really ended.

`prepare_parameters` refuses bad parameters before a kernel starts, `run_headless` executes, `list_runs` reads the
records on disk, `TerminalProgress` shows runs while they go.
"""

from workbench.evaluation.run_record import RunRecord
from workbench.runner.accept_and_check import Check, accept_decision, accepted_decisions, check_decisions
from workbench.runner.events import Event
from workbench.runner.headless import Job, run_headless
from workbench.runner.parameters import prepare_parameters
from workbench.runner.runs import list_runs
from workbench.runner.terminal import TerminalProgress

__all__ = [
    "Check",
    "Event",
    "Job",
    "RunRecord",
    "TerminalProgress",
    "accept_decision",
    "accepted_decisions",
    "check_decisions",
    "list_runs",
    "prepare_parameters",
    "run_headless",
]
