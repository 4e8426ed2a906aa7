"""Many processes and threads on one budget, one of them killed: what must hold at every instant, and at the end."""

import json
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from tests.telemetry.rows import row
from workbench.errors import BudgetExceeded
from workbench.inference.budgets import Budget, Budgets
from workbench.state import open_engine, reading_engine
from workbench.telemetry.ledger import Ledger

ROOT = Path(__file__).parents[2]
WORST, TWICE = 1_000_000, 0.05  # nano-dollars that a call may cost; share of settlements that come twice


@dataclass(frozen=True)
class Outcome:
    """What was seen; times in ms over the processes that lived."""

    seconds: float
    admitted: int
    refused: int
    polls: int
    highest: float
    open_holds: int
    reserve_ms: np.ndarray
    settle_ms: np.ndarray

    def line(self, name: str) -> str:
        p = [f"{np.percentile(v, q):8.1f}" for v in (self.reserve_ms, self.settle_ms) for q in (50, 99)]
        ops = (2 * self.admitted + self.refused) / self.seconds
        return (
            f"{name:<11} {self.admitted:7,} {self.refused:7,} {ops:9,.0f} {' '.join(p)} {self.polls:7,} "
            f"{self.highest:9.6f} {self.open_holds:5}"
        )


HEAD = "database    admitted refused transact/s  reserve p50, p99    settle p50, p99  polls   highest  open"


def make_budgets(engine: sa.Engine, limit_nanos: int) -> Budgets:
    return Budgets(engine, [Budget(limit_nanos / 1e9, "total")])


def storm(url: str, *, processes: int, threads: int, calls: int) -> Outcome:
    """Run the children, kill one, watch the budget all the while, and check the books at the end."""
    limit = round(0.6 * processes * threads * calls * WORST * 0.5)
    engine = open_engine(url)
    make_budgets(engine, limit)
    Ledger(engine)
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.inference.budget_storm", url, str(i),
             str(threads), str(calls), str(limit)],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )
        for i in range(processes)
    ]  # fmt: skip
    outputs: list[str] = [""] * processes
    readers = [
        threading.Thread(target=lambda i=i, c=c: outputs.__setitem__(i, c.communicate()[0]))
        for i, c in enumerate(children)
    ]
    for thread in readers:
        thread.start()
    polls, highest, killed, started = 0, 0.0, False, time.monotonic()
    query = sa.text("SELECT spent_nanos + held_nanos, spent_nanos FROM wb_budget")
    while any(thread.is_alive() for thread in readers):
        with reading_engine(engine).begin() as connection:
            used, spent = connection.execute(query).one_or_none() or (0, 0)
        assert used <= limit, f"{used:,} used of {limit:,}"
        if not used:  # the children are being started
            started = time.monotonic()
        polls, highest = polls + 1, max(highest, used / limit)
        if not killed and spent > 0.3 * limit:
            children[0].kill()
            killed = True
        time.sleep(0.002)
    seconds = time.monotonic() - started
    assert killed
    assert [child.returncode for child in children] == [-9] + [0] * (processes - 1)
    told = [json.loads(text) for text in outputs[1:]]
    outcome = Outcome(
        seconds, check_books(engine), sum(t["refused"] for t in told), polls, highest, open_holds(engine),
        np.concatenate([t["reserve_ms"] for t in told]), np.concatenate([t["settle_ms"] for t in told]),
    )  # fmt: skip
    engine.dispose()
    return outcome


def check_books(engine: sa.Engine) -> int:
    """Ledger and spent are equal, open holds and held are equal, every settled hold has one row; how many these are."""
    with engine.begin() as connection:
        one = lambda text: connection.execute(sa.text(text)).scalar_one() or 0  # noqa: E731
        assert one("SELECT sum(cost_nanos) FROM wb_ledger") == one("SELECT spent_nanos FROM wb_budget")
        held = one("SELECT sum(amount_nanos) FROM wb_hold WHERE state = 'open'")
        assert held == one("SELECT held_nanos FROM wb_budget")
        settled = one("SELECT count(*) FROM wb_hold WHERE state = 'settled'")
        assert settled == one("SELECT count(*) FROM wb_ledger")
        return int(settled)


def open_holds(engine: sa.Engine) -> int:
    with engine.begin() as connection:
        return int(connection.execute(sa.text("SELECT count(*) FROM wb_hold WHERE state = 'open'")).scalar_one())


def child(url: str, process: int, threads: int, calls: int, limit_nanos: int) -> None:
    engine = open_engine(url)
    budgets, ledger = make_budgets(engine, limit_nanos), Ledger(engine)
    times: dict[str, list[float]] = {"reserve_ms": [], "settle_ms": []}
    refused: list[str] = []

    def timed(name, function):
        started = time.monotonic()
        try:
            return function()
        finally:
            times[name].append(1000 * (time.monotonic() - started))

    def work(number):
        rng = random.Random(1000 * process + number)
        for call_id in (f"{process}/{number}/{i}" for i in range(calls)):
            reserve = partial(budgets.reserve, row(call_id, cost_nanos=WORST))
            try:
                hold = timed("reserve_ms", reserve)
            except BudgetExceeded:
                refused.append(call_id)
                continue
            settle = partial(budgets.settle, hold, [row(call_id, cost_nanos=rng.randrange(WORST))], ledger)
            assert timed("settle_ms", settle)
            if rng.random() < TWICE:
                assert not settle()

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    sys.stdout.write(json.dumps(times | {"refused": len(refused)}))


if __name__ == "__main__":
    child(sys.argv[1], *map(int, sys.argv[2:]))
