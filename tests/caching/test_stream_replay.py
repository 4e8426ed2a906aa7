"""Replays equal a cache that is written down plainly, and never serve across tenants."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.caching import stream_replay as module
from workbench.caching.guard import Guard
from workbench.caching.stream_replay import oracle_stream_hits, replay_stream, shadow_hits
from workbench.evalset.traffic import RequestStream
from workbench.testing import HashEmbedder

WORDS = ("reset", "password", "invoice", "card", "team", "member", "add", "remove", "plan", "not")


def stream_of(texts, answers, tenants=None):
    n = len(texts)
    frame = pl.DataFrame(
        {"pos": range(n), "query": texts, "answer_key": [str(a) for a in answers],
         "tenant_id": tenants or ["t"] * n, "cluster": [str(a) for a in answers]}
    )  # fmt: skip
    return RequestStream.of(frame)


def random_stream(n=120, seed=0, tenants=3):
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, rng.integers(2, 5))) for _ in range(n)]
    made = stream_of(texts, rng.integers(0, 6, n), [f"t{i}" for i in rng.integers(0, tenants, n)])
    return made, HashEmbedder(32).embed(texts)


def plain_cache(stream, vectors, threshold, guard=None):
    """The same cache, one request at a time, with a list of entries a tenant."""
    entries, out = {}, []
    for i in range(len(stream)):
        mine = entries.setdefault(stream.tenants[i], [])
        same = [j for j in mine if stream.queries[j].strip() == stream.queries[i].strip()]
        near = max(mine, key=lambda j: (vectors[i] @ vectors[j], -j), default=None)
        fits = near is not None and vectors[i] @ vectors[near] >= threshold
        if same:
            out.append(same[0])
        elif fits and (guard is None or guard.allows(stream.queries[i], stream.queries[near])):
            out.append(near)
        else:
            mine.append(i)
            out.append(-1)
    return np.array(out)


def test_replays_on_kept_cosines_are_the_same_and_large_ones_are_not_kept(monkeypatch):
    stream, vectors = random_stream(n=300)
    blocks = module.kept_stream_blocks(stream, vectors)
    for threshold in (0.55, 0.9, 0.7, 2.0):
        one, other = (
            replay_stream(stream, vectors, threshold=threshold, guard=Guard(), blocks=b) for b in (None, blocks)
        )
        for field in ("hit", "exact", "false", "matched", "similarity"):
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
        assert one.entries == other.entries
    held = sum(block.nbytes for _, _, block in blocks)
    monkeypatch.setattr(module, "BLOCK_BYTES", held - 1)
    assert module.kept_stream_blocks(stream, vectors) is None


@pytest.mark.parametrize("guard", [None, Guard()])
@pytest.mark.parametrize("threshold", [0.55, 0.725, 0.9, 2.0])
def test_true_replay_equals_a_plain_cache(threshold, guard):
    stream, vectors = random_stream()
    found, plain = (
        replay_stream(stream, vectors, threshold=threshold, guard=guard),
        plain_cache(stream, vectors, threshold, guard),
    )
    assert ((found.matched >= 0) == (plain >= 0)).all()
    similarity = (vectors * vectors[plain]).sum(1)
    served = (vectors * vectors[found.matched]).sum(1)
    assert np.allclose(similarity[plain >= 0], served[plain >= 0], atol=1e-5)
    assert found.entries == (plain < 0).sum()


def test_an_answer_of_one_feature_is_never_served_in_another():
    made, vectors = random_stream(tenants=2)
    features = tuple("find" if i % 3 else "answer" for i in range(len(made)))
    stream = replace(made, features=features)
    scopes = np.array([f"{t} {f}" for t, f in zip(stream.tenants, features, strict=True)])
    for found in (shadow_hits(stream, vectors), replay_stream(stream, vectors, threshold=0.5)):
        served = found.matched >= 0
        assert served.any()
        assert (scopes[served] == scopes[found.matched[served]]).all()
    assert oracle_stream_hits(stream).sum() < oracle_stream_hits(made).sum()


def test_above_one_only_exact_repeats_are_served():
    stream, vectors = random_stream()
    without, above = replay_stream(stream, None), replay_stream(stream, vectors, threshold=1.01)
    assert (without.hit == above.hit).all()
    assert (without.hit == without.exact).all()
    assert without.hit.any()


def test_an_exact_repeat_is_the_same_text_and_is_false_when_its_answer_changed():
    stream = stream_of(["reset password", "Reset password", "reset  password", " reset password\n"], [1, 1, 1, 2])
    found = replay_stream(stream, None)
    assert found.hit.tolist() == [False, False, False, True]
    assert found.false.tolist() == [False, False, False, True]


def test_another_case_or_other_blanks_pass_only_where_the_guard_allows_them():
    stream = stream_of(["what is %M", "what is %m", "What is %M"], [1, 2, 1])
    vectors = np.ones((3, 1), np.float32)
    guard = Guard(signs=True)
    for found, hits in (
        (replay_stream(stream, vectors, threshold=0.9), [False, True, True]),
        (replay_stream(stream, vectors, threshold=0.9, guard=guard), [False, False, True]),
    ):
        assert (found.hit.tolist(), found.exact.any()) == (hits, False)
    assert shadow_hits(stream, vectors).guarded(stream, guard).hits(0.9).tolist()[:2] == [False, False]


def test_no_tenant_is_served_what_another_asked():
    stream = stream_of(["same words here"] * 4, [1] * 4, ["a", "b", "a", "b"])
    vectors = HashEmbedder(8).embed(stream.queries)
    assert replay_stream(stream, vectors, threshold=0.5).matched.tolist() == [-1, -1, 0, 1]
    assert shadow_hits(stream, vectors).matched.tolist() == [-1, -1, 0, 1]
    assert oracle_stream_hits(stream).tolist() == [False, False, True, True]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000))
def test_shadow_hits_only_grow_as_the_threshold_falls(seed):
    stream, vectors = random_stream(60, seed)
    found = shadow_hits(stream, vectors)
    hits = [found.hits(t) for t in (1.01, 0.9, 0.7, 0.5)]
    assert all((a <= b).all() for a, b in pairwise(hits))
    assert (hits[0] == found.exact).all()


def test_the_shadow_finds_the_nearest_earlier_request_in_blocks_of_any_size(monkeypatch):
    stream, vectors = random_stream()
    whole = shadow_hits(stream, vectors)
    monkeypatch.setattr(module, "BLOCK_BYTES", 4 * 40 * 3)
    small = shadow_hits(stream, vectors)
    assert np.allclose(whole.similarity, small.similarity, atol=1e-6)
    assert (replay_stream(stream, vectors, threshold=0.7).hit == plain_cache_hits(stream, vectors)).all()
    for i in np.flatnonzero(~whole.exact & (whole.matched >= 0)):
        earlier = [j for j in range(i) if stream.tenants[j] == stream.tenants[i]]
        assert whole.similarity[i] == pytest.approx(max(vectors[i] @ vectors[j] for j in earlier), abs=1e-5)


def plain_cache_hits(stream, vectors):
    return plain_cache(stream, vectors, 0.7) >= 0


def test_a_guard_turns_hits_into_misses_but_never_an_exact_repeat():
    stream = stream_of(["turn wifi on", "turn wifi off", "turn wifi off"], [1, 2, 2])
    found = shadow_hits(stream, HashEmbedder(64).embed(stream.queries))
    guarded = found.guarded(stream, Guard())
    assert found.hits(0.5).tolist() == [False, True, True]
    assert guarded.hits(0.5).tolist() == [False, False, True]
    assert guarded.allowed.tolist() == [True, False, True], "what it objects to is the one thing that changes"
    for name in ("similarity", "matched", "exact", "false"):
        assert np.array_equal(getattr(guarded, name), getattr(found, name)), name
