"""The gate: sameness and generalisation are told apart, and every status has its exit code."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from tests.evaluation.test_decision import RULE, facts, frame, near
from workbench.errors import GateFailed
from workbench.evaluation.decision import decide, make_claims
from workbench.evaluation.gate import (
    MIN_REBUILDS,
    Gate,
    account,
    changed_items,
    check_gate,
    rebuild_reach,
    rebuild_spread,
)
from workbench.records import Decision, Fingerprint

BASE = np.random.default_rng(0).random(240) * 0.4 + 0.5


def decided(scores, *, inputs=None, spread=None, rule=RULE):
    known = facts(best=9.0, cheap=1.0)
    known[1] = replace(known[1], spread=spread)
    claims = make_claims(scores, known, rule)
    found = decide(claims, rule, order={"best": 0, "cheap": 1})
    return Decision("retrieval", "?", "ci", rule, found.verdict, found.arm, {}, found.sentence, claims, 240, 120,
                    found.items_needed, 1, Fingerprint(inputs or {"queries": "a"}, {}))  # fmt: skip


def gate(before, after, *, accepted=None, now=None, invariants=None, soft=()):
    return check_gate(
        accepted or decided(before),
        now or decided(after),
        accepted_scores=before,
        scores=after,
        invariants=invariants or {"leaks": 0},
        soft=soft,
    )


def status_of(found, kind, arm="cheap"):
    return next(c.status for c in found.claims if c.kind == kind and c.arm == arm)


SAME = frame(best=BASE, cheap=near(BASE, 0))


def test_the_same_run_again_holds_with_identical_scores():
    found = gate(SAME, SAME)
    assert (found.status, found.exit_code) == ("holds", 0)
    assert status_of(found, "sameness") == "identical"
    assert status_of(found, "generalisation") == "holds"
    found.enforce()


def test_what_holds_is_told_by_its_claim_where_no_item_differs_from_the_best():
    """A count that must be 0 holds too, and decides nothing."""
    equal = frame(best=BASE, cheap=BASE)
    found = gate(equal, equal)
    assert (status_of(found, "generalisation"), found.status) == ("identical", "holds")
    assert found.sentence == next(c.sentence for c in found.claims if c.kind == "generalisation")


def test_one_changed_score_breaks_sameness_and_names_the_item():
    values = near(BASE, 0).copy()
    values[7] -= 0.001
    found = gate(SAME, frame(best=BASE, cheap=values))
    assert (found.status, found.exit_code) == ("broken", 1)
    assert next(c.changed for c in found.claims if c.status == "broken") == ("i007",)
    with pytest.raises(GateFailed) as caught:
        found.enforce()
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("off", "sd", "status"),
    [
        (0.039, 0.01, "holds"),
        (0.041, 0.01, "broken"),
        (0.024, 0.001, "holds"),
        (0.026, 0.001, "broken"),
        (0.02, 0.0, "holds"),
    ],
)
def test_a_build_is_the_same_within_four_standard_deviations_of_rebuilds_or_half_a_margin(off, sd, status):
    after = frame(best=BASE, cheap=near(BASE, 0.0, seed=9))
    mean = after.filter(pl.col("arm") == "cheap")["value"].mean()
    assert RULE.margin == 0.05
    for side in (-1, 1):
        accepted = decided(SAME, spread=(mean + side * off, sd))
        assert status_of(gate(SAME, after, accepted=accepted), "sameness") == status


def test_a_worse_build_breaks_the_gate_and_says_how_far_a_build_may_lie():
    mean = SAME.filter(pl.col("arm") == "cheap")["value"].mean()
    found = gate(SAME, frame(best=BASE, cheap=near(BASE, -0.06)), accepted=decided(SAME, spread=(mean, 0.005)))
    assert (found.status, found.exit_code) == ("broken", 1)
    said = next(c.sentence for c in found.claims if c.kind == "sameness" and c.arm == "cheap")
    assert f"lies outside {mean:.4f} +- 0.0250: the mean of its rebuilds and half a margin." in said


@pytest.mark.parametrize("fragile", [None, 20, 200])
def test_a_build_of_the_same_code_breaks_in_at_most_one_of_a_hundred(fragile):
    """Means of builds are drawn as normal, or as those of 300 questions of which some change from build to build."""
    rng, n = np.random.default_rng(20), 20_000
    if fragile is None:
        means = rng.normal(0.6, 0.01, (n, MIN_REBUILDS + 1))
    else:
        means = 0.6 + rng.binomial(fragile, 0.3, (n, MIN_REBUILDS + 1)) * 0.5 / 300
    spreads = [rebuild_spread(row[:-1]) for row in means]
    broken = [abs(row[-1] - s[0]) > rebuild_reach(s, margin=0.0) for row, s in zip(means, spreads, strict=True)]
    assert 0.001 < np.mean(broken) <= 0.01


def test_fewer_rebuilds_show_no_spread():
    with pytest.raises(ValueError, match="at least 8 of them, found 7"):
        rebuild_spread([0.5] * 7)


def test_a_changed_input_makes_it_stale_and_is_named():
    found = gate(SAME, SAME, now=decided(SAME, inputs={"queries": "b"}))
    assert (found.status, found.exit_code) == ("stale", 2)
    assert "queries changed" in found.sentence
    found.enforce()


def test_without_an_accepted_decision_a_run_is_new_and_the_gate_says_how_to_accept_it():
    found = check_gate(None, decided(SAME), accepted_scores=None, scores=SAME, invariants={}, run="r1")
    assert (found.status, found.exit_code) == ("new", 0)
    assert "workbench accept retrieval --run r1 --reason TEXT" in found.sentence


def test_a_first_run_that_cannot_tell_is_inconclusive_and_there_is_nothing_to_accept():
    few = frame(best=BASE[:16], cheap=near(BASE[:16], 0))
    found = check_gate(None, decided(few), accepted_scores=None, scores=few, invariants={})
    assert (found.status, found.exit_code) == ("inconclusive", 2)
    assert "too few questions: 8 families in test" in found.sentence
    assert "accept" not in found.sentence


def test_a_run_of_another_profile_is_shown_only():
    found = gate(SAME, SAME, now=replace(decided(SAME, inputs={"queries": "b"}), profile="smoke"))
    assert (found.status, found.exit_code) == ("new", 0)
    assert "The profile smoke is shown only" in found.sentence
    assert "workbench check retrieval" in found.sentence


def test_what_was_not_there_to_be_counted_was_not_tested():
    found = gate(SAME, SAME, invariants={"must-differ pairs served": None, "leaks": 0})
    assert (found.status, found.exit_code) == ("holds", 0)
    assert [c.status for c in found.claims if c.kind == "invariant"] == ["not tested", "holds"]


def test_a_leak_breaks_the_gate_whatever_else_holds():
    found = gate(SAME, SAME, invariants={"hits of another tenant": 1})
    assert (found.status, found.exit_code) == ("broken", 1)


def test_missing_accepted_scores_are_an_error():
    found = check_gate(decided(SAME), decided(SAME), accepted_scores=None, scores=SAME, invariants={})
    assert (found.status, found.exit_code) == ("error", 3)


def test_a_kept_reference_holds_when_it_is_kept_again_and_breaks_when_not():
    losing = frame(best=BASE, cheap=near(BASE, -0.2))
    kept = decided(losing)
    assert kept.verdict == "keep_reference"
    assert gate(losing, losing).status == "holds"
    assert status_of(gate(losing, SAME, accepted=kept), "generalisation", "best") == "broken"


def test_policy_may_soften_an_inconclusive_or_stale_gate_but_not_a_broken_one():
    stale = decided(SAME, inputs={"queries": "b"})
    assert gate(SAME, SAME, now=stale, soft=("stale",)).exit_code == 0
    assert gate(SAME, SAME, invariants={"leaks": 2}, soft=("stale", "inconclusive")).exit_code == 1


def test_a_system_that_got_much_worse_is_broken_not_inconclusive():
    worse = frame(best=BASE, cheap=near(BASE, -0.3))
    assert status_of(gate(SAME, worse), "generalisation") == "broken"


def test_items_that_appear_vanish_or_fail_count_as_changed():
    before = frame(best=[0.5, 0.5, 0.5])
    after = frame(best=[0.5, None])
    assert changed_items(before, after, "best") == ["i001", "i002"]


def test_a_gate_survives_the_way_to_disk_and_back(tmp_path):
    found = gate(SAME, SAME)
    path = tmp_path / "gate.json"
    path.write_text(found.to_json())
    assert Gate.load(path) == found


ITEMS = [f"i{i:03d}" for i in range(240)]
WHOLE = SAME.with_columns(metric=pl.lit("ndcg@10"))


def accounted(rows, decision=None, *, items=ITEMS, least=0.9):
    """Claims of the accounting, and the gate that they give beside an accepted decision that holds."""
    now = decision or decided(rows)
    claims = account(rows, now, items, min_coverage=least)
    found = check_gate(decided(SAME), decided(SAME), accepted_scores=SAME, scores=SAME, invariants={}, accounts=claims)
    return [c.sentence for c in claims if c.status == "error"], found


def test_a_run_whose_items_are_all_there_holds_and_says_what_was_counted():
    wrong, found = accounted(WHOLE)
    assert (wrong, found.status) == ([], "holds")
    assert "2 arms x 240 items x 1 repeat x 1 metric, all there" in str(found.claims)


def test_items_that_every_arm_lacks_are_an_error_that_names_arm_and_numbers():
    """Nothing in the scores themselves tells: the arms agree, and each one's coverage of what there is, is whole."""
    part = WHOLE.filter(pl.col("item_id") >= "i036")
    wrong, found = accounted(part)
    assert (found.status, found.exit_code) == ("error", 3)
    told = "204 rows, 240 are expected (240 items x 1 repeat x 1 metric, first missing 'i000')"
    assert [s.split(";")[0] for s in wrong if "expected" in s] == [f"{a}: {told}" for a in ("best", "cheap")]
    assert "cheap: its claim counts 204 of 240 items." in wrong
    assert "cheap: coverage 0.850 of its rows is below min_coverage 0.9; mend what fails and run again." in wrong


@pytest.mark.parametrize("arm", ["best", "cheap"])
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: f.slice(1), "239 rows, 240 are expected"),
        (lambda f: pl.concat([f, f.head(3)]), "243 rows, 3 of them twice, 240 are expected"),
        (lambda f: pl.concat([f.slice(1), f.tail(1)]), "240 rows, 1 of them twice"),
        (lambda f: f.with_columns(item_id=pl.lit("other")), "1 item that is not of the test split, first 'other'"),
        (lambda f: f.clear(), "0 rows, 240 are expected"),
        (lambda f: f.with_columns(value=pl.when(pl.col("item_id") > "i214").then("value")), "coverage 0.104 of its"),
    ],
)
def test_rows_of_one_arm_that_do_not_add_up_are_an_error_whichever_arm_it_is(arm, spoil, says):
    mine = pl.col("arm") == arm
    wrong, found = accounted(pl.concat([WHOLE.filter(~mine), spoil(WHOLE.filter(mine))]), decided(SAME))
    assert found.status == "error"
    assert wrong
    assert all(sentence.startswith(f"{arm}: ") for sentence in wrong)
    assert any(says in sentence for sentence in wrong)


def test_a_metric_that_lacks_rows_is_an_error():
    other = WHOLE.with_columns(metric=pl.lit("recall@10"))
    assert accounted(pl.concat([WHOLE, other]), decided(SAME))[0] == []
    wrong, _ = accounted(pl.concat([WHOLE, other.slice(1)]), decided(SAME))
    assert wrong == [
        "best: 479 rows, 480 are expected (240 items x 1 repeat x 2 metrics); a failed item must keep its row."
    ]


def test_a_coverage_above_1_is_an_error():
    decision = decided(SAME)
    claims = tuple(replace(c, coverage=300 / 255) if c.arm == "cheap" else c for c in decision.claims)
    wrong, found = accounted(WHOLE, replace(decision, claims=claims))
    assert wrong == ["cheap: coverage 1.176 of its claim is above 1: more was scored than there is."]
    assert (found.status, found.exit_code) == ("error", 3)
    with pytest.raises(GateFailed, match=r"coverage 1\.176"):
        found.enforce()


@pytest.mark.parametrize(("failed", "status"), [(24, "holds"), (25, "error")])
def test_more_failures_than_the_policy_allows_are_an_error(failed, status):
    rows = WHOLE.with_columns(value=pl.when(pl.col("item_id") >= f"i{failed:03d}").then("value"))
    assert accounted(rows)[1].status == status
    assert accounted(rows, least=0.8)[1].status == "holds"


def test_failed_repeats_count_as_much_as_failed_items():
    """One repeat in four of every item failed: no item is without a value, and a quarter of the evidence is."""
    rows = pl.concat([WHOLE.with_columns(repeat=pl.lit(r, pl.Int32)) for r in range(4)])
    assert {c.coverage for c in decided(rows).claims} == {1.0}
    rows = rows.with_columns(value=pl.when((pl.col("repeat") > 0) | (pl.col("arm") == "best")).then("value"))
    decision = decided(rows)
    assert {c.arm: c.coverage for c in decision.claims} == {"best": 1.0, "cheap": 0.75}
    wrong, _ = accounted(rows, decision)
    assert [s.split(" is")[0] for s in wrong] == [f"cheap: coverage 0.750 of its {of}" for of in ("claim", "rows")]
