"""The cache that serves is the one that was certified: request by request it does what the true replay did."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.caching.caches import answer, ask
from tests.caching.test_stream_replay import random_stream
from workbench.caching.accepted_cache import load_semantic
from workbench.caching.cache import SemanticCache
from workbench.caching.guard import Guard
from workbench.caching.stream_replay import replay_stream
from workbench.config import load_settings
from workbench.evalset.traffic import RequestStream, load_traffic_stream
from workbench.inference.embedding import load_embedder
from workbench.inference.messages import CacheUse
from workbench.state import open_engine
from workbench.telemetry.attribution import Attribution

EVALSETS = Path("evalsets")


class Known:
    """Vectors that were computed before, by text."""

    dimension: int

    def __init__(self, encoder_id, texts, vectors):
        self.encoder_id, self.dimension = encoder_id, vectors.shape[1]
        self._vectors = dict(zip(texts, vectors, strict=True))

    def embed(self, texts):
        return np.array([self._vectors[text] for text in texts])


def served(stream: RequestStream, cache: SemanticCache) -> tuple[np.ndarray, np.ndarray]:
    """Position of the request whose answer each one got, -1 for a miss, and whether it was the same question."""
    matched, exact = np.full(len(stream), -1), np.zeros(len(stream), dtype=bool)
    use = CacheUse(visibility="tenant")
    features = stream.features or ("",) * len(stream)
    for i, (query, tenant, feature) in enumerate(zip(stream.queries, stream.tenants, features, strict=True)):
        who = Attribution(tenant_id=tenant, feature=feature)
        if hit := cache.find(ask(query), who, use):
            matched[i], exact[i] = int(hit.response.text), hit.kind == "exact"
        else:
            cache.keep(ask(query), answer(str(i)), who, use, cost_nanos=1, since=cache.moment())
    return matched, exact


def assert_as_replayed(stream: RequestStream, vectors: np.ndarray, cache: SemanticCache) -> None:
    expected = replay_stream(stream, vectors, threshold=cache.threshold, guard=cache.guard)
    matched, exact = served(stream, cache)
    assert expected.hit.any()
    assert not expected.hit.all()
    assert ((matched >= 0) != expected.hit).sum() == 0
    assert (matched != expected.matched).sum() == 0
    assert (exact != expected.exact).sum() == 0


@pytest.mark.parametrize("guard", [None, Guard()])
@pytest.mark.parametrize("threshold", [0.55, 0.725, 0.9])
def test_random_traffic_of_three_tenants_is_served_as_replayed(tmp_path, threshold, guard):
    stream, vectors = random_stream(400)
    # The same words in another order are no exact tie, which the rounding of a matrix product would decide.
    noise = dict(
        zip(sorted(set(stream.queries)), 1e-3 * np.random.default_rng(0).standard_normal((400, 32)), strict=False)
    )
    vectors = vectors + np.array([noise[query] for query in stream.queries], np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    engine = open_engine(f"sqlite:///{tmp_path}/state.sqlite")
    embedder = Known("random", stream.queries, vectors)
    assert_as_replayed(stream, vectors, SemanticCache(engine, embedder=embedder, threshold=threshold, guard=guard))
    engine.dispose()


@cache
def traffic(evalset: str) -> tuple[RequestStream, np.ndarray]:
    """The evalset's traffic with the real encoder's vectors, each text embedded once and alone."""
    stream, minilm = load_traffic_stream(EVALSETS / evalset), load_embedder("minilm", load_settings())
    texts = sorted(set(stream.queries))
    alone = dict(zip(texts, np.vstack([minilm.embed([text]) for text in texts]), strict=True))
    return stream, np.array([alone[query] for query in stream.queries])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("evalset", "one_tenant"), [("caching_demo", False), ("caching_demo", True), ("docs_qa", False)]
)
def test_the_accepted_decision_serves_what_its_replay_served(tmp_path, evalset, one_tenant):
    stream, vectors = traffic(evalset)
    if one_tenant:
        stream = replace(stream, tenants=("acme",) * len(stream))
    engine = open_engine(f"sqlite:///{tmp_path}/state.sqlite")
    embedder = Known(load_embedder("minilm", load_settings()).encoder_id, stream.queries, vectors)
    cache = load_semantic(load_settings(), evalset, engine=engine, embedder=embedder, accept_provisional=True)
    assert_as_replayed(stream, vectors, cache)
    engine.dispose()
