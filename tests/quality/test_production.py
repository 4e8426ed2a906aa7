"""Production week by week: a planted drop is told when it is there, nothing is said of few calls, texts stay texts."""

import json
from dataclasses import fields
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from tests.reports.hostile import evil
from workbench.config import load_settings
from workbench.errors import ConfigError, EvalsetError
from workbench.evalset.workload import WorkloadPlan, draw_workload, numbered_workload_topics
from workbench.evaluation.run_summary import WeekRow
from workbench.quality import feedback
from workbench.quality.production import (
    production_by_group,
    production_groups_table,
    production_share_good,
    rated_production_calls,
    read_graded_production,
)
from workbench.quality.sampling import CALLS_SCHEMA, SamplingPlan, sample_calls
from workbench.reports.charts import weekly
from workbench.state import open_engine
from workbench.telemetry.ledger import Ledger, LedgerRow

START, WEEKS = datetime(2026, 6, 1, tzinfo=UTC), 14
TENANTS = {"acme": 0.6, "globex": 0.395, "tiny": 0.005}


def write_production(path, *, drop=None, requests=20_000, seed=0):
    """File of graded calls: the sampler's draw of a made-up stream whose answers are good in 80 %, then in 75 %."""
    plan = WorkloadPlan(
        seed=seed, requests=requests, start=START, days=7 * WEEKS, zipf=1.0, typos=0.0, must_differ=0.0,
        tenants=TENANTS, users=dict.fromkeys(TENANTS, 5), openings={"": 1}, closings={"": 1}, hours=[1] * 24,
        weekdays=[3, 3, 3, 3, 3, 1, 1],
    )  # fmt: skip
    topics = [t for feature in ("answer", "find") for t in numbered_workload_topics(TENANTS, 5, feature)]
    asked = pl.DataFrame(draw_workload(topics, plan)).with_columns(
        trace_id=pl.format("t{}", "pos"), started=pl.col("at"), cost_nanos=1, similarity=None, threshold=None
    )
    weeks = np.array([(datetime.fromisoformat(at) - START) // timedelta(weeks=1) for at in asked["at"]])
    rng = np.random.default_rng(seed)
    good = rng.random(len(asked)) < np.where(weeks >= (WEEKS if drop is None else drop), 0.75, 0.8)
    failed = ~good & (rng.random(len(asked)) < 0.2)
    calls = asked.with_columns(failed=pl.Series(failed)).select(*CALLS_SCHEMA)
    grades = pl.DataFrame({"trace_id": asked["trace_id"], "grade": good.astype(float), "grader": "ann"})
    drawn = sample_calls(calls.cast(CALLS_SCHEMA), SamplingPlan(0.3, top_cost=0.0))
    drawn.join(grades, on="trace_id").write_ndjson(path)
    return path


def told(path):
    return {group.name: group for group in production_by_group(read_graded_production(path))}


def test_a_drop_from_80_to_75_percent_is_told_in_its_week_or_later(tmp_path):
    found = told(write_production(tmp_path / "graded.jsonl", drop=6))
    alone = found["all"]
    planted = str((START + timedelta(weeks=6)).date())
    assert alone.status == "dropped"
    assert alone.told >= planted
    assert abs(datetime.fromisoformat(alone.since) - datetime.fromisoformat(planted)) <= timedelta(weeks=1)
    assert alone.change == pytest.approx(-0.05, abs=0.025)
    assert [w.week for w in alone.weeks if w.drop] == [alone.since]
    assert alone.baseline.low < 0.8 < alone.baseline.high
    table = production_groups_table(list(found.values()), "Of a test.")
    assert f"Dropped: all since the week of {alone.since}" in table.caption


def test_no_drop_is_told_where_there_is_none_and_few_calls_are_too_few(tmp_path):
    found = told(write_production(tmp_path / "graded.jsonl"))
    statuses = {name: group.status for name, group in found.items()}
    few = statuses.pop("tenant tiny")
    assert few == "too few"
    assert set(statuses) == {"all", "feature answer", "feature find", "tenant acme", "tenant globex"}
    assert set(statuses.values()) == {"no drop seen"}
    assert all(week.mean is None for week in found["tenant tiny"].weeks)
    assert sum(w.n for w in found["tenant tiny"].weeks) > 0
    inside = [w.low < 0.8 < w.high for group in found.values() for w in group.enough]
    assert np.mean(inside) > 0.9
    caption = production_groups_table(list(found.values()), "").caption
    assert "No drop is seen in 5 of 6 groups; too few graded calls of tenant tiny" in caption


def rows(n, *, start=START, **given):
    return [
        {"trace_id": f"{start:%j}-{i}", "started": start.isoformat(), "grade": float(i % 5 > 0), **given}
        for i in range(n)
    ]


def write(path, found):
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return path


def test_weights_undo_what_the_sampler_did(tmp_path):
    bad = [row | {"grade": 0, "sample_weight": 1} for row in rows(40)]
    good = [row | {"trace_id": f"g{i}", "grade": 1, "sample_weight": 4} for i, row in enumerate(rows(40))]
    week, interval = production_share_good(read_graded_production(write(tmp_path / "graded.jsonl", bad + good)))
    assert week.mean == interval.estimate == pytest.approx(0.8)
    assert (week.n, interval.low < 0.8 < interval.high) == (80, True)
    alike = production_share_good(read_graded_production(write(tmp_path / "same.jsonl", good)))[1]
    assert (alike.estimate, alike.high) == (1.0, 1.0)
    assert alike.low < 0.95  # 40 good ones show no 100 %


def test_a_new_grader_breaks_the_series_and_a_faultless_start_is_no_baseline(tmp_path):
    weeks = [START + timedelta(weeks=k) for k in range(6)]
    mixed = [r for k, at in enumerate(weeks) for r in rows(30, start=at, grader=f"judge v{1 + (k > 4)}")]
    assert told(write(tmp_path / "mixed.jsonl", mixed))["all"].status == "several graders"
    perfect = [r | {"grade": 1} for at in weeks for r in rows(30, start=at)]
    assert told(write(tmp_path / "perfect.jsonl", perfect))["all"].status == "not tested"
    later = perfect + rows(30, start=START + timedelta(weeks=6)) + rows(30, start=START + timedelta(weeks=7))
    assert told(write(tmp_path / "later.jsonl", later))["all"].status == "no drop seen"


def test_after_the_last_look_the_watch_begins_anew_and_what_it_told_stays(tmp_path):
    weeks = [START + timedelta(weeks=k) for k in range(36)]
    bad = {k: 1 if k < 10 else 3 for k in range(36)}  # of 5 calls
    found = [r | {"grade": float(int(r["trace_id"].split("-")[1]) % 5 >= bad[k])} for k, at in enumerate(weeks)
             for r in rows(50, start=at)]  # fmt: skip
    group = told(write(tmp_path / "graded.jsonl", found))["all"]
    assert (group.status, group.since) == ("dropped", str(weeks[10].date()))
    assert group.change == pytest.approx(-0.4, abs=0.02)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"grade": 7}, "grade must be in"),
        ({"sample_weight": 0.5}, "how many calls this one stands for"),
        ({"started": "yesterday"}, "is no time"),
        ({"trace_id": None}, "say which call was graded"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(tmp_path, change, says):
    found = [row | {"sample_weight": 1} for row in rows(3)]
    with pytest.raises(EvalsetError) as told_of:
        read_graded_production(write(tmp_path / "graded.jsonl", [*found[:2], found[2] | change]))
    assert [(d.line, says in d.problem) for d in told_of.value.defects] == [(3, True)]


def test_a_file_without_grades_without_dates_or_with_a_call_twice_is_refused(tmp_path):
    with pytest.raises(EvalsetError, match="no column grade"):
        read_graded_production(write(tmp_path / "a.jsonl", [{"trace_id": "t", "started": "2026-06-01"}]))
    with pytest.raises(EvalsetError, match="has no call with a grade"):
        read_graded_production(write(tmp_path / "b.jsonl", [row | {"grade": ""} for row in rows(2)]))
    with pytest.raises(EvalsetError, match="stands twice, first on line 1"):
        read_graded_production(write(tmp_path / "c.jsonl", [*rows(1), *rows(1)]))
    with pytest.raises(EvalsetError, match="counts from no date"):
        read_graded_production(write(tmp_path / "d.jsonl", [row | {"started": 5} for row in rows(2)]))


def test_what_users_said_grades_the_calls_of_the_ledger(tmp_path):
    state = f"sqlite:///{tmp_path / 'state.sqlite'}"
    settings, engine = (
        load_settings({"WORKBENCH_STATE_URL": state, "WORKBENCH_ROOT": str(tmp_path)}),
        open_engine(state),
    )
    with pytest.raises(ConfigError, match="0 traces have feedback"):
        rated_production_calls(engine)
    names = [f.name for f in fields(LedgerRow)]
    plain = {n: "" for n in names} | {n: 0 for n in names if n.endswith(("tokens", "nanos", "ms", "attempt"))}
    given = {"tenant_id": "acme", "feature": "answer", "purpose": "product", "status": "ok"}
    Ledger(engine).add(
        LedgerRow(
            **plain | given | {"call_id": f"c{i}", "trace_id": f"t{i}", "started": f"2026-06-0{6 + i}T23:00:00+00:00"}
        )
        for i in range(3)
    )
    for user, score in (("ann", 1), ("bob", 0)):
        feedback.record("t1", score, user_id=user, settings=settings)
    feedback.record("t2", 1, settings=settings)
    feedback.record("elsewhere", 0, settings=settings)
    found = rated_production_calls(engine).sort("trace_id")
    engine.dispose()
    assert found.select("trace_id", "tenant", "grade", "grader").rows() == [
        ("t1", "acme", 0.0, "users"), ("t2", "acme", 1.0, "users"),
    ]  # fmt: skip
    assert [str(week) for week in found["week"]] == ["2026-06-01", "2026-06-08"]  # Sunday and Monday


def test_hostile_names_are_shown_as_text_in_table_and_figure(tmp_path):
    names = [evil("tenant-a"), evil("tenant-b")]
    found = [r | {"trace_id": f"{t}{r['trace_id']}", "tenant_id": t} for t in names for r in rows(40)]
    groups = production_by_group(read_graded_production(write(tmp_path / "graded.jsonl", found)))
    pages = (production_groups_table(groups, "").to_html(), weekly([w for g in groups for w in g.weeks]).to_html())
    for html in pages:
        assert "tenant-a" in html
        assert "<b" not in html.replace("<body", "")
        assert "\u202e" not in html


def test_a_figure_of_too_few_calls_says_so():
    assert "too few graded calls to say" in weekly([WeekRow("all", "2026-06-01", 3, 3.0, None, None, None)]).alt
