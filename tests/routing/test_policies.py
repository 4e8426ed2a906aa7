"""Policies: what was tested is what ships, and nobody routes by what cannot be known."""

import json

import numpy as np
import pytest

from tests.routing.routing_tables import planted
from workbench.errors import ConfigError
from workbench.evalset.outcomes import Requests, outcomes_of
from workbench.routing.policies import POLICIES, Router, make_policy, one_model
from workbench.routing.predictors import Constant, Embedding, Logistic, Tfidf

OUTCOMES = outcomes_of(planted(200))
RNG = np.random.default_rng(0)
VECTORS = RNG.standard_normal((200, 16))
REQUESTS = Requests(
    OUTCOMES.requests.prompts,
    tuple("even" if i % 2 else "odd" for i in range(200)),
    vectors=VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True),
    confidence=np.column_stack([RNG.random(200), np.full(200, np.nan)]),
)


def fitted(name: str) -> Router:
    policy = make_policy(name, OUTCOMES.models)
    return policy.fit(REQUESTS, OUTCOMES.quality, OUTCOMES.cost_usd, OUTCOMES.models)


@pytest.mark.parametrize("name", [*POLICIES, "table:odd=small;*=large"])
def test_router_that_was_stored_routes_bit_for_bit_as_before(name):
    router = fitted(name)
    again = Router.load(json.loads(json.dumps(router.save())))
    assert again.sha256 == router.sha256
    assert np.array_equal(again.predictor.predict(REQUESTS), router.predictor.predict(REQUESTS))
    assert np.array_equal(again.route(REQUESTS), router.route(REQUESTS))


@pytest.mark.parametrize("name", [*POLICIES, "table:odd=small;*=large"])
def test_a_router_knows_what_it_reads_also_after_it_was_stored(name):
    router = Router.load(json.loads(json.dumps(fitted(name).save())))
    assert router.reads == make_policy(name, OUTCOMES.models).reads


def test_what_is_read_does_not_depend_on_the_name_of_a_class():
    class Halved(Embedding):
        def rows(self, requests):
            return super().rows(requests)[:, ::2]

    class Known(Constant):
        """Has features that are no such thing."""

        features = ("vectors",)

    cost = np.array([1e-6, 5e-6])
    learned = Logistic.fit(Halved(), REQUESTS, OUTCOMES.quality)
    assert Router("own", OUTCOMES.models, learned, cost).reads == "vectors"
    assert Router("own", OUTCOMES.models, Known(np.ones(2)), cost).reads == ""


def test_no_value_means_the_cheapest_and_any_value_the_best():
    router = fitted("logistic_words")
    predicted = router.predictor.predict(REQUESTS)
    assert set(router.pick(predicted, 0.0)) == {0}
    assert np.array_equal(router.pick(predicted), predicted.argmax(1))


def test_words_tell_easy_from_hard():
    router = fitted("logistic_words")
    chosen = router.pick(router.predictor.predict(REQUESTS), 0.05)
    hard = np.array(["compare" in p for p in REQUESTS.prompts])
    assert (chosen[hard] == 1).all()
    assert (chosen[~hard] == 0).all()


def test_cascade_pays_for_both_of_its_calls():
    router = fitted("cascade")
    spent = router.spend(np.array([0, 1]), np.array([[1.0, 10.0], [1.0, 10.0]]))
    assert spent.tolist() == [1.0, 11.0]


def test_one_model_always_asks_it():
    router = one_model(1, OUTCOMES.models, OUTCOMES.cost_usd.mean(0))
    assert set(router.route(REQUESTS)) == {1}


def test_table_sends_features_where_it_says():
    chosen = fitted("table:odd=small;*=large").route(REQUESTS)
    assert chosen[0] == 0
    assert chosen[1] == 1


def test_random_mix_is_the_same_for_the_same_text():
    router = fitted("random")
    assert np.array_equal(router.predictor.predict(REQUESTS), fitted("random").predictor.predict(REQUESTS))
    shares = [router.pick(router.predictor.predict(REQUESTS), v).mean() for v in (0.03, 0.06, 0.5)]
    assert shares == sorted(shares)
    assert 0 < shares[1] < 1


def test_unknown_words_and_features_are_no_error():
    requests = Requests(("zzz", ""), ("new", ""), vectors=VECTORS[:2], confidence=np.full((2, 2), np.nan))
    for name in POLICIES:
        assert np.isfinite(fitted(name).predictor.predict(requests)).all()
    assert Tfidf.fit(REQUESTS).rows(requests).sum() == 0


class Always:
    """A predictor of a user's own."""

    def fit(self, requests: Requests, quality: np.ndarray) -> "Always":
        self.models = quality.shape[1]
        return self

    def predict(self, requests: Requests) -> np.ndarray:
        return np.tile(np.arange(self.models) / self.models, (len(requests), 1))


class NoPredict:
    """Half of what is asked for."""

    fit = Always.fit


def test_a_users_own_class_joins_and_is_not_stored():
    router = fitted(f"{__name__}:Always")
    assert set(router.route(REQUESTS)) == {1}
    assert not router.storable
    assert router.sha256 == ""
    with pytest.raises(ConfigError, match="cannot be stored"):
        router.save()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("logistic_word", "did you mean 'logistic_words'"),
        ("no.such.module:X", "cannot be imported"),
        (f"{__name__}:NoPredict", "has no method predict"),
        ("table:odd=small", "must end in"),
        ("table:odd=huge;*=small", "unknown model 'huge'"),
    ],
)
def test_policy_that_cannot_be_is_refused(name, says):
    with pytest.raises(ConfigError, match=says):
        fitted(name)


def test_embedding_policy_without_vectors_says_so():
    bare = Requests(REQUESTS.prompts, REQUESTS.features)
    with pytest.raises(ConfigError, match="reads embeddings"):
        POLICIES["knn_embedding"].fit(bare, OUTCOMES.quality, OUTCOMES.cost_usd, OUTCOMES.models)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"policy": 3, "cascade": 1}, "policy must be text, found 3; cascade must be true or false, found 1"),
        ({"overhead": 0.0}, "unknown field 'overhead'; did you mean 'overhead_usd'?"),
        ({"cost_usd": [1.0]}, "cost_usd must be an instance of ndarray, found (1.0,)"),
        ({"cost_usd": {"dtype": "<f8", "shape": [2], "base64": "AAAA"}}, "buffer size must be a multiple"),
        ({"cost_usd": {"dtype": "<f8", "shape": [2]}}, "KeyError('base64')"),
        ({"predictor": {"kind": "Constant"}}, "predictor: quality is missing"),
        ({"predictor": {"kind": "Constent"}}, "predictor: unknown kind 'Constent'; did you mean 'Constant'?"),
        ({"predictor": 3}, "predictor must be an instance of Predictor, found 3"),
        ({"kind": "Constant"}, "unknown field 'cascade'"),
    ],
)
def test_file_that_is_no_router_is_refused(change, says):
    with pytest.raises(ConfigError) as raised:
        Router.load(one_model(0, ["a", "b"], np.ones(2)).save() | change)
    assert str(raised.value).startswith("not a router this version reads: ")
    assert says in str(raised.value)


def test_words_are_learned_with_the_word_beside_them():
    """What "not sure" says, neither "not" nor "sure" does."""
    texts = ("sure not", "not sure", "not sure at all", "sure not at all")
    requests = Requests(texts, ("",) * 4)
    found = Tfidf.fit(requests)
    assert {"not", "sure", "not sure", "sure not", "at all"} <= set(found.words)
    rows = found.rows(requests)
    assert np.allclose(rows.multiply(rows).sum(1), 1)
    assert (rows[[0]] - rows[[1]]).count_nonzero() > 0, "the same words in another order"


def test_a_router_of_single_words_from_before_reads_single_words_alone():
    before = Tfidf(("not", "sure"), np.array([1.0, 2.0]))
    rows = before.rows(Requests(("not sure", "sure not sure"), ("", ""))).toarray()
    assert np.allclose(rows, [[1 / 5**0.5, 2 / 5**0.5], [1 / 17**0.5, 4 / 17**0.5]])
