"""PPI++: the reference's numbers where it covers the case, stated coverage where it does not."""

import json
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from tests.evalset.small_evalset import shared
from workbench.errors import ConfigError
from workbench.quality.ppi import label_factor, labels_for, next_labels, ppi_mean


def drawn(rng, n, others, kind, *, size=1):
    """Labels and scores in clusters of one fate; ``kind`` is how the judge goes with them."""
    m = n + others
    fate = rng.normal(size=-(-m // size)).repeat(size)[:m]
    label = (0.7 * fate + 0.7 * rng.normal(size=m) > -0.5).astype(float)
    noise = rng.normal(size=m)
    score = {"good": label + 0.5 * noise, "useless": noise, "wrong way round": -label + 0.5 * noise}[kind]
    return label, score, np.arange(m) // size


@pytest.mark.parametrize("kind", ["good", "useless", "wrong way round"])
@pytest.mark.parametrize(("n", "others"), [(12, 30), (60, 400), (400, 100)])
def test_point_and_interval_are_those_of_ppi_python(kind, n, others):
    from ppi_py import ppi_mean_ci, ppi_mean_pointestimate

    label, score, _ = drawn(np.random.default_rng(n), n, others, kind)
    given = label[:n], score[:n], score[n:]
    found = ppi_mean(*given, confidence=0.9)
    assert found.mean == pytest.approx(np.squeeze(ppi_mean_pointestimate(*given)).item(), abs=1e-12)
    low, high = (np.squeeze(bound).item() for bound in ppi_mean_ci(*given, alpha=0.1))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)


def test_paired_differences_are_estimated_like_any_values():
    from ppi_py import ppi_mean_ci

    rng = np.random.default_rng(3)
    label, score = rng.integers(-1, 2, 80).astype(float), rng.integers(-1, 2, 400).astype(float)
    score[:80] = np.where(rng.random(80) < 0.8, label, score[:80])
    found = ppi_mean(label, score[:80], score[80:])
    assert (found.low, found.high) == pytest.approx(
        [np.squeeze(b).item() for b in ppi_mean_ci(label, score[:80], score[80:], alpha=0.05)]
    )
    assert found.label_factor < 0.75


@given(seed=st.integers(0, 1000), kind=st.sampled_from(["good", "useless", "wrong way round"]))
def test_a_judge_never_widens_what_the_labels_alone_say(seed, kind):
    label, score, _ = drawn(np.random.default_rng(seed), 60, 300, kind)
    found = ppi_mean(label[:60], score[:60], score[60:])
    alone = label[:60].std() / np.sqrt(60)
    assert 0 <= found.weight <= 1
    assert found.se <= 1.03 * alone  # the weight is estimated from all scores, its gain from both parts
    if kind == "wrong way round":
        assert found.weight == 0
        assert found.mean == pytest.approx(label[:60].mean())


def test_a_constant_judge_changes_nothing():
    label = np.array([1.0, 0, 1, 1, 0])
    found = ppi_mean(label, np.ones(5), np.ones(50))
    assert (found.mean, found.weight, found.label_factor) == (pytest.approx(0.6), 0.0, 1.0)


def test_clustered_interval_is_wider_where_items_share_a_fate():
    label, score, clusters = drawn(np.random.default_rng(0), 400, 1000, "good", size=10)
    args = label[:400], score[:400], score[400:]
    loose, tight = ppi_mean(*args), ppi_mean(*args, clusters=clusters)
    assert tight.high - tight.low > 1.3 * (loose.high - loose.low)
    assert tight.mean == pytest.approx(loose.mean)


def coverage(kind: str, n: int, *, size: int, resamples: int) -> float:
    """Share of resamples whose interval holds the true mean; labelled are whole clusters."""
    rng = np.random.default_rng([n, size, len(kind)])
    true = norm.cdf(0.5 / np.sqrt(0.98))  # share of the labels' normal variable above -.5
    inside = 0
    for _ in range(resamples):
        label, score, clusters = drawn(rng, n, 600, kind, size=size)
        found = ppi_mean(label[:n], score[:n], score[n:], clusters=clusters)
        inside += found.low <= true <= found.high
    return inside / resamples


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["good", "useless", "wrong way round"])
@pytest.mark.parametrize("n", [60, 150, 400])
def test_clustered_intervals_cover_as_stated(kind, n):
    assert 0.93 <= coverage(kind, n, size=2, resamples=1000) <= 0.975


def test_label_factor_of_a_perfect_a_useless_and_a_contrary_judge():
    label = np.random.default_rng(1).integers(0, 2, 200).astype(float)
    assert label_factor(label, label)[0] == pytest.approx(0)
    assert label_factor(label, np.random.default_rng(2).normal(size=200))[0] > 0.97
    assert label_factor(label, 1 - label) == (1.0, 1.0)
    assert label_factor(label, np.ones(200)) == (1.0, 1.0)


def test_next_labels_are_of_new_clusters_and_shrink_the_interval_as_told():
    told, seen = [], []
    for seed in range(20):
        label, score, codes = drawn(np.random.default_rng(seed), 160, 640, "good", size=4)
        has = codes < 40
        found = ppi_mean(label[has], score[has], score[~has], clusters=codes, seed=seed)
        coming = next_labels(found, label[has] - found.weight * score[has], score[~has], codes, most=320)
        places = np.array([each.place for each in coming])
        assert len(set(codes[~has][places[:160]])) == 160  # each of another cluster, none of which has a label
        assert [each.in_cluster for each in coming] == [0] * 160 + [1] * 160
        assert all(each.shrinks > 0 for each in coming)
        picked = has.copy()
        picked[np.flatnonzero(~has)[places[:160]]] = True
        order = np.concatenate([codes[picked], codes[~picked]])
        after = ppi_mean(label[picked], score[picked], score[~picked], clusters=order, seed=seed)
        told.append(2 * coming[159].reach / (found.high - found.low))
        seen.append((after.high - after.low) / (found.high - found.low))
    assert np.mean(told) == pytest.approx(np.mean(seen), rel=0.1), (np.mean(told), np.mean(seen))


def test_the_last_item_can_be_the_next_label():
    label, score, codes = drawn(np.random.default_rng(0), 40, 1, "good")
    found = ppi_mean(label[:40], score[:40], score[40:])
    (last,) = next_labels(found, label[:40] - found.weight * score[:40], score[40:], codes)
    assert (last.place, last.in_cluster) == (0, 0)
    assert last.reach < (found.high - found.low) / 2


def test_labels_needed_grow_with_the_square_of_the_precision():
    label, score, _ = drawn(np.random.default_rng(4), 100, 900, "good")
    found = ppi_mean(label[:100], score[:100], score[100:])
    reach = (found.high - found.low) / 2
    assert labels_for(found, reach / 2) == 400
    assert labels_for(found, 1.0) == 100
    with pytest.raises(ConfigError, match="endless"):
        labels_for(found, 0.0)


@pytest.mark.parametrize(
    ("labels", "judged", "others", "clusters", "said"),
    [
        ([1.0], [1.0], [1.0], None, "2 labels or more"),
        ([1.0, 0], [1.0], [1.0], None, "found 2 labels, 1 score"),
        ([1.0, 0], [1.0, 0], [], None, "0 of other items"),
        ([1.0, 0], [np.nan, 0], [1.0], None, "must be numbers"),
        ([1.0, 0], [1.0, 0], [1.0], [0, 1], "3 items needs a cluster, found 2"),
        ([1.0, 0], [1.0, 0], [1.0], [0, 1, 2], "30 clusters or more are needed, found 2"),
    ],
)
def test_what_cannot_be_estimated_is_refused(labels, judged, others, clusters, said):
    codes = None if clusters is None else np.array(clusters)
    with pytest.raises(ConfigError, match=said):
        ppi_mean(np.array(labels), np.array(judged), np.array(others), clusters=codes)


def test_label_factors_of_public_sets():
    """Published for these cuts: .97 to 1.00 for two judges of three pairs, .86 for the arena sample."""
    picks = defaultdict(list)
    for line in (shared("arena_pairs", "labels") / "labels.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        picked = {"A": row["model_a"], "B": row["model_b"]}.get(row["judge_pick"])
        first = min(row["model_a"], row["model_b"])
        picks[row["pair"], row["judge"]].append(
            (row[row["human_winner"]] == first, 0.5 if picked is None else picked == first)
        )
    factors = [label_factor(*np.array(rows, float).T)[0] for rows in picks.values()]
    assert len(factors) == 6
    assert min(factors) == pytest.approx(0.97, abs=0.03)
    assert max(factors) == pytest.approx(1.00, abs=0.03)
    rows = [
        json.loads(line)
        for line in (shared("cje_arena", "labels") / "labels.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    drawn_ = [
        (r["oracle_label"], r["judge_score"]) for r in rows if r["source"] == "draw" and r["oracle_label"] is not None
    ]
    assert len(drawn_) == 480
    assert label_factor(*np.array(drawn_, float).T)[0] == pytest.approx(0.86, abs=0.03)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_labels_that_all_say_the_same_leave_an_interval_of_what_none_of_them_said(value):
    judged = np.random.default_rng(0).random(330)
    found = ppi_mean(np.full(30, value), judged[:30], judged[30:], clusters=np.arange(330))
    away = found.low if value else found.high
    assert abs(away - value) == pytest.approx(1 - 0.025 ** (1 / 30))


def test_few_bad_labels_among_many_do_not_make_an_interval_that_is_wrong_more_often_than_it_says():
    above = 0
    for seed in range(40):  # 37 % before, of 2.5 %
        rng = np.random.default_rng(seed)
        labels = (rng.random(30) < 0.97).astype(float)
        judged = np.where(rng.random(330) < 0.9, np.r_[labels, rng.random(300) < 0.97], 0.0)
        above += ppi_mean(labels, judged[:30], judged[30:], clusters=np.arange(330)).low > 0.97
    assert above / 40 <= 0.025 + 4 * (0.025 * 0.975 / 40) ** 0.5
