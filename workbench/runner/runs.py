"""Runs as they stand on disk, and how a run that was executed here ended."""

import json
import os
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.config import Settings
from workbench.evaluation.run_record import CellState, RunRecord, RunStatus, process_token
from workbench.runner.watchdog import EndedBy
from workbench.telemetry.redaction import redact

if TYPE_CHECKING:
    from workbench.runner.kernels import KernelExecution


def list_runs(settings: Settings) -> list[RunRecord]:
    """Read every run on disk, oldest first; one whose process is gone in mid-run is ``interrupted``."""
    if not settings.runs.is_dir():
        return []
    folders = sorted(path for path in settings.runs.iterdir() if path.is_dir())
    return [_as_it_ended(RunRecord.load(folder)) for folder in folders]


def _as_it_ended(record: RunRecord) -> RunRecord:
    if record.status != "running" or not process_gone(record):
        return record
    return replace(record, status="interrupted", exit_reason="interrupted", error="interrupted (process gone)")


def process_gone(record: RunRecord) -> bool:
    """Whether the process of a run has ended; one on another host that shares the folder cannot be judged from here."""
    host, _, pid = record.process.rpartition(":")[0].rpartition(":")
    if host != platform.node():
        return False
    return process_token(int(pid)) != record.process or not _is_alive(int(pid))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended, for its record."""

    status: RunStatus
    exit_reason: str
    error: str | None
    gate: str | None


def how_it_ended(
    outcome: "KernelExecution", run_dir: Path, ended_by: EndedBy, cell_timeout_s: float, hard_timeout_s: float
) -> Ending:
    """Judge a run by papermill's return, its exception flag, every cell and the result file: all must agree.

    A last cell that raises ``GateFailed`` after it wrote ``gate.json`` ends the run properly: the gate's word
    is a result, not a fault of the run.
    """
    gate, gate_problem = _read_gate(run_dir)
    completed = all(cell.status == "completed" for cell in outcome.cells)
    if gate and outcome.error is None and not outcome.flagged and completed:
        return Ending("done", "completed", None, gate)
    if gate and _is_gate_failure(outcome):
        return Ending("done", "gate_failed", None, gate)
    if ended_by == "interrupted":
        return Ending("interrupted", "interrupted", f"interrupted{_stopped_cell(outcome.cells)}", gate)
    if ended_by == "hard_timeout":
        sentence = f"killed at the hard time-out of {hard_timeout_s:g} s{_stopped_cell(outcome.cells)}"
        return Ending("failed", "hard_timeout", sentence, gate)
    reason, sentence = _fault(outcome, cell_timeout_s) or ("no_result", gate_problem)
    return Ending("failed", reason, redact(sentence), gate)


def _fault(outcome: "KernelExecution", cell_timeout_s: float) -> tuple[str, str] | None:
    """Reason and sentence for a run that nobody stopped; None if all cells ran without one."""
    kind, where = type(outcome.error).__name__, _stopped_cell(outcome.cells)
    failed = next((cell for cell in outcome.cells if cell.status == "failed"), None)
    if not outcome.cells or outcome.cells[0].status == "pending":
        return "kernel_not_started", f"no cell was executed: {kind}: {outcome.error}; see kernel.log"
    if kind == "DeadKernelError":
        return "kernel_died", f"the kernel died{where} (killed, crashed or out of memory); see kernel.log"
    if kind == "PapermillExecutionError":
        ename, evalue = _raised(outcome)
        if ename == "KeyboardInterrupt" and failed and failed.seconds >= cell_timeout_s:
            return "cell_timeout", f"interrupted at the cell time-out of {cell_timeout_s:g} s{where}"
        return "cell_error", f"{ename}: {evalue}{where}"
    if outcome.error is not None:
        return "runner_error", f"{kind}: {outcome.error}{where}"
    if outcome.flagged or failed:
        return "cell_error", f"a cell ended the notebook (sys.exit?){where}"
    return None


def _is_gate_failure(outcome: "KernelExecution") -> bool:
    *before, last = [cell.status for cell in outcome.cells] or ["pending"]
    return last == "failed" and set(before) <= {"completed"} and _raised(outcome)[0] == "GateFailed"


def _raised(outcome: "KernelExecution") -> tuple[str, str]:
    """Name and text of the exception in the cell that failed."""
    return getattr(outcome.error, "ename", ""), getattr(outcome.error, "evalue", "")


def _stopped_cell(cells: tuple[CellState, ...]) -> str:
    stopped = next((cell for cell in cells if cell.status in ("failed", "running")), None)
    if stopped:
        return f" in cell [{stopped.number}] of {len(cells)}"
    return "" if any(cell.status == "completed" for cell in cells) else " before the first cell"


def _read_gate(run_dir: Path) -> tuple[str | None, str]:
    """Status in ``gate.json``, or why there is none."""
    try:
        return str(json.loads((run_dir / "gate.json").read_text(encoding="utf-8"))["status"]), ""
    except FileNotFoundError:
        return None, "all cells ran, but the last one left no gate.json in the run folder"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, f"gate.json cannot be read: {error!r}"
