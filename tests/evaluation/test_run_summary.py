import numpy as np
import polars as pl
import pytest

from workbench.evaluation.decision import ArmFacts
from workbench.evaluation.run_summary import (
    MAX_CASES,
    changed_cases,
    frontier_points,
    item_cases,
    mean_by_arm,
    slice_rows,
    summary_section,
    worst_regressions,
)
from workbench.records import Query
from workbench.rendering.table import Column, Table

N = 60
NOISE = np.random.default_rng(0).normal(0, 0.02, N)


def frame(**arms):
    """Rows of one metric; a tenant for each half, a style for each of three, a family for each item."""
    rows = [
        (arm, f"i{i:02d}", 0, "ndcg@10", None if value is None else float(value), f"c{i}", "a" if i < N // 2 else "b",
         f"s{i % 3}", "")
        for arm, values in arms.items()
        for i, value in enumerate(values)
    ]  # fmt: skip
    names = [
        "arm",
        "item_id",
        "repeat",
        "metric",
        "value",
        "cluster",
        "slice_tenant_id",
        "slice_style",
        "slice_feature",
    ]
    schema = dict.fromkeys(names, pl.String) | {"repeat": pl.Int32, "value": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def facts(**costs):
    return [ArmFacts(name, {}, cost, 10.0, i) for i, (name, cost) in enumerate(costs.items())]


BASE = np.linspace(0.4, 0.8, N)


def frontier(arms, costs):
    return {p.arm: p for p in frontier_points(frame(**arms), facts(**costs), split="dev")}


def test_an_arm_is_on_the_frontier_when_none_is_both_cheaper_and_better():
    arms = {"best": BASE + 0.1, "cheap": BASE, "bad": BASE - 0.1, "dear": BASE}
    found = frontier(arms, {"best": 3.0, "cheap": 1.0, "bad": 2.0, "dear": 9.0})
    assert {a: p.on_frontier for a, p in found.items()} == {"best": True, "cheap": True, "bad": False, "dear": False}
    assert found["cheap"].quality == pytest.approx(BASE.mean())
    assert found["cheap"].low < found["cheap"].quality < found["cheap"].high


def test_equals_in_cost_and_quality_are_both_on_the_frontier():
    found = frontier({"best": BASE, "twin": BASE}, {"best": 1.0, "twin": 1.0})
    assert all(p.on_frontier for p in found.values())


def test_arms_that_are_not_shown_to_differ_are_tied():
    arms = {"best": BASE, "near": BASE + NOISE - NOISE.mean(), "far": BASE - 0.2 + NOISE}
    found = frontier(arms, {"best": 3.0, "near": 2.0, "far": 1.0})
    assert {a: p.tied for a, p in found.items()} == {"best": True, "near": True, "far": False}


def test_an_interval_of_quality_stays_within_what_the_metric_can_be():
    low_and_high = {"best": np.r_[np.ones(N - 2), 0, 0], "none": np.r_[np.zeros(N - 1), 1]}
    for point in frontier(low_and_high, {"best": 2.0, "none": 1.0}).values():
        assert 0 <= point.low <= point.quality <= point.high <= 1


def test_slices_have_an_interval_where_there_are_thirty_families():
    rows = slice_rows(frame(best=BASE), ["best"])
    assert [(r.slice, r.value, r.n_items) for r in rows] == [
        ("tenant_id", "a", 30), ("tenant_id", "b", 30), ("style", "s0", 20), ("style", "s1", 20), ("style", "s2", 20),
    ]  # fmt: skip
    assert rows[0].mean == pytest.approx(BASE[:30].mean())
    assert rows[0].low < rows[0].mean < rows[0].high
    assert (rows[2].low, rows[2].high) == (None, None)


def test_a_column_with_one_value_is_no_slice():
    """Of a plain collection with one tenant: the slice would say again what the mean says."""
    single = frame(best=BASE).with_columns(slice_tenant_id=pl.lit("default"), slice_style=pl.lit(""))
    assert slice_rows(single, ["best"]) == []


def test_failures_count_zero_in_a_slice_as_in_the_decision():
    rows = slice_rows(frame(best=[None if i < 15 else 1.0 for i in range(N)]), ["best"])
    assert rows[0].mean == pytest.approx(0.5)


def cases(**arms):
    queries = [Query(f"i{i:02d}", f"question {i}") for i in range(N)]
    expected = {q.query_id: ("right",) for q in queries}
    returned = {arm: {q.query_id: (f"{arm} hit",) for q in queries[:-1]} for arm in arms}
    return item_cases(frame(**arms), queries, expected=expected, returned=returned)


def test_a_case_tells_the_question_what_was_expected_and_what_each_arm_returned():
    case = cases(best=BASE, other=BASE - 0.1)["i03"]
    assert (case.question, case.expected) == ("question 3", ("right",))
    assert case.returned == {"best": ("best hit",), "other": ("other hit",)}
    assert case.values == {"best": pytest.approx(BASE[3]), "other": pytest.approx(BASE[3] - 0.1)}


def test_a_question_for_which_nothing_came_back_is_a_case_with_nothing():
    assert cases(best=BASE)[f"i{N - 1}"].returned == {"best": ()}


def test_the_worst_losses_come_first_and_gains_are_not_among_them():
    values = BASE.copy()
    values[[5, 9, 20]] -= [0.1, 0.3, 0.1]
    values[30] += 0.2
    found = worst_regressions(cases(best=BASE, other=values), reference="best", arm="other")
    assert [c.item_id for c in found] == ["i09", "i05", "i20"]


def test_a_failure_is_the_worst_loss():
    values = [*BASE[:-1], None]
    found = worst_regressions(cases(best=BASE, other=values), reference="best", arm="other")
    assert [c.item_id for c in found] == [f"i{N - 1}"]


def test_at_most_a_dozen_cases_are_shown():
    found = worst_regressions(cases(best=BASE, other=BASE - 0.1), reference="best", arm="other")
    assert len(found) == MAX_CASES


def test_changed_cases_are_those_that_score_otherwise_than_the_accepted_run():
    values = BASE.copy()
    values[[4, 8]] -= 0.01
    now, before = frame(best=values, new=BASE), frame(best=BASE)
    shown = cases(best=values, new=BASE)
    assert [c.item_id for c in changed_cases(before, now, ["best", "new"], shown)] == ["i04", "i08"]
    assert changed_cases(None, now, ["best"], shown) == ()


def test_a_mean_counts_what_failed_as_0_as_the_decision_does():
    found = mean_by_arm(frame(best=[None, *[0.5] * (N - 1)], lost=[None] * N), "ndcg@10")
    assert found["best"] == pytest.approx(0.5 * (N - 1) / N)
    assert found["lost"] == 0


def test_a_section_keeps_the_digits_signs_and_units_of_its_columns():
    columns = (Column("p95", "ms"), Column("gain", "number", digits=1, signed=True), Column("hits", "count"))
    assert summary_section(Table(columns, ((4521.8, 0.25, 7),)), "").rows == (("4,522 ms", "+0.2", 7),)
