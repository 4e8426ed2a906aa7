from concurrent.futures import ThreadPoolExecutor

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.telemetry.rows import row
from workbench.errors import StoreError
from workbench.state import open_engine
from workbench.telemetry.ledger import Ledger, shown_name, storable_text

ROWS = [
    row("a", 0, 700, tenant_id="acme", feature="find", model_asked="small", status="error", error_class="Throttled"),
    row("a", 1, 1300, tenant_id="acme", feature="find", model_asked="large", fresh_tokens=10, output_tokens=3),
    row("b", 0, 4_000_000_000_000, tenant_id="zeta", model_asked="large", purpose="eval", item_id="q7"),
    row("c", 0, 0, saved_nanos=900, tenant_id="acme", feature="answer", status="cached", cache='{"kind": "exact"}'),
    row("d", 0, 250, user_id="u1", model_asked="small", status="unknown"),
]


@pytest.fixture
def ledger(engine):
    ledger = Ledger(engine)
    ledger.add(ROWS)
    return ledger


def test_rows_come_back_as_they_were_written(ledger):
    assert ledger.frame().rows(named=True) == [
        {name: getattr(r, name) for name in ledger.frame().columns} for r in sorted(ROWS, key=lambda r: r.call_id)
    ]


@pytest.mark.parametrize("by", ["tenant_id", "user_id", "feature", "purpose", "model_asked", "status", "item_id"])
def test_totals_by_any_column_are_the_total(ledger, by):
    totals = ledger.totals(by)
    assert totals.columns == [by, "calls", "cost_nanos", "saved_nanos"]
    assert totals["cost_nanos"].sum() == sum(r.cost_nanos for r in ROWS)
    assert totals["saved_nanos"].sum() == 900
    assert "" not in totals[by]


def test_totals_name_what_nobody_claimed_and_count_a_call_once(ledger):
    assert ledger.totals("tenant_id").rows() == [
        ("zeta", 1, 4_000_000_000_000, 0),
        ("acme", 2, 2000, 900),
        ("(none)", 1, 250, 0),
    ]


@pytest.mark.parametrize("by", ["tenant_id", "status", "model_asked", "trace_id"])
def test_a_call_counts_once_in_each_group_in_which_it_has_an_attempt(ledger, by):
    ledger.correct("a", 1, 40, "invoice")
    ledger.correct("a", 0, 40, "invoice")
    models = ["large", "small", "large", "small", "large"]
    ledger.add([row("e", i, 1, model_asked=m, trace_id=m) for i, m in enumerate(models)])
    ledger.add([row("f", i, 1, model_asked="small", tenant_id="acme") for i in (2, 3)])
    counted = ledger.frame().group_by(by).agg(pl.col("call_id").n_unique())
    assert dict(ledger.totals(by).select(by, "calls").rows()) == {shown_name(n): calls for n, calls in counted.rows()}


def test_a_tenant_who_is_called_as_nobody_is_shown_is_told_apart(engine):
    ledger, names = Ledger(engine), ["", "(none)", '"(none)"', "(None)", 'a"(none)"']
    ledger.add([row(f"c{i}", 0, 10 - i, tenant_id=name) for i, name in enumerate(names)])
    shown = ["(none)", '"(none)"', '""(none)""', "(None)", 'a"(none)"']
    assert ledger.totals("tenant_id")["tenant_id"].to_list() == shown == [shown_name(name) for name in names]


@given(st.lists(st.text() | st.text("\"',;\n\r()none"), min_size=1, max_size=30), st.integers(0, 2**63 - 1))
@example(["", ""], 0)
@example(['"', ",", "\n", "\r\n", "a\x1eb", "\ufeffx", "null", "NaN", " x "], 2**63 - 1)
@settings(max_examples=60, deadline=None)
def test_any_text_and_number_comes_back_as_it_was_written(tmp_path_factory, texts, number):
    engine = open_engine(f"sqlite:///{tmp_path_factory.mktemp('ledger')}/state.sqlite")
    ledger = Ledger(engine)
    rows = [row(f"c{i}", 0, number, tenant_id=text, latency_ms=number / 7) for i, text in enumerate(texts)]
    ledger.add(rows)
    for names in (["tenant_id"], ["cost_nanos"], ["tenant_id", "latency_ms", "cost_nanos", "feature"]):
        found = ledger.columns(names)
        assert found.rows() == [tuple(storable_text(getattr(r, name)) for name in names) for r in rows]
        assert found.schema == ledger.frame().select(names).schema
    engine.dispose()


def test_totals_by_what_is_no_column_are_refused(ledger):
    with pytest.raises(StoreError, match="unknown column of the ledger 'tenant'; did you mean 'tenant_id'"):
        ledger.totals("tenant")


def test_share_without_a_tenant_or_a_feature_is_of_the_money_and_of_the_calls(ledger):
    before = ledger.unattributed_share()
    assert before.by_cost == 4_000_000_000_250 / sum(r.cost_nanos for r in ROWS)
    assert before.by_calls == 2 / 4  # a second attempt is no further call
    ledger.correct("b", 0, -4_000_000_000_000, "given back")
    assert ledger.unattributed_share() == (250 / 2250, 2 / 4)


def test_an_empty_ledger_sums_to_nothing(engine):
    ledger = Ledger(engine)
    assert ledger.totals("feature").is_empty()
    assert ledger.frame().is_empty()
    assert ledger.unattributed_share() is None


def test_an_attempt_is_written_once_and_its_companions_with_it_or_not_at_all(ledger):
    with pytest.raises(StoreError, match="the ledger has e/0, a/1 already, or one of them"):
        ledger.add([row("e"), row("a", 1)])
    assert len(ledger.frame()) == len(ROWS)


def test_a_correction_is_a_further_row_of_the_same_attribution_and_time(ledger):
    made = ledger.correct("a", 1, -300, "invoice 2026-11")
    assert ledger.correct("a", 1, 50, "invoice, second look").attempt == -2
    assert (made.status, made.attempt, made.cost_nanos) == ("correction", -1, -300)
    assert made.started == ROWS[1].started
    assert made.reason.startswith("attempt 1, booked 20")
    assert made.reason.endswith(": invoice 2026-11")
    assert made.fresh_tokens == made.output_tokens == 0
    assert dict(ledger.totals("model_asked").select("model_asked", "cost_nanos").rows())["large"] == 4_000_000_001_050
    assert ledger.frame().row(1, named=True)["cost_nanos"] == -300  # rows of one call stand together


@pytest.mark.parametrize(
    ("call", "attempt", "difference", "problem"),
    [("a", 5, 1, "no attempt 5"), ("x", 0, 1, "no attempt 0 of call 'x'"), ("a", 0, -2001, "would be below 0")],
)
def test_what_cannot_be_corrected_is_refused(ledger, call, attempt, difference, problem):
    with pytest.raises(StoreError, match=problem):
        ledger.correct(call, attempt, difference, "why")
    assert len(ledger.frame()) == len(ROWS)


def test_a_hostile_name_does_not_lose_what_it_cost(engine):
    ledger = Ledger(engine)
    ledger.add([row("a", 0, 5, model_served="x\0y\ud800'); DROP TABLE wb_ledger; --")])
    assert ledger.frame()["cost_nanos"].to_list() == [5]
    assert ledger.frame()["model_served"].to_list() == ["x\ufffdy?'); DROP TABLE wb_ledger; --"]


@pytest.mark.parametrize("values", [{"cost_nanos": -1}, {"fresh_tokens": -1}, {"saved_nanos": -1}])
def test_only_a_correction_may_be_negative(values):
    with pytest.raises(ValueError, match="cannot be negative"):
        row(**values)
    assert row(cost_nanos=-1, status="correction").cost_nanos == -1


@pytest.mark.parametrize("values", [{"status": "okay"}, {"purpose": "products"}])
def test_a_mistyped_status_or_purpose_is_refused_with_the_nearest(values):
    with pytest.raises(ValueError, match="did you mean"):
        row(**values)


def test_threads_that_open_the_ledger_at_once_all_get_it(state_url):
    def write(i):
        engine = open_engine(state_url)
        Ledger(engine).add([row(f"c{i}", 0, 1)])
        engine.dispose()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    engine = open_engine(state_url)
    assert Ledger(engine).totals("status")["cost_nanos"].to_list() == [8]
    engine.dispose()
