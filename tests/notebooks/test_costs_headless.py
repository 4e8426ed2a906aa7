"""The costs notebook headless: its gate is what the runner and ``workbench check`` go by, without a decision."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.telemetry.rows import row
from workbench.config import SystemClock, load_settings
from workbench.runner import Job, run_headless
from workbench.runner.accept_and_check import check_decisions, worst_exit_code
from workbench.state import open_engine
from workbench.telemetry.ledger import Ledger


@pytest.mark.slow
def test_a_sound_ledger_holds_and_a_call_without_a_price_breaks_the_build(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'state.sqlite'}"
    settings = replace(load_settings({}, Path(__file__).parents[2]), runs=tmp_path / "runs", state_url=url)
    ledger = Ledger(open_engine(url))
    ledger.add([row(f"c{i}", 0, 9, tenant_id="acme", feature="find", fresh_tokens=1) for i in range(20)])
    (record,) = run_headless([Job("costs", "smoke")], settings=settings, clock=SystemClock())
    assert (record.status, record.gate, record.report_error) == ("done", "holds", None)
    assert record.report is not None
    ledger.add([row("bad", 0, 0, price_version="", tenant_id="acme", feature="find", fresh_tokens=1)])
    checks = check_decisions(settings, ["costs"], clock=SystemClock())
    assert [c.place for c in checks] == [("costs",)]
    assert worst_exit_code(checks) == 1
    assert checks[0].gate is not None
    assert "calls without a price: 1" in checks[0].gate.sentence
