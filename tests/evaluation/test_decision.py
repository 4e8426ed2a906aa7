"""The decision names the cheapest arm that is shown to be good enough, and says so when none is."""

import numpy as np
import polars as pl
import pytest

from workbench.evaluation.decision import ArmFacts, decide, make_claims, pick_finalists, pick_reference
from workbench.records import Decision, Fingerprint, Rule

RULE = Rule("ndcg@10", "usd_per_1k_requests", "best", 0.05, 0.95)


def frame(**arms):
    rows = [
        (arm, f"i{i:03d}", 0, value, f"c{i // 2}") for arm, values in arms.items() for i, value in enumerate(values)
    ]
    schema = {"arm": pl.String, "item_id": pl.String, "repeat": pl.Int32, "value": pl.Float64, "cluster": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def facts(**costs):
    return [ArmFacts(n, {"kind": n}, c, 10.0, i) for i, (n, c) in enumerate(costs.items())]


def outcome(arms, costs, *, rule=RULE, synthetic=False, latency=None):
    known = [ArmFacts(n, {}, c, (latency or {}).get(n, 10.0), i) for i, (n, c) in enumerate(costs.items())]
    claims = make_claims(frame(**arms), known, rule)
    return decide(claims, rule, order={f.name: f.order for f in known}, synthetic=synthetic)


@pytest.fixture
def base():
    return np.random.default_rng(0).random(240) * 0.4 + 0.5


def near(values, shift, seed=1, sd=0.05):
    return np.clip(values + shift + np.random.default_rng(seed).normal(0, sd, len(values)), 0, 1)


def test_the_cheapest_arm_that_holds_is_chosen(base):
    arms = {"best": base, "cheap": near(base, 0), "cheapest": near(base, -0.01, seed=2)}
    found = outcome(arms, {"best": 9.0, "cheap": 5.0, "cheapest": 1.0})
    assert (found.verdict, found.arm) == ("chosen", "cheapest")
    assert "Use cheapest" in found.sentence
    assert "89 % less" in found.sentence


def test_an_arm_that_loses_is_passed_over_for_the_next(base):
    arms = {"best": base, "cheap": near(base, 0), "cheapest": near(base, -0.2, seed=2)}
    assert outcome(arms, {"best": 9.0, "cheap": 5.0, "cheapest": 1.0}).arm == "cheap"


def test_where_no_cheaper_arm_holds_the_reference_is_kept(base):
    found = outcome({"best": base, "cheap": near(base, -0.2)}, {"best": 9.0, "cheap": 1.0})
    assert (found.verdict, found.arm) == ("keep_reference", "best")


def test_a_cheaper_arm_that_is_open_makes_it_inconclusive_and_says_how_many_more(base):
    arms = {"best": base - 0.3, "cheap": near(base - 0.3, -0.03, sd=0.25)}
    found = outcome(arms, {"best": 9.0, "cheap": 1.0})
    assert (found.verdict, found.arm) == ("inconclusive", "best")
    assert found.items_needed > 0
    assert f"{found.items_needed:,} more questions" in found.sentence


def test_an_arm_whose_observed_loss_is_beyond_the_margin_is_not_open_however_wide_its_bounds(base):
    arms = {"best": base - 0.3, "cheap": near(base - 0.3, -0.06, sd=0.25)}
    found = outcome(arms, {"best": 9.0, "cheap": 1.0})
    assert (found.verdict, found.arm, found.items_needed) == ("keep_reference", "best", None)


def test_nothing_meets_a_floor_that_is_above_all(base):
    rule = Rule("ndcg@10", "usd_per_1k_requests", "best", 0.05, 0.95, floor=0.95)
    found = outcome({"best": base, "cheap": near(base, 0)}, {"best": 9.0, "cheap": 1.0}, rule=rule)
    assert found.verdict == "none_meets_floor"
    assert "floor of 0.95" in found.sentence


def test_an_arm_over_the_latency_limit_is_not_chosen(base):
    rule = Rule("ndcg@10", "usd_per_1k_requests", "best", 0.05, 0.95, latency_limit_ms=50)
    arms = {"best": base, "cheap": near(base, 0)}
    costs = {"best": 9.0, "cheap": 1.0}
    assert outcome(arms, costs, rule=rule, latency={"cheap": 59.0}).arm == "cheap"  # within the tolerance
    assert outcome(arms, costs, rule=rule, latency={"cheap": 61.0}).arm == "best"


def test_synthetic_evidence_is_provisional_at_most(base):
    found = outcome({"best": base, "cheap": near(base, 0)}, {"best": 9.0, "cheap": 1.0}, synthetic=True)
    assert found.verdict == "provisional"


def test_equal_costs_go_to_the_arm_declared_first(base):
    arms = {"simple": near(base, 0), "clever": near(base, 0.001, seed=5), "best": base}
    assert outcome(arms, {"simple": 1.0, "clever": 1.0, "best": 9.0}).arm == "simple"


def test_failures_count_in_coverage_and_against_the_arm(base):
    broken = near(base, 0).tolist()
    broken[:40] = [None] * 40
    claims = make_claims(frame(best=base, cheap=broken), facts(best=9.0, cheap=1.0), RULE)
    cheap = next(c for c in claims if c.arm == "cheap")
    assert cheap.coverage == pytest.approx(200 / 240)
    assert cheap.difference < -0.05


def test_dev_picks_the_best_as_reference_and_at_most_three_cheaper_finalists(base):
    arms = {f"a{i}": near(base, -0.01 * i, seed=i, sd=0.01) for i in range(6)}
    known = [ArmFacts(f"a{i}", {}, 10.0 - i, 1.0, i) for i in range(6)]
    dev = frame(**arms)
    reference = pick_reference(dev, known)
    assert reference == "a0"
    rule = Rule("ndcg@10", "usd_per_1k_requests", reference, 0.05, 0.95)
    assert pick_finalists(dev, known, rule) == ["a3", "a2", "a1"]


def test_finalists_differ_in_cost_before_they_differ_in_detail(base):
    shifts = {"cheap": -0.06, "middle": -0.03, "middling": -0.04, "twin": -0.01}
    arms = {n: near(base, shift, seed=i, sd=0.01) for i, (n, shift) in enumerate(shifts.items(), 1)} | {"best": base}
    known = [ArmFacts(n, {}, c, 1.0, i) for i, (n, c) in enumerate(
        {"cheap": 1.0, "middle": 5.0, "middling": 5.0, "twin": 9.0, "best": 9.0}.items())]  # fmt: skip
    assert pick_finalists(frame(**arms), known, RULE) == ["cheap", "middle", "twin"]


def test_an_arm_far_below_the_reference_on_dev_is_no_finalist(base):
    rule = Rule("ndcg@10", "usd_per_1k_requests", "best", 0.05, 0.95)
    dev = frame(best=base, bad=near(base, -0.3))
    assert pick_finalists(dev, facts(best=9.0, bad=1.0), rule) == []


def test_a_decision_survives_the_way_to_disk_and_back(base, tmp_path):
    claims = make_claims(frame(best=base, cheap=near(base, 0)), facts(best=9.0, cheap=1.0), RULE)
    print_ = Fingerprint({"queries": "ab"}, {"machine": "x"})
    decision = Decision("retrieval", "which?", "ci", RULE, "chosen", "cheap", {"k": 1}, "Use.", claims, 240, 120,
                        None, 1, print_, {"seed": 0})  # fmt: skip
    path = tmp_path / "d.json"
    path.write_text(decision.to_json())
    assert Decision.load(path) == decision
