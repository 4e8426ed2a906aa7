"""The client: every call attributed, paid, limited, failed over and written down, whatever comes of it."""

import sqlite3
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import fields, replace
from datetime import timedelta
from inspect import signature
from pathlib import Path

import pytest
import sqlalchemy as sa
from opentelemetry import context

from tests.inference.test_streams import Gate, await_streams, left_in
from workbench.caching.cache import ResponseCache
from workbench.errors import (
    BudgetExceeded,
    CallFailed,
    ConfigError,
    RateLimited,
    RecordingMiss,
    Rejected,
    SettlementFailed,
    Throttled,
    Unavailable,
)
from workbench.inference.batch import BatchItem, complete_batch
from workbench.inference.budgets import Budget, Budgets
from workbench.inference.call_attempt import PATIENCE_S, Books, worst_attempt_tokens
from workbench.inference.client import Client
from workbench.inference.failover import RetryPolicy
from workbench.inference.messages import CacheHit, CacheUse, Request, Response, Usage
from workbench.inference.prices import load_prices
from workbench.inference.rate_limits import RateLimit, RateLimiter
from workbench.inference.recordings import Recordings
from workbench.inference.streams import Abandoned
from workbench.state import open_engine
from workbench.telemetry.attribution import Attribution, attributed, carry_attribution
from workbench.telemetry.ledger import Ledger
from workbench.telemetry.span_tree import span_totals
from workbench.telemetry.spans import Tracing
from workbench.telemetry.traces import load_trace
from workbench.testing import FakeClock, ScriptedModel

SMALL, STRONG = "local/smollm2-135m", "local/qwen2.5-coder-0.5b"
ASK = [{"role": "user", "content": "How do I join two frames?"}]
USAGE = Usage(fresh=100, output=20)


def answer(text: str = "merge", usage: Usage | None = USAGE) -> Response:
    return Response(text, "served", usage)


@pytest.fixture
def engine(tmp_path: Path):
    return open_engine(f"sqlite:///{tmp_path / 'state.sqlite'}")


def client_of(engine, script, *, budget_usd: float = 1.0, **parts) -> Client:
    clock = parts.pop("clock", None) or FakeClock()
    books = Books(
        load_prices(),
        Budgets(engine, [Budget(budget_usd, "day")], clock),
        Ledger(engine),
        RateLimiter(engine, parts.pop("limits", {}), clock),
        parts.pop("tracing", None),
        clock,
    )
    providers = {"local/": ScriptedModel(script)}
    return Client(**({"providers": providers, "books": books} | parts))


def books_of(client: Client) -> tuple[int, int, int]:
    """Ledger sum, spent and held in nano-dollars."""
    table = client.books.budgets.table()
    return (
        int(client.books.ledger.frame()["cost_nanos"].sum()),
        int(table["spent_nanos"].sum()),
        int(table["held_nanos"].sum()),
    )


def test_call_is_priced_settled_and_attributed(engine) -> None:
    client = client_of(engine, [answer()])
    with attributed(tenant_id="acme", feature="search"):
        done = client.complete(ASK, model=SMALL, user_id="u1", item_id="q7")
    cost = load_prices().cost_nanos(SMALL, USAGE)
    assert done.text == "merge"
    assert done.source == "model"
    assert done.attempts == 1
    assert done.cost_nanos == cost > 0
    (row,) = client.books.ledger.frame().to_dicts()
    told = {k: row[k] for k in ("tenant_id", "feature", "user_id", "item_id", "purpose", "model_asked", "model_served")}
    assert told == {"tenant_id": "acme", "feature": "search", "user_id": "u1", "item_id": "q7", "purpose": "product",
                    "model_asked": SMALL, "model_served": "served"}  # fmt: skip
    assert (row["fresh_tokens"], row["output_tokens"], row["cost_nanos"], row["status"]) == (100, 20, cost, "ok")
    assert books_of(client) == (cost, cost, 0)


def test_attribution_reaches_other_threads_only_when_carried(engine) -> None:
    client = client_of(engine, None)
    with attributed(tenant_id="acme"), ThreadPoolExecutor(2) as pool:
        pool.submit(carry_attribution(lambda: client.complete(ASK, model=SMALL, item_id="carried"))).result()
        pool.submit(lambda: client.complete(ASK, model=SMALL, item_id="bare")).result()
    rows = {r["item_id"]: r["tenant_id"] for r in client.books.ledger.frame().to_dicts()}
    assert rows == {"carried": "acme", "bare": ""}


def test_exhausted_budget_refuses_before_anything_is_asked(engine) -> None:
    client = client_of(engine, [answer()], budget_usd=1e-9)
    with pytest.raises(BudgetExceeded) as caught:
        client.complete(ASK, model=SMALL)
    assert caught.value.limit_nanos == 1
    assert caught.value.spent_nanos == 0
    assert client.providers["local/"].requests == []
    assert books_of(client) == (0, 0, 0)


def test_model_without_a_price_is_refused_before_anything_is_asked(engine) -> None:
    client = client_of(engine, [answer()])
    with pytest.raises(ConfigError, match="no price"):
        client.complete(ASK, model="local/unheard-of")
    assert client.providers["local/"].requests == []


def test_attempt_that_may_have_been_billed_stays_charged_and_one_that_was_not_costs_nothing(engine) -> None:
    request = Request(SMALL, tuple(ASK))
    worst = load_prices().worst_nanos(SMALL, input_tokens=worst_attempt_tokens(request), max_tokens=request.max_tokens)
    client = client_of(engine, [Throttled("slow down"), Unavailable("gone", billed="unknown"), answer()])
    done = client.complete(ASK, model=SMALL)
    rows = client.books.ledger.frame().sort("attempt").to_dicts()
    assert [(r["status"], r["error_class"]) for r in rows] == [
        ("error", "Throttled"),
        ("unknown", "Unavailable"),
        ("ok", ""),
    ]
    cost = load_prices().cost_nanos(SMALL, USAGE)
    assert [r["cost_nanos"] for r in rows] == [0, worst, cost]
    assert done.cost_nanos == worst + cost
    assert books_of(client) == (worst + cost, worst + cost, 0)


@pytest.mark.parametrize(
    "script",
    [
        [Throttled("slow down"), Unavailable("gone", billed="unknown"), answer()],
        [Unavailable("gone", billed="unknown")] * 3,
        [answer(usage=None)],
        [Rejected("no")],
        [KeyboardInterrupt()],
        [answer("no JSON"), answer("{}")],
    ],
)
def test_cost_of_a_trace_is_that_of_the_ledger_also_of_attempts_that_failed(engine, script) -> None:
    client = client_of(engine, script, tracing=Tracing(engine))
    with suppress(CallFailed, KeyboardInterrupt):
        client.complete(ASK, model=SMALL, schema={"type": "object"} if "JSON" in str(script) else None)
    rows = client.books.ledger.frame().to_dicts()
    spans = [s for s in load_trace(engine, rows[0]["trace_id"]).rows if s.operation == "chat"]
    assert len(spans) == len(rows)
    assert sum(round(s.attributes["wb.cost_usd"] * 1e9) for s in spans) == sum(r["cost_nanos"] for r in rows)
    assert span_totals(spans).cost_usd == pytest.approx(sum(r["cost_nanos"] for r in rows) / 1e9)


def test_every_parameter_is_named_in_the_signature_with_the_default_of_a_request() -> None:
    whole, streamed = (dict(signature(method).parameters) for method in (Client.complete, Client.stream))
    assert all(p.kind is not p.VAR_KEYWORD for p in whole.values())
    assert whole.pop("on_text").default is None
    assert {n: p.default for n, p in streamed.items()} == {n: p.default for n, p in whole.items()}
    defaults = {f.name: f.default for f in fields(Request) if f.name not in ("model", "messages")}
    assert {n: whole[n].default for n in defaults} == defaults
    who = [f.name for f in fields(Attribution)]
    assert {n: whole[n].default for n in who} == dict.fromkeys(who)


def test_a_stream_takes_what_a_call_takes_and_a_misspelt_parameter_is_refused(engine) -> None:
    client = client_of(engine, [Unavailable("down")] * 3 + [answer("two words")])
    stream = client.stream(ASK, model=SMALL, fallbacks=[STRONG], max_tokens=9, temperature=0.5, stop=["."],
                           tools=[{"type": "function"}], tenant_id="acme", item_id="q1")  # fmt: skip
    assert ("".join(stream), stream.result.attempts) == ("two words", 4)
    asked = client.providers["local/"].requests[-1]
    assert asked == Request(STRONG, tuple(ASK), 9, 0.5, stop=(".",), tools=({"type": "function"},))
    assert set(client.books.ledger.frame()["item_id"]) == {"q1"}
    with pytest.raises(TypeError, match="max_token"):
        client.complete(ASK, model=SMALL, max_token=9)


class Read(Mapping):
    """A message that counts how often it is gone through."""

    def __init__(self, **parts: str) -> None:
        self.parts, self.times = parts, 0

    def __getitem__(self, name):
        return self.parts[name]

    def __iter__(self):
        self.times += 1
        return iter(self.parts)

    def __len__(self):
        return len(self.parts)


def test_a_prompt_is_written_out_once_an_attempt(engine) -> None:
    message = Read(**ASK[0])
    client_of(engine, [Unavailable("down"), answer()]).complete([message], model=SMALL)
    assert message.times == 2 * 2, "each attempt writes it out, and looks for marks of a prompt cache"


def test_call_whose_hold_was_closed_meanwhile_is_answered_and_written_down_once(engine) -> None:
    def script(_: Request) -> Response:
        clock.sleep(7200)
        assert len(client.books.budgets.close_holds(clock.now() - timedelta(hours=1), client.books.ledger)) == 1
        return answer()

    client = client_of(engine, script)
    clock = client.books.clock
    assert client.complete(ASK, model=SMALL, tenant_id="acme", item_id="q7").text == "merge"
    (row,) = client.books.ledger.frame().to_dicts()
    told = {k: row[k] for k in ("tenant_id", "item_id", "model_asked", "status", "error_class", "started")}
    assert told == {"tenant_id": "acme", "item_id": "q7", "model_asked": SMALL, "status": "unknown",
                    "error_class": "NeverSettled", "started": "2026-01-01T00:00:00+00:00"}  # fmt: skip
    assert row["price_version"] == load_prices().version
    assert books_of(client) == (row["cost_nanos"], row["cost_nanos"], 0)


def test_answer_without_token_counts_is_charged_at_the_worst_case(engine) -> None:
    client = client_of(engine, [answer(usage=None)])
    client.complete(ASK, model=SMALL)
    (row,) = client.books.ledger.frame().to_dicts()
    assert row["cost_nanos"] > load_prices().cost_nanos(SMALL, USAGE)
    assert row["error_class"] == "UsageMissing"


def test_answer_with_tokens_of_a_class_without_a_price_is_kept_and_charged_at_the_worst_case(engine) -> None:
    client = client_of(engine, [answer(usage=Usage(fresh=5, cache_write=5, output=1))])
    assert client.complete(ASK, model=SMALL).text == "merge"
    (row,) = client.books.ledger.frame().to_dicts()
    assert (row["status"], row["error_class"]) == ("ok", "UnknownPrice")
    assert books_of(client) == (row["cost_nanos"], row["cost_nanos"], 0)
    assert row["cost_nanos"] > load_prices().cost_nanos(SMALL, Usage(fresh=10, output=1))


def test_terminal_error_ends_the_call_and_the_next_model_is_asked_only_after_a_retryable_one(engine) -> None:
    client = client_of(engine, [Rejected("no")])
    with pytest.raises(CallFailed) as caught:
        client.complete(ASK, model=SMALL, fallbacks=[STRONG])
    assert isinstance(caught.value.__cause__, Rejected)
    assert len(client.books.ledger.frame()) == 1
    once = RetryPolicy(attempts_per_model=1)
    client = client_of(engine, [Unavailable("down"), answer()], policy=once)
    done = client.complete(ASK, model=SMALL, fallbacks=[STRONG])
    asked = [r.model for r in client.providers["local/"].requests]
    assert asked == [SMALL, STRONG]
    assert done.cost_nanos == load_prices().cost_nanos(STRONG, USAGE)


def test_rate_limit_waits_on_the_clock_and_refuses_what_cannot_come_in_time(engine) -> None:
    client = client_of(engine, None, limits={SMALL: RateLimit(requests_per_minute=1)})
    client.complete(ASK, model=SMALL)
    client.complete(ASK, model=SMALL, deadline_s=120)
    assert client.books.clock.monotonic() >= 59
    with pytest.raises(RateLimited, match="limit") as caught:
        client.complete(ASK, model=SMALL, deadline_s=1)
    assert caught.value.model == SMALL
    assert caught.value.retry_after_s == pytest.approx(60, abs=1)
    ledger, spent, held = books_of(client)
    assert ledger == spent
    assert held == 0
    assert len(client.books.ledger.frame()) == 2


def test_a_call_whose_turn_is_far_off_is_answered_by_a_fallback_at_once(engine) -> None:
    client = client_of(
        engine, None, limits={SMALL: RateLimit(requests_per_minute=1)}, policy=RetryPolicy(deadline_s=30)
    )
    client.complete(ASK, model=SMALL)
    client.complete(ASK, model=SMALL, fallbacks=[STRONG])
    assert [r.model for r in client.providers["local/"].requests] == [SMALL, STRONG]
    assert client.books.clock.monotonic() == 0
    assert books_of(client)[2] == 0


def test_a_turn_shortly_before_the_deadline_is_not_paid_for_and_the_model_stays_in_use(engine) -> None:
    policy = RetryPolicy(cooldown_failures=1)
    client = client_of(engine, None, limits={SMALL: RateLimit(requests_per_minute=1)}, policy=policy)
    client.complete(ASK, model=SMALL)
    spent = books_of(client)
    with pytest.raises(RateLimited):
        client.complete(ASK, model=SMALL, deadline_s=60.5)
    assert books_of(client) == spent
    assert client.complete(ASK, model=SMALL).text, "no turn was used up, and the model does not cool down"
    assert client.books.clock.monotonic() < 61


def test_a_wait_that_took_longer_than_it_should_is_not_followed_by_a_request_without_a_chance(engine) -> None:
    class Late(FakeClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds + 9.5)

    client = client_of(engine, None, limits={SMALL: RateLimit(requests_per_minute=1)}, clock=Late())
    client.complete(ASK, model=SMALL)
    spent = books_of(client)
    with pytest.raises(RateLimited, match="too late for an answer"):
        client.complete(ASK, model=SMALL, deadline_s=70)
    assert (books_of(client), len(client.providers["local/"].requests)) == (spent, 1)
    assert client.books.limiter.wait(SMALL, 1, deadline_s=0).waited_s == 0, "the turn was given back"


def test_tokens_that_were_not_used_are_there_for_the_next_call(engine) -> None:
    client = client_of(engine, [answer(), answer()], limits={SMALL: RateLimit(tokens_per_minute=1000)})
    for _ in range(2):  # each may take more than 500
        client.complete(ASK, model=SMALL)
    assert client.books.clock.monotonic() == 0


@pytest.mark.parametrize("step", ["reserve", "complete", "settle"])
def test_interrupted_wherever_it_is_a_call_leaves_no_hold(engine, step) -> None:
    client = client_of(engine, [answer()])

    class Interrupted:
        """Ctrl-C as the step has ended, and before its caller goes on."""

        def __init__(self, whole) -> None:
            self.whole, self.times = whole, 0

        def __getattr__(self, name):
            def run(*args, **kwargs):
                done = getattr(self.whole, name)(*args, **kwargs)
                self.times += name == step
                if name == step and self.times == 1:
                    raise KeyboardInterrupt
                return done

            return run

    books = replace(client.books, budgets=Interrupted(client.books.budgets))
    provider = Interrupted(client.providers["local/"])
    with pytest.raises(KeyboardInterrupt):
        replace(client, books=books, providers={"": provider}).complete(ASK, model=SMALL)
    ledger, spent, held = books_of(client)
    assert (ledger, held) == (spent, 0)
    assert (spent > 0) == (step != "reserve")


class Locked(FakeClock):
    """A state database that another process keeps locked; it is let go after so many seconds."""

    def __init__(self, file: Path, seconds: float) -> None:
        super().__init__()
        self.until, self.other = seconds, sqlite3.connect(file, isolation_level=None, check_same_thread=False)

    def lock(self, request: Request) -> Response:
        self.other.execute("BEGIN IMMEDIATE")
        return answer("paid for")

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if self.monotonic() >= self.until and self.other.in_transaction:
            self.other.execute("ROLLBACK")


@pytest.fixture
def impatient(engine):
    """The same database by connections that do not wait for a lock."""
    sa.event.listen(engine, "checkout", lambda dbapi, *_: dbapi.execute("PRAGMA busy_timeout=0"))
    return engine


def locked_client(engine, seconds: float) -> Client:
    clock = Locked(Path(engine.url.database), seconds)
    return client_of(engine, None, clock=clock, providers={"": ScriptedModel(clock.lock)})


def test_an_answer_is_settled_although_the_database_is_locked_for_a_while(impatient) -> None:
    client = locked_client(impatient, PATIENCE_S / 2)
    done = client.complete(ASK, model=SMALL)
    assert done.text == "paid for"
    assert books_of(client) == (done.cost_nanos, done.cost_nanos, 0)
    assert done.cost_nanos > 0


def test_a_database_that_is_locked_beforehand_is_told_at_once_and_nothing_is_asked(impatient) -> None:
    client = locked_client(impatient, 10 * PATIENCE_S)
    client.books.clock.lock(Request(SMALL, tuple(ASK)))
    with pytest.raises(sa.exc.OperationalError):
        client.complete(ASK, model=SMALL)
    assert client.books.clock.monotonic() == 0
    assert client.providers[""].requests == []


def test_an_answer_that_cannot_be_settled_is_in_the_error_and_its_hold_stays_until_it_is_closed(impatient) -> None:
    client = locked_client(impatient, 10 * PATIENCE_S)
    with pytest.raises(SettlementFailed, match="--close-holds-before") as raised:
        client.complete(ASK, model=SMALL, fallbacks=[STRONG])
    assert raised.value.response.text == "paid for"
    assert len(client.providers[""].requests) == 1, "an answer that was paid for is not asked for again"
    clock = client.books.clock
    clock.sleep(7200)
    ledger, spent, held = books_of(client)
    assert (ledger, spent) == (0, 0)
    assert held > 0
    client.books.budgets.close_holds(clock.now() - timedelta(hours=1), client.books.ledger)
    assert books_of(client) == (held, held, 0)


def test_stream_gives_the_pieces_and_then_the_completion(engine) -> None:
    client = client_of(engine, [answer("one two")])
    stream = client.stream(ASK, model=SMALL, tenant_id="acme")
    pieces = list(stream)
    assert "".join(pieces) == "one two" == stream.result.text
    assert client.books.ledger.frame()["tenant_id"].to_list() == ["acme"]


def test_abandoned_stream_asks_nothing_more_and_its_attempt_is_settled_when_it_ends(engine) -> None:
    gate = Gate()

    def hangs(request: Request) -> Unavailable:
        gate.pass_through()
        return Unavailable("down", billed="unknown")

    client = client_of(engine, hangs)
    (end,) = left_in(gate, lambda: client.complete(ASK, model=SMALL, fallbacks=[STRONG]))
    assert isinstance(end, Abandoned)
    (row,) = client.books.ledger.frame().to_dicts()
    assert (row["status"], row["error_class"]) == ("unknown", "Unavailable")
    assert books_of(client) == (row["cost_nanos"], row["cost_nanos"], 0)
    assert gate.times == 1


def test_abandoned_stream_stays_charged(engine) -> None:
    class Slow:
        def complete(self, request: Request, *, timeout_s: float, on_text=None) -> Response:
            for piece in ("one ", "two ", "three"):
                on_text(piece)
                released.wait(1)
            return answer("one two three")

    released = threading.Event()
    client = replace(client_of(engine, None), providers={"": Slow()})
    pieces = iter(client.stream(ASK, model=SMALL))
    assert next(pieces) == "one "
    released.set()
    pieces.close()
    await_streams()
    (row,) = client.books.ledger.frame().to_dicts()
    assert (row["status"], row["error_class"]) == ("unknown", Abandoned.__name__)
    assert row["cost_nanos"] > 0
    assert books_of(client)[2] == 0


def test_recorded_answers_replay_byte_for_byte_and_a_changed_prompt_is_a_miss(engine, tmp_path: Path) -> None:
    path = tmp_path / "recordings.jsonl"
    texts = [f"answer {i} é\u2028\x00" for i in range(500)]
    prompts = [[{"role": "user", "content": f"question {i}"}] for i in range(500)]
    live = client_of(engine, [answer(t) for t in texts], recordings=Recordings(path, live=True))
    for i, prompt in enumerate(prompts):
        live.complete(prompt, model=SMALL, item_id=f"q{i}")
    assert b"question" not in path.read_bytes()
    replay = Client({}, Books(load_prices()), recordings=Recordings(path))
    assert [replay.complete(p, model=SMALL).text.encode() for p in prompts] == [t.encode() for t in texts]
    with pytest.raises(RecordingMiss, match="changed"):
        replay.complete([{"role": "user", "content": "question 1 "}], model=SMALL)
    with pytest.raises(RecordingMiss):
        replay.complete(prompts[0], model=SMALL, max_tokens=7)


def test_recording_cut_short_by_a_kill_is_asked_again_and_the_others_stay(engine, tmp_path: Path) -> None:
    path = tmp_path / "recordings.jsonl"
    live = client_of(engine, [answer("a"), answer("b")], recordings=Recordings(path, live=True))
    prompts = [[{"role": "user", "content": c}] for c in "ab"]
    for prompt in prompts:
        live.complete(prompt, model=SMALL)
    path.write_bytes(path.read_bytes()[:-20])
    again = client_of(engine, [answer("b again")], recordings=Recordings(path, live=True))
    assert [again.complete(p, model=SMALL).text for p in prompts] == ["a", "b again"]
    assert len(Recordings(path)) == 2


def test_batch_tells_its_estimate_needs_a_limit_and_goes_on_where_it_stopped(engine, tmp_path: Path) -> None:
    path, told = tmp_path / "recordings.jsonl", []
    items = [BatchItem(f"q{i}", Request(SMALL, ({"role": "user", "content": f"q{i}"},)), "acme") for i in range(6)]
    script = [answer(str(i)) for i in range(3)] + [Rejected("no")] + [answer(str(i)) for i in range(4, 6)]
    client = client_of(engine, script, recordings=Recordings(path, live=True))
    with pytest.raises(ConfigError, match="no max_cost_usd"):
        complete_batch(client, items, max_cost_usd=None, tell=told.append)
    assert client.providers["local/"].requests == []
    assert "6 requests, at most $" in told[0]
    first = complete_batch(client, items, max_cost_usd=1.0, tell=told.append)
    assert isinstance(first["q3"], CallFailed)
    assert first["q5"].text == "5"
    client = client_of(engine, [answer("3")], recordings=Recordings(path, live=True))
    second = complete_batch(client, items, max_cost_usd=1.0, tell=told.append)
    assert [second[i.item_id].text for i in items] == list("012345")
    assert [second[i.item_id].source for i in items].count("model") == 1
    assert "5 of 6" in told[-1]


class Kept:
    """A cache that keeps everything."""

    def __init__(self) -> None:
        self.entries: dict[str, CacheHit] = {}

    def moment(self):
        return 0

    def find(self, request, who, use):
        return self.entries.get(request.sha256)

    def keep(self, request, response, who, use, *, cost_nanos, since):
        self.entries[request.sha256] = CacheHit(response, "semantic", 0.97, 0.9, "e1", "s1", cost_nanos)


class Noting:
    """A cache that has nothing, and notes whose answers it should keep and what those cost."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, int]] = []

    def moment(self):
        return 0

    def find(self, request, who, use):
        return None

    def keep(self, request, response, who, use, *, cost_nanos, since):
        self.kept.append((request.model, cost_nanos))


def test_hit_of_the_cache_costs_nothing_and_says_what_it_saved(engine) -> None:
    client = client_of(engine, [answer(), answer()], cache=Kept())
    bought = client.complete(ASK, model=SMALL, use=CacheUse())
    served = client.complete(ASK, model=SMALL, use=CacheUse())
    assert served.source == "cache"
    assert served.cost_nanos == 0
    assert served.saved_nanos == bought.cost_nanos > 0
    row = client.books.ledger.frame().filter(status="cached").to_dicts()[0]
    assert row["saved_nanos"] == bought.cost_nanos
    assert '"similarity": 0.97' in row["cache"]
    assert client.complete(ASK, model=SMALL, max_tokens=9).source == "model"


def test_tokens_of_an_answer_from_the_cache_are_counted_once(engine) -> None:
    """langchain-core 1.8.3 counts those of each repeat again, so that a cache saves no tokens."""
    tracing = Tracing(engine)
    client = client_of(engine, [answer()], cache=Kept(), tracing=tracing)
    bought, *served = [client.complete(ASK, model=SMALL, use=CacheUse()) for _ in range(5)]
    tracing.flush()
    assert [c.source for c in served] == ["cache"] * 4
    frame = client.books.ledger.frame()
    counted = sum(frame[name].sum() for name in ("fresh_tokens", "cache_read_tokens", "cache_write_tokens"))
    assert counted == bought.response.usage.input > 0
    assert frame["output_tokens"].sum() == bought.response.usage.output
    for hit in served:
        for span in load_trace(engine, hit.trace_id).rows:
            assert not [name for name in span.attributes if name.startswith("gen_ai.usage.")]


def test_trace_shows_why_a_call_took_its_time(engine) -> None:
    tracing = Tracing(engine)
    parts = {"tracing": tracing, "limits": {SMALL: RateLimit(requests_per_minute=1)}, "cache": Kept()}
    client = client_of(engine, [Unavailable("down"), answer(), answer()], **parts)
    missed, hit, alone = [
        client.complete(ASK, model=SMALL, use=use, tenant_id="acme") for use in (CacheUse(), CacheUse(), None)
    ]
    tracing.flush()
    call, first, second = load_trace(engine, missed.trace_id).rows
    assert [row.attributes.get("wb.attempt") for row in (call, first, second)] == [None, 1, 2]
    assert "wb.waited_s" not in first.attributes
    assert 59 < second.attributes["wb.waited_s"] < 62
    assert call.attributes["wb.cache.hit"] is False
    shown = load_trace(engine, missed.trace_id).text()
    assert all(chip in shown for chip in ("[cache miss]", "[attempt 2]", "[waited "))
    served = load_trace(engine, hit.trace_id).rows[-1]
    assert (served.attributes["wb.cache.hit"], hit.source) == (True, "cache")
    assert not [r for r in load_trace(engine, alone.trace_id).rows if "wb.cache.hit" in r.attributes]  # nobody looked
    tracing.close()


def test_answer_that_nobody_counted_saves_nothing_that_is_known(engine) -> None:
    cache = Noting()
    client = client_of(engine, [answer(usage=None), answer(usage=Usage(cache_write=5, output=1))], cache=cache)
    charged = [client.complete(ASK, model=SMALL, use=CacheUse()).cost_nanos for _ in range(2)]
    assert cache.kept == [(SMALL, 0), (SMALL, 0)]
    assert min(charged) > 0


def test_request_for_a_cache_of_an_hour_reserves_its_price_or_is_refused(engine) -> None:
    marked = {"type": "text", "text": "x" * 1000, "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    ask = [{"role": "system", "content": [marked]}, *ASK]
    claude, spent = "anthropic/claude-sonnet-4-5", Usage(cache_write=1000, output=1, cache_write_long=1000)
    client = client_of(engine, (), providers={"": ScriptedModel([answer(usage=None), answer(usage=spent)])})
    with pytest.raises(ConfigError, match="no price for cache_write_long"):
        client.complete(ask, model=SMALL)
    worst = client.complete(ask, model=claude, max_tokens=1).cost_nanos
    assert worst >= worst_attempt_tokens(Request(claude, tuple(ask))) * 6000
    assert client.complete(ask, model=claude, max_tokens=1).cost_nanos == 1000 * 6000 + 15_000


def test_trace_shows_the_attempts_of_a_call(engine) -> None:
    tracing = Tracing(engine)
    client = client_of(engine, [Unavailable("down"), answer()], tracing=tracing)
    done = client.complete(ASK, model=SMALL, tenant_id="acme")
    tracing.flush()
    names = [row.name for row in load_trace(engine, done.trace_id).rows]
    assert names == [f"call {SMALL}", f"chat {SMALL}", f"chat {SMALL}"]
    assert "merge" in load_trace(engine, done.trace_id)._repr_html_()
    assert client.books.ledger.frame()["trace_id"].unique().to_list() == [done.trace_id]
    tracing.close()


class LosesContext(FakeClock):
    """A pause after which the thread is without its OpenTelemetry context."""

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        context.attach(context.Context())


def test_attempts_stay_in_the_trace_of_their_call_whatever_became_of_the_context(engine) -> None:
    tracing = Tracing(engine)
    client = client_of(engine, [Unavailable("down"), answer()], tracing=tracing, clock=LosesContext())
    done = client.complete(ASK, model=SMALL)
    tracing.flush()
    rows = load_trace(engine, done.trace_id).rows
    assert [(row.name, row.parent_id) for row in rows[1:]] == [(f"chat {SMALL}", rows[0].span_id)] * 2
    tracing.close()


def test_answer_of_a_fallback_is_recorded_and_cached_as_its_own(engine, tmp_path: Path) -> None:
    cache = Noting()
    once, path = RetryPolicy(attempts_per_model=1), tmp_path / "r.jsonl"
    script = [Unavailable("down", billed="unknown"), answer("from the other")]
    client = client_of(engine, script, policy=once, cache=cache, recordings=Recordings(path, live=True))
    done = client.complete(ASK, model=SMALL, fallbacks=[STRONG], use=CacheUse())
    own = load_prices().cost_nanos(STRONG, USAGE)
    assert cache.kept == [(STRONG, own)]
    assert done.cost_nanos > own  # the failed attempt stays charged, but is not what a hit saves
    replay = Client({}, Books(load_prices()), recordings=Recordings(path))
    assert replay.complete(ASK, model=SMALL, fallbacks=[STRONG]).text == "from the other"
    with pytest.raises(RecordingMiss):
        Client({}, Books(load_prices()), recordings=Recordings(path)).complete(ASK, model=SMALL)


def test_request_that_failed_first_is_replayed_by_the_answer_it_got_later(engine, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    live = client_of(engine, [Rejected("no"), answer("yes"), answer("again")], recordings=Recordings(path, live=True))
    with pytest.raises(CallFailed):
        live.complete(ASK, model=SMALL)
    assert [live.complete(ASK, model=SMALL).text for _ in range(2)] == ["yes", "again"]
    replay = Client({}, Books(load_prices()), recordings=Recordings(path))
    assert [replay.complete(ASK, model=SMALL).text for _ in range(2)] == ["yes", "again"]
    with pytest.raises(RecordingMiss, match="has 2 recorded answers"):
        replay.complete(ASK, model=SMALL)


def test_cache_that_fails_loses_no_answer(engine) -> None:
    class Broken:
        def moment(self):
            return 0

        def find(self, request, who, use):
            raise ConfigError("no")

        def keep(self, request, response, who, use, *, cost_nanos, since):
            raise ConfigError("no")

    client = client_of(engine, [answer()], cache=Broken())
    assert client.complete(ASK, model=SMALL, use=CacheUse()).text == "merge"
    assert books_of(client)[2] == 0


def test_stream_is_of_who_asked_for_it_and_is_read_once(engine) -> None:
    client = client_of(engine, [answer("one two")])
    with attributed(tenant_id="acme"):
        stream = client.stream(ASK, model=SMALL)
    with attributed(tenant_id="other"):
        assert "".join(stream) == "one two"
    assert client.books.ledger.frame()["tenant_id"].to_list() == ["acme"]
    with pytest.raises(ValueError, match="read once"):
        list(stream)


def test_batch_never_spends_more_than_its_limit_even_where_attempts_fail(engine) -> None:
    items = [BatchItem(f"q{i}", Request(SMALL, ({"role": "user", "content": "q"},), max_tokens=9)) for i in range(20)]
    worst = load_prices().worst_nanos(SMALL, input_tokens=worst_attempt_tokens(items[0].request), max_tokens=9)
    patient = RetryPolicy(cooldown_failures=1000)
    client = client_of(engine, lambda request: Unavailable("down", billed="unknown"), policy=patient)
    limit = 20 * worst
    done = complete_batch(client, items, max_cost_usd=limit / 1e9, tell=lambda told: None)
    assert {type(e).__name__ for e in done.values()} == {"CallFailed", "BudgetExceeded"}
    assert limit - worst < client.books.ledger.frame()["cost_nanos"].sum() <= limit


def test_batch_survives_an_error_nobody_expected_and_stops_when_it_is_interrupted(engine) -> None:
    items = [BatchItem(f"q{i}", Request(SMALL, ({"role": "user", "content": f"q{i}"},))) for i in range(30)]

    def odd(request: Request) -> Response:
        if request.messages[0]["content"] == "q3":
            raise ZeroDivisionError
        return answer()

    done = complete_batch(client_of(engine, odd), items, max_cost_usd=1.0, tell=lambda told: None)
    assert isinstance(done["q3"], ZeroDivisionError)
    assert sum(not isinstance(d, Exception) for d in done.values()) == 29
    client = client_of(engine, lambda request: answer())

    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        complete_batch(client, items, max_cost_usd=1.0, tell=lambda told: None, on_done=interrupt)
    assert len(client.providers["local/"].requests) < 30


def test_nothing_is_asked_after_the_deadline(engine) -> None:
    client = client_of(engine, None)
    clock = client.books.clock
    slow = RateLimiter(engine, {}, clock)
    slow.wait = lambda *args, **kwargs: clock.sleep(200)  # a turn that came too late
    client = replace(client, books=replace(client.books, limiter=slow))
    with pytest.raises(CallFailed, match="AttemptTimeout"):
        client.complete(ASK, model=SMALL)
    assert client.providers["local/"].requests == []
    assert books_of(client) == (0, 0, 0)


def test_cached_and_replayed_rows_count_no_tokens(engine, tmp_path: Path) -> None:
    client = client_of(engine, [answer()], recordings=Recordings(tmp_path / "r.jsonl", live=True))
    client.complete(ASK, model=SMALL)
    client = replace(client, recordings=Recordings(tmp_path / "r.jsonl"))
    client.complete(ASK, model=SMALL)
    assert client.books.ledger.frame().sort("status")["fresh_tokens"].to_list() == [100, 0]


def test_document_that_changes_while_the_model_answers_keeps_its_answer_out_of_the_cache(engine) -> None:
    cache = ResponseCache(engine)

    def change(request):
        cache.invalidate(source="doc1")
        return answer("of the old text")

    client = client_of(engine, change, cache=cache)
    use = CacheUse("tenant", sources=("doc1",))
    asked = {"model": SMALL, "use": use, "tenant_id": "acme"}
    assert [client.complete(ASK, **asked).source for _ in range(2)] == ["model", "model"]
    assert sum(cache.problems.values()) == 2
