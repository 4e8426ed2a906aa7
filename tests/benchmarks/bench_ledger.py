"""What a growing ledger costs: ``pytest -m bench -s tests/benchmarks/bench_ledger.py``."""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from statistics import median
from types import MappingProxyType

import pytest
import sqlalchemy as sa

from tests.databases import KINDS, database_url
from tests.telemetry.rows import row
from workbench.inference.budgets import Budget, Budgets
from workbench.state import open_engine
from workbench.telemetry.ledger import Ledger, LedgerRow

SIZES = (10_000, 100_000, 1_000_000)
TIMED, CALLS = 4_000, 100


def seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def ms(values: list[float]) -> str:
    return f"{1000 * median(values):8.1f} {1000 * sorted(values)[int(0.99 * len(values))]:7.1f}"


# Ids scattered as in life, each tenth call with a second attempt, and a settled hold beside each row.
NUMBERS = "WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last} - 1)"
ID = {
    "sqlite": "printf('%08x c', (i - (i % 10 = 9)) * 2654435761 % 4294967296)",
    "postgresql": "md5((i - (i % 10 = 9)::int)::text)",
}
HOLDS = "INSERT INTO wb_hold {n} SELECT 'h' || i, 'all', '2026-11-22', {id}, i % 10 / 9, '', 'settled', 5, 5 FROM n"
COPIES = "INSERT INTO wb_ledger ({names}) {n} SELECT {values} FROM n CROSS JOIN wb_ledger WHERE call_id = 'model'"
CHANGED = {
    "attempt": "i % 10 / 9", "cost_nanos": "i", "tenant_id": "'t' || (i / 10 % 7)", "feature": "'f' || (i / 10 % 3)",
    "user_id": "'u' || (i / 10 % 5000)",
}  # fmt: skip
GROUPS = ("tenant_id", "user_id", "purpose")


def grow(
    engine: sa.Engine, ledger: Ledger, first: int, last: int, also: Mapping[str, str] = MappingProxyType({})
) -> float:
    """Fill up by one statement; returns rows a second of the last ones, which go through `Ledger.add` at once."""
    rows = [row(f"add {last} {i}", 0, i, tenant_id=f"t{i % 7}", user_id=f"u{i}") for i in range(TIMED)]
    names = [f.name for f in fields(LedgerRow)]
    numbers = NUMBERS.format(first=first, last=last - TIMED)
    changed = CHANGED | {"call_id": ID[engine.dialect.name], **also}
    values = ", ".join(changed.get(name, f"wb_ledger.{name}") for name in names)
    with engine.begin() as connection:
        connection.execute(sa.text(COPIES.format(names=", ".join(names), values=values, n=numbers)))
        connection.execute(sa.text(HOLDS.format(n=numbers, id=changed["call_id"])))
        connection.execute(sa.text("ANALYZE"))  # as a server does by itself after a minute
    return TIMED / seconds(lambda: ledger.add(rows))


@pytest.mark.bench
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_growth(kind, tmp_path):
    sys.stdout.write(
        f"\n{kind}\n     rows  inserted/s  reserve p50, p99 ms  settle p50, p99 ms  totals tenant, user, purpose ms\n"
    )
    with database_url(kind, tmp_path) as url:
        engine = open_engine(url)
        ledger, budgets = Ledger(engine), Budgets(engine, [Budget(1e6, "day"), Budget(1e6, "day", by=("tenant_id",))])
        ledger.add([row("model", 0, 0)])
        size = 0
        for goal in SIZES:
            rate, size = grow(engine, ledger, size, goal), goal
            reserve, settle = calls(budgets, ledger, goal)
            totals = "".join(f"{1000 * seconds(lambda by=by: ledger.totals(by)):9.1f}" for by in GROUPS)
            sys.stdout.write(f"{goal:9,} {rate:11,.0f}   {ms(reserve)}    {ms(settle)}    {totals}\n")
        engine.dispose()


def calls(budgets: Budgets, ledger: Ledger, goal: int) -> tuple[list[float], list[float]]:
    reserve, settle, holds = list[float](), list[float](), list[str]()
    for i in range(CALLS):
        name = f"timed {goal} {i}"
        reserve.append(seconds(lambda n=name: holds.append(budgets.reserve(row(n, 0, 9, tenant_id="t1")))))
        settle.append(seconds(lambda n=name: budgets.settle(holds[-1], [row(n, 0, 7, tenant_id="t1")], ledger)))
    return reserve, settle
