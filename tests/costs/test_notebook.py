"""The costs notebook: it ends in a gate of counts, with a report and without a decision."""

import json

import pytest

from tests.costs.rows import random_rows
from tests.telemetry.rows import row
from workbench.config import load_settings
from workbench.costs.notebook import CostsExperiment, CostsParameters
from workbench.errors import ConfigError, GateFailed, UnknownPrice
from workbench.evaluation.start import check_parameters
from workbench.inference.budgets import Budget, Budgets
from workbench.inference.prices import load_prices
from workbench.reports.run import load_results
from workbench.state import open_engine
from workbench.telemetry.ledger import Ledger


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.delenv("WORKBENCH_RUN_DIR", raising=False)
    return load_settings({"WORKBENCH_ROOT": str(tmp_path)})


def begin(project, rows, **parameters):
    engine = open_engine(project.state_url)
    Ledger(engine).add(rows)
    engine.dispose()
    return CostsExperiment(CostsParameters(**parameters), project)


def everything(run):
    tables = [run.budgets(), run.matrix(), run.gaps(), run.by("model"), *run.units(), run.customers(), run.bridge(),
              run.tokens(), run.waste(), run.spikes(), run.what_if(), *run.invoice()]  # fmt: skip
    return run.save(*tables)


def sound_rows():
    return [row(f"c{i}", 0, 10_000 + i, tenant_id="acme", feature="find", fresh_tokens=100, model_asked="x")
            for i in range(50)]  # fmt: skip


def test_a_sound_ledger_passes_and_its_report_says_so_without_a_decision(project):
    run = begin(project, sound_rows())
    everything(run)
    assert run.gate() is None, "the last cell shows no value"
    found = load_results(run.folder)
    assert found.gate.status == "holds"
    assert found.problems == ()
    assert found.sentence == "Every count that must be 0 is 0."
    assert (run.folder / "report.html").is_file()
    assert json.loads((run.folder / "run.json").read_text())["status"] == "done"
    assert not (run.folder / "decision.json").exists()


def test_the_report_begins_with_what_was_spent_and_its_numbers_stand_as_numbers(project, tmp_path):
    rows = [
        row(f"c{i}", 0, 10**7 + i, tenant_id="acme", feature="find", fresh_tokens=100, cache_read_tokens=300,
            model_asked="openai/x") for i in range(50)
    ]  # fmt: skip
    bill = tmp_path / "bill.csv"
    bill.write_text("day,model,meter,tokens,cost_usd\n2026-11-23,x,input,5000,0.9\n2026-11-23,x,output,4,0.000021\n")
    run = begin(project, rows, invoice=(str(bill),))
    budgets = Budgets(run.engine, (Budget(5.0, "total", by=("tenant_id",)),))
    budgets.settle(budgets.reserve(row("x", 0, 10**9)), [row("x", 0, 10**9)], None)
    everything(run)
    run.gate()
    found = load_results(run.folder)
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert found.summary.title == "What was spent, for whom, and why? $0.50 of all time"
    assert found.summary.title in page
    assert "<th>arm" not in page
    assert 'class="wb-number" style="text-align:right">75.0&nbsp;%</td>' in page
    assert [r[0] for r in run.tokens().rows] == ["input", "cache read", "cache write", "output"]
    assert run.budgets().rows[0][0] == "tenant_id=(none)"
    _, differences = run.invoice()
    texts = [cells[5:7] for cells in differences.cells()]
    assert len({len(text.partition(".")[2]) for pair in texts for text in pair}) == 1


def test_an_empty_ledger_is_not_tested_and_said_to_be_empty(project):
    run = begin(project, [])
    assert everything(run).warnings == ("The ledger has no call of all time.",)
    assert [table.caption for table in run.invoice()] == ["No invoice is given: invoice= takes the files of one."]
    run.gate()
    assert load_results(run.folder).gate.status == "not tested"


@pytest.mark.parametrize(
    ("spoilt", "says"),
    [
        ({"price_version": "", "cost_nanos": 0}, "calls without a price: 1"),
        ({"tenant_id": "", "cost_nanos": 10**9}, "product calls without a tenant, above the limit: 1"),
    ],
)
def test_what_must_be_none_breaks_the_gate(project, spoilt, says):
    bad = {"tenant_id": "acme", "feature": "find", "fresh_tokens": 5, "cost_nanos": 1} | spoilt
    run = begin(project, [*sound_rows(), row("bad", 0, bad.pop("cost_nanos"), **bad)])
    everything(run)
    with pytest.raises(GateFailed, match=says):
        run.gate()


def test_tables_of_any_ledger_add_up(project):
    rows = {(r.call_id, r.attempt): r for r in random_rows(5, 300)}
    assert begin(project, list(rows.values())).unequal() == []


def test_another_model_is_repriced_and_one_without_a_price_is_refused(project, tmp_path):
    models = sorted(load_prices().models)
    run = begin(project, sound_rows(), instead=(f"x={models[0]}",))
    booked, *_ = (r[1] for r in run.what_if().rows)
    assert [r[0] for r in run.what_if().rows] == ["as booked", "at today's prices", f"with {models[0]} for x"]
    assert booked == run.spend.total_nanos / 1e9
    with pytest.raises(UnknownPrice):
        begin(project, [], instead=("x=nobody/knows",)).what_if()


def test_what_cannot_be_used_is_refused_before_there_is_a_folder(project, tmp_path):
    for parameters, says in [
        ({"instead": ("x",)}, "MODEL=OTHER"), ({"revenue": "gone.csv"}, "gone.csv"), ({"good": "gone.csv"}, "gone.csv"),
        ({"invoice": ("gone.csv",)}, "gone.csv"), ({"before": "2026-11-01"}, "give both"),
    ]:  # fmt: skip
        with pytest.raises(ConfigError, match=says):
            begin(project, [], **parameters)
    assert not project.runs.exists()
    with pytest.raises(ConfigError, match="share_by"):
        check_parameters("costs", {"share_by": "weight"})


def test_hostile_names_are_text_in_the_report(project):
    rows = [row("a", 0, 9, tenant_id="<script>alert(1)</script>", feature="<img src=x>", fresh_tokens=1)]
    run = begin(project, rows)
    everything(run)
    run.gate()
    html = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert "<img" not in html
