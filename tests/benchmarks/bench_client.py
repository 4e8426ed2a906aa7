"""What the client adds to a bare provider with everything on, and beside it the same of another checkout.

python -m tests.benchmarks.bench_client [--calls N]: the parts one by one.
python -m tests.benchmarks.bench_client --against CHECKOUT [--pairs 5] [--calls N]: this build and another in turn, in
one run, from 1 thread to 4 processes; and the Router of litellm with its own budget and a mock answer.
PostgreSQL too where WORKBENCH_TEST_POSTGRES_URL is set.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import sqlalchemy as sa

from workbench.inference.budgets import DEFAULT_BUDGETS, Budgets
from workbench.inference.call_attempt import Books
from workbench.inference.client import Client
from workbench.inference.messages import Response, Usage
from workbench.inference.prices import load_prices
from workbench.inference.rate_limits import RateLimit, RateLimiter
from workbench.state import open_engine
from workbench.telemetry.ledger import Ledger
from workbench.telemetry.spans import Tracing
from workbench.testing import ScriptedModel

MODEL = "local/smollm2-135m"
PARTS = ("prices alone", "+ budgets and ledger", "+ rate limit", "+ spans (everything)")
ASK = [{"role": "user", "content": "How do I join two frames by their nearest key?"}]
HERE = Path(__file__).parents[2]
SHAPES = ((1, 1), (1, 64), (4, 16))  # processes, threads of each
WARM = 20


def books_of(engine: sa.Engine, parts: str) -> Books:
    books, ledger = Budgets(engine, DEFAULT_BUDGETS), Ledger(engine)
    limiter = RateLimiter(engine, {MODEL: RateLimit(requests_per_minute=10**9)})
    match PARTS.index(parts):
        case 0:
            return Books(load_prices())
        case 1:
            return Books(load_prices(), books, ledger)
        case 2:
            return Books(load_prices(), books, ledger, limiter)
    return Books(load_prices(), books, ledger, limiter, Tracing(engine))


@dataclass(frozen=True)
class Measured:
    """Milliseconds of each call, when the first began and the last ended, and processor time of all."""

    took: list[float]
    began: float
    ended: float
    cpu_s: float

    def figures(self) -> np.ndarray:
        """p50 and p99 in milliseconds, calls a second, milliseconds of processor time a call."""
        p50, p99 = np.quantile(self.took, (0.5, 0.99))
        calls = len(self.took)
        return np.array([p50, p99, calls / (self.ended - self.began), 1000 * self.cpu_s / calls])


def measure(engine: sa.Engine, parts: str, calls: int, threads: int, start: Iterator[str] | None = None) -> Measured:
    said = Response("merge_asof", MODEL, Usage(40, output=4))  # at once, so that all time is the client's
    client = Client({"": ScriptedModel(lambda request: said)}, books_of(engine, parts))

    def call(_: int) -> float:
        started = perf_counter()
        client.complete(ASK, model=MODEL, tenant_id="acme", user_id="u1", feature="answer")
        return 1000 * (perf_counter() - started)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(call, range(WARM)))
        if start:
            next(start)
        began, cpu = time.time(), time.process_time()
        took = list(pool.map(call, range(calls)))
        ended = time.time()
    if client.books.tracing:
        client.books.tracing.close()
    return Measured(took, began, ended, time.process_time() - cpu)


def child(url: str, calls: int, threads: int) -> None:
    """Tell when it is ready, go when it is told to, and tell what was measured."""

    def told() -> Iterator[str]:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        yield sys.stdin.readline()

    engine = open_engine(url)
    done = measure(engine, PARTS[-1], calls, threads, told())
    sys.stdout.write(json.dumps(vars(done)))
    engine.dispose()


def run(checkout: Path, url: str, calls: int, processes: int, threads: int) -> np.ndarray:
    """Figures of one build, in processes that start together; the books must agree afterwards."""
    command = [sys.executable, "-P", __file__, "--child", url, "--calls", str(calls // processes)]
    children = [
        subprocess.Popen([*command, "--threads", str(threads)], env=os.environ | {"PYTHONPATH": str(checkout)},
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]  # fmt: skip
    assert [one.stdout.readline() for one in children] == ["ready\n"] * processes
    for one in children:
        one.stdin.write("go\n")
        one.stdin.flush()
    parts = [Measured(**json.loads(one.communicate()[0])) for one in children]
    check_books(url, calls + processes * WARM)
    return Measured(
        [ms for part in parts for ms in part.took],
        min(part.began for part in parts),
        max(part.ended for part in parts),
        sum(part.cpu_s for part in parts),
    ).figures()


def check_books(url: str, calls: int) -> None:
    engine = open_engine(url)
    with engine.begin() as connection:
        one = lambda text: int(connection.execute(sa.text(text)).scalar_one())  # noqa: E731
        assert one("SELECT count(*) FROM wb_ledger") == one("SELECT count(*) / 2 FROM wb_span") == calls
        spent = one("SELECT max(spent_nanos) FROM wb_budget")
        assert one("SELECT sum(cost_nanos) FROM wb_ledger") == spent == one("SELECT min(spent_nanos) FROM wb_budget")
        assert one("SELECT sum(held_nanos) FROM wb_budget") == one("SELECT count(*) FROM wb_hold_row") == 0
    engine.dispose()


@contextmanager
def urls() -> Iterator[list[tuple[str, object]]]:
    from tests.databases import KINDS, POSTGRES, database_url

    with tempfile.TemporaryDirectory() as folder:
        kinds = KINDS if os.environ.get(POSTGRES) else KINDS[:1]
        numbers = iter(range(10**6))

        def fresh(kind: str) -> object:
            (place := Path(folder) / str(next(numbers))).mkdir()
            return database_url(kind, place)

        yield [(kind, lambda kind=kind: fresh(kind)) for kind in kinds]


LINE = "{:<11}{:>10}  {:<24}{:>9}{:>9}{:>9}{:>9}\n"
NAMES = ("p50 ms", "p99 ms", "calls/s", "CPU ms")


def compare(other: Path, calls: int, pairs: int) -> None:
    """Both builds in turn, the first of a pair by turns; medians, and the ratios of the pairs with min and max."""
    sys.stdout.write(LINE.format("database", "proc x thr", f"{pairs} pairs of {calls} calls", *NAMES))
    with urls() as kinds:
        for kind, fresh in kinds:
            for processes, threads in SHAPES:
                found: dict[Path, list[np.ndarray]] = {other: [], HERE: []}
                for pair in range(pairs):
                    for checkout in (other, HERE) if pair % 2 else (HERE, other):
                        with fresh() as url:
                            found[checkout].append(run(checkout, url, calls, processes, threads))
                before, now = np.array(found[other]), np.array(found[HERE])
                for name, rows in (("before", before), ("now", now)):
                    tell(kind, processes, threads, name, [f"{v:.2f}" for v in np.median(rows, axis=0)])
                ratios = now / before
                for name, of in (("median ratio", np.median), ("least", np.min), ("most", np.max)):
                    tell(kind, processes, threads, f"  now / before, {name}", [f"{v:.2f}" for v in of(ratios, axis=0)])
    sys.stdout.write(f"load of the machine: {os.getloadavg()}, {os.cpu_count()} cores\n")


def tell(kind: str, processes: int, threads: int, name: str, figures: list[str]) -> None:
    sys.stdout.write(LINE.format(kind, f"{processes} x {threads}", name, *figures))
    sys.stdout.flush()


def litellm_router(calls: int, at_once: int = 64) -> None:
    """The Router of litellm with a budget for half the calls and a mock answer: time of a call, and what it spends."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm

    usd, took = 40 * 1e-6 + 4 * 4e-6, []
    price = {"input_cost_per_token": 1e-6, "output_cost_per_token": 4e-6}

    async def ask(router: litellm.Router, gate: asyncio.Semaphore) -> float:
        async with gate:
            started = perf_counter()
            try:
                done = await router.acompletion("m", ASK, mock_response="merge_asof")
            except (litellm.RateLimitError, ValueError):  # how the router says that the budget is used up
                return 0.0
            took.append(1000 * (perf_counter() - started))
            return 1e-6 * done.usage.prompt_tokens + 4e-6 * done.usage.completion_tokens

    async def everything() -> tuple[float, float]:
        budget = calls * usd / 2
        model = {
            "model": "openai/gpt-4o-mini",
            "api_key": "none",
            "max_budget": budget,
            "budget_duration": "1d",
            **price,
        }
        router = litellm.Router([{"model_name": "m", "litellm_params": model}], num_retries=0)
        gate = asyncio.Semaphore(at_once)
        return budget, sum(await asyncio.gather(*(ask(router, gate) for _ in range(calls))))

    cpu, started = time.process_time(), perf_counter()
    budget, spent = asyncio.run(everything())
    wall, cpu = perf_counter() - started, time.process_time() - cpu
    p50, p99 = np.quantile(took, (0.5, 0.99))
    sys.stdout.write(
        f"litellm {at_once} at once: p50 {p50:.2f} ms, p99 {p99:.1f} ms, {calls / wall:.0f} calls/s, "
        f"{1000 * cpu / calls:.2f} CPU ms; budget {budget:.6f}, spent {spent:.6f} USD ({len(took)} calls)\n"
    )


def parts_one_by_one(calls: int) -> None:
    sys.stdout.write(LINE.format("database", "threads", "parts", *NAMES))
    with urls() as kinds:
        for kind, fresh in kinds:
            with fresh() as url:
                engine = open_engine(url)
                for threads in (1, 64):
                    for parts in PARTS:
                        figures = measure(engine, parts, calls, threads).figures()
                        tell(kind, 1, threads, parts, [f"{v:.2f}" for v in figures])
                engine.dispose()


def main() -> None:
    say = argparse.ArgumentParser()
    say.add_argument("--against", type=Path)
    say.add_argument("--pairs", type=int, default=5)
    say.add_argument("--calls", type=int, default=640)
    say.add_argument("--threads", type=int, default=1)
    say.add_argument("--child")
    given = say.parse_args()
    if given.child:
        child(given.child, given.calls, given.threads)
    elif given.against:
        compare(given.against.resolve(), given.calls, given.pairs)
        litellm_router(given.calls)
    else:
        parts_one_by_one(given.calls)


if __name__ == "__main__":
    main()
