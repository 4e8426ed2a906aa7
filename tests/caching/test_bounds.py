"""Bounds agree with scipy, sweeps with counting, and clusters make bounds wider."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from workbench.caching.threshold_certificate import (
    GRID,
    HitCounts,
    clopper_pearson,
    count_hits,
    hit_design_effect,
    hits_needed_to_certify,
    hits_show,
    korn_graubard,
    sweep_thresholds,
)

pairs = st.lists(st.tuples(st.integers(-4, 4), st.booleans(), st.integers(0, 3)), min_size=1, max_size=40)


def arrays(rows):
    scores, false, clusters = zip(*rows, strict=True)
    return np.array(scores) / 4, np.array(false), np.array(clusters)


@given(pairs)
def test_the_sweep_equals_counting_at_every_distinct_score(rows):
    scores, false, _ = arrays(rows)
    found = sweep_thresholds(scores, false)
    assert found.thresholds.tolist() == sorted(set(scores.tolist()), reverse=True)
    for t, hits, wrong in zip(found.thresholds, found.hits, found.false, strict=True):
        assert (hits, wrong) == ((scores >= t).sum(), (false & (scores >= t)).sum())


@given(pairs)
def test_counts_by_cluster_equal_counting_and_never_fall_along_the_grid(rows):
    scores, false, clusters = arrays(rows)
    found = count_hits(scores, false, clusters)
    assert (np.diff(found.hits, axis=1) >= 0).all()
    assert (np.diff(found.false, axis=1) >= 0).all()
    for place in (0, 100, len(GRID) - 1):
        hit = scores >= GRID[place]
        assert found.hits[:, place].sum() == hit.sum()
        assert found.false[:, place].tolist() == [
            (hit & false & (clusters == c)).sum() for c in range(clusters.max() + 1)
        ]
    assert found.requests.sum() == len(scores)


def test_a_sweep_of_nothing_is_empty():
    assert sweep_thresholds(np.zeros(0), np.zeros(0, dtype=bool)).hits.tolist() == []


@pytest.mark.parametrize(("k", "n"), [(0, 10), (1, 59), (3, 100), (10, 10), (112, 2833)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_exact_bounds_are_those_of_scipy(k, n, confidence):
    low, high = clopper_pearson(np.array([float(k)]), np.array([float(n)]), confidence)
    test = {side: stats.binomtest(k, n, alternative=side) for side in ("greater", "less")}
    assert low[0] == pytest.approx(test["greater"].proportion_ci(confidence, "exact").low, abs=1e-9)
    assert high[0] == pytest.approx(test["less"].proportion_ci(confidence, "exact").high, abs=1e-9)


@given(st.integers(1, 3000), st.floats(0, 1), st.floats(0.01, 0.5), st.sampled_from([0.9, 0.95, 0.975]))
def test_shown_means_that_the_bound_is_under_alpha(n, share, alpha, confidence):
    false, hits = np.array([float(int(share * n))]), np.array([float(n)])
    high = clopper_pearson(false, hits, confidence)[1][0]
    if abs(high - alpha) > 1e-9:
        assert hits_show(false, hits, alpha, confidence)[0] == (high <= alpha)


def counts_of(hits, false):
    hits = np.array(hits, float)[:, None]
    return HitCounts(np.array([0.9]), hits, np.array(false, float)[:, None], hits[:, 0])


def test_clusters_that_share_fate_widen_the_bound():
    even = counts_of([50] * 40, [2] * 20 + [3] * 20)
    lumped = counts_of([50] * 40, [50, 50] + [0] * 38)
    assert even.rate[0] == lumped.rate[0] == 0.05
    assert hit_design_effect(even)[0] == 1
    assert hit_design_effect(lumped)[0] > 20
    assert korn_graubard(lumped)[1][0] > korn_graubard(even)[1][0] > 0.05
    assert korn_graubard(lumped)[0][0] < korn_graubard(even)[0][0] < 0.05


def test_without_a_false_hit_each_cluster_counts_as_one_hit():
    high = korn_graubard(counts_of([50] * 40, [0] * 40))[1][0]
    assert high >= 1 - 0.05 ** (1 / 40)


def test_with_one_hit_a_cluster_the_bound_is_nearly_exact():
    found = counts_of([1] * 400, [1] * 10 + [0] * 390)
    exact = clopper_pearson(np.array([10.0]), np.array([400.0]))[1][0]
    assert korn_graubard(found)[1][0] == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize(("alpha", "first"), [(0.01, 299), (0.02, 149), (0.05, 59)])
def test_hits_needed_without_a_false_one_are_those_of_the_textbook(alpha, first):
    assert hits_needed_to_certify(alpha, 0.0) == first


@pytest.mark.parametrize(("alpha", "rate"), [(0.05, 0.025), (0.05, 0.0375), (0.01, 0.005), (0.1, 0.02)])
def test_hits_needed_have_the_power(alpha, rate):
    n = hits_needed_to_certify(alpha, rate)
    most = max(k for k in range(n) if stats.binom.cdf(k, n, alpha) <= 0.05)
    assert stats.binom.cdf(most, n, rate) >= 0.8
    assert hits_needed_to_certify(alpha, alpha) is None
