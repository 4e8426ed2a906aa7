"""What a notebook tells beside its decision: whose losses are read, what would change it, what is assumed."""

from dataclasses import replace

import pytest

from tests.reports import samples
from tests.reports.drawn import drawn
from workbench.caching.cache_study import CachingParameters
from workbench.evalset.gates import GatePolicy
from workbench.evaluation.decision import Outcome
from workbench.evaluation.finalists import beside_verdict, verdict_note_now
from workbench.evaluation.run_summary import Regressions, assumed_money, is_default, would_change
from workbench.records import Rule
from workbench.retrieval.notebook import RetrievalParameters

RULE = Rule("quality", "usd_per_1k_requests", "", 0.05, 0.95)
NAMES = ("plain", "cheap", "rich")


CASE = replace(
    samples.summary().regressions[0],
    returned={samples.REFERENCE: ("a",), samples.CHOSEN: ("b",), "third": ("c",)},
)


def case_of(loses, wins):
    """One item on which an arm loses against another."""
    return {CASE.item_id: replace(CASE, returned={loses: (), wins: ()}, values={loses: 0.0, wins: 1.0})}


def test_the_decided_arm_is_read_against_what_is_in_use():
    found = Regressions.of(samples.decision(), samples.decision().arms, {CASE.item_id: CASE})
    assert found.arms == (samples.REFERENCE, samples.CHOSEN)
    assert found.title == f"Where {samples.CHOSEN} loses most against {samples.REFERENCE}"


def test_without_an_arm_in_use_or_where_it_is_kept_the_best_other_one_is_read():
    first = drawn(RULE, [0.6, 0.3, 0.8], [0.1, 0.1, 0.1], names=NAMES)
    assert Regressions.of(first, first.arms, case_of("rich", "plain")).arms == ("plain", "rich")
    kept = drawn(replace(RULE, reference="plain"), [0.6, 0.3, 0.3], [0.1, 0.1, 0.1], names=NAMES)
    best = kept.claim("plain").best
    assert Regressions.of(kept, kept.arms, case_of("plain", best)).arms == (best, "plain")


@pytest.mark.parametrize("asked", [(), (samples.CHOSEN,), (samples.REFERENCE,)])
def test_arms_that_this_run_did_not_ask_are_not_read(asked):
    assert Regressions.of(samples.decision(), asked, {CASE.item_id: CASE}) == Regressions()


def test_an_arm_that_stands_alone_has_no_losses_and_no_heading():
    alone = drawn(RULE, [0.6], [0.1], names=["plain"])
    found = Regressions.of(alone, alone.arms, case_of("plain", "rich"))
    assert (found.title, found.cases, found.table(("question", "right", "said"))) == ("", (), None)


def test_losses_show_the_two_arms_alone():
    found = Regressions.of(samples.decision(), samples.decision().arms, {CASE.item_id: CASE})
    assert set(found.cases[0].returned) == {samples.CHOSEN, samples.REFERENCE}
    wins = Regressions.of(samples.decision(), samples.decision().arms, case_of(samples.REFERENCE, samples.CHOSEN))
    assert wins.cases == (), "it loses nowhere"
    assert wins.title == f"{samples.CHOSEN} loses on no question against {samples.REFERENCE}"
    assert wins.table(("question", "right", "said")).rows == ()


def test_what_would_change_the_decision_speaks_of_the_decided_arm_and_of_those_too_far_below():
    told = would_change(samples.decision())
    assert f"{samples.CHOSEN}: under a margin of 0.018 nDCG@10 it is no longer good enough." in told
    assert "whole · full text: a margin above 0.106 nDCG@10 would be needed." in told
    assert not [line for line in told if line.startswith(samples.REFERENCE)]
    assert not [line for line in told if "No floor" in line], "there is one"


def test_a_volume_that_nobody_has_set_is_called_assumed():
    assert "100,000 requests a month are assumed" in assumed_money(GatePolicy())["requests_per_month"]
    assert assumed_money(GatePolicy(requests_per_month=100_000)) == {}


def test_a_parameter_is_the_default_until_it_is_another_one():
    assert is_default(CachingParameters(), "call_usd")
    assert not is_default(CachingParameters(call_usd=0.1), "call_usd")
    assert is_default(RetrievalParameters(), "strategies")


def test_what_several_looks_at_a_test_split_take_is_told_as_the_chance_of_error_that_is_left():
    decision = drawn(RULE, [0.6], [0.1], names=["plain"])
    seventh, outcome = replace(RULE, use=7), Outcome(decision.verdict, "plain", "", None)
    now = (
        "7 different sets of arms have been judged on this test split. All looks at it together may be wrong in 5 % of "
        "cases: 0.031 % are left for this look, of 3 % for a first one, so its bounds are wider. "
        "New test questions would renew it."
    )
    alone = [replace(decision.claim("plain"), pairs=())]
    assert beside_verdict(alone, seventh, outcome, {"plain": 1.0}) == [now]
    assert beside_verdict(alone, RULE, outcome, {"plain": 1.0}) == []
    before = (
        "7 different sets of arms have been judged on this test split, so bounds are at 99.97 % instead of 97.00 % "
        "confidence. New test questions would renew it."
    )
    assert verdict_note_now(before, seventh) == now
    assert verdict_note_now(before, RULE) == before, "of another use: it is no note of this rule"
