"""The replay of a verifier off the path equals a cache written down plainly, and the one that serves."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.caching.test_notebook import DIFFER, judge, open_bench, word, write_stream
from tests.caching.test_replay_equality import Known, served
from tests.caching.test_stream_replay import random_stream
from tests.evalset.small_evalset import settings_in
from workbench.caching.cache import SemanticCache
from workbench.caching.guard import Guard
from workbench.caching.stream_replay import kept_stream_blocks, replay_stream
from workbench.caching.verifiers import CallableVerifier, Checks, Later, LaterChecks
from workbench.state import open_engine

GUARDS = (None, Guard())


def shares_a_word(asked, cached):
    return asked.split()[0] == cached.split()[0]


def never(asked, cached):
    return False


def later_checks(floor=0.3, guard=None, before=None, say=shares_a_word):
    return LaterChecks(guard, Checks(before, CallableVerifier("own", say)), floor)


def plain_later(stream, vectors, threshold, way, fills):
    """The same cache, one request at a time, with a dict of texts a tenant; whose answer each of them holds."""
    entries, served_by, checked, judged = {}, [], [], set()
    for i, (text, tenant) in enumerate(zip(stream.queries, stream.tenants, strict=True)):
        mine = entries.setdefault(tenant, {})
        served_by.append(-1)
        checked.append(False)
        if text.strip() in mine:
            served_by[-1] = mine[text.strip()][1]
            continue
        near = max(mine.values(), key=lambda e: (vectors[i] @ vectors[e[0]], -e[0]), default=None)
        root = i
        if near is not None:
            cached, holder = near
            cosine = vectors[i] @ vectors[cached]
            words, answered = stream.queries[cached], stream.queries[holder]
            direct = way.allows(text, words) and (cached == holder or way.checks.asks(text, answered))
            if cosine >= threshold and direct:
                served_by[-1] = holder
                continue
            if cosine >= way.floor and (tenant, text.strip(), holder) not in judged:
                judged.add((tenant, text.strip(), holder))
                checked[-1] = way.checks.asks(text, answered)
                root = holder if way.checks.allows(text, answered) else i
        if i < fills or root != i:
            mine[text.strip()] = (i, root)
    return served_by, checked


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000), threshold=st.sampled_from([0.5, 0.7, 0.9]), floor=st.sampled_from([0.2, 0.5, 0.8]),
    guards=st.tuples(st.sampled_from(GUARDS), st.sampled_from(GUARDS)), fills=st.sampled_from([0, 30, 120]),
)  # fmt: skip
def test_replay_equals_a_plain_cache_that_promotes(seed, threshold, floor, guards, fills):
    stream, vectors = random_stream(120, seed)
    vectors = noisy(stream, vectors)
    way = later_checks(floor, *guards)
    found = replay_stream(stream, vectors, threshold=threshold, guard=way, fills=fills)
    matched, checked = plain_later(stream, vectors, threshold, way, fills)
    assert found.matched.tolist() == matched
    assert found.checked.tolist() == checked


def noisy(stream, vectors):
    """The same words in another order are no exact tie, which the rounding of a matrix product would decide."""
    texts = sorted(set(stream.queries))
    noise = dict(zip(texts, 1e-3 * np.random.default_rng(0).standard_normal((len(texts), 32)), strict=True))
    vectors = vectors + np.array([noise[query] for query in stream.queries], np.float32)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("way", [later_checks(), later_checks().checks], ids=["later", "in line"])
def test_replays_on_kept_cosines_are_the_same_with_a_verifier(way):
    stream, vectors = random_stream(300)
    one, other = (
        replay_stream(stream, vectors, threshold=0.7, guard=way, blocks=b)
        for b in (None, kept_stream_blocks(stream, vectors))
    )
    assert one.checked.any()
    for name in ("hit", "exact", "matched", "similarity", "checked"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert (one.entries, one.promoted) == (other.entries, other.promoted)


@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize(("threshold", "floor"), [(0.9, 0.4), (0.7, 0.7), (0.6, 0.8)])
def test_the_cache_serves_as_replayed_where_the_verifier_answers_before_the_next_request(
    tmp_path, threshold, floor, guard
):
    stream, vectors = random_stream(300, tenants=2)
    vectors = noisy(stream, vectors)
    way = later_checks(floor, guard)
    engine = open_engine(f"sqlite:///{tmp_path}/state.sqlite")
    cache = SemanticCache(engine, embedder=Known("random", stream.queries, vectors), threshold=threshold, guard=guard,
                          verifier=way.checks.verifier, later=Later(floor))  # fmt: skip
    keep = cache.keep

    def keep_and_verify(*args, **kwargs):
        keep(*args, **kwargs)
        cache.verify_pending()

    cache.keep = keep_and_verify
    expected = replay_stream(stream, vectors, threshold=threshold, guard=way)
    matched, exact = served(stream, cache)
    assert (expected.promoted > 0) == (threshold > floor or guard is not None)
    assert (matched != expected.matched).sum() == 0
    assert (exact != expected.exact).sum() == 0
    engine.dispose()


@pytest.mark.parametrize("say", [shares_a_word, never])
def test_where_misses_are_kept_it_adds_no_hit_and_where_nothing_is_promoted_it_changes_nothing(say):
    stream, vectors = random_stream(400)
    vectors = noisy(stream, vectors)
    plain = replay_stream(stream, vectors, threshold=0.8)
    later = replay_stream(stream, vectors, threshold=0.8, guard=later_checks(0.3, say=say))
    assert (plain.hit == later.hit).all()
    assert (later.promoted > 0) == (say is shares_a_word)
    assert (plain.matched == later.matched).all() == (say is never)
    curated = [replay_stream(stream, vectors, threshold=0.8, guard=way, fills=100).hit.sum()
               for way in (None, later_checks(0.3, say=say))]  # fmt: skip
    assert (curated[1] > curated[0]) == (say is shares_a_word)


def test_repeats_of_a_promoted_text_are_no_exact_ones_and_carry_the_cosine_of_the_link():
    stream, _ = random_stream(2, tenants=1)
    texts = (stream.queries[0], "another " + stream.queries[0], "another " + stream.queries[0])
    made = replace(stream, queries=texts, tenants=("t0",) * 3, clusters=("c",) * 3, answer_keys=("1", "1", "2"),
                   answers=np.array([1, 1, 2]), features=(), turns=())  # fmt: skip
    near = np.array([[1, 0], [0.6, 0.8], [0.6, 0.8]], np.float32)
    found = replay_stream(made, near, threshold=0.9, guard=later_checks(0.5, say=lambda asked, cached: True))
    assert found.hit.tolist() == [False, False, True]
    assert found.matched.tolist() == [-1, -1, 0]
    assert found.similarity[2] == pytest.approx(0.6)
    assert (found.exact.tolist(), found.false.tolist()) == ([False] * 3, [False, False, True])
    assert (found.entries, found.promoted, found.checked.tolist()) == (2, 1, [False, True, False])


OWN = """
def same(a, b):
    return a.split()[0][:2] == b.split()[0][:2]

def all_the_same(a, b):
    return True
"""


def write_phrasings(folder):
    """Requests of 45 intents, each in four phrasings whose other words those of other intents have too."""
    rng, rows = np.random.default_rng(0), []
    fillers = [word(i, "z") for i in range(9)]
    phrasings = [[rng.choice(fillers, 3, replace=False) for _ in range(4)] for _ in range(45)]
    for pos in range(1600):
        intent = int(rng.integers(45))
        text = " ".join([word(intent, "a"), word(intent, "b"), *phrasings[intent][rng.integers(4)]])
        rows.append((pos, text, f"a{intent}", f"t{pos % 2}", f"c{intent}"))
    columns = ["pos", "query", "answer_key", "tenant_id", "cluster"]
    pl.DataFrame(rows, schema=columns, orient="row").write_parquet(folder / "stream.parquet")


def project(root, pairs, **given):
    where = settings_in(root)
    write_stream(where.evalsets / "tiny", pairs=pairs, alpha=0.15)
    write_phrasings(where.evalsets / "tiny")
    (where.root / "my_later_model.py").write_text(OWN, encoding="utf-8")
    run = open_bench(root, **given)
    return run, *judge(run)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    names = ["my_later_model:same@0.5", "later:my_later_model:same@0.5"]
    return project(tmp_path_factory.mktemp("project"), DIFFER, verifiers=names)


def by_name(replayed, name):
    return next(r for r in replayed.results if r.arm.asked == name)


def test_an_arm_that_verifies_later_stands_beside_the_one_in_line(bench):
    run, decision, replayed, semantic = bench
    later, line = (by_name(replayed, f"{when}my_later_model:same") for when in ("later:", ""))
    assert later.certificate.certified
    assert later.arm.later.floor == pytest.approx(run.study.lowest(semantic.ways[line.arm.way], semantic))
    claim = decision.claim(later.arm.name)
    assert claim.parameters["later"] == {"kind": "Later", "floor": later.arm.later.floor,
                                         "guard": line.arm.guard and claim.parameters["guard"]}  # fmt: skip
    guard_alone = next(r for r in replayed.results if r.arm.guard and not r.arm.verifier)
    assert later.hit_rate == pytest.approx(guard_alone.hit_rate, abs=0.01)
    assert guard_alone.hit_rate < line.hit_rate
    assert 0 < later.check_rate < line.check_rate
    rows = {row[0]: row for row in run.verifiers(replayed).rows}
    assert (rows[later.arm.name][1], rows[line.arm.name][1]) == ("later", "in line")
    assert rows[later.arm.name][-1] == later.others_rate > guard_alone.others_rate


def test_the_claim_counts_what_was_promoted(bench):
    run, _, replayed, semantic = bench
    arm = by_name(replayed, "later:my_later_model:same").arm
    way = semantic.ways[arm.way]
    walked = run.study.walk(way, arm.threshold, semantic)
    part = run.study.parts["test"]
    own = walked.hit[part] & ~walked.exact[part]
    repeats = replay_stream(run.study.stream, None).hit[part]
    assert (own & repeats).any(), "repeats of a promoted text"
    scored = replayed.scores.filter(pl.col("arm") == arm.name)
    assert scored.height == own.sum()
    assert scored["value"].sum() == (walked.false[part] & own).sum()


def turned(pair):
    """A pair in the same words, which the encoder of these tests does not tell apart."""
    return replace(pair, query_b=" ".join(reversed(pair.query_a.split())))


@pytest.mark.parametrize("pairs", [DIFFER, list(map(turned, DIFFER))], ids=["near", "alike"])
def test_the_grey_zone_begins_above_pairs_of_dev_that_must_differ_and_without_one_it_is_refused_in_words(
    tmp_path, pairs
):
    run, decision, replayed, semantic = project(
        tmp_path, pairs, guard=[], verifiers=["later:my_later_model:all_the_same@0"]
    )
    found = by_name(replayed, "later:my_later_model:all_the_same")
    dev = max(s for s, p in zip(semantic.pair_similarity, run.study.pairs, strict=True) if p.split == "dev")
    if pairs is DIFFER:
        assert dev < found.arm.later.floor < dev + 0.0026
    else:
        assert not found.certificate.certified
        assert found.certificate.note == "must-differ pairs are served at every threshold"
        assert decision.claim(found.arm.name).status in ("inconclusive", "broken", "identical")


def test_test_pairs_that_would_be_promoted_count_as_served(bench):
    run, _, _, semantic = bench
    differ = np.array([p.split == "test" and not p.same_answer for p in run.study.pairs])
    near = replace(semantic, pair_similarity=np.full(len(run.study.pairs), 0.6))
    for floor, say, served_pairs in ((0.5, True, 3), (0.7, True, 0), (0.5, False, 0)):
        way = LaterChecks(run.guard, Checks(None, CallableVerifier("own", lambda a, b, say=say: say)), floor)
        ((close, passed),) = run.study.pairs_let(way, near, [0.9])
        assert (passed & differ).sum() == served_pairs
        assert close.all() == (floor == 0.5)
