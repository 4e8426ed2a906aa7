"""The gate counts what the caches themselves serve across scopes, and names the field that leaks."""

from dataclasses import fields, replace

import numpy as np
import polars as pl
import pytest

from tests.caching.test_canaries import leave_out
from tests.caching.test_notebook import first  # noqa: F401  the fixture
from workbench.caching.canaries import (
    CANARY_TEXTS,
    KnownVectors,
    foreign_cache_hits,
    requests_shared_by_tenants,
    try_cache_scopes,
)
from workbench.caching.scope import Scope
from workbench.errors import GateFailed
from workbench.evalset.traffic import RequestStream
from workbench.evaluation.gate import Gate
from workbench.testing import HashEmbedder

EMBEDDER = HashEmbedder(64)
ASKED = [
    ("sort by two columns", "pandas", "by="), ("sort by two columns", "polars", "descending="),
    ("only here", "pandas", "x"), (" sort by two columns ", "pandas", "by="), ("only there", "polars", "y"),
]  # fmt: skip


def stream_of(rows, *, feature=None):
    columns = {
        "pos": range(len(rows)),
        **{n: [r[i] for r in rows] for i, n in enumerate(("query", "tenant_id", "answer_key"))},
    }
    frame = pl.DataFrame({**columns, "cluster": columns["answer_key"]})
    return RequestStream.of(frame if feature is None else frame.with_columns(feature=pl.Series(feature)))


def known(stream):
    texts = [*stream.queries, *CANARY_TEXTS]
    return KnownVectors.of(EMBEDDER, texts, EMBEDDER.embed([text.strip() for text in texts]))


def test_requests_in_words_that_another_tenant_uses_are_found_up_to_blanks():
    assert requests_shared_by_tenants(stream_of(ASKED)) == [0, 1, 3]
    assert requests_shared_by_tenants(stream_of([row for row in ASKED if row[1] == "pandas"])) == []


def test_no_tenant_gets_what_was_kept_for_another_in_the_same_words():
    stream = stream_of(ASKED)
    found = try_cache_scopes(stream, known(stream))
    assert (found.shared, found.foreign) == (3, 0)
    assert set(found.invariants.values()) == {0}
    assert next(iter(found.invariants)) == "hits across scopes"


def test_a_cache_that_forgets_the_tenant_is_counted_on_the_stream(monkeypatch):
    leave_out(monkeypatch, "tenant_id")
    stream = stream_of(ASKED)
    assert (
        foreign_cache_hits(stream, requests_shared_by_tenants(stream), known(stream)) == 2
    )  # one request, in either cache
    found = try_cache_scopes(stream, known(stream))
    assert found.invariants["hits of another tenant"] == 2
    assert found.invariants["hits across scopes (tenant_id)"] > 0
    assert found.table.rows[-1] == ("words that another tenant uses too", "tenant_id", 6, 2, 0)


def test_features_of_the_stream_are_kept_apart_too(monkeypatch):
    rows = [("same", "pandas", "a"), ("same", "polars", "b"), ("same", "pandas", "c")]
    stream = stream_of(rows, feature=["answer", "answer", "find"])
    assert foreign_cache_hits(stream, [0, 1, 2], known(stream)) == 0
    leave_out(monkeypatch, "tenant_id")
    assert foreign_cache_hits(stream, [0, 1, 2], known(stream)) == 2


@pytest.mark.parametrize("left_out", [f.name for f in fields(Scope)])
def test_the_gate_is_broken_by_each_field_that_is_left_out_and_names_it(first, left_out, monkeypatch):  # noqa: F811
    _, bench, decision, replayed, semantic = first
    leave_out(monkeypatch, left_out)
    with pytest.raises(GateFailed, match=rf"hits across scopes \({left_out}\): [1-9]\d* \(must be 0\)"):
        bench.gate(decision, replayed, bench.scopes(semantic))
    assert Gate.load(bench.folder / "gate.json").exit_code == 1


def test_a_gate_whose_canaries_are_served_nowhere_is_broken(first, monkeypatch):  # noqa: F811
    _, bench, decision, replayed, semantic = first
    monkeypatch.setattr(Scope, "of", classmethod(lambda *args, **kwargs: None))
    with pytest.raises(GateFailed, match=r"canaries not served in their own scope: [1-9]"):
        bench.gate(decision, replayed, bench.scopes(semantic))


def test_a_hit_of_another_tenant_breaks_the_gate(first):  # noqa: F811
    _, bench, decision, replayed, semantic = first
    scopes = replace(bench.scopes(semantic), foreign=3)
    with pytest.raises(GateFailed, match=r"hits of another tenant: 3 \(must be 0\)"):
        bench.gate(decision, replayed, scopes)


def test_vectors_are_known_by_text_up_to_blanks():
    vectors = KnownVectors.of(EMBEDDER, [" a "], EMBEDDER.embed(["a"]))
    assert vectors.dimension == 64
    assert np.array_equal(vectors.embed(["a"]), EMBEDDER.embed(["a"]))
