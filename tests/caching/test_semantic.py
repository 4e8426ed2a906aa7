"""What the semantic cache serves, what it refuses, and for how long."""

import math
from dataclasses import replace

import numpy as np
import pytest
import sqlalchemy as sa

from tests.caching.caches import USE, WHO, Angles, StillClock, angle_cache, answer, ask, count, found, keep
from workbench.caching.cache import POLL_S, ResponseCache, SemanticCache
from workbench.caching.guard import Guard
from workbench.errors import ConfigError, ProviderError
from workbench.inference.messages import ToolCall
from workbench.state import open_engine


def test_a_near_question_is_served_with_everything_needed_to_see_why(engine):
    cache = angle_cache(engine)
    keep(cache, "angle 0", "the answer", cost_nanos=77)
    hit = cache.find(ask("angle 10"), WHO, USE)
    assert hit.response == answer("the answer")
    assert (hit.kind, hit.saved_nanos, hit.threshold) == ("semantic", 77, cache.threshold)
    assert hit.similarity == pytest.approx(math.cos(math.radians(10)), abs=1e-6)
    assert found(cache, "angle 30") is None
    same = cache.find(ask("  angle 0\n"), WHO, USE)
    assert (same.kind, same.similarity, same.entry_id) == ("exact", 1.0, hit.entry_id)
    assert hit.scope.startswith(hit.entry_id.partition(".")[0])


def test_a_hit_inserts_nothing_and_embeds_the_question_alone(engine):
    embedder = Angles()
    cache = angle_cache(engine, embedder=embedder)
    keep(cache, "angle 0")
    assert found(cache, "angle 1") == "answer to angle 0"
    assert count(engine) == 1
    assert embedder.seen == ["angle 0", "angle 1"], "the system prompt is never embedded, no text is embedded twice"


def test_the_nearest_entry_is_served_and_the_oldest_of_equals(engine):
    cache = angle_cache(engine)
    for text in ("angle 0", "angle 10", "other 10"):
        keep(cache, text)
    assert found(cache, "angle 9") == "answer to angle 10"


def test_a_second_answer_to_the_same_question_is_not_kept(engine):
    cache = angle_cache(engine)
    keep(cache, "angle 0", "first")
    keep(cache, " angle 0", "second")
    assert (found(cache, "angle 0"), count(engine)) == ("first", 1)


@pytest.mark.parametrize(("asked", "kept"), [("angle 0 is %m", "angle 0 is %M"), ("angle 0 ' '", "angle 0 '  '")])
def test_another_case_or_other_blanks_go_through_guard_and_verifier(engine, asked, kept):
    keep(angle_cache(engine), kept)
    assert angle_cache(engine).find(ask(asked), WHO, USE).kind == "semantic"
    assert found(angle_cache(engine, guard=Guard(signs=True)), asked) is None
    assert found(angle_cache(engine, verifier=lambda *_: False), asked) is None
    assert found(angle_cache(engine, guard=Guard(signs=True), verifier=lambda *_: False), kept)


@pytest.mark.parametrize(
    "response",
    [answer(""), answer(" "), answer("cut", finish_reason="length"), answer("x", tool_calls=(ToolCall("1", "f", ""),))],
)
def test_an_answer_that_is_not_whole_is_not_kept(engine, response):
    cache = angle_cache(engine)
    cache.keep(ask("angle 0"), response, WHO, USE, cost_nanos=1, since=cache.moment())
    assert count(engine) == 0


def test_an_answer_outlives_the_process(state_url):
    first = open_engine(state_url)
    keep(angle_cache(first), "angle 0 \x00 \U0001f525 ' ; --", "said \x00 \ud800")
    first.dispose()
    second = open_engine(state_url)
    assert found(angle_cache(second), "angle 5") == "said \x00 \ud800"
    second.dispose()


def test_an_entry_ends_at_its_age_and_can_then_be_kept_anew(engine):
    clock = StillClock()
    cache = angle_cache(engine, clock, ttl_s=300)
    keep(cache, "angle 0", "old")
    clock.sleep(299.9)
    assert found(cache, "angle 0") == found(cache, "angle 5") == "old"
    clock.sleep(0.1)
    assert found(cache, "angle 5") is None
    assert found(cache, "angle 0") is None
    keep(cache, "angle 0", "new")
    assert (found(cache, "angle 0"), found(cache, "angle 5"), count(engine)) == ("new", "new", 1)


def test_an_expired_entry_hides_no_other(engine):
    clock = StillClock()
    cache = angle_cache(engine, clock, ttl_s=300)
    keep(cache, "angle 0")
    clock.sleep(200)
    keep(cache, "angle 10")
    clock.sleep(150)
    assert found(cache, "angle 1") == "answer to angle 10"
    assert (cache.purge(), count(engine)) == (1, 1)


def test_what_is_too_old_goes_from_scopes_that_nobody_asks_any_more(engine):
    clock = StillClock()
    cache = angle_cache(engine, clock, ttl_s=300)
    keep(cache, "angle 0")
    clock.sleep(3600)
    keep(cache, "angle 0", who=replace(WHO, tenant_id="dune"))
    assert count(engine) == 1


def test_a_hundred_answers_that_went_at_once_cost_a_look_up_few_reads(engine):
    cache = angle_cache(engine)
    for i in range(100):
        keep(cache, f"angle {i / 100}", use=replace(USE, sources=("doc",)))
    angle_cache(engine).invalidate(source="doc")
    reads = []
    sa.event.listen(engine, "before_cursor_execute", lambda *arguments: reads.append(arguments[2]))
    assert found(cache, "angle 0.5") is None
    assert 2 < len([sql for sql in reads if sql.startswith("SELECT")]) < 10


def test_what_another_process_writes_is_seen_within_the_stated_time(engine):
    clock = StillClock()
    one, other = angle_cache(engine, clock), angle_cache(engine, clock)
    assert found(other, "angle 0") is None
    keep(one, "angle 0")
    clock.sleep(POLL_S)
    assert found(other, "angle 0") == "answer to angle 0"


def test_what_another_process_removed_is_never_served_not_even_within_that_time(engine):
    clock = StillClock()
    one, other = angle_cache(engine, clock), angle_cache(engine, clock)
    keep(one, "angle 0", use=replace(USE, sources=("doc",)))
    assert found(other, "angle 0")
    assert found(other, "angle 2")
    assert one.invalidate(source="doc") == 1
    assert found(other, "angle 0") is None
    assert found(other, "angle 2") is None


def test_a_changed_source_takes_its_answers_and_no_others(engine):
    cache, dune = angle_cache(engine), replace(WHO, tenant_id="dune")
    keep(cache, "angle 0", use=replace(USE, sources=("a", "b")))
    keep(cache, "angle 90", use=replace(USE, sources=("b",)))
    keep(cache, "angle 180", use=replace(USE, sources=("c\x00",)))
    keep(cache, "angle 0", who=dune, use=replace(USE, sources=("a",)))
    assert cache.invalidate(source="a", tenant_id="acme") == 1
    assert [found(cache, f"angle {a}") is not None for a in (0, 90, 180)] == [False, True, True]
    assert found(cache, "angle 0", who=dune)
    assert cache.invalidate(source="c\x00") == 1
    assert cache.invalidate(source="no such") == 0
    assert cache.invalidate(tenant_id="acme") == 1
    assert cache.invalidate(corpus_version="v1") == 1
    assert count(engine) == 0


CITED = replace(USE, sources=("doc", "other"))


@pytest.mark.parametrize(
    ("what", "kept"),
    [
        ({"source": "doc"}, False),
        ({"tenant_id": "acme"}, False),
        ({"corpus_version": "v1"}, False),
        ({"source": "other", "tenant_id": "acme", "corpus_version": "v1"}, False),
        ({"source": "d"}, True),
        ({"source": "doc", "tenant_id": "dune"}, True),
        ({"tenant_id": "acme", "corpus_version": "v2"}, True),
    ],
)
@pytest.mark.parametrize("kind", [angle_cache, lambda engine: ResponseCache(engine, clock=StillClock())])
def test_an_answer_is_not_kept_where_what_it_cites_was_invalidated_while_it_was_made(engine, what, kept, kind):
    cache = kind(engine)
    since = cache.moment()
    assert found(cache, "angle 0", use=CITED) is None
    assert kind(engine).invalidate(**what) == 0  # as another process would
    cache.keep(ask("angle 0"), answer("old"), WHO, CITED, cost_nanos=1, since=since)
    assert bool(found(cache, "angle 0", use=CITED)) is kept
    assert sum(cache.problems.values()) == (not kept)
    keep(cache, "angle 0", "new", use=CITED)
    assert found(cache, "angle 0", use=CITED) == ("old" if kept else "new")


def test_invalidations_are_forgotten_when_no_call_can_be_that_old(engine):
    clock = StillClock()
    cache = angle_cache(engine, clock)
    cache.invalidate(source="doc")
    clock.sleep(86_399)
    cache.invalidate(source="other")
    cache.purge()
    assert rows(engine, "wb_cache_invalidation") == 3
    clock.sleep(2)
    cache.purge()
    assert (rows(engine, "wb_cache_invalidation"), cache.moment()) == (2, 2)


def rows(engine, table):
    with engine.begin() as connection:
        return connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one()


SECRET = "sk-abcdefghijklmnop1234567890"


@pytest.mark.parametrize(
    ("asked", "said"),
    [(f"angle 0 with {SECRET}", "fine"), ("angle 0", f"your key is {SECRET}"), ("angle 0", "say hunter2hunter2")],
)
def test_what_would_be_redacted_is_not_kept(engine, monkeypatch, asked, said):
    monkeypatch.setenv("MY_PASSWORD", "hunter2hunter2")
    for cache in (angle_cache(engine), ResponseCache(engine)):
        keep(cache, asked, said)
        assert count(engine) == 0
        assert cache.problems == {"answer or question with a secret": 1}
        keep(cache, "angle 0", "no secret")
        assert count(engine) == 1
        cache.invalidate(tenant_id="acme")


def test_a_new_corpus_version_starts_empty(engine):
    cache = angle_cache(engine)
    keep(cache, "angle 0")
    assert found(cache, "angle 0", use=replace(USE, corpus_version="v2")) is None
    assert found(cache, "angle 0") is not None


def test_invalidating_nothing_in_particular_is_an_error(engine):
    with pytest.raises(ConfigError, match="name one"):
        angle_cache(engine).invalidate()


def test_the_least_recently_used_entry_goes_in_every_process(engine):
    clock = StillClock()
    one, other = (angle_cache(engine, clock, max_entries=3, degrees=5) for _ in range(2))
    for angle in (0, 20, 40):
        keep(one, f"angle {angle}")
    assert found(other, "angle 0")
    assert found(one, "angle 0")  # now 20 is the one that was not used for longest
    keep(one, "angle 60")
    for cache in (one, other):
        clock.sleep(POLL_S)
        assert [a for a in (0, 20, 40, 60) if found(cache, f"angle {a}")] == [0, 40, 60]
    assert count(engine) == 3
    assert len(other._index(next(iter(other._indices)))) == 3


def test_uses_in_a_process_that_never_writes_reach_the_others(engine):
    clock = StillClock()
    writer, reads = (angle_cache(engine, clock, max_entries=2, degrees=5) for _ in range(2))
    keep(writer, "angle 0")
    clock.sleep(1)
    keep(writer, "angle 20")
    for _ in range(3):
        clock.sleep(10)
        assert found(reads, "angle 0")
    keep(writer, "angle 40")
    assert [a for a in (0, 20, 40) if found(writer, f"angle {a}")] == [0, 40]


CORRUPT = {
    "vector cut off": ("UPDATE wb_cache SET vector = :v", np.ones(1, np.float32).tobytes(), "vector"),
    "vector of another length": ("UPDATE wb_cache SET vector = :v", np.array([3, 4], np.float32).tobytes(), "vector"),
    "vector not a number": ("UPDATE wb_cache SET vector = :v", np.array([np.nan, 1], np.float32).tobytes(), "vector"),
    "vector turned": ("UPDATE wb_cache SET vector = :v", np.array([1, 0], np.float32).tobytes(), "hash"),
    "answer no JSON": ("UPDATE wb_cache SET payload = :v", '{"intent": ', "read"),
    "answer of another form": ("UPDATE wb_cache SET payload = :v", '{"intent": "angle 1", "response": 1}', "read"),
    "answer changed": ("UPDATE wb_cache SET payload = replace(payload, 'answer', :v)", "poison", "hash"),
    "younger than it is": ("UPDATE wb_cache SET created_us = created_us + :v", 1, "hash"),
    "of another scope": ("UPDATE wb_cache SET scope = :v", None, "hash"),
}


@pytest.mark.parametrize("warm", [False, True], ids=["read from disk", "in memory"])
@pytest.mark.parametrize("damage", CORRUPT)
def test_a_corrupt_row_is_dropped_and_reported_and_never_served(engine, damage, warm):
    cache = angle_cache(engine)
    keep(cache, "angle 1")
    other = replace(WHO, tenant_id="dune")
    if damage == "of another scope":
        keep(cache, "angle 90", who=other)
    sql, value, reason = CORRUPT[damage]
    with engine.begin() as connection:
        if damage == "of another scope":
            scopes = dict(connection.execute(sa.text("SELECT tenant_id, scope FROM wb_cache_scope")).all())
            connection.execute(sa.text("DELETE FROM wb_cache WHERE scope = :s"), {"s": scopes['"dune"']})
            value = scopes['"dune"']
        connection.execute(sa.text(sql), {"v": value})
    cache = cache if warm else angle_cache(engine)
    for text in ("angle 1", "angle 2"):
        for who in (WHO, other):
            assert found(cache, text, who=who) is None
    in_memory = warm and damage == "of another scope"  # that process has no such row in its index
    assert count(engine) == (1 if in_memory else 0)
    if not in_memory:
        (said,) = cache.problems
        assert ("hash" if warm and reason == "vector" else reason) in said
        assert cache.problems[said] == 1


def test_a_corrupt_entry_hides_no_other(engine):
    cache = angle_cache(engine)
    keep(cache, "angle 0")
    keep(cache, "angle 10")
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE wb_cache SET sha256 = 'x' WHERE version = 1"))
    assert found(cache, "angle 1") == "answer to angle 10"


def test_the_guard_has_the_last_word_and_the_second_nearest_is_not_asked(engine):
    cache = angle_cache(engine, guard=Guard(numbers=False))
    keep(cache, "turn wifi on 0")
    keep(cache, "set 10")
    assert found(cache, "turn wifi off 1") is None
    assert found(cache, "set 9") == "answer to set 10"


def test_the_verifier_is_asked_last_and_only_true_is_agreement(engine):
    asked = []

    def agree(*what):
        asked.append(what)
        return np.bool_(True)

    keep(angle_cache(engine), "angle 0")
    cache = angle_cache(engine, verifier=agree)
    assert found(cache, "angle 1")
    assert found(cache, "angle 40") is None
    assert asked == [("angle 1", "angle 0", answer("answer to angle 0"))]


@pytest.mark.parametrize("doubt", [False, None, "yes", 1, [True]])
def test_a_verifier_that_says_anything_else_is_a_miss(engine, doubt):
    cache = angle_cache(engine, verifier=lambda *_: doubt)
    keep(cache, "angle 0")
    assert found(cache, "angle 1") is None


def test_a_verifier_that_fails_is_a_miss_and_is_reported(engine):
    def fails(*_):
        raise ZeroDivisionError

    cache = angle_cache(engine, verifier=fails)
    keep(cache, "angle 0")
    assert found(cache, "angle 1") is None
    assert cache.problems == {"verifier that failed": 1}


class Failing(Angles):
    def embed(self, texts):
        raise ProviderError("no answer")


class Long(Angles):
    def embed(self, texts):
        return 2 * super().embed(texts)


@pytest.mark.parametrize("embedder", [Failing(), Long()])
def test_an_encoder_that_fails_is_a_miss_and_keeps_nothing(engine, embedder):
    keep(angle_cache(engine), "angle 0")
    cache = angle_cache(engine, embedder=embedder)
    assert found(cache, "angle 1") is None
    keep(cache, "angle 90")
    assert count(engine) == 1
    assert cache.problems == {"embedding that failed": 2}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threshold": 0.0}, r"\(0, 1\]"),
        ({"threshold": 1.2}, "1.2"),
        ({"threshold": math.nan}, "nan"),
        ({"ttl_s": 0.0}, "ttl_s > 0"),
        ({"max_entries": 0}, "max_entries >= 1"),
    ],
)
def test_a_setting_that_cannot_be_used_is_an_error(engine, options, said):
    with pytest.raises(ConfigError, match=said):
        SemanticCache(engine, **{"embedder": Angles(), "threshold": 0.9, **options})
