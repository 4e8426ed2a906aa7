"""What stands at the end of a run: the gate's word, the report, and the command that accepts the decision."""

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from workbench.evaluation.experiment import Experiment
from workbench.evaluation.gate import Gate
from workbench.evaluation.run_record import RunRecord
from workbench.records import Decision
from workbench.rendering.text import escape, visible
from workbench.telemetry.redaction import redact


@dataclass(frozen=True, slots=True)
class NextSteps:
    """What to do with a run that has ended: where its report lies, and the command that accepts it.

    Attributes
    ----------
    command : str
        Accepts the decision of this very run; empty where there is nothing to accept.
    """

    record: RunRecord
    command: str

    @classmethod
    def of(cls, record: RunRecord, decision: Decision, gate: Gate) -> "NextSteps":
        """Next steps of a run; a run that cannot tell, or that could not be checked, has nothing to accept."""
        accept = f"workbench accept {record.notebook} --run {record.run_dir.name} --reason TEXT"
        return cls(record, "" if decision.verdict == "inconclusive" or gate.status == "error" else accept)

    def __repr__(self) -> str:
        report = self.record.report or f"none ({self.record.report_error})"
        return visible(f"report: {report}" + (f"\naccept: {self.command}" if self.command else ""))

    def _repr_html_(self) -> str:
        report = self.record.report
        # Relative to the notebook, whose folder the kernel works in: JupyterLab opens no other address.
        address = quote(Path(os.path.relpath(report)).as_posix()) if report else ""
        link = f'<a href="{escape(address)}" target="_blank">report.html</a> of {escape(self.record.run_dir.name)}'
        said = link if report else f"none ({escape(str(self.record.report_error))})"
        accept = f"<br>accept: <code>{escape(self.command)}</code>" if self.command else ""
        return f"<p>report: {said}{accept}</p>"


def end_run(experiment: Experiment, decision: Decision, gate: Gate) -> None:
    """Tell what the gate says and, where no runner does it, draw the report and tell the next steps; then enforce.

    Raises
    ------
    GateFailed
        As `Gate.enforce`, after everything is on disk and told.
    """
    print(f"gate: {gate.status} - {gate.sentence}")  # noqa: T201  the last cell of the notebook
    if experiment.record:
        record = draw_report(RunRecord.load(experiment.folder))
        _show(NextSteps.of(record, decision, gate))
    gate.enforce()


def draw_report(record: RunRecord) -> RunRecord:
    """Draw ``report.html``; the record says why it could not be drawn, because that must never hide the result."""
    try:
        from workbench.reports.page import write_report

        write_report(record.run_dir)
    except Exception as error:  # noqa: BLE001 - the boundary of a run
        record = replace(record, report_error=redact(f"{type(error).__name__}: {error}"))
        record.save()
    return record


def _show(steps: NextSteps) -> None:
    """Show with its link where IPython takes HTML, else as text."""
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None:
        from IPython.display import display

        display(steps)
    else:
        print(steps)  # noqa: T201  a notebook's steps outside of a notebook
