"""Which endings count as done."""

from pathlib import Path

import pytest

from workbench.evaluation.run_record import CellState, CellStatus
from workbench.runner.kernels import KernelExecution
from workbench.runner.runs import Ending, how_it_ended


class CellFailed(Exception):
    """Stands for papermill's exception, which carries the name of the kernel's own."""

    def __init__(self, ename: str) -> None:
        self.ename, self.evalue = ename, "why"
        super().__init__(ename)


CellFailed.__name__ = "PapermillExecutionError"


def ending(
    run_dir: Path,
    *statuses: CellStatus,
    error: Exception | None = None,
    flagged: bool = False,
    gate: str | None = '{"status": "holds"}',
) -> Ending:
    if gate is not None:
        (run_dir / "gate.json").write_text(gate)
    cells = tuple(CellState(n + 1, "", status, 1.0) for n, status in enumerate(statuses))
    return how_it_ended(KernelExecution(error, flagged, cells), run_dir, "", 60, 60)


def test_all_four_together_are_done(tmp_path: Path) -> None:
    assert ending(tmp_path, "completed", "completed") == Ending("done", "completed", None, "holds")


def test_pending_cell_is_never_done(tmp_path: Path) -> None:
    assert ending(tmp_path, "completed", "pending").status == "failed"


def test_exception_flag_is_never_done(tmp_path: Path) -> None:
    assert ending(tmp_path, "completed", flagged=True).status == "failed"


def test_exception_of_papermill_is_never_done(tmp_path: Path) -> None:
    got = ending(tmp_path, "completed", error=OSError("disk"))
    assert (got.status, got.exit_reason) == ("failed", "runner_error")


@pytest.mark.parametrize("gate", [None, "", "[]", "{}", '{"stat'])
def test_without_a_whole_gate_file_it_is_never_done(tmp_path: Path, gate: str | None) -> None:
    got = ending(tmp_path, "completed", gate=gate)
    assert (got.status, got.exit_reason) == ("failed", "no_result")
    assert "gate.json" in str(got.error)


def test_failed_gate_counts_only_in_the_last_cell(tmp_path: Path) -> None:
    error = CellFailed("GateFailed")
    assert ending(tmp_path, "completed", "failed", error=error).status == "done"
    assert ending(tmp_path, "failed", "pending", error=error).status == "failed"
    assert ending(tmp_path, "completed", "failed", error=CellFailed("ValueError")).status == "failed"


def test_failed_gate_without_its_file_is_failed(tmp_path: Path) -> None:
    got = ending(tmp_path, "completed", "failed", error=CellFailed("GateFailed"), gate=None)
    assert (got.status, got.exit_reason) == ("failed", "cell_error")


def test_run_that_finished_before_it_was_stopped_is_done(tmp_path: Path) -> None:
    (tmp_path / "gate.json").write_text('{"status": "holds"}')
    outcome = KernelExecution(None, False, (CellState(1, "gate", "completed", 1.0),))
    assert how_it_ended(outcome, tmp_path, "interrupted", 60, 60).status == "done"


def test_kernel_that_never_answered_is_said_so(tmp_path: Path) -> None:
    got = ending(tmp_path, "pending", error=RuntimeError("Kernel died before replying"), gate=None)
    assert got.exit_reason == "kernel_not_started"
    assert "no cell was executed" in str(got.error)
