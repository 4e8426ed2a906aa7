"""``pytest --workbench``: every accepted decision is a test, beside the tests that are there.

pytest loads this module in every session of an environment, so that it imports nothing until it is asked.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from workbench.records import Decision


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--workbench``."""
    group = parser.getgroup("workbench")
    group.addoption("--workbench", action="store_true", help="run every accepted decision again, each as a test")


@pytest.hookimpl(tryfirst=True)  # before -k and -m choose
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add one test per accepted decision of the project at pytest's root folder."""
    if not config.getoption("--workbench"):
        return
    from workbench.config import load_settings
    from workbench.errors import WorkbenchError
    from workbench.runner.accept_and_check import accepted_decisions

    try:
        accepted = accepted_decisions(load_settings(start=config.rootpath))
    except WorkbenchError as error:
        raise pytest.UsageError(str(error)) from error
    suite = Decisions.from_parent(session, name="workbench", nodeid="workbench", path=config.rootpath)
    items += [
        AcceptedDecision.from_parent(suite, name=f"{evalset}/{decision.notebook}", evalset=evalset, decision=decision)
        for evalset, decision in accepted
    ]


class Decisions(pytest.Collector):
    """Parent of the decisions in pytest's tree."""

    def collect(self) -> list[pytest.Item]:
        """Nothing: the decisions are added after collection."""
        return []


class AcceptedDecision(pytest.Item):
    """One accepted decision, run again with exactly its parameters.

    It passes where the gate's exit code is 0 and the decision holds, is skipped where the policy lets an open answer
    pass, and fails else.
    """

    def __init__(self, *, evalset: str, decision: "Decision", **given: Any) -> None:
        super().__init__(**given)
        self.evalset, self.decision = evalset, decision

    def runtest(self) -> None:
        """Run the notebook and read its gate."""
        from workbench.config import SystemClock, load_settings
        from workbench.project.check_report import check_sentence, check_status
        from workbench.runner.accept_and_check import check_each

        settings = load_settings(start=self.config.rootpath)
        (found,) = check_each(settings, [(self.evalset, self.decision)], clock=SystemClock())
        told = f"{check_status(found)}: {check_sentence(found)}\nreport: {found.record.report or 'none'}"
        if found.exit_code:
            raise DecisionFailed(told)
        if check_status(found) not in ("holds", "identical"):
            pytest.skip(told)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show what the gate says, without a traceback."""
        from workbench.errors import WorkbenchError

        if isinstance(excinfo.value, DecisionFailed | WorkbenchError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Where the decision lies, and its name in reports."""
        return self.path, None, f"decision {self.name}"


class DecisionFailed(Exception):
    """The gate of an accepted decision does not pass."""
