"""A thousand calls against a server that misbehaves: each ends once, and ledger, budgets, spans and server agree."""

import json
import logging
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa

from tests.faults.misbehaving_server import Seen, misbehaving_server
from workbench.config import SystemClock
from workbench.errors import CallFailed
from workbench.inference.budgets import Budget, Budgets
from workbench.inference.call_attempt import Books, worst_attempt_nanos
from workbench.inference.client import Client
from workbench.inference.failover import RetryPolicy
from workbench.inference.hosted_models import LiteLLMProvider
from workbench.inference.messages import Request, Usage
from workbench.inference.prices import load_prices
from workbench.state import open_engine
from workbench.telemetry.ledger import Ledger
from workbench.telemetry.span_tree import SPANS
from workbench.telemetry.spans import Tracing

MIX = {
    "good": 60, "thinking_beside": 3, "no_usage": 1, "429_seconds": 3, "429_date": 2, "429": 3, "500": 4, "503": 4,
    "503_page": 1, "529": 2, "error_as_200": 2, "overloaded_as_500": 1, "reset_before_any_byte": 3,
    "reset_mid_body": 3, "cut_stream": 2, "hang": 1, "malformed_json": 3, "wrong_content_type": 3,
    "empty_choices": 3, "drip_body": 1, "drip_stream": 1,
}  # fmt: skip
# What the server would bill: nothing for what it turned away, by its count for what it answered; of the rest nobody
# knows, and what was reserved stays charged.
FREE = {"429_seconds", "429_date", "429", "503", "529", "error_as_200", "overloaded_as_500"}
COUNTED = {"good": Usage(fresh=12, cache_read=8, output=7), "thinking_beside": Usage(fresh=20, output=107)}
MAIN, OTHER = "local/smollm2-135m", "local/qwen2.5-coder-0.5b"
DEADLINE_S = 10.0


@pytest.mark.slow
# connections of attempts that ran out of time are left to end with their server
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_of_a_thousand_calls_none_is_lost_none_billed_twice(tmp_path: Path) -> None:
    calls, threads = 1000, 12
    server = partial(misbehaving_server, faults=MIX, hang_s=4.0, keep_alive=False)
    engine = open_engine(f"sqlite:///{tmp_path / 'state.sqlite'}")
    tracing = Tracing(engine)
    books = Books(load_prices(), Budgets(engine, [Budget(100.0, "total")]), Ledger(engine), tracing=tracing)
    policy = RetryPolicy(
        attempts_per_model=2, base_s=0.02, cap_s=0.1, deadline_s=DEADLINE_S, attempt_timeout_s=2.0,
        cooldown_failures=1000,
    )  # fmt: skip
    with server(7) as first, server(8) as second:
        providers = {MAIN: LiteLLMProvider(first.address), OTHER: LiteLLMProvider(second.address)}
        client, clock = Client(providers, books, policy=policy), SystemClock()

        def call(number: int) -> tuple[str, str, float]:
            started = clock.monotonic()
            try:
                done = client.complete(
                    [{"role": "user", "content": f"call {number}"}], model=MAIN, fallbacks=[OTHER], item_id=str(number),
                    max_tokens=20, on_text=None if number % 2 else len,
                )  # fmt: skip
                return str(number), done.text, clock.monotonic() - started
            except CallFailed as error:
                return str(number), type(error.__cause__).__name__, clock.monotonic() - started

        with ThreadPoolExecutor(threads) as pool:
            ends = list(pool.map(call, range(calls)))
        seen = [str(s.body["messages"][0]["content"]).removeprefix("call ") for s in (*first.seen, *second.seen)]
    rows = books.ledger.frame()
    told = Counter("answer" if text.startswith("Paris") else text for _, text, _ in ends)
    logging.info("ends %s, attempts %d, longest %.1f s", dict(told), len(rows), max(s for *_, s in ends))
    assert len(ends) == calls
    assert max(seconds for *_, seconds in ends) < DEADLINE_S + 5  # the machine may be slow to wake a thread
    assert Counter(rows["item_id"]) == Counter(seen)  # one row for each request that a server saw, and no other
    answered = rows.filter(status="ok")
    good = {n for n, text, _ in ends if text.startswith("Paris")}
    assert len(good) > 0.5 * calls  # how many time out is the machine's doing
    assert set(answered["item_id"]) == good
    assert answered["item_id"].is_unique().all()  # no answer is paid for twice
    table = books.budgets.table()
    assert int(rows["cost_nanos"].sum()) == int(table["spent_nanos"].sum()) > 0
    assert int(table["held_nanos"].sum()) == 0
    assert in_spans(tracing, engine) == Counter(dict(rows.group_by("trace_id").agg(pl.col("cost_nanos").sum()).rows()))
    for model, app in ((MAIN, first), (OTHER, second)):
        bills = defaultdict(list)
        for request in app.seen:
            bills[request.body["messages"][0]["content"].removeprefix("call ")].append(bill(model, request))
        for item, expected in bills.items():
            mine = rows.filter(item_id=item, model_asked=model).sort("attempt")
            for row, (known, worst) in zip(mine.to_dicts(), expected, strict=True):
                cut = row["error_class"] == "AttemptTimeout"  # a busy machine may be too slow for a good answer
                assert row["cost_nanos"] == (worst if cut else known), row


def bill(model: str, request: Seen) -> tuple[int, int]:
    """Nano-dollars of a request by what the server did with it, and of its reservation."""
    prices = load_prices()
    worst = worst_attempt_nanos(
        prices, Request(model, tuple(request.body["messages"]), max_tokens=request.body["max_tokens"])
    )
    if request.fault in FREE:
        return 0, worst
    usage = COUNTED.get(request.fault)
    return (prices.cost_nanos(model, usage) if usage else worst), worst


def in_spans(tracing: Tracing, engine: sa.Engine) -> Counter[str]:
    """Nano-dollars of all attempts by trace, as their spans say."""
    tracing.flush()
    assert tracing.lost == 0
    found: Counter[str] = Counter()
    with engine.begin() as connection:
        for span in connection.execute(sa.select(SPANS).where(SPANS.c.operation == "chat")):
            found[span.trace_id] += round(json.loads(span.attributes)["wb.cost_usd"] * 1e9)
    return found
