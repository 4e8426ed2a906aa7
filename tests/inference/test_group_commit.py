"""Calls that share transactions: what each promises alone holds for many at once."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from tests.databases import database_url
from tests.telemetry.rows import row
from workbench.errors import BudgetExceeded, RateLimited
from workbench.inference.budgets import Budget, Budgets
from workbench.inference.call_attempt import Books
from workbench.inference.client import Client
from workbench.inference.messages import Response, Usage
from workbench.inference.prices import load_prices
from workbench.inference.rate_limits import RateLimit, RateLimiter
from workbench.state import group_commit, open_engine
from workbench.telemetry.attribution import Attribution
from workbench.telemetry.ledger import Ledger
from workbench.testing import FakeClock, ScriptedModel

MODEL, ASK = "local/smollm2-135m", [{"role": "user", "content": "How do I join two frames?"}]
TABLES = ("wb_budget", "wb_hold", "wb_hold_row", "wb_ledger", "wb_slot")


def client_of(engine, answer, limit=None, budget_usd=1.0):
    limiter = RateLimiter(engine, {MODEL: limit or RateLimit(requests_per_minute=1000, tokens_per_minute=10**7)})
    books = Books(load_prices(), Budgets(engine, [Budget(budget_usd, "day")]), Ledger(engine), limiter)
    return Client({"": ScriptedModel(answer)}, books)


def said(_=None):
    return Response("merge", MODEL, Usage(10, output=2))


def contents(engine, tables=TABLES):
    with engine.begin() as connection:
        return {name: sorted(map(tuple, connection.execute(sa.text(f"SELECT * FROM {name}")))) for name in tables}


@pytest.fixture
def commits(engine):
    """Times that the engine committed."""
    counted = []
    sa.event.listen(engine, "commit", lambda connection: counted.append(connection))
    return counted


def test_a_call_alone_commits_twice_before_it_asks_and_after_it_was_answered(engine, commits):
    seen = []

    def answer(_):
        seen.append(len(commits))
        return said()

    client = client_of(engine, answer)
    client.complete(ASK, model=MODEL)
    commits.clear()
    client.complete(ASK, model=MODEL)
    assert (seen[-1], len(commits)) == (1, 2)


def test_what_a_call_may_cost_is_on_disk_before_its_model_is_asked(state_url):
    engine, other = open_engine(state_url), open_engine(state_url)
    seen = []

    def answer(_):
        seen.append({name: len(rows) for name, rows in contents(other).items()})
        return said()

    client_of(engine, answer).complete(ASK, model=MODEL)
    assert seen == [{"wb_budget": 1, "wb_hold": 1, "wb_hold_row": 1, "wb_ledger": 0, "wb_slot": 1}]
    after = contents(other)
    assert (len(after["wb_ledger"]), after["wb_hold_row"]) == (1, [])
    assert after["wb_slot"][0][-1] == 12, "tokens that were not used are given back with the settlement"
    engine.dispose()
    other.dispose()


def test_a_call_without_a_turn_holds_nothing_and_one_without_money_takes_no_turn(engine):
    client = client_of(engine, said, RateLimit(requests_per_minute=1))
    client.complete(ASK, model=MODEL)
    before = contents(engine, ("wb_budget", "wb_ledger", "wb_slot"))
    with pytest.raises(RateLimited):
        client.complete(ASK, model=MODEL, deadline_s=5)
    assert contents(engine, ("wb_budget", "wb_ledger", "wb_slot")) == before
    poor = client_of(engine, said, budget_usd=1e-9)
    with pytest.raises(BudgetExceeded):
        poor.complete(ASK, model=MODEL)
    assert contents(engine, ("wb_budget", "wb_ledger", "wb_slot")) == before


def test_threads_that_call_at_once_share_commits_and_the_books_agree(engine, commits):
    threads, calls = 16, 160
    meet = threading.Barrier(threads)
    client = client_of(engine, said)

    def call(i):
        if i < threads:
            meet.wait(30)
        return client.complete(ASK, model=MODEL, tenant_id=f"t{i % 3}").cost_nanos

    with ThreadPoolExecutor(threads) as pool:
        cost = sum(pool.map(call, range(calls)))
    found = contents(engine)
    assert len(found["wb_ledger"]) == len(found["wb_slot"]) == calls
    assert (
        int(client.books.ledger.frame()["cost_nanos"].sum()) == cost == client.books.budgets.table()["spent_nanos"][0]
    )
    assert found["wb_hold_row"] == []
    assert len(commits) < 2 * calls


def waits(draw):
    """Requests at a limit of six and 100 tokens a minute, with turns that are given back and tokens that were fewer."""
    return [(draw.randrange(1, 40), draw.choice([0.0, 30.0, 500.0])) for _ in range(40)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("at_once", [2, 7, 40])
def test_turns_that_are_given_together_are_those_that_would_be_given_one_after_the_other(tmp_path, seed, at_once):
    asked, given = waits(random.Random(seed)), []
    for size in (1, at_once):
        folder = tmp_path / str(size)
        folder.mkdir()
        with database_url("sqlite", folder) as url:
            given.append(turns(url, asked, size))
    assert given[0] == given[1]
    starts = [start for start in given[0] if start is not None]
    assert len(starts) > 10
    assert None in given[0]


def turns(url, asked, size):
    """Seconds until each may start, None where that is too late; so many in one transaction."""
    engine = open_engine(url)
    limiter = RateLimiter(engine, {"m": RateLimit(6, 100)}, FakeClock(datetime(2026, 11, 30, tzinfo=UTC)))
    slept = {}
    limiter_group = group_commit(engine)

    def wait(i):
        tokens, deadline_s = asked[i]
        try:
            slept[i] = limiter.wait("m", tokens, deadline_s=deadline_s).waited_s
        except RateLimited:
            slept[i] = None

    limiter._clock.sleep = lambda seconds: None  # all come at one moment
    for first in range(0, len(asked), size):
        in_one_transaction(limiter_group, [lambda i=i: wait(i) for i in range(first, min(first + size, len(asked)))])
    engine.dispose()
    return [slept[i] for i in range(len(asked))]


def in_one_transaction(group, works):
    """Run what writes in threads that wait, in this order, behind one transaction."""
    threads = [threading.Thread(target=work) for work in works]

    def hold_up(_connection):
        for i, thread in enumerate(threads, 1):
            thread.start()
            while len(group._waiting) < i:
                if not thread.is_alive():
                    raise AssertionError("a thread ended without a transaction")

    holder = threading.Thread(target=lambda: group.alone(hold_up))
    holder.start()
    holder.join()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("seed", range(3))
def test_what_is_reserved_together_is_what_would_be_reserved_one_after_the_other(engine, seed):
    draw, clock = random.Random(seed), FakeClock(datetime(2026, 11, 30, tzinfo=UTC))
    kinds = (Budget(30e-9, "day", by=("tenant_id",)), Budget(70e-9, "day"))
    who = [Attribution(tenant_id=draw.choice("abc")) for _ in range(24)]
    asked = [row(f"c{i}", 0, draw.randrange(0, 12), **asdict(one)) for i, one in enumerate(who)]
    fits, drawn = [], dict.fromkeys(("all", "a", "b", "c"), 0)
    for one in asked:
        amount, mine = one.cost_nanos, one.tenant_id
        fits.append(not amount or (drawn["all"] + amount <= 70 and drawn[mine] + amount <= 30))
        for key in ("all", mine) if fits[-1] else ():
            drawn[key] += amount
    budgets, found = Budgets(engine, kinds, clock), {}

    def reserve(i):
        try:
            found[i] = budgets.reserve(asked[i]) and True
        except BudgetExceeded:
            found[i] = False

    in_one_transaction(group_commit(engine), [lambda i=i: reserve(i) for i in range(24)])
    assert [found[i] for i in range(24)] == fits
    assert False in fits
    held = {r["scope"].removeprefix("tenant_id="): r["held_nanos"] for r in budgets.table().rows(named=True)}
    assert held == {key: amount for key, amount in drawn.items() if key in held}
    assert len(contents(engine, ("wb_hold",))["wb_hold"]) == 2 * sum(fits)
