"""The margin watch: its level at any look, how soon it ends, the same however it is interrupted; and its bounds."""

from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.benchmarks.simulate_shadow import DELTA, MARGIN, POPULATIONS, first_looks, fixed_n, naive_looks, simulate
from workbench.errors import ConfigError
from workbench.quality.monitoring import MarginWatch, bet_stakes, capital_growth, mean_bounds, mixed_capital

DIFFERENCES = st.lists(st.floats(-1, 1, width=16), min_size=1, max_size=60)


@pytest.mark.parametrize("name", ["right or wrong, 6 % differ", "graded, sd .25"])
def test_verdicts_at_the_margin_are_false_in_delta_of_paths_at_most(name):
    holds, broken = simulate(POPULATIONS[name], -MARGIN, 200, 1500)
    naive = simulate(POPULATIONS[name], -MARGIN, 200, 1500, by=naive_looks)
    allowed = DELTA + 2 * (DELTA * (1 - DELTA) / 200) ** 0.5
    for mine, other in zip((holds, broken), naive, strict=True):
        assert np.isfinite(mine).mean() <= allowed
        assert np.isfinite(other).mean() > 2 * allowed  # what looking again and again does to a test for one look


def test_capital_grows_on_average_only_where_the_truth_lies_beyond_the_margin():
    values = np.array([-1.0, 0.0, 1.0])
    for side, mean in ((1, -MARGIN), (-1, MARGIN)):
        bets = bet_stakes(mean, MARGIN)
        assert ((1 + np.multiply.outer(values - mean, bets)) > 0).all()  # nobody can lose more than there is
        won = np.exp(capital_growth(side * values, mean, bets))
        for truth, grows in ((-MARGIN, 0), (0.0, side), (-2 * MARGIN, -side)):
            chances = np.array([(0.3 - truth) / 2, 0.7, (0.3 + truth) / 2])
            assert (np.sign((chances @ won - 1).round(9)) == grows).all()


def test_one_two_margins_worse_is_found_with_fewer_pairs_than_one_test_of_fixed_size():
    draw = POPULATIONS["graded, sd .25"]
    _, broken = simulate(draw, -2 * MARGIN, 200, 1500)
    assert np.isfinite(broken).all()
    assert broken.mean() < fixed_n(0.25, 0.9)
    _, far = simulate(draw, -4 * MARGIN, 50, 400)
    assert far.mean() < fixed_n(0.25, 0.9) / 3  # which would not be shorter
    holds, never = simulate(draw, 0.0, 200, 1500)
    assert np.isfinite(holds).mean() > 0.95
    assert np.isfinite(never).mean() == 0


@pytest.mark.parametrize("mean", [-0.2, 0.1])
def test_the_simulation_decides_when_the_watch_does(mean):
    x = POPULATIONS["right or wrong, 20 % differ"](np.random.default_rng(4), (25, 250), mean)
    for row, at in zip(x, np.minimum(*first_looks(x)), strict=True):
        found = MarginWatch(MARGIN, DELTA).add(row)
        assert (found.decided_at or np.inf) == at
        assert (found.verdict == "inconclusive") == np.isinf(at)


@settings(max_examples=50)
@given(values=DIFFERENCES, cut=st.integers(0, 60))
def test_a_watch_goes_on_where_it_was_left(values, cut):
    x = np.array(values)
    whole = MarginWatch(0.2).add(x)
    kept = MarginWatch(**asdict(MarginWatch(0.2).add(x[:cut]))).add(x[cut:])
    assert (kept.pairs, kept.verdict, kept.decided_at) == (whole.pairs, whole.verdict, whole.decided_at)
    assert np.allclose(np.hstack(kept.won), np.hstack(whole.won))


@settings(max_examples=50)
@given(values=DIFFERENCES, seed=st.integers(0, 9))
def test_evidence_is_the_same_in_any_order_and_bounds_only_weaken_it(values, seed):
    x = np.array(values)
    mixed_up = np.random.default_rng(seed).permutation(x)
    assert np.allclose(*(np.hstack(MarginWatch(0.2).add(v).won) for v in (x, mixed_up)))
    low, high = np.maximum(x - 0.3, -1), np.minimum(x + 0.3, 1)
    known, unsure = MarginWatch(0.2).add(x), MarginWatch(0.2).add(low, high)
    assert all((np.array(u) <= np.array(k) + 1e-9).all() for u, k in zip(unsure.won, known.won, strict=True))


def test_a_verdict_stays_whatever_comes_later():
    found = MarginWatch(0.1).add(-np.ones(20)).add(np.ones(500))
    assert (found.verdict, found.pairs) == ("broken", 520)
    assert found.decided_at < 20
    assert mixed_capital(np.array(found.won[0])) > np.log(20)  # although the other gambler has more than enough by now


def test_bounds_hold_at_all_looks_at_once_and_close_in():
    rng, missed = np.random.default_rng(0), 0
    draw = POPULATIONS["right or wrong, 20 % differ"]
    for row in draw(rng, (20, 400), 0.05):
        bounds = [mean_bounds(row[:n], row[:n], MARGIN, DELTA, steps=100) for n in (5, 40, 400)]
        missed += any(not low <= 0.05 <= high for low, high in bounds)
        assert bounds[-1][1] - bounds[-1][0] < 0.4 < bounds[0][1] - bounds[0][0]
    assert missed <= 0.1 * 20  # each side is wrong in 5 % of paths at most, ever
    assert mean_bounds(np.array([]), np.array([]), MARGIN, DELTA) == (-1.0, 1.0)


@pytest.mark.parametrize("values", [[1.1], [-1.1], [float("nan")]])
def test_what_is_no_difference_is_refused(values):
    with pytest.raises(ConfigError, match=r"lies in \[-1, 1\]"):
        MarginWatch(0.1).add(np.array(values))
    for bad in ({"margin": 0.0}, {"margin": 0.1, "delta": 1.0}):
        with pytest.raises(ConfigError, match="margin and delta must be"):
            MarginWatch(**bad)
    assert MarginWatch(0.1).add(np.array([])) == MarginWatch(0.1)
