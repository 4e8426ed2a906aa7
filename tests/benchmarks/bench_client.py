"""What the client adds to a bare provider, with everything on, and what durability costs.

python -m tests.benchmarks.bench_client [calls]; PostgreSQL too where WORKBENCH_TEST_POSTGRES_URL is set.
"""

import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import numpy as np
import sqlalchemy as sa

from tests.databases import KINDS, POSTGRES, database_url
from workbench.inference.attempt import Books
from workbench.inference.budgets import DEFAULT_BUDGETS, Budgets
from workbench.inference.client import Client
from workbench.inference.limits import Limit, RateLimiter
from workbench.inference.messages import Response, Usage
from workbench.inference.prices import load_prices
from workbench.state import open_engine
from workbench.telemetry.ledger import Ledger
from workbench.telemetry.spans import Tracing
from workbench.testing import ScriptedModel

MODEL = "local/smollm2-135m"
PARTS = ("prices alone", "+ budgets and ledger", "+ rate limit", "+ spans (everything)")
ASK = [{"role": "user", "content": "How do I join two frames by their nearest key?"}]


def books_of(engine: sa.Engine, parts: str) -> Books:
    books, ledger = Budgets(engine, DEFAULT_BUDGETS), Ledger(engine)
    limiter = RateLimiter(engine, {MODEL: Limit(requests_per_minute=10**9)})
    match PARTS.index(parts):
        case 0:
            return Books(load_prices())
        case 1:
            return Books(load_prices(), books, ledger)
        case 2:
            return Books(load_prices(), books, ledger, limiter)
    return Books(load_prices(), books, ledger, limiter, Tracing(engine))


def measure(engine: sa.Engine, parts: str, calls: int, threads: int) -> tuple[float, float, float]:
    """p50 and p99 in milliseconds a call, and calls a second."""
    said = Response("merge_asof", MODEL, Usage(40, output=4))  # at once, so that all time is the client's
    client = Client({"": ScriptedModel(lambda request: said)}, books_of(engine, parts))

    def call(_: int) -> float:
        started = perf_counter()
        client.complete(ASK, model=MODEL, tenant_id="acme", user_id="u1", feature="answer")
        return 1000 * (perf_counter() - started)

    started = perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        took = list(pool.map(call, range(calls)))
    wall = perf_counter() - started
    if client.books.tracing:
        client.books.tracing.close()
    return float(np.median(took)), float(np.quantile(took, 0.99)), calls / wall


def main(calls: int) -> None:
    sys.stdout.write(f"{'database':<11}{'threads':>8}  {'parts':<22}{'p50 ms':>8}{'p99 ms':>9}{'calls/s':>9}\n")
    for database in KINDS if os.environ.get(POSTGRES) else KINDS[:1]:
        with tempfile.TemporaryDirectory() as folder, database_url(database, Path(folder)) as url:
            engine = open_engine(url)
            for threads in (1, 64):
                for parts in PARTS:
                    p50, p99, rate = measure(engine, parts, calls, threads)
                    sys.stdout.write(f"{database:<11}{threads:>8}  {parts:<22}{p50:>8.2f}{p99:>9.1f}{rate:>9.0f}\n")
                    sys.stdout.flush()
            engine.dispose()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
