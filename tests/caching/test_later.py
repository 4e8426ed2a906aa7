"""A verifier off the path: what it agrees to is promoted, in its scope, for all processes; what goes wrong is not."""

import math
import threading
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import sqlalchemy as sa

from tests.caching.caches import USE, WHO, StillClock, angle_cache, answer, ask, count, found, keep
from workbench.caching import guard
from workbench.caching.guard import Guard, make_guard
from workbench.caching.later import NO_PLACE, NOT_YET, REFUSED
from workbench.caching.verifiers import Later, ModelVerifier, Verdict, VerifierUsed
from workbench.errors import ConfigError, ProviderError
from workbench.inference.attempt import Books
from workbench.inference.budgets import Budget, Budgets
from workbench.inference.client import Client
from workbench.inference.messages import Response, Usage
from workbench.inference.prices import load_prices
from workbench.state import open_engine
from workbench.telemetry.ledger import Ledger
from workbench.telemetry.spans import Tracing
from workbench.telemetry.traces import load_trace
from workbench.testing import FakeClock, ScriptedModel

FLOOR = math.cos(math.radians(60))
YES = Verdict(True, 0.9)
ROOT, GREY, NEAR_GREY, ELSE = "at 10 degrees", "at 45 degrees", "at 60 degrees", "at 170 degrees"
OTHER = replace(WHO, tenant_id="other")


@dataclass
class Saying:
    """A verifier that says what it is told, and what it was asked."""

    said: object = YES
    asked: list = field(default_factory=list)
    used: VerifierUsed = VerifierUsed("saying", 0.5, "", 0.0)

    def check(self, pairs):
        self.asked += pairs
        if isinstance(self.said, Exception):
            raise self.said
        return [self.said] * len(pairs)


def later_cache(engine, verifier=None, clock=None, **options):
    verifier = Saying() if verifier is None else verifier
    return angle_cache(engine, clock, verifier=verifier, **{"later": Later(FLOOR), **options})


def miss(cache, text, **who):
    """Ask as a client does: a miss is answered, and the answer kept."""
    since = cache.moment()
    assert found(cache, text, **who) is None
    keep(cache, text, since=since, **who)


def test_a_grey_question_is_a_miss_now_and_answered_by_the_earlier_answer_once_the_verifier_agreed(engine):
    cache = later_cache(engine)
    keep(cache, ROOT)
    miss(cache, GREY)
    assert cache.miss_reason == NOT_YET
    assert cache._verifier.asked == []
    assert found(cache, GREY) == f"answer to {GREY}"
    assert (cache.verify_pending(), cache._verifier.asked) == (1, [(GREY, ROOT)])
    hit = cache.find(ask(GREY), WHO, USE)
    assert (hit.response.text, hit.kind) == (f"answer to {ROOT}", "promoted")
    assert hit.similarity == pytest.approx(math.cos(math.radians(35)), abs=1e-6)
    assert count(engine) == 2, "the answer of its own is gone"
    near = cache.find(ask(NEAR_GREY), WHO, USE)
    assert (near.response.text, near.kind) == (f"answer to {ROOT}", "semantic")
    assert found(cache, ELSE) is None


def test_a_text_whose_answer_was_not_kept_is_promoted_too_and_asked_about_once(engine):
    cache = later_cache(engine)
    keep(cache, ROOT)
    assert found(cache, GREY) is None
    assert found(cache, GREY) is None
    assert cache.verify_pending() == 1
    assert found(cache, GREY) == f"answer to {ROOT}"
    assert len(cache._verifier.asked) == 1


def test_what_is_near_a_promoted_text_is_compared_with_the_text_that_was_answered(engine):
    cache = later_cache(engine)
    keep(cache, ROOT)
    miss(cache, GREY)
    cache.verify_pending()
    miss(cache, "at 75 degrees")
    assert cache.verify_pending() == 1
    assert cache._verifier.asked[-1] == ("at 75 degrees", ROOT)
    assert found(cache, "at 75 degrees") == f"answer to {ROOT}"


@dataclass(frozen=True)
class Forbids:
    """A guard that lets nothing pass between two texts."""

    pair: frozenset = frozenset()

    def allows(self, asked, cached):
        return {asked, cached} != set(self.pair)


def test_guards_decide_at_once_and_before_the_verifier_also_where_a_promoted_text_is_near(engine):
    before = Forbids(frozenset({ROOT, NEAR_GREY}))
    cache = later_cache(engine, guard=Forbids(frozenset({ROOT, "at 12 degrees"})), later=Later(FLOOR, before))
    keep(cache, ROOT)
    assert found(cache, "at 12 degrees") is None
    assert cache.miss_reason == NOT_YET, "near enough, but stopped by the guard that decides at once"
    miss(cache, GREY)
    assert cache.verify_pending() == 2
    assert found(cache, "at 12 degrees") == f"answer to {ROOT}"
    assert found(cache, NEAR_GREY) is None
    assert cache.miss_reason == "guard"
    assert cache.verify_pending() == 0


@pytest.mark.parametrize(
    "said",
    [Verdict(False, 0.1, "probability 0.10 under 0.50"), Verdict(False, None, "no probability"), OSError("down"),
     "no verdict"],
)  # fmt: skip
def test_nothing_is_promoted_where_the_verifier_does_not_agree(engine, said):
    cache = later_cache(engine, Saying(said))
    keep(cache, ROOT)
    assert found(cache, GREY) is None
    assert cache.verify_pending() == 0
    assert found(cache, GREY) is None
    failed = not isinstance(said, Verdict)
    assert cache.miss_reason == (NOT_YET if failed else REFUSED), "what failed is asked again, a no is not"
    assert cache.problems["verifier that failed"] == failed


def test_a_queue_that_is_full_takes_nothing_more_and_counts_it(engine):
    cache = later_cache(engine)
    cache._waiting._most = 1
    keep(cache, ROOT)
    assert found(cache, GREY) is None
    assert found(cache, "at 44 degrees") is None
    assert cache.miss_reason == NO_PLACE
    assert cache.problems["check that found no place"] == 1
    assert cache.verify_pending() == 1
    assert cache._verifier.asked == [(GREY, ROOT)]


def test_a_process_that_ends_promotes_nothing_and_the_next_one_serves_what_was_promoted(state_url):
    engine = open_engine(state_url)
    first = later_cache(engine)
    keep(first, ROOT)
    miss(first, GREY)
    miss(first, "at 200 degrees")
    first.verify_pending()
    miss(first, "at 235 degrees")
    engine.dispose()
    engine = open_engine(state_url)
    second = later_cache(engine)
    assert second.verify_pending() == 0
    assert found(second, GREY) == f"answer to {ROOT}"
    assert found(second, "at 235 degrees") == "answer to at 235 degrees"
    engine.dispose()


def test_another_process_serves_the_promotion_while_both_are_open(engine):
    clock = StillClock()
    first, second = later_cache(engine, clock=clock), later_cache(engine, clock=clock)
    keep(first, ROOT)
    miss(first, GREY)
    assert found(second, GREY) == f"answer to {GREY}"
    first.verify_pending()
    clock.sleep(1)
    assert found(second, GREY) == f"answer to {ROOT}"


@pytest.mark.parametrize("options", [
    {"verifier": Saying(used=VerifierUsed("other", 0.5, "", 0.0))}, {"later": Later(FLOOR, Guard())},
    {"later": Later(FLOOR + 0.01)}, {"later": None, "verifier": None},
])  # fmt: skip
def test_a_cache_of_another_setting_does_not_serve_what_was_promoted_under_this_one(engine, options):
    cache = later_cache(engine)
    keep(cache, ROOT)
    miss(cache, GREY)
    cache.verify_pending()
    other = later_cache(engine, **options)
    assert found(other, GREY) is None
    assert other.problems["promotion under another setting"] == 1
    keep(other, GREY)
    assert found(other, GREY) == f"answer to {GREY}"


@pytest.mark.parametrize(("before", "served"), [(None, ROOT), (make_guard(["negation"]), None)])
def test_what_other_rules_of_the_guard_let_before_the_verifier_is_not_served(engine, monkeypatch, before, served):
    cache = later_cache(engine, later=Later(FLOOR, before))
    keep(cache, ROOT)
    miss(cache, GREY)
    assert cache.verify_pending() == 1
    monkeypatch.setattr(guard, "RULES", guard.RULES + 1)
    assert found(later_cache(engine, later=Later(FLOOR, before)), GREY) == (served and f"answer to {served}")


def test_no_tenant_gets_what_was_promoted_for_another(engine):
    cache = later_cache(engine)
    for who in (WHO, OTHER):
        keep(cache, ROOT, f"of {who.tenant_id}", who=who)
    miss(cache, GREY)
    assert found(cache, GREY, who=OTHER) is None
    assert cache.verify_pending() == 2
    assert (found(cache, GREY), found(cache, GREY, who=OTHER)) == ("of acme", "of other")
    third = replace(WHO, tenant_id="third")
    assert found(cache, GREY, who=third) is None
    assert (cache.miss_reason, cache.verify_pending()) == ("", 0)


def replaced(cache, clock):
    cache.invalidate(source="doc")
    keep(cache, ROOT, "the new answer")


def expired(cache, clock):
    clock.sleep(101)


def evicted(cache, clock):
    for text in ("at 170 degrees", "at 175 degrees", "at 180 degrees"):
        keep(cache, text)


def corrupt(cache, clock):
    with cache._entries._engine.begin() as connection:
        connection.execute(sa.text("UPDATE wb_cache SET sha256 = 'x' WHERE version = 1"))


@pytest.mark.parametrize("change", [replaced, expired, evicted, corrupt])
@pytest.mark.parametrize("when", ["before the verdict", "while the verifier is at work", "afterwards"])
def test_nothing_is_answered_by_an_entry_that_was_replaced_dropped_or_is_too_old(engine, change, when):
    clock = StillClock()
    cache = later_cache(engine, clock=clock, ttl_s=100, max_entries=3)
    keep(cache, ROOT, "the old answer", use=replace(USE, sources=("doc",)))
    assert found(cache, GREY) is None
    if when == "before the verdict":
        change(cache, clock)
    if when == "while the verifier is at work":
        check = cache._verifier.check
        cache._verifier.check = lambda pairs: (change(cache, clock), check(pairs))[1]
    assert cache.verify_pending() == (when == "afterwards")
    if when == "afterwards":
        assert found(cache, GREY) == "the old answer"
        if change is corrupt:  # of the copy: each row has its own hash
            with engine.begin() as connection:
                connection.execute(sa.text("UPDATE wb_cache SET sha256 = 'x'"))
        elif change is evicted:
            cache.invalidate(source="doc")
        else:
            change(cache, clock)
    assert found(cache, GREY) is None


def test_an_invalidation_drops_what_is_promoted_after_it_looked_and_before_it_dropped(engine):
    if engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer: nothing comes in between")
    first, second = later_cache(engine), later_cache(engine)
    keep(first, ROOT, use=replace(USE, sources=("doc",)))
    assert found(second, GREY) is None
    advance = first._entries._advance

    def late(*args):
        first._entries._advance = advance
        assert second.verify_pending() == 1
        return advance(*args)

    first._entries._advance = late
    assert first.invalidate(source="doc") == 2
    assert count(engine) == 0
    assert found(second, GREY) is None


def test_an_entry_that_serves_promoted_texts_counts_as_used(engine):
    cache = later_cache(engine, max_entries=3)
    keep(cache, ROOT)
    miss(cache, GREY)
    cache.verify_pending()
    keep(cache, ELSE)
    assert found(cache, GREY) == f"answer to {ROOT}"
    keep(cache, "at 250 degrees")
    assert found(cache, ELSE) is None, "the least recently used one went"
    assert found(cache, GREY) == f"answer to {ROOT}"


def test_a_question_with_a_secret_is_not_promoted(engine):
    cache = later_cache(engine)
    keep(cache, ROOT)
    secret = f"{GREY} with key sk-{'a1B2' * 12}"
    assert found(cache, secret) is None
    assert cache.verify_pending() == 0
    assert count(engine) == 1


def test_requests_are_served_while_the_verifier_is_at_work(engine):
    begun, go = threading.Event(), threading.Event()
    verifier = Saying()
    check = verifier.check

    def slow(pairs):
        begun.set()
        assert go.wait(30)
        return check(pairs)

    verifier.check = slow
    cache = later_cache(engine, verifier)
    keep(cache, ROOT)
    with cache.verifying(every_s=0.01):
        miss(cache, GREY)
        assert begun.wait(30)
        served = []
        threads = [threading.Thread(target=lambda: served.append(found(cache, GREY))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert served == [f"answer to {GREY}"] * 8
        miss(cache, ELSE)
        go.set()
        for _ in range(3000):
            if found(cache, GREY) == f"answer to {ROOT}":
                break
            threading.Event().wait(0.01)
    assert found(cache, GREY) == f"answer to {ROOT}"
    assert verifier.asked == [(GREY, ROOT)]
    assert not [t for t in threading.enumerate() if t.name == "cache verifier"]


def test_two_threads_that_verify_ask_about_each_pair_once(engine):
    cache = later_cache(engine)
    keep(cache, ROOT)
    texts = [f"at {40 + i / 10:.1f} degrees" for i in range(20)]
    for text in texts:
        assert found(cache, text) is None
    threads = [threading.Thread(target=cache.verify_pending) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(cache._verifier.asked) == [(text, ROOT) for text in texts]
    assert {found(cache, text) for text in texts} == {f"answer to {ROOT}"}


@pytest.fixture
def client(engine):
    clock = FakeClock()
    budgets = Budgets(engine, [Budget(1e-9, "total", only={"tenant_id": "other"}), Budget(1, "total")], clock)
    books = Books(load_prices(), budgets, Ledger(engine), None, Tracing(engine), clock)
    return Client({"local/": ScriptedModel()}, books)


def test_checks_are_paid_by_who_asked_as_a_judge_and_a_spent_budget_promotes_nothing(engine, client):
    client.providers["local/"].script = [Response("yes", "m", Usage(40, output=1), confidence=0.97)]
    cache = later_cache(engine, ModelVerifier(client, "local/smollm2-135m"))
    for who in (OTHER, WHO):
        keep(cache, ROOT, who=who)
        miss(cache, GREY, who=who)
    assert cache.verify_pending() == 1
    assert found(cache, GREY) == f"answer to {ROOT}"
    assert found(cache, GREY, who=OTHER) == f"answer to {GREY}"
    rows = client.books.ledger.frame().filter(client.books.ledger.frame()["status"] == "ok")
    assert rows.select("tenant_id", "purpose", "feature").rows() == [(WHO.tenant_id, "judge", WHO.feature)]


def test_a_client_is_served_what_was_promoted_and_its_span_says_why_it_was_a_miss_before(engine, client):
    client.providers["local/"].script = lambda request: f"answer to {request.messages[-1]['content']}"
    cache = later_cache(engine)
    asking = replace(client, cache=cache)
    who = {"tenant_id": WHO.tenant_id, "user_id": WHO.user_id, "feature": WHO.feature}
    root, grey, again = (
        (asking.complete(ask(text).messages, model="local/smollm2-135m", use=USE, **who), cache.verify_pending())[0]
        for text in (ROOT, GREY, GREY)
    )
    assert [each.source for each in (root, grey, again)] == ["model", "model", "cache"]
    assert (grey.text, again.text) == (f"answer to {GREY}", f"answer to {ROOT}")
    client.books.tracing.flush()
    assert load_trace(engine, grey.trace_id).rows[0].attributes["wb.cache.reason"] == NOT_YET
    told = [row.attributes.get("wb.cache.kind") for row in load_trace(engine, again.trace_id).rows]
    assert (again.hit.kind, "promoted" in told) == ("promoted", True)


def test_a_database_that_fails_loses_a_check_and_no_more(engine):
    cache = later_cache(engine)
    keep(cache, ROOT)
    for text in (GREY, "at 44 degrees"):
        assert found(cache, text) is None
    promote, failing = cache._entries.promote, [True]

    def once(*args, **kwargs):
        if failing.pop() if failing else False:
            raise ProviderError("gone for a moment")
        return promote(*args, **kwargs)

    cache._entries.promote = once
    assert cache.verify_pending() == 1
    assert cache.problems["check that was lost"] == 1
    assert (found(cache, GREY), cache.miss_reason) == (f"answer to {ROOT}", "")


@pytest.mark.parametrize("given", [{"verifier": None}, {"later": Later(0.0)}, {"later": Later(1.1)}])
def test_what_cannot_be_asked_later_is_refused(engine, given):
    with suppress(KeyError), pytest.raises(ConfigError, match="asked later"):
        angle_cache(engine, **{"verifier": Saying(), "later": Later(FLOOR), **given})


def test_answers_of_old_rows_are_read_as_before(engine):
    cache = later_cache(engine)
    keep(cache, ROOT)
    entry = cache._entries.read(next(iter(cache._indices)), version=1)
    assert (entry.promoted, entry.root, entry.answers) == (None, 1, ROOT)
    assert np.isfinite(entry.created_us)
    assert answer("x").text == "x"
