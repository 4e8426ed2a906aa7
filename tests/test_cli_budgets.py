"""``workbench budgets``, as a user calls it."""

from tests.command_line import ROOT, workbench
from tests.telemetry.rows import row
from workbench.inference.budgets import Budget, Budgets
from workbench.telemetry.ledger import Ledger
from workbench.testing import FakeClock


def shown(state_url, *arguments, code=0):
    done = workbench(ROOT, "budgets", *arguments, env={"WORKBENCH_STATE_URL": state_url})
    assert done.returncode == code, done.stderr
    return (done.stderr if code else done.stdout).splitlines()


def test_budgets_are_listed_with_what_is_spent_and_held(state_url, engine):
    (nothing,) = shown(state_url)
    assert nothing.startswith("no call has been charged in ")
    several = [Budget(10, "day"), Budget(0.5, "month", by=("tenant_id",)), Budget(1, "total", only={"purpose": "eval"})]
    budgets = Budgets(engine, several, FakeClock())
    hold = budgets.reserve(row("a", 0, 400_000_000, tenant_id="acme\x1b[31m"))
    budgets.settle(hold, [row("a", 0, 250_000_000)], Ledger(engine))
    budgets.reserve(row("b", 0, 100, tenant_id="acme\x1b[31m"))
    head, *rows, _ = shown(state_url)
    assert head.split() == ["budget", "window", "limit", "spent", "held", "starts", "anew"]
    assert [r.split() for r in rows] == [
        ["all", "2026-01-01", "$10.00", "$0.25", "$0.00000010", "2026-01-02T00:00:00+00:00"],
        ["tenant_id=acme%1B%5B31m", "2026-01", "$0.50", "$0.25", "$0.00000010", "2026-02-01T00:00:00+00:00"],
    ]


def test_holds_of_dead_processes_are_closed_and_those_of_this_hour_are_not(state_url, engine):
    budgets = Budgets(engine, [Budget(10, "total")], FakeClock())  # its time is long ago
    budgets.reserve(row("dead", 0, 400_000_000, tenant_id="acme", status="unknown"))
    told, _, only, _ = shown(state_url, "--close-holds-before", "2026-01-02")
    assert told == "holds closed: 1, charged in full: $0.400000"
    assert only.split()[:5] == ["all", "total", "$10.00", "$0.40", "$0.00"]
    (found,) = Ledger(engine).frame().to_dicts()
    assert (found["tenant_id"], found["status"], found["cost_nanos"]) == ("acme", "unknown", 400_000_000)
    refused = " ".join(shown(state_url, "--close-holds-before", "2999-01-01", code=3))
    assert "still under way" in refused


def test_share_that_names_nobody_stands_below_the_table(state_url, engine):
    row_of = {"tenant_id": "acme", "feature": "find"}
    ledger = Ledger(engine)
    ledger.add([row(f"c{i}", 0, 300, **row_of) for i in range(3)] + [row("d", 0, 100, tenant_id="acme")])
    said = "10.0 % of the money and 25.0 % of the calls name no tenant or no feature; attributed("
    assert shown(state_url)[-1].startswith(said)
