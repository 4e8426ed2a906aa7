"""Areas, curves and their intervals, against plain definitions and known truths."""

import numpy as np
import polars as pl
import pytest

from tests.routing.routing_tables import planted
from workbench.errors import ConfigError
from workbench.evalset.outcomes import outcomes_of
from workbench.routing.curves import (
    RouterCurve,
    aiq,
    cross_predict,
    deferral,
    fit_policy,
    oracle_curve,
    resample_aiq,
    resample_deferral,
    router_curve,
    upper_hull,
)
from workbench.routing.policies import POLICIES
from workbench.routing.tables import hull_corner_models, routing_opportunity_table


def plain_aiq(points, low, high):
    """RouterBench's area by its definition, point by point."""
    hull = upper_hull(points)
    x = np.r_[low, hull[(hull[:, 0] > low) & (hull[:, 0] < high), 0], high]
    return np.trapezoid(np.interp(x, hull[:, 0], hull[:, 1]), x) / (high - low)


def test_area_of_many_rows_equals_the_plain_one_of_each():
    rng = np.random.default_rng(1)
    cost, quality = rng.random((200, 9)).round(2), rng.random((200, 9)).round(2)
    cost[:, 0] = 0.0
    low, high = np.zeros(200), np.full(200, 0.9)
    expected = [plain_aiq(np.column_stack([c, q]), 0.0, 0.9) for c, q in zip(cost, quality, strict=True)]
    assert aiq(cost, quality, low, high) == pytest.approx(np.array(expected), abs=1e-12)


def test_areas_of_many_resamples_at_once_are_those_of_each_alone_to_the_last_bit():
    rng = np.random.default_rng(0)
    cost, quality = rng.integers(1, 9, (200, 12)) / 8, rng.integers(0, 5, (200, 12)) / 4  # with ties of both
    cost[0], quality[0] = np.arange(12), np.arange(12) ** 2  # every corner but the ends goes
    low, high = cost.min(1), cost.max(1)
    alone = [aiq(cost[[i]], quality[[i]], low[[i]], high[[i]])[0] for i in range(200)]
    assert aiq(cost, quality, low, high).tolist() == alone


def test_hull_leaves_out_what_is_dearer_and_worse():
    points = np.array([[1, 0.5], [2, 0.45], [2, 0.7], [3, 0.72], [4, 0.9], [5, 0.8]])
    assert upper_hull(points).tolist() == [[1, 0.5], [2, 0.7], [4, 0.9]]


def test_random_order_recovers_half_and_knowing_the_answers_more_than_all_of_the_gap():
    rng = np.random.default_rng(0)
    weak, strong = (rng.random(500) < 0.6).astype(float), (rng.random(500) < 0.9).astype(float)
    areas = [deferral(rng.random(500), weak, strong).apgr for _ in range(400)]
    assert np.mean(areas) == pytest.approx(0.5, abs=0.01)
    assert deferral(strong - weak, weak, strong).recovered.max() > 1


def test_threshold_share_is_the_first_crossing():
    weak, strong = np.array([0.0, 0, 0, 0]), np.array([1.0, 1, 1, 1])
    curve = deferral(np.array([4.0, 3, 2, 1]), weak, strong)
    assert curve.cpt(0.5) == 50
    assert curve.cpt(0.8) == 100


def test_no_gap_between_the_models_is_refused():
    with pytest.raises(ConfigError, match="no gap to recover"):
        deferral(np.ones(3), np.ones(3), np.zeros(3))


def test_interval_of_the_deferral_area_covers_the_truth_at_its_level():
    """The population is known, 200 samples of it are drawn; 95 % nominal."""
    rng = np.random.default_rng(3)
    hard = rng.random(20_000)
    weak, strong = (rng.random(20_000) > hard).astype(float), (rng.random(20_000) > hard * 0.3).astype(float)
    truth, covered = deferral(hard, weak, strong).apgr, 0
    for i in range(200):
        rows = rng.integers(0, 20_000, 300)
        found = resample_deferral(
            {"x": hard[rows]}, weak[rows], strong[rows], np.arange(300), draws=300, seed=i
        )["x"][0].estimate  # fmt: skip
        covered += found.low <= truth <= found.high
    assert covered >= 180


def test_a_router_that_knows_nothing_does_not_beat_the_hull_beyond_noise():
    """The hull of a random router lies above the hull of the models by selection alone; the interval knows."""
    false_wins = 0
    for seed in range(40):
        outcomes = outcomes_of(planted(300, seed=seed, readable=False))
        predicted = cross_predict(POLICIES["length"], outcomes)
        router = fit_policy(POLICIES["length"], outcomes)
        quality, cost = outcomes.quality, outcomes.cost_usd
        curves = {"router": router_curve(router, predicted, quality, cost), "hull": RouterCurve(quality, cost)}
        areas = resample_aiq(curves, cost, outcomes.codes, draws=300, seed=seed)
        false_wins += areas["router"].minus(areas["hull"]).above_zero
    assert false_wins <= 3  # 2.5 % one-sided of 40, with two Monte-Carlo errors


def test_oracle_is_above_every_router_and_the_hull():
    outcomes = outcomes_of(planted(400))
    quality, cost = outcomes.quality, outcomes.cost_usd
    router = fit_policy(POLICIES["logistic_words"], outcomes)
    predicted = router.predictor.predict(outcomes.requests)
    curves = {
        "oracle": oracle_curve(quality, cost),
        "router": router_curve(router, predicted, quality, cost),
        "hull": RouterCurve(quality, cost),
    }
    areas = resample_aiq(curves, cost, outcomes.codes, draws=50)
    assert areas["oracle"].value > areas["router"].value > areas["hull"].value


def of_means(**points):
    """Outcomes of models at these (cost, quality in tenths) over ten prompts."""
    rows = [
        (f"p{i}", f"prompt {i}", model, float(i < 10 * quality), cost)
        for i in range(10)
        for model, (cost, quality) in points.items()
    ]
    return outcomes_of(pl.DataFrame(rows, schema=["prompt_id", "prompt", "model", "quality", "cost_usd"], orient="row"))


def test_corners_of_the_hull_are_the_models_that_no_mixture_reaches():
    found = of_means(a=(1.0, 0.5), b=(2.0, 0.5), c=(3.0, 0.9), d=(3.0, 0.6), e=(4.0, 0.9), f=(2.0, 0.6))
    assert hull_corner_models(found) == ["a", "c"]
    table = routing_opportunity_table(found, draws=20, seed=0)
    assert [row[-1] for row in table.rows if row[0] == "AIQ, hull of the single models"] == ["a + c"]


def test_the_only_corner_is_the_model_that_is_cheapest_and_best():
    assert hull_corner_models(of_means(a=(1.0, 0.9), b=(2.0, 0.9), c=(3.0, 0.1))) == ["a"]
