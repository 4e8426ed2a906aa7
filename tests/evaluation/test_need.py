"""How many more questions an open claim asks for: enough for all that it has to beat, and for nothing else."""

import numpy as np
import pytest

from workbench.evaluation.compare import spent_confidence
from workbench.evaluation.decision import ArmFacts, ArmValues, claims_of, pairwise_of
from workbench.evaluation.power import chance_of_each, clusters_needed
from workbench.records import Rule

RULE = Rule("score", "usd_per_1k_requests", "used", 0.05, 0.95)
USED = ("used", 5.0)


def claim_of(arm, values, costs, rule=RULE):
    rows = np.stack(values)
    facts = [ArmFacts(name, {}, cost, None, i) for i, (name, cost) in enumerate(costs)]
    scored = ArmValues(rows, rows, rows, np.arange(rows.shape[1]) // 2, np.ones(len(rows)))
    return next(c for c in claims_of(scored, facts, rule, pairwise_of(scored, rule)) if c.arm == arm)


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_an_arm_that_one_could_not_have_for_the_money_asks_for_no_questions(rng):
    used = rng.random(120) * 0.4 + 0.3
    same, noisy = used + rng.permutation(np.repeat([-0.3, 0.3], 60)), rng.permutation(np.repeat([0.0, 1.0], 60))
    alone = claim_of("same", [used, same], [USED, ("same", 5.0)])
    beside = claim_of("same", [used, same, noisy], [USED, ("same", 5.0), ("dearer", 50.0)])
    assert (alone.status, beside.status) == ("inconclusive", "inconclusive")
    assert beside.items_needed[1] < 2 * alone.items_needed[1] + 60


def test_arms_that_differ_in_too_few_families_ask_for_as_many_as_take_ten(rng):
    used = rng.random(120) * 0.4 + 0.3
    near = used.copy()
    near[rng.choice(60, 5, replace=False) * 2] += rng.normal(0, 0.05, 5)
    found = claim_of("near", [used, near], [USED, ("near", 5.0)])
    assert (found.status, found.n_clusters_differ) == ("inconclusive", 5)
    # 5 of 60 differ: 10 of them take 120 and more
    assert 120 <= found.items_needed[0] <= 240


def test_arms_that_differ_both_ways_in_few_families_are_settled_once_ten_differ(rng):
    used = rng.random(120) * 0.4 + 0.3
    near = used.copy()
    near[:16:2] += np.repeat([-0.02, 0.02], 4)  # 4 of 60 families are worse, which is more than the margin of 5 %
    found = claim_of("near", [used, near], [USED, ("near", 5.0)])
    assert (found.status, found.n_clusters_differ) == ("inconclusive", 8)
    assert found.items_needed[1] <= 120


def test_the_more_arms_have_to_be_shown_near_the_more_questions_are_asked_for(rng):
    noise = np.repeat([-0.3, 0.3], 60)
    arms = [0.5 + rng.permutation(noise) for _ in range(5)]
    costs = [USED, *((f"a{i}", 5.0) for i in range(4))]
    one, four = (claim_of("a0", arms[:k], costs[:k]) for k in (2, 5))
    assert {p.status for p in four.pairs} == {"inconclusive"}
    # at once over four, and all four of them: otherwise the chance of 80 % is each one's, and 61 % for all
    sd, together = 0.3, {"confidence": chance_of_each(spent_confidence(0.95, 1), 4), "power": chance_of_each(0.8, 4)}
    grows = clusters_needed(sd, 0.05, **together) / clusters_needed(sd, 0.05, confidence=spent_confidence(0.95, 1))
    assert (four.items_needed[1] + 120) / (one.items_needed[1] + 120) > 0.98 * grows
