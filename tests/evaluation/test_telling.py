"""What a notebook tells beside its decision: whose losses are read, what would change it, what is assumed."""

from dataclasses import replace

import pytest

from tests.reports import samples
from tests.reports.drawn import drawn
from workbench.caching.study import CachingParameters
from workbench.evalset.gates import GatePolicy
from workbench.evaluation.summary import assumed_money, compared, is_default, losses, losses_title, would_change
from workbench.records import Rule
from workbench.retrieval.notebook import RetrievalParameters

RULE = Rule("quality", "usd_per_1k_requests", "", 0.05, 0.95)
NAMES = ("plain", "cheap", "rich")


def test_the_decided_arm_is_read_against_what_is_in_use():
    assert compared(samples.decision(), samples.decision().arms) == (samples.CHOSEN, samples.REFERENCE)


def test_without_an_arm_in_use_or_where_it_is_kept_the_best_other_one_is_read():
    first = drawn(RULE, [0.6, 0.3, 0.8], [0.1, 0.1, 0.1], names=NAMES)
    assert compared(first, first.arms) == ("rich", "plain")
    kept = drawn(replace(RULE, reference="plain"), [0.6, 0.3, 0.3], [0.1, 0.1, 0.1], names=NAMES)
    arm, other = compared(kept, kept.arms)
    assert (arm, other) == ("plain", kept.claim("plain").best)


@pytest.mark.parametrize("asked", [(), (samples.CHOSEN,), (samples.REFERENCE,)])
def test_arms_that_this_run_did_not_ask_are_not_read(asked):
    assert compared(samples.decision(), asked) is None


def test_an_arm_that_stands_alone_has_no_losses_and_no_heading():
    alone = drawn(RULE, [0.6], [0.1], names=["plain"])
    assert compared(alone, alone.arms) is None
    assert losses({}, None) == ()
    assert losses_title(None, any_found=False) == ""


def test_losses_show_the_two_arms_alone():
    case = replace(
        samples.summary().regressions[0],
        returned={samples.REFERENCE: ("a",), samples.CHOSEN: ("b",), "third": ("c",)},
    )
    (found,) = losses({case.item_id: case}, (samples.CHOSEN, samples.REFERENCE))
    assert set(found.returned) == {samples.CHOSEN, samples.REFERENCE}
    assert losses({case.item_id: case}, (samples.REFERENCE, samples.CHOSEN)) == (), "it loses nowhere"
    assert losses_title(("a", "b"), any_found=False) == "a loses on no question against b"


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
