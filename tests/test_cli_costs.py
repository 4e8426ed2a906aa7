"""``workbench costs``, as a user calls it."""

from tests.command_line import ROOT, workbench
from tests.telemetry.rows import row
from workbench.telemetry.ledger import Ledger


def shown(state_url, *arguments, code=0):
    done = workbench(ROOT, "costs", *arguments, env={"WORKBENCH_STATE_URL": state_url})
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def test_costs_are_told_by_feature_and_tenant_and_hostile_names_do_not_steer_the_terminal(state_url, engine, tmp_path):
    assert shown(state_url).startswith("the ledger has no call of all time")
    old = "2026-10-01T00:00:00+00:00"
    Ledger(engine).add([
        row("a", 0, 2_000_000_000, tenant_id="acme\x1b[31m\nforged", feature="find", fresh_tokens=10),
        row("b", 0, 500_000_000, tenant_id="bolt", feature="find", fresh_tokens=10),
        row("old", 0, 1_000_000_000, tenant_id="bolt", feature="find", fresh_tokens=20, started=old),
    ])  # fmt: skip
    revenue, good = tmp_path / "revenue.csv", tmp_path / "good.csv"
    revenue.write_text("tenant_id,revenue_usd\nbolt,10\n", encoding="utf-8")
    good.write_text("request,good\na,1\nb,0\n", encoding="utf-8")
    told = shown(
        state_url, "--since", "2026-11-01", "--before", "2026-10-01", "--revenue", str(revenue), "--good", str(good)
    )
    assert "\x1b" not in told
    assert not any(line.startswith("forged") for line in told.splitlines())
    assert "total" in told
    for said in ("$2.50", "$9.50", "2.500000", "volume", "no tenant"):
        assert said in told
    by_day = shown(state_url, "--by", "day")
    assert [line.split()[0] for line in by_day.splitlines()[2:5]] == ["2026-11-23", "2026-10-01", "total"]


def test_what_cannot_be_asked_is_refused_by_name(state_url):
    assert "no ISO date" in shown(state_url, "--since", "yesterday", code=3)
    assert "give both" in shown(state_url, "--before", "2026-11-01", code=3)


def test_an_invoice_is_compared_and_focus_is_written(state_url, engine, tmp_path):
    Ledger(engine).add([row("a", 0, 2_000_000_000, model_asked="acme/m", fresh_tokens=10)])
    invoice, focus = tmp_path / "invoice.csv", tmp_path / "out" / "focus.csv"
    invoice.write_text("day,model,meter,tokens,cost_usd\n2026-11-23,m,input,10,3\n", encoding="utf-8")
    told = shown(state_url, "--invoice", str(invoice), "--focus", str(focus), "--account", "prod")
    assert "price changed: 1.5 times" in told
    assert focus.read_text(encoding="utf-8").count("\n") == 2
    assert "--account" in shown(state_url, "--focus", str(focus), code=3)
