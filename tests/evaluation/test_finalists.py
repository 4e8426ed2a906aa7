"""Dev rules out what it can, and no more; the test carries as many arms as it can tell apart."""

from dataclasses import replace

import numpy as np
import pytest

from tests.evaluation.test_decision import FIRST, RULE, facts, frame, near
from workbench.evaluation.finalists import MOST, chosen_shares, screen_arms


@pytest.fixture
def base():
    return np.random.default_rng(0).random(240) * 0.4 + 0.5


def names(dev, known, *, rule=FIRST, always=(), test_clusters=400):
    return screen_arms(dev, known, rule, always=always, test_clusters=test_clusters).names


def test_an_arm_that_dev_cannot_tell_from_the_best_goes_on_however_far_below_its_mean_is(base):
    few = base[:28]
    loose = np.clip(few - 0.06 + np.random.default_rng(3).normal(0, 0.35, 28), 0, 1)
    dev = frame(best=few, loose=loose, bad=np.clip(few - 0.45, 0, 1))
    assert names(dev, facts(best=9.0, loose=1.0, bad=1.0)) == ("best", "loose")


def test_an_arm_shown_worse_goes_on_only_where_it_is_cheaper_and_may_be_within_the_margin(base):
    dev = frame(best=base, worse=near(base, -0.03, sd=0.01))
    assert names(dev, facts(best=9.0, worse=1.0)) == ("best", "worse")
    assert names(dev, facts(best=1.0, worse=1.0)) == ("best",)


def test_a_dearer_arm_that_may_be_better_goes_on(base):
    dev = frame(used=base, dear=near(base, 0.02, sd=0.05))
    assert names(dev, facts(used=1.0, dear=9.0), rule=replace(RULE, reference="used")) == ("used", "dear")


def test_the_arm_in_use_the_anchor_and_own_systems_are_always_tested(base):
    dev = frame(best=base, old=near(base, -0.4), mine=near(base, -0.3))
    assert names(dev, facts(best=9.0, old=9.0, mine=9.0), always=("old", "mine")) == ("best", "old", "mine")


def test_of_arms_that_answer_alike_at_the_same_cost_the_simplest_goes_on(base):
    dev = frame(a=base, twin=base.copy(), other=near(base, 0.03, sd=0.2))
    assert names(dev, facts(a=1.0, twin=1.0, other=1.0)) == ("a", "other")


def test_few_test_questions_carry_few_arms_and_what_stays_behind_is_named(base):
    arms = {f"a{i}": near(base, 0, seed=i, sd=0.2) for i in range(10)}
    known = facts(**dict.fromkeys(arms, 1.0))
    found = {n: screen_arms(frame(**arms), known, FIRST, test_clusters=n) for n in (30, 4000)}
    assert len(found[4000].names) == MOST
    assert len(found[30].names) == 3
    assert len(found[30].left_behind) + 3 >= len(found[4000].names)
    assert found[30].power < 0.8 < found[4000].power


def test_how_often_an_arm_is_chosen_tells_a_tie_from_a_clear_choice(base):
    tied = {f"a{i}": near(base, 0, seed=i, sd=0.2) for i in range(3)}
    clear = {"good": base, "bad": near(base, -0.3), "worse": near(base, -0.4, seed=2)}
    for arms, steady in ((tied, False), (clear, True)):
        known = facts(**dict.fromkeys(arms, 1.0))
        shares = chosen_shares(frame(**arms), frame(**arms), known, FIRST, draws=100)
        assert sum(shares.values()) == pytest.approx(1)
        assert (max(shares.values()) > 0.9) is steady
