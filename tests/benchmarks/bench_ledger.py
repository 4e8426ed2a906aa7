"""What a growing ledger costs: ``pytest -m bench -s tests/benchmarks/bench_ledger.py``."""

import sys
import time
from collections.abc import Callable
from dataclasses import fields
from statistics import median

import pytest
import sqlalchemy as sa

from tests.databases import KINDS, database_url
from tests.telemetry.rows import row
from workbench.inference.budget import Budget
from workbench.inference.budgets import Budgets
from workbench.state import open_engine
from workbench.telemetry.ledger import Ledger, LedgerRow

SIZES = (1_000, 10_000, 100_000, 1_000_000)
TIMED, CALLS = 500, 100


def seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def ms(values: list[float]) -> str:
    return f"{1000 * median(values):8.1f} {1000 * sorted(values)[int(0.99 * len(values))]:7.1f}"


NUMBERS = "WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last} - 1)"
HOLDS = "INSERT INTO wb_hold {n} SELECT 'h' || i, 'all', '2026-11-22', 'c' || i, 0, '', 'settled', 5, 5 FROM n"
COPIES = """INSERT INTO wb_ledger ({names}) {n} SELECT {values} FROM n CROSS JOIN wb_ledger WHERE call_id = 'model'"""
CHANGED = {
    "call_id": "'c' || i", "cost_nanos": "i", "tenant_id": "'t' || i % 7", "feature": "'f' || i % 3",
    "user_id": "'u' || i % 5000",
}  # fmt: skip


def grow(engine: sa.Engine, ledger: Ledger, first: int, last: int) -> float:
    """Fill up, a settled hold beside each row as after real calls; rows a second of the last, through `Ledger.add`."""
    rows = [row(f"add {last} {i}", 0, i, tenant_id=f"t{i % 7}", user_id=f"u{i}") for i in range(TIMED)]
    names = [f.name for f in fields(LedgerRow)]
    numbers = NUMBERS.format(first=first, last=last - TIMED)
    values = ", ".join(CHANGED.get(name, f"wb_ledger.{name}") for name in names)
    with engine.begin() as connection:
        connection.execute(sa.text(COPIES.format(names=", ".join(names), values=values, n=numbers)))
        connection.execute(sa.text(HOLDS.format(n=numbers)))
    return TIMED / seconds(lambda: ledger.add(rows))


@pytest.mark.bench
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_growth(kind, tmp_path):
    sys.stdout.write(
        f"\n{kind}\n     rows  inserted/s  reserve p50, p99 ms  settle p50, p99 ms  totals tenant, user ms\n"
    )
    with database_url(kind, tmp_path) as url:
        engine = open_engine(url)
        ledger, budgets = Ledger(engine), Budgets(engine, [Budget(1e6, "day"), Budget(1e6, "day", by=("tenant_id",))])
        ledger.add([row("model", 0, 0)])
        size = 0
        for goal in SIZES:
            rate, size = grow(engine, ledger, size, goal), goal
            reserve, settle = calls(budgets, ledger, goal)
            totals = [1000 * seconds(lambda by=by: ledger.totals(by)) for by in ("tenant_id", "user_id")]
            sys.stdout.write(
                f"{goal:9,} {rate:11,.0f}   {ms(reserve)}    {ms(settle)}      {totals[0]:8.1f} {totals[1]:8.1f}\n"
            )
        engine.dispose()


def calls(budgets: Budgets, ledger: Ledger, goal: int) -> tuple[list[float], list[float]]:
    reserve, settle, holds = list[float](), list[float](), list[str]()
    for i in range(CALLS):
        name = f"timed {goal} {i}"
        reserve.append(seconds(lambda n=name: holds.append(budgets.reserve(row(n, 0, 9, tenant_id="t1")))))
        settle.append(seconds(lambda n=name: budgets.settle(holds[-1], [row(n, 0, 7, tenant_id="t1")], ledger)))
    return reserve, settle
