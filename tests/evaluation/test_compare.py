"""The deciding test keeps its level, finds what is there, and refuses where it cannot know."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from workbench.errors import ConfigError
from workbench.evaluation.cluster_weights import cluster_weights
from workbench.evaluation.compare import (
    bootstrap_t,
    classify_difference,
    compare,
    mean_interval,
    normal_interval,
    pairwise,
    sharper_confidence,
    spent_confidence,
)


def scores_of(**arms):
    """Scores frame from arm -> values; cluster i // 2."""
    rows = [
        (arm, f"i{i:03d}", 0, value, f"c{i // 2}") for arm, values in arms.items() for i, value in enumerate(values)
    ]
    schema = {"arm": pl.String, "item_id": pl.String, "repeat": pl.Int32, "value": pl.Float64, "cluster": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def test_bounds_without_clusters_are_close_to_the_t_interval_on_normal_data():
    d = np.random.default_rng(0).normal(0.01, 0.1, 200)
    bounds = bootstrap_t(d[None], np.arange(200), draws=20_000)
    low = d.mean() - stats.t.ppf(0.95, 199) * d.std(ddof=1) / np.sqrt(200)
    assert bounds.low[0] == pytest.approx(low, abs=0.001)
    assert bounds.se[0] == pytest.approx(d.std(ddof=1) / np.sqrt(200), rel=1e-6)


def test_few_clusters_keep_back_part_of_alpha_and_many_hardly_any():
    aimed = [sharper_confidence(0.95, m) for m in (5, 30, 120, 10_000)]
    assert aimed == sorted(aimed, reverse=True)
    assert aimed[1] == pytest.approx(1 - 0.05 * 22 / 30)
    assert aimed[-1] == pytest.approx(0.95, abs=1e-4)


def test_items_that_share_a_cluster_widen_the_bounds():
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(40), 5)
    shared = np.repeat(rng.normal(0, 0.1, 40), 5)
    wide = bootstrap_t(shared[None], clusters)
    narrow = bootstrap_t(shared[None], np.arange(200))
    assert wide.se[0] > 2 * narrow.se[0]


def test_simultaneous_bounds_are_wider_than_those_of_one_arm():
    rng = np.random.default_rng(2)
    d = rng.normal(0, 0.1, (4, 120))
    alone = bootstrap_t(d[:1], np.arange(120), draws=8000)
    together = bootstrap_t(d, np.arange(120), draws=8000)
    assert together.low[0] < alone.low[0]
    assert together.high[0] > alone.high[0]


def test_two_arms_whose_outputs_are_the_same_are_identical_and_never_hold():
    values = np.random.default_rng(3).random(100)
    (d,) = compare(scores_of(ref=values, arm=values), ["arm"], reference="ref", margin=0.05)
    assert (d.status, d.mean, d.n_differ) == ("identical", 0.0, 0)


def test_an_arm_without_spread_has_its_mean_as_bounds_whatever_stands_beside_it():
    rare = np.zeros(60)
    rare[0] = 1.0  # in a third of the resamples nothing differs: t is infinite there
    bounds = bootstrap_t(np.stack([np.zeros(60), rare]), np.arange(60))
    assert (bounds.low[0], bounds.high[0]) == (0.0, 0.0)
    assert bounds.low[1] < bounds.mean[1] < bounds.high[1]


def test_a_constant_loss_is_no_evidence_however_small():
    values = np.random.default_rng(3).random(100) * 0.5 + 0.2
    (d,) = compare(scores_of(ref=values, arm=values - 0.001), ["arm"], reference="ref", margin=0.05)
    assert d.status == "inconclusive"


def test_under_thirty_clusters_there_is_no_claim():
    rng = np.random.default_rng(4)
    ref = rng.random(56)
    scores = scores_of(ref=ref, arm=ref + rng.normal(0.2, 0.01, 56))
    assert compare(scores, ["arm"], reference="ref", margin=0.05)[0].status == "inconclusive"


def test_too_few_differing_clusters_are_inconclusive():
    ref = np.ones(200)
    arm = ref.copy()
    arm[:8] = 0.0
    (d,) = compare(scores_of(ref=ref, arm=arm), ["arm"], reference="ref", margin=0.1)
    assert (d.status, d.n_differ) == ("inconclusive", 4)


def test_a_clear_loss_is_broken_and_a_clear_gain_holds():
    rng = np.random.default_rng(5)
    ref = rng.random(200) * 0.5 + 0.3
    scores = scores_of(ref=ref, worse=ref - 0.2 + rng.normal(0, 0.02, 200), better=ref + rng.normal(0.05, 0.02, 200))
    status = {d.arm: d.status for d in compare(scores, ["worse", "better"], reference="ref", margin=0.05)}
    assert status == {"worse": "broken", "better": "holds"}


def test_a_failed_item_counts_as_worst_for_the_candidate_and_best_for_the_reference():
    ref, arm = [0.5] * 80, [0.5] * 80
    failed_arm = scores_of(ref=ref, arm=[None, *arm[1:]])
    failed_ref = scores_of(ref=[None, *ref[1:]], arm=arm)
    for scores in (failed_arm, failed_ref):
        (d,) = compare(scores, ["arm"], reference="ref", margin=0.05)
        assert d.mean == pytest.approx(-0.5 / 80)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_the_mirror_image_of_a_comparison_mirrors_its_bounds(seed):
    d = np.random.default_rng(seed).normal(0.02, 0.1, 90)
    clusters = np.arange(90) // 2
    a, b = bootstrap_t(d[None], clusters, seed=seed), bootstrap_t(-d[None], clusters, seed=seed)
    assert a.low[0] == pytest.approx(-b.high[0], abs=1e-12)


@pytest.mark.parametrize("arms", [("old", "new"), ("new", "old")])
def test_right_and_wrong_are_compared_alike_whichever_arm_comes_first(arms):
    """autorank 1.3.0 tests for the first column where the medians are the same, as they are of right and wrong."""
    graded = {"old": [1.0] * 60 + [0.0] * 40, "new": [1.0] * 55 + [0.0] * 5 + [1.0] * 30 + [0.0] * 10}
    scores = scores_of(**{arm: graded[arm] for arm in arms})
    (gain,) = compare(scores, ["new"], reference="old", margin=0.05)
    (loss,) = compare(scores, ["old"], reference="new", margin=0.05)
    assert (gain.mean, gain.status) == (pytest.approx(0.25), "holds")
    assert (loss.mean, loss.status) == (pytest.approx(-0.25), "broken")
    assert gain.low == pytest.approx(-loss.high, abs=1e-12)
    assert gain.low > 0.1


def test_items_are_paired_by_their_ids_in_whatever_order_their_rows_are():
    """dabest 2025.10.20 pairs the first row of one arm with the first of the other, whatever their ids say."""
    rng = np.random.default_rng(0)
    old = rng.uniform(0.2, 0.8, 80)
    scores = scores_of(old=old, new=old + 0.03 + rng.normal(0, 0.02, 80))
    ordered = compare(scores, ["new"], reference="old", margin=0.05)
    assert ordered[0].low > 0.02
    assert compare(scores.sample(fraction=1.0, shuffle=True, seed=1), ["new"], reference="old", margin=0.05) == ordered


def test_classification_by_bounds():
    d = np.random.default_rng(6).normal(0, 0.1, 100)
    clusters = np.arange(100)
    assert classify_difference(d, clusters, low=-0.01, high=0.03, margin=0.02)[0] == "holds"
    assert classify_difference(d, clusters, low=-0.03, high=0.01, margin=0.02)[0] == "inconclusive"
    assert classify_difference(d, clusters, low=-0.09, high=-0.03, margin=0.02)[0] == "broken"


def test_an_interval_covers_its_mean():
    values = np.random.default_rng(8).random(100)
    mean, low, high = mean_interval(values, np.arange(100) // 2)
    assert low < mean < high


def test_a_margin_of_zero_and_an_unknown_arm_are_refused():
    scores = scores_of(ref=[0.1] * 80, arm=[0.2] * 80)
    with pytest.raises(ConfigError, match="greater than 0"):
        compare(scores, ["arm"], reference="ref", margin=0.0)
    with pytest.raises(ConfigError, match="no scores for nobody"):
        compare(scores, ["nobody"], reference="ref", margin=0.1)


def test_an_arm_that_hardly_differs_leaves_the_bounds_of_the_others_as_they_are():
    rng = np.random.default_rng(9)
    one, other = rng.random(120), rng.random(120)
    near = one.copy()
    near[:6] = 0.0  # three families: in a twentieth of the resamples there is no difference at all
    clusters = np.arange(120) // 2
    two = pairwise(*[np.stack([one, other])] * 2, clusters)
    three = pairwise(*[np.stack([one, other, near])] * 2, clusters)
    assert two.low[1, 0] - 0.03 < three.low[1, 0] <= two.low[1, 0]
    # 3 of 60 families are worse: at most 13 %, each at most half as large again as the mean one
    assert (three.status(2, 0, 0.2), three.status(2, 0, 0.05)) == ("holds", "inconclusive")


def test_a_twin_has_its_mean_as_bound_beside_an_arm_whose_bounds_have_no_end():
    one = np.random.default_rng(10).random(120)
    near = one.copy()
    near[0] = 0.0
    found = pairwise(*[np.stack([one, one, near])] * 2, np.arange(120) // 2)
    assert (found.low[0, 1], found.high[0, 1], found.status(0, 1, 0.1)) == (0.0, 0.0, "identical")


def test_a_later_use_is_judged_more_strictly_than_the_largest_resample():
    rows = np.random.default_rng(11).random((2, 120))
    found = [
        pairwise(rows, rows, np.arange(120) // 2, confidence=spent_confidence(0.95, use)).critical[0]
        for use in (9, 12, 20)
    ]
    assert found[0] + 0.1 < found[1] < found[2] - 0.1


def test_all_uses_of_a_split_together_spend_alpha_and_no_more():
    shares = [(1 - spent_confidence(0.95, use)) / 0.05 for use in range(1, 1001)]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 1 + 1e-5
    assert shares[0] > 0.5
    assert spent_confidence(0.95, 1000) < 1.0


@pytest.mark.parametrize(("m", "draws"), [(60, 600), (20_000, 255)])  # kept between calls, and too many to be kept
def test_weights_are_the_counts_of_clusters_drawn_with_replacement(m, draws):
    rng, blocks = np.random.default_rng(5), list(cluster_weights(m, draws, 5))
    assert sum(map(len, blocks)) == draws
    for block in blocks:
        drawn = rng.integers(m, size=(len(block), m))
        assert all(np.array_equal(row, np.bincount(one, minlength=m)) for row, one in zip(block, drawn, strict=True))


def test_the_resamples_of_a_split_are_drawn_once_and_nobody_can_change_them():
    first, again = (next(iter(cluster_weights(60, 600, 5))) for _ in range(2))
    assert again is first
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0] = 1.0
    assert next(cluster_weights(60, 600, 6)) is not first
    assert len(list(cluster_weights(60, 10, 5))) == 1


def test_the_normal_interval_is_that_of_the_error_that_the_resamples_are_studentised_with():
    rng = np.random.default_rng(8)
    values, clusters = rng.random(120), np.arange(120) // 3
    bounds = bootstrap_t(values[None], clusters)
    mean, low, high = normal_interval(values, clusters)
    assert (mean, low) == (bounds.mean[0], mean - stats.norm.ppf(0.975) * bounds.se[0])
    assert high - mean == pytest.approx(mean - low)
    assert normal_interval(np.ones(120), clusters) == mean_interval(np.ones(120), clusters)
