"""Production sampling: always the same calls, bad ones always, and means that are those of all calls."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import ConfigError
from workbench.quality.sampling import (
    CALLS_SCHEMA,
    SamplingPlan,
    ledger_calls,
    sample_calls,
    sample_trace_fraction,
    sample_weighted_mean,
    sampling_strata_table,
)
from workbench.state import open_engine
from workbench.telemetry.ledger import Ledger, LedgerRow


def calls(n=2000, seed=0, prefix="t"):
    rng = np.random.default_rng(seed)
    failed = rng.random(n) < 0.03
    similar = np.where(rng.random(n) < 0.2, 0.9 + 0.1 * rng.random(n), np.nan)
    return pl.DataFrame(
        {
            "trace_id": [f"{prefix}{i}" for i in range(n)],
            "tenant_id": rng.choice(["acme", "globex"], n, p=[0.9, 0.1]),
            "feature": rng.choice(["answer", "find"], n),
            "started": ["2026-11-01T00:00:00"] * n,
            "failed": failed,
            "cost_nanos": rng.integers(1, 10**6, n),
            "similarity": similar,
            "threshold": np.where(np.isnan(similar), np.nan, 0.9),
        },
        schema=CALLS_SCHEMA,
    ).with_columns(pl.col("similarity", "threshold").fill_nan(None))


def test_a_call_is_in_the_sample_or_not_whatever_else_came():
    whole = sample_calls(calls(), SamplingPlan(0.1, top_cost=0))
    part = sample_calls(calls().sample(fraction=0.5, seed=1, shuffle=True), SamplingPlan(0.1, top_cost=0))
    assert set(part["trace_id"]) <= set(whole["trace_id"])
    assert sample_calls(calls(), SamplingPlan(0.1, top_cost=0)).equals(whole)
    other = sample_calls(calls(), SamplingPlan(0.1, top_cost=0, salt="2"))
    assert set(other["trace_id"]) != set(whole["trace_id"])


def test_bad_calls_are_always_kept_with_the_first_reason():
    frame = calls().with_columns(retrieval_score=pl.Series(np.linspace(0, 1, 2000)))
    plan = SamplingPlan(0.05, near=0.02, top_cost=0.01, least_score=0.1)
    found = sample_calls(frame, plan, thumbs_down=["t7", "t8"])
    reasons = dict(found.select("trace_id", "sample_reason").rows())
    assert {t for t, r in reasons.items() if r == "error"} == set(frame.filter("failed")["trace_id"])
    assert {reasons["t7"], reasons["t8"]} <= {"thumbs down", "error"}
    near = frame.filter((pl.col("similarity") - pl.col("threshold")).is_between(0, 0.02))
    assert set(near["trace_id"]) <= reasons.keys()
    assert set(frame.top_k(20, by="cost_nanos")["trace_id"]) <= reasons.keys()
    assert set(frame.filter(pl.col("retrieval_score") < 0.1)["trace_id"]) <= reasons.keys()
    weights = found.group_by("sample_reason").agg(pl.col("sample_weight").unique())
    assert {r: w for r, w in weights.rows() if r != "drawn"} == {r: [1.0] for r in reasons.values() if r != "drawn"}
    assert dict(weights.rows())["drawn"] == [pytest.approx(20)]


def test_calls_that_all_cost_the_same_are_not_all_the_dearest():
    frame = calls().with_columns(failed=pl.lit(False), cost_nanos=pl.lit(7, pl.Int64), similarity=None)
    found = sample_calls(frame, SamplingPlan(0.05, top_cost=0.1))
    assert found["sample_reason"].unique().to_list() == ["drawn"]
    one = frame.with_columns(cost_nanos=pl.when(pl.col("trace_id") == "t9").then(8).otherwise(7))
    assert dict(sample_calls(one, SamplingPlan(0.05)).select("trace_id", "sample_reason").rows())["t9"] == "top cost"


def test_a_stratum_has_its_own_rate_and_the_weights_stand_for_all_calls():
    found = sample_calls(calls(8000), SamplingPlan(0.05, rates={("find", "globex"): 1.0}))
    rows = {(f, t): w for f, t, r, _, w in sampling_strata_table(found) if r == "drawn"}
    assert found.filter((pl.col("feature") == "find") & (pl.col("tenant_id") == "globex")).height == pytest.approx(
        calls(8000).filter((pl.col("feature") == "find") & (pl.col("tenant_id") == "globex")).height
    )
    assert ("find", "globex") in rows or found["sample_weight"].min() == 1
    assert found["sample_weight"].sum() == pytest.approx(8000, rel=0.1)


def test_of_no_calls_none_are_drawn():
    found = sample_calls(pl.DataFrame(schema=CALLS_SCHEMA), SamplingPlan(0.1))
    assert (len(found), found.schema["sample_weight"]) == (0, pl.Float64)


@given(st.text())
def test_any_trace_has_a_place(trace_id):
    assert 0 <= sample_trace_fraction(trace_id) < 1


def graded(frame: pl.DataFrame, rng) -> np.ndarray:
    """Grades of which the always-kept ones are worse by far, as errors and thumbs-down are."""
    bad = frame["failed"].to_numpy() | (frame["cost_nanos"].to_numpy() > 990_000)
    return (rng.random(len(frame)) < np.where(bad, 0.2, 0.85)).astype(float)


def coverage(runs: int, *, rate: float) -> tuple[float, float, float]:
    """Share of intervals that hold the mean of all calls, weighted and plain; and the bias of the plain mean."""
    inside = plain = bias = 0.0
    for run in range(runs):
        frame = calls(3000, seed=run, prefix=f"r{run}-")
        grade = graded(frame, np.random.default_rng(10_000 + run))
        found = sample_calls(frame.with_columns(grade=pl.Series(grade)), SamplingPlan(rate))
        values, weights = found["grade"].to_numpy(), found["sample_weight"].to_numpy()
        w = sample_weighted_mean(values, weights)
        inside += w.low <= grade.mean() <= w.high
        reach = 1.96 * values.std() / np.sqrt(len(values))
        plain += abs(values.mean() - grade.mean()) <= reach
        bias += values.mean() - grade.mean()
    return inside / runs, plain / runs, bias / runs


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_weighted_means_cover_the_mean_of_all_calls_although_bad_ones_are_kept(rate):
    weighted, plain, bias = coverage(1000, rate=rate)
    assert 0.93 <= weighted <= 0.97
    assert plain < 0.75
    assert bias < -0.02


def test_weighted_means_of_a_few_runs():
    weighted, _, bias = coverage(60, rate=0.1)
    assert weighted > 0.85
    assert bias < 0


def test_a_mean_of_everything_has_no_interval():
    found = sample_weighted_mean(np.array([1.0, 0, 1]), np.ones(3))
    assert (found.low, found.mean, found.high, found.stands_for) == (found.mean, pytest.approx(2 / 3), found.mean, 3)


@pytest.mark.parametrize(("values", "weights"), [([], []), ([1.0], [0.5]), ([np.nan], [1.0]), ([1.0, 0.0], [1.0])])
def test_grades_that_cannot_be_weighted_are_refused(values, weights):
    with pytest.raises(ConfigError, match="weights of 1 or more"):
        sample_weighted_mean(np.array(values, float), np.array(weights, float))


def test_a_plan_that_would_never_draw_is_refused():
    with pytest.raises(ConfigError, match="no weight"):
        SamplingPlan(rates={("answer", "acme"): 0.0})
    with pytest.raises(ConfigError, match="a share below 1"):
        SamplingPlan(top_cost=1.0)
    with pytest.raises(ConfigError, match="1 trace stands twice"):
        sample_calls(pl.concat([calls(5), calls(5)[:1]]), SamplingPlan())


def test_calls_of_the_ledger_are_traces_with_their_last_status_and_whole_cost(tmp_path):
    def row(call_id, attempt, status, cost, trace, **more):
        plain = dict.fromkeys(("item_id", "user_id", "model_asked", "model_served", "route", "reason"), "")
        counts = dict.fromkeys(("fresh_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens"), 0)
        given = {
            "tenant_id": "acme",
            "feature": "answer",
            "purpose": "product",
            "price_version": "1",
            "latency_ms": 1.0,
        }
        return LedgerRow(
            call_id=call_id, attempt=attempt, started=f"2026-11-01T00:00:0{attempt}", trace_id=trace, status=status,
            cost_nanos=cost, **(plain | counts | given | more),
        )  # fmt: skip

    engine = open_engine(f"sqlite:///{tmp_path}/state.sqlite")
    ledger = Ledger(engine)
    hit = json.dumps({"similarity": 0.93, "threshold": 0.92})
    ledger.add(
        [
            row("a", 0, "error", 10, "t1"),
            row("a", 1, "ok", 20, "t1"),
            row("b", 0, "error", 5, "t2"),
            row("c", 0, "cached", 0, "t3", cache=hit),
            row("d", 0, "ok", 7, "t4", purpose="judge"),
            row("e", 0, "cached", 0, "t5", cache=json.dumps({"kind": "exact", "similarity": 1.0, "threshold": 1.0})),
        ]
    )
    ledger.correct("a", 1, -3, "refund")
    found = {r["trace_id"]: r for r in ledger_calls(ledger.frame()).iter_rows(named=True)}
    engine.dispose()
    assert found.keys() == {"t1", "t2", "t3", "t5"}
    assert found["t5"]["similarity"] is None  # an exact hit lies near no threshold
    assert [found[t]["failed"] for t in ("t1", "t2", "t3")] == [False, True, False]
    assert [found[t]["cost_nanos"] for t in ("t1", "t2", "t3")] == [27, 5, 0]
    assert (found["t3"]["similarity"], found["t3"]["threshold"], found["t1"]["similarity"]) == (0.93, 0.92, None)
