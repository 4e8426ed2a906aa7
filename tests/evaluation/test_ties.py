"""What few questions show if they all say the same: no more than the exact bound of what none of them said."""

import numpy as np
import polars as pl
import pytest

from workbench.errors import ConfigError
from workbench.evaluation.compare import mean_interval
from workbench.evaluation.decision import ArmFacts, ArmValues, claims_of, decide, make_claims, pairwise_of
from workbench.evaluation.decision_sentences import sentence_now, signed
from workbench.evaluation.flip_points import decided_by_rule
from workbench.evaluation.gate import account
from workbench.records import Decision, Fingerprint, Rule

POSITIVE = ("chosen", "upgrade", "keep_reference", "provisional")


def rule_of(margin=0.02, **more):
    return Rule("correctness", "usd_per_1k_requests", more.pop("reference", ""), margin, 0.95, **more)


def judge(rows, rule, costs=(1.0, 2.0, 3.0), *, draws=300, resampled=True):
    values = np.stack(rows).astype(float)
    facts = [ArmFacts(f"a{i}", {}, cost, None, i) for i, cost in zip(range(len(values)), costs, strict=False)]
    scored = ArmValues(values, values, values, np.arange(values.shape[1]), np.ones(len(values)))
    pairs = pairwise_of(scored, rule, draws=draws)
    claims = claims_of(scored, facts, rule, pairs, resampled=resampled)
    return claims, decide(claims, rule, order={f.name: f.order for f in facts}, n_dev_clusters=20)


def frame(values):
    parts = [
        pl.DataFrame({"arm": arm, "item_id": [f"q{i:03d}" for i in range(len(row))], "value": row}).with_columns(
            repeat=0, metric=pl.lit("correctness"), cluster="item_id"
        )
        for arm, row in values.items()
    ]
    return pl.concat(parts)


def test_an_arm_that_lies_the_margin_below_is_not_chosen_because_few_questions_were_tied():
    named = 0
    for seed in range(60):  # 55 % before
        rng = np.random.default_rng(seed)
        _, said = judge([np.where(rng.random(30) < 0.02, 0.0, 1.0), np.ones(30)], rule_of())
        named += said.verdict in POSITIVE and said.arm == "a0"
    assert named / 60 <= 0.05 + 4 * (0.05 * 0.95 / 60) ** 0.5


@pytest.mark.parametrize(
    ("m", "status", "verdict"), [(30, "inconclusive", "inconclusive"), (300, "identical", "chosen")]
)
def test_ties_are_good_enough_once_they_are_so_many_that_the_margin_is_shown(m, status, verdict):
    same = np.random.default_rng(1).random(m).round(1)
    claims, said = judge([same, same], rule_of(), resampled=False)
    assert (claims[0].status, claims[0].pairs[0].status, said.verdict) == (status, "identical", verdict)
    if m == 30:
        few, _ = claims[0].items_needed
        again, _ = judge([np.resize(same, 30 + few)] * 2, rule_of())
        assert again[0].status == "identical"
    else:
        assert f"at least {signed(-claims[0].pairs[0].unseen)}" in said.sentence


def test_a_tie_stands_down_to_the_margin_that_it_shows():
    same = np.random.default_rng(1).random(300).round(1)
    claims, said = judge([same, same], rule_of())
    decision = Decision(
        notebook="n", question="q", profile="ci", rule=rule_of(), verdict=said.verdict, arm=said.arm, parameters={},
        sentence=said.sentence, claims=claims, n_items=300, n_clusters=300, items_needed=None, test_uses=1,
        fingerprint=Fingerprint({}, {}), settings={},
    )  # fmt: skip
    usd = [c.cost_usd_per_1k for c in claims]
    unseen = claims[0].pairs[0].unseen
    assert 0.01 < unseen < 0.02
    assert decided_by_rule(decision, rule_of(unseen + 1e-6), usd).verdict == "chosen"
    assert decided_by_rule(decision, rule_of(unseen - 1e-6), usd).verdict == "inconclusive"


@pytest.mark.parametrize(("m", "met"), [(30, False), (60, False), (200, True)])
def test_a_floor_is_not_met_by_few_questions_of_which_none_went_wrong(m, met):
    _, said = judge([np.ones(m)], rule_of(floor=0.95))
    assert (said.verdict in POSITIVE) == met


def test_few_questions_of_which_none_went_right_do_not_show_that_nothing_meets_a_floor():
    _, said = judge([np.zeros(30)], rule_of(floor=0.05))
    assert said.verdict == "inconclusive"


def test_the_interval_of_a_mean_has_a_width_where_nothing_varies():
    for values, low, high in ((np.ones(30), 0.884, 1), (np.zeros(30), 0, 0.116), (np.full(30, 0.5), 0.442, 0.558)):
        assert mean_interval(values, np.arange(30)) == pytest.approx((values[0], low, high), abs=1e-3)
    one = np.ones(60)
    one[0] = 0.0
    mean, low, high = mean_interval(one, np.arange(60))
    assert (round(low, 3), high) == (0.911, 1.0)
    assert low < mean < high


def test_a_score_that_is_no_number_counts_as_failed():
    right = np.random.default_rng(0).random(60).round()
    lame = right.copy()
    lame[:5] = np.nan
    rows = frame({"a": lame, "b": right})
    facts = [ArmFacts("a", {}, 1.0, None, 0), ArmFacts("b", {}, 2.0, None, 1)]
    claims = make_claims(rows, facts, rule_of(0.05))
    failed = make_claims(rows.with_columns(pl.col("value").fill_nan(None)), facts, rule_of(0.05))
    assert claims == failed
    assert (claims[0].status, claims[0].coverage) == ("inconclusive", 55 / 60)
    decision = type("Of", (), {"claims": claims})
    (wrong, *_) = account(rows, decision, set(rows["item_id"]), min_coverage=0.95)
    assert wrong.status == "error"
    assert "0.917" in wrong.sentence


@pytest.mark.parametrize("value", [1.5, -0.1, np.inf])
def test_a_metric_that_is_no_share_is_refused_since_no_bound_is_true_of_it(value):
    rows = frame({"a": np.r_[np.ones(59), value]})
    with pytest.raises(ConfigError, match=r"a has the value .* on 'q059'.* outside \[0, 1\]"):
        make_claims(rows, [ArmFacts("a", {}, 1.0, None, 0)], rule_of())


def test_an_arm_in_use_that_is_compared_with_none_is_not_told_as_shown():
    rng = np.random.default_rng(4)
    rows = [(rng.random(120) < 0.8).astype(float) for _ in range(3)]
    claims, said = judge(rows, rule_of(0.05, reference="a0"))
    assert said.verdict == "keep_reference"
    assert "confidence" not in said.sentence
    assert "Keep a0: no other of the arms tested could be had for the money (correctness 0." in said.sentence
    former = "Keep a0: shown at 95 % confidence to lie at most 0.05 correctness below the best for the money; none of"
    assert sentence_now(former, claims[0], rule_of(0.05)).startswith(said.sentence[: said.sentence.index(";")])


def test_arms_that_an_arm_was_not_compared_with_are_not_counted_among_those_it_lies_near():
    rng = np.random.default_rng(5)
    best = (rng.random(300) < 0.8).astype(float)
    rows = [best, np.where(rng.random(300) < 0.5, 0.0, best), best[::-1].copy()]
    _, said = judge([rows[0], rows[1], rows[2]], rule_of(0.1, reference="a1"), costs=(0.5, 1.0, 2.0))
    assert (said.verdict, said.arm) == ("chosen", "a0")
    assert "below the best of 2 arms tested for the money" in said.sentence
