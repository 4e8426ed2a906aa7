"""The index in memory finds what a plain list would, whatever came and went."""

from types import SimpleNamespace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.caching.cache_entries import EntryNews
from workbench.caching.scope_index import ScopeIndex

DIMENSION = 8


def row(version: int, seed: int) -> SimpleNamespace:
    vector = np.random.default_rng(seed).standard_normal(DIMENSION).astype(np.float32)
    vector /= np.linalg.norm(vector)
    return SimpleNamespace(version=version, question=f"{version:064x}", vector=vector.tobytes(), created_us=version)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 60)), max_size=12), st.integers(0, 10**6))
def test_the_nearest_entry_is_that_of_a_plain_list(rounds, seed):
    index, plain, version = ScopeIndex(DIMENSION), {}, 0
    rng = np.random.default_rng(seed)
    for added, removed in rounds:
        fresh = [row(version + 1 + i, seed + version + i) for i in range(added)]
        version += added
        plain |= {r.version: np.frombuffer(r.vector, np.float32) for r in fresh}
        gone = rng.permutation(list(plain))[:removed].tolist()
        for v in gone:
            del plain[v]
        assert index.take(EntryNews(version, fresh, 0, frozenset(plain) if gone else None)) == []
        asked = rng.standard_normal(DIMENSION).astype(np.float32)
        best = max(plain, key=lambda v: plain[v] @ asked, default=None)
        near = index.nearest(asked)
        assert len(index) == len(plain)
        if best is None or plain[best] @ asked <= 0:
            assert near is None
        else:
            assert near[0] == best
            assert np.isclose(near[1], plain[best] @ asked, atol=1e-6)
        assert all(index.version_of(f"{v:064x}") == v for v in plain)
        assert all(index.version_of(f"{v:064x}") is None for v in gone)
    assert len(index._matrix) <= max(2 * version, 16)


def test_memory_is_given_back_when_most_entries_are_gone():
    index = ScopeIndex(DIMENSION)
    index.take(EntryNews(1000, [row(v, v) for v in range(1, 1001)], 0, None))
    index.take(EntryNews(1001, [], 1001, frozenset(range(1, 11))))
    assert (len(index), len(index._matrix) < 100) == (10, True)


def test_what_is_too_old_goes_with_the_next_news():
    index = ScopeIndex(DIMENSION)
    index.take(EntryNews(100, [row(v, v) for v in range(1, 101)], 0, None))
    index.take(EntryNews(100, [], 0, None), oldest_us=40)
    assert [index.version_of(f"{v:064x}") for v in (40, 41)] == [None, 41]
    assert len(index) == 60


def test_vectors_of_another_length_are_named_and_left_out():
    index = ScopeIndex(DIMENSION)
    broken = row(2, 2)
    broken.vector = broken.vector[:-1]
    assert index.take(EntryNews(3, [row(1, 1), broken, row(3, 3)], 0, None)) == [2]
    assert len(index) == 2
