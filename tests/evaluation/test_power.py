"""Power: the number that is printed is the number that is needed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import TTestPower

from workbench.evaluation.compare import sharper_confidence
from workbench.evaluation.power import chance_of_all, chance_of_each, chance_of_holding, clusters_needed, plan_power


@pytest.mark.parametrize(("sd", "margin"), [(0.133, 0.02), (0.25, 0.05), (0.4, 0.05)])
def test_the_clusters_needed_agree_with_an_independent_implementation(sd, margin):
    ours = clusters_needed(sd, margin)
    alpha = 1 - sharper_confidence(0.95, ours)
    theirs = TTestPower().solve_power(effect_size=margin / sd, alpha=alpha, power=0.8, alternative="larger")
    assert ours == pytest.approx(np.ceil(theirs), abs=max(2, 0.01 * theirs))


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 0.4), st.floats(0.02, 0.1), st.floats(0.9, 0.999), st.floats(0.1, 1))
def test_fewer_clusters_than_are_needed_show_it_less_often(sd, margin, confidence, differing):
    """The first size of the list that is enough, of which only few are tried."""
    needed = clusters_needed(sd, margin, confidence=confidence, differing=differing)
    sizes = [30]
    while sizes[-1] < needed:
        sizes.append(sizes[-1] + max(1, sizes[-1] // 200))
    assert sizes[-1] == needed

    def enough(m):
        told = chance_of_holding(sd, margin, m, confidence=confidence, differing=differing)
        return told >= 0.8 and stats.binom.sf(9, m, differing) >= 0.8

    assert [enough(m) for m in sizes] == [False] * (len(sizes) - 1) + [True]


@settings(max_examples=40, deadline=None)
@given(st.floats(0.05, 0.5), st.floats(0.02, 0.2), st.integers(30, 400))
def test_the_detectable_margin_is_the_one_shown_with_the_stated_power(sd, margin, n):
    p = plan_power(sd, margin, n)
    assert chance_of_holding(sd, p.detectable, n) == pytest.approx(0.8, abs=0.01) or p.detectable >= 3.9
    assert (p.power >= 0.8) == (p.clusters_needed <= n)


def test_no_number_of_clusters_shows_what_is_not_true():
    with pytest.raises(ValueError, match="no number of clusters"):
        clusters_needed(0.2, 0.02, effect=-0.03)


def test_without_spread_one_look_settles_it():
    assert chance_of_holding(0.0, 0.01, 30) == 1.0
    assert clusters_needed(0.0, 0.01) == 30


@pytest.mark.parametrize("n", [2, 3, 7])
def test_comparisons_with_one_arm_come_true_together_as_often_as_is_said(n):
    rng = np.random.default_rng(n)
    shared, own = rng.standard_normal((200_000, 1)), rng.standard_normal((200_000, n))
    below = ((own + shared) / np.sqrt(2) < stats.norm.ppf(0.8)).all(1).mean()
    assert chance_of_all(0.8, n) == pytest.approx(below, abs=0.005)
    assert chance_of_all(chance_of_each(0.95, n), n) == pytest.approx(0.95, abs=1e-6)


def test_as_many_clusters_are_asked_for_as_ten_that_differ_take():
    needed = clusters_needed(0.05, 0.1, differing=0.1)
    assert clusters_needed(0.05, 0.1) == 30
    drawn = np.random.default_rng(0).binomial(needed, 0.1, 50_000) >= 10
    assert drawn.mean() == pytest.approx(0.8, abs=0.02)


def test_a_distance_of_almost_nothing_needs_more_than_anybody_has():
    assert clusters_needed(0.3, 1e-11) == 10**15
