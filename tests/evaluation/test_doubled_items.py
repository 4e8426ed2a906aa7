"""Clusters count, not items: an evalset with every item doubled inside its cluster says no more than before."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.caching.test_certification import traffic
from workbench.caching.cache_claims import CacheArm, CacheResult, false_hit_rate, make_cache_claim, pairs_served_bounds
from workbench.caching.threshold_certificate import HitCounts, certify_threshold, hit_design_effect, korn_graubard
from workbench.evalset.gates import PairLimit
from workbench.evalset.traffic import Pair
from workbench.evaluation.compare import compare
from workbench.evaluation.decision import ArmFacts, make_claims
from workbench.evaluation.run_summary import frontier_points, slice_rows
from workbench.records import Rule
from workbench.routing.curves import RouterCurve, resample_aiq, resample_deferral

RULE = Rule("ndcg@10", "usd_per_1k_requests", "ref", 0.05, 0.95)
CACHE_RULE = Rule("false_hit_rate", "usd_per_1k_requests", "off", 0.1, 0.95, direction="lower")
FACTS = [
    ArmFacts(name, {}, cost, None, i) for i, (name, cost) in enumerate({"ref": 2.0, "near": 1.0, "bad": 1.0}.items())
]
SAME = {"abs": 1e-9, "rel": 0}


def drawn(seed=0, clusters=50):
    """Scores of three arms, in clusters of one to five items that share fate; a few items failed."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(clusters), rng.integers(1, 6, clusters))
    fate = 0.15 * rng.standard_normal(clusters)[codes]
    frames = []
    for arm, shift in {"ref": 0.0, "near": -0.01, "bad": -0.1}.items():
        own = 0.1 * rng.standard_normal(clusters)[codes] + 0.05 * rng.standard_normal(codes.size)
        values = [float(v) if rng.random() > 0.02 else None for v in np.clip(0.6 + shift + fate + own, 0, 1)]
        frames.append(pl.DataFrame({"arm": arm, "item_id": [f"i{i:04d}" for i in range(codes.size)], "value": values,
                                    "cluster": [f"c{c:03d}" for c in codes], "slice_style": "even"}))  # fmt: skip
    every = pl.concat(frames).with_columns(repeat=pl.lit(0, pl.Int32))
    other = every.with_columns(slice_style=pl.lit("odd"), item_id="o" + pl.col("item_id"))
    return pl.concat([every, other])


def doubled(scores):
    """Every item stands there twice, in its own cluster."""
    return pl.concat([scores, scores.with_columns(item_id=pl.col("item_id") + " again")])


def numbers(values, *names):
    return [getattr(value, name) for value in values for name in names]


@pytest.mark.parametrize("seed", range(3))
def test_paired_differences_have_the_same_bounds(seed):
    given = {"reference": "ref", "margin": 0.05, "seed": seed}
    one, two = (compare(s, ["near", "bad"], **given) for s in (drawn(seed), doubled(drawn(seed))))
    names = ("mean", "se", "low", "high", "n_clusters", "n_differ")
    assert numbers(two, *names) == pytest.approx(numbers(one, *names), **SAME)
    assert [d.status for d in two] == [d.status for d in one]
    assert [d.n_items for d in two] == [2 * d.n_items for d in one]


@pytest.mark.parametrize("seed", range(3))
def test_claims_have_the_same_differences_and_the_same_interval_of_each_arm(seed):
    one, two = (make_claims(s, FACTS, RULE, seed=seed) for s in (drawn(seed), doubled(drawn(seed))))
    names = ("estimate", "estimate_low", "estimate_high", "difference", "low", "high", "coverage", "n_clusters")
    assert numbers(two, *names) == pytest.approx(numbers(one, *names), **SAME)
    assert [c.status for c in two] == [c.status for c in one]
    assert all(c.estimate_low < c.estimate < c.estimate_high for c in one)


def test_the_frontier_and_the_slices_have_the_same_intervals():
    one, two = drawn(), doubled(drawn())
    points = [frontier_points(s, FACTS, split="dev") for s in (one, two)]
    names = ("quality", "low", "high", "tied")
    assert numbers(points[1], *names) == pytest.approx(numbers(points[0], *names), **SAME)
    slices = [slice_rows(s, ["ref", "near"]) for s in (one, two)]
    assert len(slices[0]) == 4
    assert numbers(slices[1], "mean", "low", "high") == pytest.approx(numbers(slices[0], "mean", "low", "high"), **SAME)


def routing(seed):
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(40), rng.integers(1, 6, 40))
    hard = 0.5 * rng.random(40)[codes] + 0.5 * rng.random(codes.size)
    weak, strong = (rng.random(codes.size) > hard).astype(float), (rng.random(codes.size) > 0.3 * hard).astype(float)
    cost = np.column_stack([0.001 + 0.0005 * rng.random(codes.size), 0.01 + 0.001 * rng.random(codes.size)])
    return codes, hard, weak, strong, cost


@pytest.mark.parametrize("seed", range(3))
def test_areas_and_recovered_gaps_of_routers_have_the_same_intervals(seed):
    found = []
    for times in (1, 2):
        codes, hard, weak, strong, cost = (np.repeat(array, times, axis=0) for array in routing(seed))
        quality, rows = np.column_stack([weak, strong]), np.arange(codes.size)
        picked = [(hard > limit).astype(int) for limit in (0.2, 0.4, 0.6, 0.8)]
        curve = RouterCurve(
            np.stack([quality[rows, p] for p in picked], 1), np.stack([cost[rows, p] for p in picked], 1)
        )
        curves = {"router": curve, "hull": RouterCurve(quality, cost)}
        areas = resample_aiq(curves, cost, codes, draws=200, seed=seed)
        apgr = resample_deferral({"x": hard}, weak, strong, codes, draws=200, seed=seed)["x"][0]
        each = (areas["router"].estimate, areas["router"].minus(areas["hull"]), apgr.estimate)
        found.append(numbers(each, "value", "low", "high"))
    assert found[1] == pytest.approx(found[0], **SAME)


def twice(counts):
    """Every request doubled: counts of each cluster are twice what they were."""
    return HitCounts(counts.thresholds, 2 * counts.hits, 2 * counts.false, 2 * counts.requests)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("confidence", [0.95, 0.975])
def test_certified_rates_have_the_same_bounds_wherever_clusters_share_fate(seed, confidence):
    counts = traffic(seed=seed, spread=1.0)
    fate = hit_design_effect(counts) > 1
    assert fate.mean() > 0.5
    for one, two in zip(korn_graubard(counts, confidence), korn_graubard(twice(counts), confidence), strict=True):
        assert two[fate] == pytest.approx(one[fate], **SAME)


def test_without_a_false_hit_the_bounds_are_the_same_too():
    counts = traffic(rate=lambda s: 0 * s)
    for one, two in zip(korn_graubard(counts), korn_graubard(twice(counts)), strict=True):
        assert two == pytest.approx(one, **SAME)


def test_a_certificate_and_the_claim_on_it_are_the_same():
    found = []
    for counts in (traffic(spread=1.0), twice(traffic(spread=1.0))):
        certificate = certify_threshold(counts, 0.1, 0.95)
        place = counts.thresholds.tolist().index(certificate.threshold)
        served = HitCounts(np.array([1.0]), counts.hits[:, [place]], counts.false[:, [place]], counts.requests)
        result = CacheResult(CacheArm("semantic", certificate.threshold), certificate, served, 0.4, 0.01, 1.0)
        claim = make_cache_claim(result, CACHE_RULE, must_differ_limit=PairLimit(count=0))
        found.append((claim.estimate, claim.estimate_low, claim.estimate_high, claim.difference, claim.low, claim.high,
                      certificate.threshold, float(certificate.certified)))  # fmt: skip
    assert found[0][-1]
    assert found[1] == pytest.approx(found[0], **SAME)


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_shares_of_labelled_pairs_have_the_same_bounds(share):
    rng = np.random.default_rng(0)
    pairs = [Pair(f"{f}-{i}", f"a {f} {i}", f"b {f} {i}", False, cluster=f"f{f}") for f in range(60) for i in range(4)]
    served = np.repeat(rng.random(60) < share, 4)
    again = [*pairs, *(replace(p, pair_id=f"{p.pair_id} again") for p in pairs)]
    one = pairs_served_bounds(served, np.ones(240, dtype=bool), pairs)
    two = pairs_served_bounds(np.tile(served, 2), np.ones(480, dtype=bool), again)
    assert (two.estimate, two.low, two.high) == pytest.approx((one.estimate, one.low, one.high), **SAME)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_doubling_never_tells_more_than_hits_that_do_not_share_fate_could(seed):
    """Where the estimated design effect is under 1 it counts as 1; doubled, it may be told as it is, and no further."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(40), 10)
    false = rng.random(400) < 0.1
    one, two = (false_hit_rate(np.repeat(false, t), np.ones(400 * t, dtype=bool), np.repeat(codes, t)) for t in (1, 2))
    many = false_hit_rate(np.repeat(false, 50), np.ones(400 * 50, dtype=bool), np.repeat(codes, 50))
    assert one.high + 1e-9 >= two.high >= many.high - 1e-9
