"""Every table of costs sums to the ledger, and says what it says of whom."""

from itertools import product

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.costs.rows import random_rows, spend_of
from tests.telemetry.rows import row
from workbench.costs.spend import GROUPS, load_spend, signed_nanos, spend_spikes, split_amount
from workbench.costs.unit_economics import cost_per_good_answer, customer_margins, read_revenue  # fmt: skip
from workbench.errors import ConfigError
from workbench.telemetry.ledger import Ledger

SHARES = ("cost", "calls", "tokens", "even")
SIZES = st.tuples(st.integers(0, 10**6), st.integers(0, 40))


@settings(max_examples=40, deadline=None)
@given(SIZES, st.sampled_from(sorted(GROUPS)), st.sampled_from(sorted(GROUPS)))
def test_sums_by_any_columns_equal_the_total(size, first, second):
    rows = random_rows(*size)
    spend, total = spend_of(rows), sum(r.cost_nanos for r in rows)
    assert spend.total_nanos == total
    for names in ((), (first,), (first, second) if first != second else (first,)):
        assert spend.by(*names)["cost_nanos"].sum() == total
        assert spend.by(*names)["saved_nanos"].sum() == sum(r.saved_nanos for r in rows)
    assert spend.waste()["cost_nanos"].sum() == total
    assert spend.waste()["attempts"].sum() == len(rows)


@settings(max_examples=40, deadline=None)
@given(SIZES, st.sampled_from(SHARES))
def test_matrix_sums_to_the_total_by_feature_and_by_all(size, share_by):
    rows = random_rows(*size)
    matrix = spend_of(rows).matrix(share_by)
    assert matrix["direct_nanos"].sum() + matrix["allocated_nanos"].sum() == sum(r.cost_nanos for r in rows)
    by_feature = matrix.group_by("feature").agg((pl.col("direct_nanos") + pl.col("allocated_nanos")).sum())
    found = {k: v for k, v in by_feature.iter_rows() if v}
    wanted = spend_of(rows).by("feature")
    assert found == {k: v for k, v in wanted.select("feature", "cost_nanos").iter_rows() if v}


@given(st.integers(-(10**15), 10**15), st.lists(st.integers(0, 10**9), min_size=1).filter(any))
def test_parts_sum_to_the_whole_and_each_is_right_to_one(amount, weights):
    parts = split_amount(amount, weights)
    assert sum(parts) == amount
    assert all(abs(p * sum(weights) - amount * w) <= sum(weights) for p, w in zip(parts, weights, strict=True))


def test_shared_cost_goes_to_those_that_use_the_feature_and_a_nameless_call_stays_nameless():
    spend = spend_of([
        row("a", 0, 300, tenant_id="acme", feature="find"),
        row("b", 0, 100, tenant_id="bolt", feature="find"),
        row("c", 0, 50, tenant_id="bolt", feature="answer"),
        row("d", 0, 7, feature="find"),
        row("e", 0, 80, feature="find", purpose="judge", tenant_id="acme"),
        row("f", 0, 90, purpose="ingest"),
        row("g", 0, 11, purpose="ingest", tenant_id="bolt", feature="find"),
    ])  # fmt: skip
    found = {(r["feature"], r["tenant"]): (r["direct_nanos"], r["allocated_nanos"])
             for r in spend.matrix().iter_rows(named=True)}  # fmt: skip
    assert found == {
        ("find", "acme"): (300, 58), ("find", "bolt"): (111, 22), ("answer", "bolt"): (50, 0),
        ("find", "(none)"): (7, 0), ("(none)", "acme"): (0, 59), ("(none)", "bolt"): (0, 31),
    }  # fmt: skip
    gaps = {r["gap"]: (r["calls"], r["cost_nanos"]) for r in spend.gaps().iter_rows(named=True)}
    assert gaps == {"no tenant": (1, 7), "no feature": (1, 90), "no price": (0, 0)}


def test_a_call_whose_price_nobody_told_is_counted_and_a_free_one_is_not():
    spend = spend_of([
        row("a", 0, 0, price_version="", fresh_tokens=10),
        row("b", 0, 0, price_version="v", fresh_tokens=10),
        row("c", 0, 0, price_version="", status="cached"),
    ])  # fmt: skip
    assert spend.gaps().filter(pl.col("gap") == "no price")["calls"].to_list() == [1]


def test_calls_of_one_trace_are_one_request():
    rows = [row(f"c{i}", 0, 10 * i, trace_id=f"t{i // 2}", feature="find") for i in range(200)]
    units = spend_of([*rows, row("eval", 0, 10**9, purpose="eval")]).unit_costs().rows(named=True)
    costs = sorted(40 * i + 10 for i in range(100))
    assert [u["feature"] for u in units] == ["all", "find"]
    assert units[0]["requests"] == 100
    assert [units[0][f"p{q}_nanos"] for q in (50, 95, 99)] == [costs[50], costs[94], costs[98]]
    assert units[0]["mean_nanos"] == sum(costs) / 100


def test_waste_tells_a_retry_from_a_failover_and_from_an_error():
    spend = spend_of([
        row("a", 0, 1, status="unknown"), row("a", 1, 10), row("a", -1, 5, status="correction"),
        row("b", 0, 2, status="unknown"), row("b", 1, 4, status="unknown", model_asked="n"),
        row("b", 2, 20, model_asked="m"),
        row("c", 0, 8, status="unknown"),
        row("d", 0, 100, purpose="judge", status="unknown"),
    ])  # fmt: skip
    assert {r["kind"]: r["cost_nanos"] for r in spend.waste().rows(named=True)} == {
        "judge": 100, "error, no answer": 8, "failed over": 6, "retried": 1, "answers": 35,
    }  # fmt: skip


def test_cost_of_a_good_answer_counts_what_the_bad_ones_cost():
    rows = [row(f"c{i}", 0, 10_000_000 * (1 + i % 3), feature="find", item_id=f"q{i % 60}") for i in range(300)]
    judged = pl.DataFrame({"request": [f"c{i}" for i in range(300)], "good": [int(i % 4 > 0) for i in range(300)]})
    whole, find = cost_per_good_answer(spend_of(rows), judged)
    usd = sum(r.cost_nanos for r in rows) / 1e9 / 225
    assert (whole.judged, whole.good, find.feature) == (300, 225, "find")
    assert whole.usd == pytest.approx(usd)
    assert whole.low < usd < whole.high < 1.3 * usd
    few = cost_per_good_answer(spend_of(rows[:20]), judged)[0]
    assert (few.low, few.high) == (None, None)
    assert cost_per_good_answer(spend_of(rows), judged.with_columns(good=pl.lit(0)))[0].usd is None
    with pytest.raises(ConfigError, match="0 or 1"):
        cost_per_good_answer(spend_of(rows), judged.with_columns(good=pl.lit(0.5)))
    with pytest.raises(ConfigError, match="0 or 1"):
        cost_per_good_answer(spend_of(rows), judged.with_columns(good=pl.lit(None)))
    with pytest.raises(ConfigError, match="more than once"):
        cost_per_good_answer(spend_of(rows), pl.concat([judged, judged]))
    with pytest.raises(ConfigError, match="none of the judged requests"):
        cost_per_good_answer(spend_of([row("other")]), judged)


def test_a_call_stands_for_its_trace_and_one_request_is_judged_once(tmp_path):
    rows = [row(f"c{i}", 0, 10**7, feature="find", trace_id=f"t{i // 2}", item_id=f"q{i}") for i in range(200)]
    of_traces = pl.DataFrame({"request": [f"t{i}" for i in range(100)], "good": [1] * 100})
    of_calls = of_traces.with_columns(request=pl.Series([f"c{2 * i + i % 2}" for i in range(100)]))
    assert cost_per_good_answer(spend_of(rows), of_calls) == cost_per_good_answer(spend_of(rows), of_traces)
    both = pl.DataFrame({"request": ["t7", "c14"], "good": [1, 0]})
    with pytest.raises(ConfigError, match="request t7 is judged more than once, of its trace or calls"):
        cost_per_good_answer(spend_of(rows), both)


def test_margin_is_told_where_revenue_is_and_a_customer_without_cost_is_listed(tmp_path):
    file = tmp_path / "revenue.csv"
    file.write_text('tenant_id,revenue_usd\nacme,"1,000.50"\nacme,-0.50\ngone,5\n', encoding="utf-8")
    matrix = spend_of([row("a", 0, 10**9, tenant_id="acme"), row("b", 0, 7, tenant_id="bolt")]).matrix()
    found = {r["tenant"]: r["margin_nanos"] for r in customer_margins(matrix, read_revenue(file)).rows(named=True)}
    assert found == {"acme": 999 * 10**9, "gone": 5 * 10**9, "bolt": None}
    file.write_text("tenant_id,revenue_usd\nacme,lots\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="'lots' is no amount"):
        read_revenue(file)


@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "1e999999", None])
def test_what_is_no_amount_is_refused(text):
    with pytest.raises(ValueError, match="no amount"):
        signed_nanos(text)


def hours(cost, days=10, tenant="acme"):
    """Ten requests an hour with a daily shape; the tenth day may be another."""
    return [
        row(f"{tenant}{day}-{hour}-{i}", 0, cost(day, hour), tenant_id=tenant,
            started=f"2026-11-{day + 1:02d}T{hour:02d}:{6 * i:02d}:00+00:00")
        for day in range(days) for hour in range(24) for i in range(10)
    ]  # fmt: skip


def usual(day, hour):
    return 10_000_000 * (1 + 3 * (8 <= hour < 18)) * (1 + day % 3)


def test_a_day_of_a_hundred_times_is_flagged_while_its_first_hour_runs():
    big = hours(lambda day, hour: usual(day, hour) * (100 if day == 9 else 1))
    found = spend_spikes(spend_of(big + hours(usual, tenant="calm"))).rows(named=True)
    assert {f["tenant"] for f in found} == {"acme"}
    assert found[0]["hour"] == "2026-11-10T00"
    assert found[0]["crossed"] < "2026-11-10T01"
    assert len(found) == 24
    assert found[0]["limit_nanos"] == 10 * 10 * usual(8, 0)


def test_usual_days_new_customers_and_small_change_are_no_spike():
    new = hours(lambda day, _: 10**9 if day == 9 else 0, tenant="new")[-240:]
    small = hours(lambda day, _: 100 if day == 9 else 1, tenant="small")
    assert spend_spikes(spend_of(hours(usual) + new + small)).is_empty()
    assert spend_spikes(spend_of([])).is_empty()
    assert spend_spikes(spend_of(hours(usual)), "").is_empty()


def test_a_column_that_is_none_is_named():
    with pytest.raises(ConfigError, match="tenant"):
        spend_of([]).by("tenants")
    with pytest.raises(ConfigError, match="even"):
        spend_of([]).matrix("evn")


def test_a_period_is_read_from_the_database(engine):
    ledger = Ledger(engine)
    starts = ("2026-10-31T23:59:59+00:00", "2026-11-01T00:00:00+00:00", "2026-12-01T00:00:00+00:00")
    ledger.add([row(start, 0, 2**i, started=start) for i, start in enumerate(starts)])
    assert load_spend(ledger).total_nanos == 7
    assert load_spend(ledger, since="2026-11-01", until="2026-12-01").total_nanos == 2
    assert load_spend(ledger, since="2027-01-01").total_nanos == 0
    assert load_spend(ledger, since="2026-11-01T01:00:00+01:00").total_nanos == 6
    assert load_spend(ledger).rows.schema == spend_of([]).rows.schema


def stream(seed, tenants=8, days=21, spiked=-1):
    """Weeks of requests of unequal tenants, with nights, weekends and bursts; one may have a day of 100 times."""
    rng = np.random.default_rng(seed)
    size, rows = rng.pareto(1.2, tenants) + 0.3, []
    for tenant, day, hour in product(range(tenants), range(days), range(24)):
        rate = 20 * size[tenant] * (0.3 + np.sin(np.pi * hour / 24) ** 2) * (0.5 if day % 7 > 4 else 1)
        requests = rng.poisson(rate * (5 if rng.random() < 0.01 else 1))
        cost = int(rng.lognormal(np.log(3e7), 0.8, requests).sum()) * (
            100 if (tenant, day) == (spiked, days - 1) else 1
        )
        if cost:
            started = f"2026-11-{day + 1:02d}T{hour:02d}:30:00+00:00"
            rows.append(row(f"{tenant} {day} {hour}", 0, cost, tenant_id=f"t{tenant}", started=started))
    return spend_of(rows)


@pytest.mark.parametrize("seed", range(3))
def test_bursts_nights_and_weekends_are_no_spike_and_a_hundredfold_day_is(seed):
    assert spend_spikes(stream(seed)).is_empty()
    found = spend_spikes(stream(seed, spiked=seed)).rows(named=True)
    assert {f["tenant"] for f in found} == {f"t{seed}"}
    assert {f["hour"][:10] for f in found} == {"2026-11-21"}
    assert found[0]["hour"] <= "2026-11-21T02"


def test_a_customer_who_is_called_none_is_not_nobody_and_has_its_own_revenue():
    named, nobody = row("a", 0, 5, tenant_id="(none)"), row("b", 0, 7)
    spend = spend_of([named, nobody])
    assert dict(spend.by("tenant").select("tenant", "cost_nanos").rows()) == {"(none)": 7, '"(none)"': 5}
    found = customer_margins(spend.matrix(), {"(none)": 9})
    left = {tenant: margin for tenant, _, _, _, margin in found.iter_rows()}
    assert left == {'"(none)"': 4, "(none)": None}
