"""An experiment as a notebook shows it: its figures, and its end with the report and the command that accepts it."""

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from workbench.evaluation.experiment import Counted, Experiment, P, S
from workbench.evaluation.finalists import Finalists
from workbench.evaluation.gate import Gate
from workbench.evaluation.run_record import RunRecord
from workbench.evaluation.run_summary import frontier_points
from workbench.records import Decision
from workbench.rendering.table import Table
from workbench.rendering.text import Lines, cell_html, escape, visible
from workbench.reports.charts import forest, slices
from workbench.reports.figure import Figure
from workbench.reports.frontier import frontier
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
        return cell_html(f"<p>report: {said}{accept}</p>")


class Notebook(Experiment[P, S]):
    """An experiment with its figures, which stand above the statistics that they draw, and with its last cell."""

    def verdict(self, decision: Decision) -> Lines:
        """What was decided and how sure it is, sentence by sentence."""
        return Lines((decision.sentence, *decision.notes))

    def forest(self, decision: Decision) -> Figure:
        """Paired differences from the best other arm for the money, with the margin; of rates their bounds."""
        return forest(decision.claims, decision.rule)

    def frontier(self, finalists: Finalists, dev: S) -> Figure:
        """Every arm by cost and quality on dev, with the frontier; tied arms are drawn as tied."""
        rule, assumed = finalists.rule, self.policy.requests_per_month is None
        points = frontier_points(dev.of(rule.metric), dev.facts, split=dev.split)
        return frontier(points, rule.metric, requests_per_month=rule.requests_per_month, assumed=assumed)

    def slices(self, decision: Decision, test: S) -> Figure:
        """Arms that were tested, by slice."""
        return slices(test.slice_rows(decision.rule.metric), decision.rule.metric)

    def regressions(self, decision: Decision, test: S) -> Table | None:
        """Items on which the decided arm loses most against what is in use, or the best other; None without one."""
        return test.regressions(decision, test.cases(decision.rule.metric)).table(test.words)

    def gate(self, decision: Decision, test: S, *steps: Counted) -> None:
        """Say whether the accepted decision still holds; where no runner does it, draw the report and tell what to do.

        Parameters
        ----------
        *steps
            Further steps that count what must be 0, such as the scores on dev.

        Raises
        ------
        GateFailed
            As `Gate.enforce`, after everything is on disk and told.
        """
        tell_gate(self.close(decision, test, *steps), self.record, decision)


def tell_gate(gate: Gate, record: RunRecord | None, decision: Decision | None = None) -> None:
    """Say what the gate says; where no runner does it, draw the report and tell what to do; then enforce.

    Raises
    ------
    GateFailed
        As `Gate.enforce`, after everything is told.
    """
    _show(Lines((f"gate: {gate.status} - {gate.sentence}",)))
    if record:
        drawn = draw_report(RunRecord.load(record.run_dir))
        _show(NextSteps.of(drawn, decision, gate) if decision else NextSteps(drawn, ""))
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


def _show(told: NextSteps | Lines) -> None:
    """Show with its links where IPython takes HTML, else as text."""
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None:
        from IPython.display import display

        display(told)
    else:
        print(told)  # noqa: T201  a notebook's end outside of a notebook
