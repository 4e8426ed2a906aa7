"""Caches as claims: alpha is the margin, off is the reference, and every verdict can come out."""

from dataclasses import replace

import numpy as np
import pytest

from workbench.caching.cache_claims import CacheArm, CacheResult, PairsServed, cache_sentence, make_cache_claim
from workbench.caching.guard import Guard
from workbench.caching.threshold_certificate import HitCounts, ThresholdCertificate
from workbench.evalset.gates import PairLimit
from workbench.evaluation.decision import decide
from workbench.records import Decision, Fingerprint, Rule

RULE = Rule("false_hit_rate", "usd_per_1k_requests", "off", 0.05, 0.95, direction="lower")
CERTIFIED = ThresholdCertificate(True, 0.9, 1000, 20, 60, 0.012, 0.03, 0.029, 1.2, None, "walk")
REFUSED = replace(
    CERTIFIED, certified=False, high=0.07, labels_needed=(400, 900), note="between 400 and 900 more labelled hits"
)
HOPELESS = replace(CERTIFIED, certified=False, low=0.06, high=0.1, note="no number of labels")


def served(false, hits=1000, clusters=50):
    each = np.full((clusters, 1), hits / clusters)
    wrong = np.full((clusters, 1), false / clusters)
    return HitCounts(np.array([1.0]), each, wrong, np.full(clusters, 60.0))


def off():
    return CacheResult(CacheArm("off"), None, served(0, hits=0), 0, 0, 2.0)


def semantic(certificate, *, false=20, **more):
    return CacheResult(CacheArm("semantic", 0.9, Guard(), "enc"), certificate, served(false), 0.4, 0.01, 1.2, **more)


def exact(certificate, *, false=0, cost=1.8):
    return CacheResult(CacheArm("exact"), certificate, served(false), 0.1, 0, cost)


def outcome(*results, synthetic=False):
    claims = tuple(make_cache_claim(r, RULE, must_differ_limit=PairLimit.of(0)) for r in results)
    order = {r.arm.name: i for i, r in enumerate(results)}
    found = decide(claims, RULE, order=order, synthetic=synthetic)
    return found, claims, cache_sentence(found, results, claims, RULE)


def test_a_certified_cache_that_keeps_its_promise_later_is_chosen():
    found, claims, sentence = outcome(off(), semantic(CERTIFIED))
    assert (found.verdict, found.arm) == ("chosen", "semantic@0.9+guard")
    assert [c.status for c in claims] == ["identical", "holds"]
    assert (claims[1].estimate, claims[1].difference, claims[1].high) == (pytest.approx(0.02), 0.02, 0.03)
    assert claims[1].parameters["guard"]["kind"] == "Guard"
    assert "at most 5 % of its similarity hits are false" in sentence
    assert sentence.endswith("It costs $120 a month instead of $200 a month at 100,000 requests, 40 % less.")


def test_made_up_traffic_makes_it_provisional():
    found, _, sentence = outcome(off(), semantic(CERTIFIED), synthetic=True)
    assert found.verdict == "provisional"
    assert sentence.endswith("40 % less of made-up traffic.")


def test_a_refusal_is_inconclusive_with_the_labels_still_needed():
    found, _, sentence = outcome(off(), semantic(REFUSED))
    assert (found.verdict, found.arm, found.items_needed) == ("inconclusive", "off", (400, 900))
    assert "between 400 and 900 more labelled hits" in sentence


def test_where_no_labels_would_help_the_cache_stays_off():
    found, _, sentence = outcome(off(), semantic(HOPELESS))
    assert (found.verdict, found.arm) == ("keep_reference", "off")
    assert "Keep the cache off" in sentence


@pytest.mark.parametrize(("false", "status"), [(49, "holds"), (55, "inconclusive"), (120, "broken")])
def test_later_traffic_can_take_a_certificate_back(false, status):
    assert make_cache_claim(semantic(CERTIFIED, false=false), RULE, must_differ_limit=PairLimit.of(0)).status == status


def test_one_must_differ_pair_too_many_breaks_the_arm():
    assert (
        make_cache_claim(semantic(CERTIFIED, pairs=PairsServed(1)), RULE, must_differ_limit=PairLimit.of(1)).status
        == "holds"
    )
    claim = make_cache_claim(semantic(CERTIFIED, pairs=PairsServed(2)), RULE, must_differ_limit=PairLimit.of(1.0))
    assert claim.status == "broken"
    assert claim.note.endswith("serves 2 must-differ pairs (limit 1)")


@pytest.mark.parametrize(
    ("low", "high", "status"), [(0.001, 0.02, "holds"), (0.01, 0.03, "inconclusive"), (0.03, 0.06, "broken")]
)
def test_a_limit_that_is_a_share_goes_by_the_bounds_of_the_share(low, high, status):
    pairs = PairsServed(4, 400, low, high, 30, 100)
    claim = make_cache_claim(semantic(CERTIFIED, pairs=pairs), RULE, must_differ_limit=PairLimit.of(0.02))
    assert claim.status == status
    assert (f"at most {100 * high:.1f} % of such (limit 0.02)" in claim.note) == (status != "holds")
    assert "4 of 400" in pairs.sentence()
    assert "30 of 100 that may" in pairs.sentence()


def test_exact_repeats_serve_no_pair_and_need_no_proof_of_it():
    clean = replace(exact(replace(CERTIFIED, false=0)), pairs=PairsServed(0, 10, 0.0, 0.3))
    assert make_cache_claim(clean, RULE, must_differ_limit=PairLimit.of(0.02)).status == "identical"


def test_exact_repeats_need_no_certificate_until_one_got_another_answer():
    clean = replace(REFUSED, false=0)
    assert make_cache_claim(exact(clean), RULE, must_differ_limit=PairLimit.of(0)).status == "identical"
    assert make_cache_claim(exact(REFUSED), RULE, must_differ_limit=PairLimit.of(0)).status == "inconclusive"
    assert make_cache_claim(exact(CERTIFIED, false=10), RULE, must_differ_limit=PairLimit.of(0)).status == "holds"
    assert outcome(off(), exact(clean), semantic(HOPELESS))[0].arm == "exact"


def test_a_decision_about_caching_is_read_back_as_it_was_written():
    found, claims, sentence = outcome(off(), semantic(CERTIFIED))
    decision = Decision("caching", "?", "ci", RULE, found.verdict, found.arm, claims[1].parameters, sentence, claims,
                        3000, 50, None, 1, Fingerprint({}, {}))  # fmt: skip
    assert Decision.from_json(decision.to_json()) == decision
    assert (RULE.limit, RULE.limit_name) == (0.05, "alpha")
