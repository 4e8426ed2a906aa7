"""Why nothing but the intent is embedded: the real encoder with a system prompt in front of the question."""

import numpy as np
import pytest

from tests.caching.caches import USE, WHO, answer, count
from workbench.caching.cache import SemanticCache
from workbench.caching.scope import scope_intent
from workbench.inference.messages import Request
from workbench.state import open_engine

UNRELATED = (
    "How do I reset my password?",
    "What is your refund policy?",
    "Which countries do you ship to?",
    "Is there a discount for students?",
    "Why is my microphone not detected?",
)
SENTENCE = (
    "You are the assistant of a company that sells software and hardware to teams. Answer in a friendly and precise "
    "way, name the page of the manual that you rely on, and say so when you do not know. "
)


@pytest.fixture(scope="module")
def minilm():
    from workbench.config import load_settings
    from workbench.inference.embedding import load_embedder

    return load_embedder("minilm", load_settings())


def prompt(minilm, tokens: int) -> str:
    """A system prompt of exactly so many tokens."""
    text = SENTENCE * 20
    return text[: minilm.offsets(text)[tokens - 1][1]]


def cosines(minilm, texts) -> np.ndarray:
    vectors = minilm.embed(texts)
    return (vectors @ vectors.T)[np.triu_indices(len(texts), 1)]


def test_a_system_prompt_in_front_makes_unrelated_questions_alike(minilm):
    bare = cosines(minilm, UNRELATED)
    found = {n: cosines(minilm, [f"{prompt(minilm, n)} {q}" for q in UNRELATED]) for n in (80, 126, 254)}
    assert bare.max() < 0.3
    assert min(found[80].min(), found[126].min()) > 0.63, "above the threshold that the demonstration certifies"
    assert found[254] == pytest.approx(1, abs=1e-5), "the question is cut off"


def test_unrelated_questions_behind_one_system_prompt_are_misses(minilm, tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path}/state.sqlite")
    cache = SemanticCache(engine, embedder=minilm, threshold=0.6)
    for tokens in (80, 254):
        asked = [
            Request("m", ({"role": "system", "content": prompt(minilm, tokens)}, {"role": "user", "content": q}))
            for q in UNRELATED
        ]
        for request in asked:
            assert cache.find(request, WHO, USE) is None
            cache.keep(request, answer("x"), WHO, USE, cost_nanos=1, since=cache.moment())
        assert all(cache.find(request, WHO, USE) for request in asked)
    assert count(engine) == 2 * len(UNRELATED)
    engine.dispose()


def test_a_text_that_the_encoder_would_cut_off_is_a_miss_and_is_not_kept(minilm, tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path}/state.sqlite")
    cache = SemanticCache(engine, embedder=minilm, threshold=0.6)
    for tokens, kept in ((254, 1), (255, 0)):
        request = Request("m", ({"role": "user", "content": prompt(minilm, tokens)},))
        assert (scope_intent(request, USE, minilm) is not None) == bool(kept)
        cache.keep(request, answer("x"), WHO, USE, cost_nanos=1, since=cache.moment())
        assert (cache.find(request, WHO, USE) is not None) == bool(kept)
    assert count(engine) == 1
    engine.dispose()
