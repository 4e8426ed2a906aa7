"""A thousand calls against a server that misbehaves: each ends in an answer or one typed error, and the books agree."""

import logging
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.faults.misbehaving_server import misbehaving_server
from workbench.config import SystemClock
from workbench.errors import CallFailed
from workbench.inference.attempt import Books
from workbench.inference.budgets import Budget, Budgets
from workbench.inference.client import Client
from workbench.inference.failover import RetryPolicy
from workbench.inference.hosted import LiteLLMProvider
from workbench.inference.prices import load_prices
from workbench.state import open_engine
from workbench.telemetry.ledger import Ledger

MIX = {
    "good": 60, "429_seconds": 3, "429_date": 2, "429": 3, "500": 4, "503": 4, "reset_before_any_byte": 3,
    "reset_mid_body": 3, "cut_stream": 2,
    "hang": 1, "malformed_json": 3, "wrong_content_type": 3, "empty_choices": 3, "drip_body": 1, "drip_stream": 1,
}  # fmt: skip
MAIN, OTHER = "local/smollm2-135m", "local/qwen2.5-coder-0.5b"
DEADLINE_S = 10.0


@pytest.mark.slow
# connections of attempts that ran out of time are left to end with their server
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_of_a_thousand_calls_none_is_lost_none_billed_twice(tmp_path: Path) -> None:
    calls, threads = 1000, 12
    server = partial(misbehaving_server, faults=MIX, hang_s=4.0, keep_alive=False)
    engine = open_engine(f"sqlite:///{tmp_path / 'state.sqlite'}")
    books = Books(load_prices(), Budgets(engine, [Budget(100.0, "total")]), Ledger(engine))
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
