"""A threshold is certified only where it is shown; a refusal says what is missing; the usual rule breaks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.caching.threshold_certificate import (
    GRID,
    NO_NUMBER,
    HitCounts,
    certify_threshold,
    choose_threshold_then_certify,
    count_hits,
    first_threshold_with_hits,
    fixed_sequence_threshold,
    hits_to_start,
    naive_threshold,
    promised_false_hit_bound,
    simulate_certificates,
)


def traffic(n=6000, clusters=60, seed=0, rate=lambda s: 0.6 * (1 - s) ** 1.3, spread=0.5):
    """Pairs whose chance of being false falls with similarity, and differs between clusters."""
    rng = np.random.default_rng(seed)
    cluster = rng.integers(0, clusters, n)
    scores = rng.uniform(0.5, 1, n)
    lean = np.exp(spread * rng.standard_normal(clusters))
    false = rng.random(n) < np.clip(rate(scores) * lean[cluster], 0, 1)
    return count_hits(scores, false, cluster)


def test_a_certified_threshold_has_its_bound_under_alpha_all_the_way_from_the_start():
    counts = traffic()
    found = certify_threshold(counts, 0.1, 0.95)
    place = GRID.tolist().index(found.threshold)
    upper = promised_false_hit_bound(counts)
    assert found.certified
    assert (upper[first_threshold_with_hits(counts, 0.1, 0.95) : place + 1] <= 0.1 + 1e-9).all()
    assert upper[place + 1] > 0.1
    assert found.high == pytest.approx(upper[place])
    assert found.labels_needed is None


def test_the_walk_stops_at_the_first_threshold_that_is_not_shown():
    counts = traffic()
    place = fixed_sequence_threshold(counts, 0.1, 0.95)
    spoilt = counts.false.copy()
    middle = (first_threshold_with_hits(counts, 0.1, 0.95) + place) // 2
    spoilt[:, middle] = counts.hits[:, middle]
    assert (
        fixed_sequence_threshold(HitCounts(counts.thresholds, counts.hits, spoilt, counts.requests), 0.1, 0.95)
        == middle - 1
    )


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.05, 0.1, 0.2]))
def test_nothing_is_certified_below_what_naive_takes_and_more_alpha_never_certifies_less(seed, alpha):
    counts = traffic(2000, seed=seed)
    place, loose = fixed_sequence_threshold(counts, alpha, 0.95), naive_threshold(counts, alpha, 0.95)
    assert place is None or (loose is not None and place <= loose)
    more = fixed_sequence_threshold(counts, 2 * alpha, 0.95)
    assert place is None or (more is not None and more >= place)


def test_a_refusal_says_how_many_labels_and_that_many_would_do():
    small = traffic(500)
    found = certify_threshold(small, 0.1, 0.95)
    assert not found.certified
    few, many = found.labels_needed
    assert 0 < few < many
    assert f"between {few:,} and {many:,} more labelled hits" in found.note
    times = 1 + many / found.hits
    grown = [certify_threshold(traffic(int(500 * times), seed=s), 0.1, 0.95).certified for s in range(10)]
    assert np.mean(grown) >= 0.5


def test_where_every_rate_is_above_alpha_no_number_of_labels_helps():
    found = certify_threshold(traffic(rate=lambda s: 0.4 + 0 * s), 0.1, 0.95)
    assert (found.certified, found.labels_needed, found.note) == (False, None, NO_NUMBER)
    assert found.low > 0.1


def test_under_30_clusters_nothing_is_claimed():
    found = certify_threshold(traffic(clusters=29, rate=lambda s: 0 * s), 0.1, 0.95)
    assert (found.certified, found.labels_needed) == (False, None)
    assert "at least 30" in found.note


def test_must_differ_pairs_keep_the_threshold_up():
    counts = traffic()
    free, held = certify_threshold(counts, 0.1, 0.95), certify_threshold(counts, 0.1, 0.95, lowest=0.9)
    assert free.threshold < 0.9 <= held.threshold == 0.9
    assert "every threshold" in certify_threshold(counts, 0.1, 0.95, lowest=np.inf).note
    assert "from going under 0.9975" in certify_threshold(counts, 0.1, 0.95, lowest=0.9975).note


def test_a_true_replay_that_is_worse_raises_the_threshold_until_it_agrees():
    counts, asked = traffic(), []
    free = certify_threshold(counts, 0.1, 0.95)

    def confirm(threshold):
        asked.append(threshold)
        place = GRID.tolist().index(threshold)
        worse = counts.false[:, [place]] * (3 if threshold < free.threshold + 0.03 else 1)
        return HitCounts(
            GRID[[place]], counts.hits[:, [place]], np.minimum(worse, counts.hits[:, [place]]), counts.requests
        )

    found = certify_threshold(counts, 0.1, 0.95, confirm=confirm)
    assert found.certified
    assert found.threshold == pytest.approx(free.threshold + 0.03)
    assert asked == sorted(asked)
    never = certify_threshold(counts, 0.1, 0.95, confirm=lambda t: HitCounts(
        GRID[:1], counts.hits[:, -1:], counts.hits[:, -1:], counts.requests))  # fmt: skip
    assert not never.certified


def test_choosing_on_half_certifies_on_clusters_it_did_not_choose_on():
    counts = traffic(20_000, clusters=200, spread=0.3)
    place = choose_threshold_then_certify(counts, 0.1, 0.95)
    rest = counts.take(np.arange(1, 200, 2))
    assert promised_false_hit_bound(rest)[place] <= 0.1
    assert choose_threshold_then_certify(counts.take(np.arange(58)), 0.1, 0.95) is None


def test_the_certificate_keeps_its_promise_on_draws_where_the_usual_rule_breaks():
    counts = traffic(4000, clusters=80, spread=0.4)
    trials = {(t.method, t.design): t for t in simulate_certificates(counts, 0.1, 0.95, draws=300, seed=1)}
    error = 2 * np.sqrt(0.05 * 0.95 / 300)
    for design in ("pairs", "clusters"):
        assert trials["fixed sequence, cluster-robust", design].broken <= 0.05 + error
        assert trials["naive: lowest threshold under alpha", design].broken > 1 / 3
    assert trials["fixed sequence, cluster-robust", "pairs"].certified >= 0.8
    ours, other = (
        trials[name, "clusters"] for name in ("fixed sequence, cluster-robust", "choose on half, certify on half")
    )
    assert ours.hit_rate > other.hit_rate


def test_where_one_cluster_holds_most_hits_nothing_is_claimed_and_its_share_is_told():
    rng = np.random.default_rng(0)
    cluster = rng.choice(60, 6000, p=np.r_[0.5, np.full(59, 0.5 / 59)])
    found = certify_threshold(count_hits(rng.uniform(0.5, 1, 6000), np.zeros(6000, dtype=bool), cluster), 0.2, 0.95)
    assert not found.certified
    assert found.effective_clusters < 5
    assert "one has 5" in found.note
    assert "certify that one apart" in found.note


@pytest.mark.parametrize("alpha", [0.05, 0.1])
def test_an_unseen_cluster_that_makes_a_tenth_of_false_hits_breaks_few_promises(alpha):
    rng = np.random.default_rng(1)
    every = traffic(8000, clusters=80, spread=0.7)
    more = every.false.sum(0) / 9
    heavy = np.diff(more, prepend=0).round().cumsum()
    counts = HitCounts(
        every.thresholds,
        np.vstack([every.hits, heavy]),
        np.vstack([every.false, heavy]),
        np.r_[every.requests, heavy[-1]],
    )
    broken = 0
    for _ in range(100):
        place = fixed_sequence_threshold(counts.take(rng.integers(0, 81, 81)), alpha, 0.95)
        broken += place is not None and counts.rate[place] > alpha
    assert broken <= 10  # 6 of 100 and two standard errors


def test_the_walk_starts_at_hits_with_power_at_half_of_alpha():
    assert hits_to_start(0.05, 0.95) == 361
    assert first_threshold_with_hits(traffic(100), 0.05, 0.95) is None
