# ruff: noqa: T201
"""Made-up load through client, limits, budgets, cache and ledger: ``python -m tests.benchmarks.bench_load [requests]``.

Two weeks of arrivals of eight tenants of unequal size, with two bursts, go through a client with a scripted model, on
SQLite and on time that stands still until somebody waits. From 1,000 requests on, ten times as many each time; after
each, the books are checked: no budget is overspent, nothing is held, and every answer has one row. The last table says
which layer takes the time, by a profile of 1,000 requests.
"""

import cProfile
import pstats
import resource
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from workbench.caching.cache import ResponseCache
from workbench.evalset.workload import WorkloadBurst, WorkloadPlan, draw_workload, numbered_workload_topics
from workbench.inference.budgets import Budget, Budgets
from workbench.inference.call_attempt import Books
from workbench.inference.client import Client
from workbench.inference.messages import Response, Usage
from workbench.inference.prices import load_prices
from workbench.inference.rate_limits import RateLimit, RateLimiter
from workbench.stack.load import LoadReport, send_load
from workbench.state import open_engine
from workbench.telemetry.ledger import Ledger
from workbench.testing import FakeClock, ScriptedModel

MODEL, DAYS, START = "local/smollm2-135m", 14, datetime(2026, 11, 2, tzinfo=UTC)
TENANTS = {f"tenant-{k}": (k + 1) ** -1.2 for k in range(8)}
USED = Usage(40, output=4)
LAYERS = {
    "budgets": ("budgets",), "limits": ("limits",), "cache": ("caching/",), "ledger": ("ledger",),
    "client": ("inference/",), "state database": ("state.py", "sqlalchemy", "sqlite3"),
}  # fmt: skip


@dataclass
class Load:
    """A client with everything on, and what is sent through it."""

    engine: sa.Engine
    client: Client
    requests: list[dict[str, object]]
    limit_nanos: int


def made_plan(requests: int) -> WorkloadPlan:
    """Two weeks of weekdays and nights, a burst of everybody and one of the largest tenant."""
    hours = [1, 1, 1, 1, 1, 2, 4, 8, 14, 18, 18, 16, 12, 15, 18, 18, 16, 12, 8, 6, 5, 4, 3, 2]
    bursts = (
        WorkloadBurst(datetime(2026, 11, 5, 10, tzinfo=UTC), 20, 0.05),
        WorkloadBurst(datetime(2026, 11, 11, 15, tzinfo=UTC), 5, 0.02, "tenant-0"),
    )
    return WorkloadPlan(seed=1, requests=requests, start=START, days=DAYS, zipf=1.0, typos=0.0, must_differ=0.0,
                tenants=TENANTS, users={t: 40 for t in TENANTS}, openings={"": 1.0}, closings={"": 1.0},
                hours=hours, weekdays=[10, 11, 11, 10, 8, 2, 2], bursts=bursts)  # fmt: skip


def made_load(url: str, requests: int) -> Load:
    """Budgets hold less than the largest tenant asks on a usual day; the rate limit holds the bursts back."""
    engine, clock, prices = open_engine(url), FakeClock(START), load_prices()
    each = prices.cost_nanos(MODEL, USED)
    limit = each * max(6 * requests // 1000, 5)
    budgets = Budgets(engine, (Budget(limit / 1e9, "day", by=("tenant_id",)), Budget(100.0, "total")), clock)
    limiter = RateLimiter(engine, {MODEL: RateLimit(requests_per_minute=max(requests // 3000, 1))}, clock)
    books = Books(prices, budgets, Ledger(engine, clock), limiter, clock=clock)
    model = ScriptedModel(lambda request: Response("merge_asof", MODEL, USED), clock=clock)
    client = Client({"": model}, books, cache=ResponseCache(engine, clock=clock))
    topics = numbered_workload_topics(TENANTS, max(requests // 20, 50))
    return Load(engine, client, draw_workload(topics, made_plan(requests)), limit)


def check_books(load: Load, report: LoadReport) -> None:
    """No budget overspent, nothing held, one row an answer, and three sums that agree."""
    answered = report.count("model") + report.count("cache")
    with load.engine.begin() as connection:
        spent = connection.execute(sa.text("SELECT scope, spent_nanos, held_nanos FROM wb_budget")).all()
        rows, cost = connection.execute(sa.text("SELECT count(*), sum(cost_nanos) FROM wb_ledger")).one()
    assert rows == answered, f"{rows} rows for {answered} answers"
    daily = [row for row in spent if row.scope != "all"]
    assert all(row.spent_nanos <= load.limit_nanos and row.held_nanos == 0 for row in daily)
    assert sum(row.spent_nanos for row in daily) == cost == sum(report.cost_nanos.values())


def run(requests: int) -> tuple[float, LoadReport]:
    """Seconds that the load took, with what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        load = made_load(f"sqlite:///{Path(folder) / 'state.sqlite'}", requests)
        began, cpu = time.perf_counter(), time.process_time()
        report = send_load(load.client, load.requests, model=MODEL)
        took, worked = time.perf_counter() - began, time.process_time() - cpu
        check_books(load, report)
        load.engine.dispose()
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    refused = report.count("BudgetExceeded") + report.count("RateLimited") + report.count("CallFailed")
    ended = f"{report.count('model'):,} | {report.count('cache'):,} | {refused:,} | {report.late_s:,.0f}"
    speed = f"{requests / took:,.0f} | {1000 * worked / requests:.2f} | {peak_mb:,.0f}"
    print(f"| {requests:,} | {speed} | {ended} |", flush=True)
    return took, report


def layer_shares(requests: int) -> Counter[str]:
    """Share of the time inside each layer's own code, and the database beneath them."""
    with tempfile.TemporaryDirectory() as folder:
        load = made_load(f"sqlite:///{Path(folder) / 'state.sqlite'}", requests)
        profile = cProfile.Profile()
        profile.runcall(send_load, load.client, load.requests, model=MODEL)
    found: Counter[str] = Counter()
    for (file, _, name), (_, _, own, _, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        layer = next((layer for layer, keys in LAYERS.items() if any(k in f"{file} {name}" for k in keys)), "rest")
        found[layer] += own  # type: ignore[assignment]
    total = sum(found.values())
    return Counter({layer: own / total for layer, own in found.items()})


def main(most: int = 100_000) -> None:
    """Tell the figures as a table of Markdown."""
    print("| requests | a second | CPU ms each | peak MB | by the model | from the cache | refused | latest s |")
    print("|---|---|---|---|---|---|---|---|")
    n = 1000
    while n <= most:
        run(n)
        n *= 10
    print("own time: " + ", ".join(f"{name} {100 * share:.0f} %" for name, share in layer_shares(1000).most_common()))


if __name__ == "__main__":
    main(*(int(n) for n in sys.argv[1:]))
