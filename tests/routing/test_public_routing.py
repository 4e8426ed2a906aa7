"""Published figures of RouteLLM and RouterBench, from their recorded outcomes; skipped where those are absent."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from tests.evalset.small_evalset import shared
from workbench.config import load_settings
from workbench.errors import EvalsetError
from workbench.evalset.imports.outcome_tables import OutcomeRepairs, import_outcomes
from workbench.evalset.outcomes import Outcomes, load_outcomes
from workbench.inference.embedding import load_embedder
from workbench.retrieval.ingest import IngestVectorCache
from workbench.routing.curves import (
    aiq,
    cross_predict,
    deferral,
    fit_policy,
    oracle_curve,
    resample_deferral,
    router_curve,
)
from workbench.routing.policies import POLICIES

WEAK, STRONG = "mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"


@pytest.fixture(scope="module")
def gsm8k(tmp_path_factory) -> Outcomes:
    path = shared("routellm_gsm8k", "routing") / "outcomes.parquet"
    repairs = OutcomeRepairs(without={"contaminated": "true"}, costs={WEAK: 0.2, STRONG: 10})
    return load_outcomes(import_outcomes(path, tmp_path_factory.mktemp("gsm8k") / "out", repairs=repairs))


@pytest.fixture(scope="module")
def routerbench(tmp_path_factory) -> Outcomes:
    path = shared("routerbench_3tasks", "routing") / "outcomes.parquet"
    out = tmp_path_factory.mktemp("routerbench") / "out"
    return load_outcomes(import_outcomes(path, out, repairs=OutcomeRepairs(texts="most_common")))


def embedded(outcomes: Outcomes) -> Outcomes:
    found = load_settings()
    minilm = load_embedder("minilm", found)
    vectors, _ = IngestVectorCache(found.cache / "vectors.sqlite").embed(outcomes.requests.prompts, minilm)
    return replace(outcomes, requests=replace(outcomes.requests, vectors=vectors))


def area(cost: np.ndarray, quality: np.ndarray, outcomes: Outcomes) -> float:
    means = outcomes.cost_usd.mean(0)
    return float(aiq(cost[None], quality[None], means.min()[None], means.max()[None])[0])


def test_end_points_of_routellm_s_gsm8k(gsm8k):
    weak, strong = gsm8k.quality.T
    assert (len(gsm8k), gsm8k.models) == (1307, (WEAK, STRONG))
    assert round(100 * weak.mean(), 2) == 63.73
    assert round(100 * strong.mean(), 2) == 85.77
    assert round(100 * gsm8k.quality.max(1).mean(), 2) == 92.96


def test_random_router_of_routellm_is_a_half(gsm8k):
    weak, strong = gsm8k.quality.T
    rng = np.random.default_rng(0)
    orders = [deferral(rng.random(len(weak)), weak, strong) for _ in range(1000)]
    assert np.mean([o.apgr for o in orders]) == pytest.approx(0.5, abs=0.005)
    assert np.mean([o.cpt(0.5) for o in orders]) == pytest.approx(49.8, abs=0.3)


def test_length_and_oracle_of_routellm(gsm8k):
    weak, strong = gsm8k.quality.T
    length = np.array([len(p) for p in gsm8k.requests.prompts])
    found = resample_deferral({"length": length}, weak, strong, gsm8k.codes)["length"][0].estimate
    assert round(found.value, 3) == 0.598
    assert (found.low, found.high) == pytest.approx((0.559, 0.641), abs=0.01)
    oracle = deferral(strong - weak, weak, strong)
    assert (round(oracle.apgr, 3), round(oracle.cpt(0.5), 1), round(oracle.cpt(0.8), 1)) == (1.121, 11.0, 17.7)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_learned_routers_of_gsm8k_are_not_shown_to_beat_prompt_length(gsm8k):
    outcomes = embedded(gsm8k)
    weak, strong = outcomes.quality.T
    scores = {"length": np.array([len(p) for p in outcomes.requests.prompts], float)}
    for name in ("logistic_words", "knn_words", "logistic_embedding", "knn_embedding"):
        predicted = cross_predict(POLICIES[name], outcomes)
        scores[name] = predicted[:, 1] - predicted[:, 0]
    found = {name: parts[0] for name, parts in resample_deferral(scores, weak, strong, outcomes.codes).items()}
    for name in ("logistic_embedding", "knn_embedding"):
        assert found[name].estimate.low > 0.5, "better than random"
        assert found[name].minus(found["length"]).low < 0 < found[name].minus(found["length"]).high


def test_hull_and_oracle_of_routerbench(routerbench):
    o = routerbench
    assert o.quality.shape == (3164, 11)
    assert round(o.quality.mean(0).max(), 4) == 0.8799
    assert round(o.quality.max(1).mean(), 4) == 0.9757
    assert round(area(o.cost_usd.mean(0), o.quality.mean(0), o), 4) == 0.8201
    assert round(area(*oracle_curve(o.quality, o.cost_usd).points.T, o), 4) == pytest.approx(0.9745, abs=5e-4)
    arc = o.take(np.flatnonzero(np.array(o.requests.features) == "arc-challenge"))
    assert round(area(arc.cost_usd.mean(0), arc.quality.mean(0), arc), 4) == 0.9211


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_held_out_halves_of_routerbench(routerbench):
    """Three seeds: hull .827, 100 nearest neighbours .856, oracle .972; a look-up by task does as well."""
    outcomes = embedded(routerbench)
    found: dict[str, list[float]] = {}
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(outcomes))
        train, test = (outcomes.take(part) for part in np.array_split(order, 2))
        for name in ("knn_embedding", "by_feature"):
            router = fit_policy(POLICIES[name], train)
            predicted = router.predictor.predict(test.requests)
            curve = router_curve(router, predicted, test.quality, test.cost_usd)
            found.setdefault(name, []).append(area(*curve.points.T, test))
        found.setdefault("hull", []).append(area(test.cost_usd.mean(0), test.quality.mean(0), test))
        found.setdefault("oracle", []).append(area(*oracle_curve(test.quality, test.cost_usd).points.T, test))
    means = {name: round(float(np.mean(values)), 3) for name, values in found.items()}
    # Two figures were seen of the neighbours: .856 when this was written, .851 later, by the same code and vectors of
    # equal bits in three versions of the package. Why is not known; any other figure is a change.
    neighbours = means.pop("knn_embedding")
    assert min(abs(neighbours - 0.856), abs(neighbours - 0.851)) <= 2e-3, neighbours
    assert means == pytest.approx({"hull": 0.827, "by_feature": 0.856, "oracle": 0.972}, abs=2e-3)


def test_two_texts_and_two_splits_of_routerbench_are_found(routerbench, tmp_path):
    path = shared("routerbench_3tasks", "routing") / "outcomes.parquet"
    with pytest.raises(EvalsetError, match="14 prompts have two texts"):
        import_outcomes(path, tmp_path / "out")
    assert pl.read_parquet(path)["prompt_id"].n_unique() == len(routerbench)
