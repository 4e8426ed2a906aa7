"""The decision names the cheapest arm that is shown to lie near the best for the money, and says so when none is."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from workbench.evaluation.decision import ArmFacts, decide, make_claims
from workbench.records import Decision, Fingerprint, Rule

# Dollars per 1,000 requests are hundreds of dollars a month here: every difference of costs below counts.
RULE = Rule("ndcg@10", "usd_per_1k_requests", "best", 0.05, 0.95)
FIRST = replace(RULE, reference="")


def frame(**arms):
    rows = [
        (arm, f"i{i:03d}", 0, value, f"c{i // 2}") for arm, values in arms.items() for i, value in enumerate(values)
    ]
    schema = {"arm": pl.String, "item_id": pl.String, "repeat": pl.Int32, "value": pl.Float64, "cluster": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def facts(**costs):
    return [ArmFacts(n, {"kind": n}, c, 10.0, i) for i, (n, c) in enumerate(costs.items())]


def outcome(arms, costs, *, rule=RULE, synthetic=False, latency=None, n_dev_clusters=None):
    known = [ArmFacts(n, {}, c, (latency or {}).get(n, 10.0), i) for i, (n, c) in enumerate(costs.items())]
    claims = make_claims(frame(**arms), known, rule)
    order = {f.name: f.order for f in known}
    return decide(claims, rule, order=order, synthetic=synthetic, n_dev_clusters=n_dev_clusters)


@pytest.fixture
def base():
    return np.random.default_rng(0).random(240) * 0.4 + 0.5


def near(values, shift, seed=1, sd=0.05):
    return np.clip(values + shift + np.random.default_rng(seed).normal(0, sd, len(values)), 0, 1)


def test_the_cheapest_arm_within_the_margin_of_the_best_is_chosen(base):
    arms = {"best": base, "cheap": near(base, 0), "cheapest": near(base, -0.01, seed=2)}
    found = outcome(arms, {"best": 9.0, "cheap": 5.0, "cheapest": 1.0})
    assert (found.verdict, found.arm) == ("chosen", "cheapest")
    assert found.sentence.startswith("Use cheapest")
    assert "89 % less" in found.sentence
    assert "$100 a month instead of $900 a month at 100,000 requests" in found.sentence
    assert "Given up: best, which is in use, is shown better by +0.0" in found.notes[0]


def test_an_arm_shown_worse_than_an_equally_cheap_one_is_not_chosen_for_fractions_of_a_cent(base):
    arms = {"whole": near(base, -0.04, sd=0.1), "structure": base}
    costs = {"whole": 0.0000650, "structure": 0.0000687}
    found = outcome(arms, costs, rule=FIRST)
    assert (found.verdict, found.arm) == ("chosen", "structure")
    assert "under $0.05 a month" in found.sentence


def test_of_arms_that_cost_the_same_the_better_estimate_wins_only_beyond_a_third_of_the_margin(base):
    for shift, sd, expected in ((-0.005, 0.1, "simple"), (-0.002, 0.002, "better"), (-0.02, 0.2, "better")):
        noise = np.random.default_rng(1).normal(0, sd, len(base))
        arms = {"simple": np.clip(base + shift + noise - noise.mean(), 0, 1), "better": base}
        assert outcome(arms, {"simple": 1.0, "better": 1.00001}, rule=FIRST).arm == expected


def test_of_arms_that_are_as_good_and_cost_the_same_the_one_in_use_stays(base):
    arms = {"simple": near(base, 0), "clever": near(base, 0.001, seed=5), "best": base}
    costs = {"simple": 1.0, "clever": 1.0, "best": 1.0}
    assert outcome(arms, costs).arm == "best"
    found = outcome(arms, costs, rule=FIRST)
    assert (found.verdict, found.arm) == ("chosen", "simple")
    assert found.sentence.startswith("Start with simple")
    assert "not told apart from simple: clever" in found.notes[0]


def test_a_saving_counts_by_dollars_a_month_and_by_share(base):
    arms, costs = {"best": base, "cheap": near(base, 0)}, {"best": 1.0, "cheap": 0.8}
    assert outcome(arms, costs).arm == "cheap"  # $20 a month, 20 %
    assert outcome(arms, costs, rule=replace(RULE, requests_per_month=10_000)).arm == "best"  # $2 a month
    assert outcome(arms, costs, rule=replace(RULE, least_saving_share=0.3)).arm == "best"


def test_an_arm_that_loses_is_passed_over_for_the_next(base):
    arms = {"best": base, "cheap": near(base, 0), "cheapest": near(base, -0.2, seed=2)}
    assert outcome(arms, {"best": 9.0, "cheap": 5.0, "cheapest": 1.0}).arm == "cheap"


def test_where_no_other_arm_is_near_the_one_in_use_is_kept(base):
    found = outcome({"best": base, "cheap": near(base, -0.2)}, {"best": 9.0, "cheap": 1.0})
    assert (found.verdict, found.arm) == ("keep_reference", "best")


def test_keep_is_said_only_of_an_arm_that_is_in_use(base):
    found = outcome({"best": base, "cheap": near(base, -0.2)}, {"best": 9.0, "cheap": 1.0}, rule=FIRST)
    assert (found.verdict, found.arm) == ("chosen", "best")


def test_a_cheaper_arm_that_is_open_makes_it_inconclusive_and_says_how_many_more(base):
    arms = {"best": base - 0.3, "cheap": near(base - 0.3, -0.01, sd=0.25)}
    found = outcome(arms, {"best": 9.0, "cheap": 1.0})
    assert (found.verdict, found.arm) == ("inconclusive", "best")
    few, many = found.items_needed
    assert 0 < few < many
    assert f"between {few:,} and {many:,} more questions to settle cheap" in found.sentence
    assert "a margin of 0." in found.sentence


def test_an_arm_whose_observed_loss_is_beyond_the_margin_is_not_open_however_wide_its_bounds(base):
    arms = {"best": base - 0.3, "cheap": near(base - 0.3, -0.06, sd=0.25)}
    found = outcome(arms, {"best": 9.0, "cheap": 1.0})
    assert (found.verdict, found.arm, found.items_needed) == ("keep_reference", "best", None)


@pytest.mark.parametrize(("n", "dev", "says"), [(16, None, "8 families in test, 30"), (240, 2, "2 families in dev")])
def test_too_few_families_allow_no_verdict_not_even_keep(base, n, dev, says):
    for rule in (RULE, FIRST):
        arms = {"best": base[:n], "cheap": near(base[:n], -0.3)}
        found = outcome(arms, {"best": 9.0, "cheap": 1.0}, rule=rule, n_dev_clusters=dev)
        assert found.verdict == "inconclusive"
        assert says in found.sentence


def test_nothing_meets_a_floor_that_is_above_all(base):
    rule = replace(RULE, floor=0.95)
    found = outcome({"best": base, "cheap": near(base, 0)}, {"best": 9.0, "cheap": 1.0}, rule=rule)
    assert found.verdict == "none_meets_floor"
    assert "floor of 0.95" in found.sentence


def test_an_arm_that_straddles_the_floor_needs_questions_and_says_how_many():
    values = (np.random.default_rng(3).random(90) < 0.68).astype(float)
    found = outcome({"only": values}, {"only": 1.0}, rule=replace(FIRST, floor=0.6))
    assert found.verdict == "inconclusive"
    few, many = found.items_needed
    assert 1 <= few < many < 10_000
    assert "more questions to settle only" in found.sentence


def test_an_arm_over_the_latency_limit_is_not_chosen_nor_one_that_could_be_had(base):
    rule = replace(RULE, latency_limit_ms=50)
    arms, costs = {"best": base, "cheap": near(base, 0)}, {"best": 9.0, "cheap": 1.0}
    assert outcome(arms, costs, rule=rule, latency={"cheap": 59.0}).arm == "cheap"  # within the tolerance
    assert outcome(arms, costs, rule=rule, latency={"cheap": 61.0}).arm == "best"
    slow = {"best": near(base, -0.2), "cheap": base}
    assert outcome(slow, costs, rule=rule, latency={"cheap": 99.0}).verdict == "keep_reference"


def test_synthetic_evidence_is_provisional_at_most(base):
    found = outcome({"best": base, "cheap": near(base, 0)}, {"best": 9.0, "cheap": 1.0}, synthetic=True)
    assert found.verdict == "provisional"


def test_a_dearer_arm_that_is_shown_better_is_told_with_its_price_and_chosen_where_it_is_worth_it(base):
    arms, costs = {"best": base, "dear": np.clip(near(base, 0.1, sd=0.02), 0, 1)}, {"best": 1.0, "dear": 3.0}
    told = outcome(arms, costs)
    assert (told.verdict, told.arm) == ("keep_reference", "best")
    assert "dear is shown better" in told.notes[0]
    assert "$200 a month more" in told.notes[0]
    assert "it is not chosen: point_usd in gates.toml is not set" in told.notes[0]
    worth = outcome(arms, costs, rule=replace(RULE, point_usd=30.0))
    assert (worth.verdict, worth.arm) == ("upgrade", "dear")
    assert worth.sentence.startswith("Upgrade to dear")
    assert outcome(arms, costs, rule=replace(RULE, point_usd=1.0)).verdict == "keep_reference"


def test_a_dearer_arm_is_no_rival_of_what_one_could_have_for_the_money(base):
    arms = {"best": base, "dear": np.clip(near(base, 0.1, sd=0.02), 0, 1)}
    claims = make_claims(frame(**arms), facts(best=1.0, dear=3.0), RULE)
    assert [c.best for c in claims] == ["", "best"]
    assert claims[0].against("dear").difference < -0.05
    limited = replace(FIRST, max_usd_per_1k=2.0)
    assert outcome(arms, {"best": 1.0, "dear": 3.0}, rule=limited).arm == "best"
    assert outcome(arms, {"best": 1.0, "dear": 3.0}, rule=FIRST).arm == "dear"


def test_no_arm_may_pass_the_margin_below_the_anchor_even_where_the_anchor_is_dearer(base):
    arms = {"best": near(base, -0.03, sd=0.02), "next": near(base, -0.06, seed=2, sd=0.02), "anchor": base}
    costs = {"best": 1.0, "next": 0.5, "anchor": 5.0}
    assert outcome(arms, costs).arm == "next"
    found = outcome(arms, costs, rule=replace(RULE, anchor="anchor"))
    assert (found.verdict, found.arm) == ("keep_reference", "best")


def test_the_bounds_of_a_later_use_of_the_split_are_wider(base):
    known = facts(best=9.0, cheap=1.0)
    scores = frame(best=base, cheap=near(base, 0))
    lows = [make_claims(scores, known, replace(RULE, use=use))[1].low for use in (1, 2, 20)]
    assert lows[0] > lows[1] > lows[2]


def test_failures_count_in_coverage_and_against_the_arm(base):
    broken = near(base, 0).tolist()
    broken[:40] = [None] * 40
    claims = make_claims(frame(best=base, cheap=broken), facts(best=9.0, cheap=1.0), RULE)
    cheap = next(c for c in claims if c.arm == "cheap")
    assert cheap.coverage == pytest.approx(200 / 240)
    assert cheap.difference < -0.05
    assert claims[0].against("cheap").difference < 0.05  # a failure of the other counts as if it had been right


def test_an_arm_that_may_be_better_than_it_was_judged_counts_so_against_others(base):
    scores = frame(best=base, cheap=near(base, 0))
    lifted = scores.with_columns(value=pl.when(pl.col("arm") == "best").then(1.0).otherwise("value"))
    plain, careful = (make_claims(scores, facts(best=9.0, cheap=1.0), RULE, against=a)[1] for a in (None, lifted))
    assert plain.status == "holds"
    assert careful.status == "inconclusive"  # nor is the other's doubt held against this one
    assert plain.estimate == careful.estimate


def test_a_decision_survives_the_way_to_disk_and_back(base, tmp_path):
    claims = make_claims(frame(best=base, cheap=near(base, 0)), facts(best=9.0, cheap=1.0), RULE)
    print_ = Fingerprint({"queries": "ab"}, {"machine": "x"})
    decision = Decision("retrieval", "which?", "ci", RULE, "chosen", "cheap", {"k": 1}, "Use.", claims, 240, 120,
                        (3, None), 1, print_, {"seed": 0}, notes=("Told.",), chosen_share={"cheap": 0.9})  # fmt: skip
    path = tmp_path / "d.json"
    path.write_text(decision.to_json())
    assert Decision.load(path) == decision


def test_arms_that_lie_below_each_other_only_by_what_is_not_judged_are_open_and_not_all_bad():
    low, high = np.r_[np.ones(98), [0.0, 0.0]], np.ones(100)
    scores, against = (frame(one=v, other=v) for v in (low, high))
    claims = make_claims(scores, facts(one=1.0, other=1.0), replace(FIRST, margin=0.02), against=against)
    assert [c.difference for c in claims] == pytest.approx([-0.02, -0.02])
    found = decide(claims, replace(FIRST, margin=0.02), order={"one": 0, "other": 1})
    assert found.verdict == "inconclusive"
    assert found.sentence.startswith("Cannot tell")
