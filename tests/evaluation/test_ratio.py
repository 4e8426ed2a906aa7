"""The interval of a ratio of totals, such as dollars for a good answer, keeps its level over clusters."""

import numpy as np
import pytest

from workbench.evaluation.compare import ratio_interval

CLUSTERS, RUNS = 80, 200


def drawn(rng):
    """Requests of clusters of unequal size that share how dear and how good they are."""
    sizes = rng.integers(1, 12, CLUSTERS)
    codes = np.repeat(np.arange(CLUSTERS), sizes)
    dear, good = rng.lognormal(0.0, 0.5, CLUSTERS), rng.beta(4, 2, CLUSTERS)
    amounts = dear[codes] * rng.lognormal(0.0, 0.6, len(codes))
    return amounts, (rng.random(len(codes)) < good[codes]).astype(float), codes


def test_the_true_ratio_lies_inside_in_95_of_100():
    rng = np.random.default_rng(0)
    true = float(np.exp(0.5 * 0.5**2 + 0.5 * 0.6**2) / (4 / 6))
    bounds = [ratio_interval(*drawn(rng), seed=run) for run in range(RUNS)]
    inside = sum(low < true < high for _, low, high in bounds)
    assert 0.92 <= inside / RUNS <= 0.995


def test_the_ratio_is_that_of_the_totals_and_few_clusters_have_no_bounds():
    amounts, counts, codes = drawn(np.random.default_rng(1))
    ratio, low, high = ratio_interval(amounts, counts, codes)
    assert ratio == pytest.approx(amounts.sum() / counts.sum())
    assert low < ratio < high
    some = codes < 20
    assert ratio_interval(amounts[some], counts[some], codes[some])[1:] == (None, None)
    ones = np.ones(len(codes))
    assert ratio_interval(2 * ones, ones, codes) == (2.0, None, None)
