"""A seeded load meets budgets, limits and the cache in its own time, and the books agree afterwards."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from tests.benchmarks.bench_load import TENANTS, check_books, made_load, made_plan
from workbench.evalset.workload import WorkloadBurst, draw_workload, numbered_workload_topics
from workbench.stack.load import send_load


def drawn(plan):
    return draw_workload(numbered_workload_topics(TENANTS, 30), plan)


def test_arrivals_are_the_same_again_and_bursts_come_when_the_plan_says():
    start = datetime(2026, 11, 5, 10, tzinfo=UTC)
    plan = replace(made_plan(2000), bursts=(WorkloadBurst(start, 10, 0.25, "tenant-3"),))
    rows = drawn(plan)
    assert rows == drawn(plan)
    assert rows != drawn(replace(plan, seed=2))
    assert [row["at"] for row in rows] == sorted(row["at"] for row in rows)
    ends = (start + timedelta(minutes=10)).isoformat()
    inside = [row for row in rows if start.isoformat() <= row["at"] <= ends]
    assert 500 <= len(inside) <= 510
    assert Counter(row["tenant_id"] for row in inside)["tenant-3"] >= 500
    sizes = Counter(row["tenant_id"] for row in drawn(replace(plan, bursts=())))
    assert sizes["tenant-0"] > 2 * sizes["tenant-1"] > 2 * sizes["tenant-4"]
    asked = Counter(row["query"] for row in rows if row["tenant_id"] == "tenant-0").most_common()
    assert asked[0][1] > 2 * asked[3][1]


def test_no_budget_is_overspent_and_no_row_is_lost(state_url):
    load = made_load(state_url, 300)
    burst = WorkloadBurst(datetime(2026, 11, 5, 10, tzinfo=UTC), 5, 0.5)
    load.requests = drawn(replace(made_plan(300), bursts=(burst,)))
    report = send_load(load.client, load.requests, model="local/smollm2-135m")
    check_books(load, report)
    assert sum(report.asked.values()) == sum(report.ended.values()) == 300
    assert report.count("cache") > 20
    assert report.ended["tenant-0", "BudgetExceeded"] > report.ended["tenant-7", "BudgetExceeded"]
    assert report.late_s > 60  # one request a minute, and half of all come within five
    assert "BudgetExceeded" in repr(report)
    load.engine.dispose()
