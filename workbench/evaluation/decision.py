"""From claims on the test split to one decision: the cheapest arm that is shown to lie near the best for the money."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workbench.evaluation.claims import affordable, fast_enough, good_enough, is_open, too_few
from workbench.evaluation.sentences import (
    chosen_sentence,
    few_sentence,
    keep_sentence,
    none_sentence,
    open_sentence,
    tied_note,
    upgrade_note,
)
from workbench.records import Claim, Rule, Verdict

# Of arms that cost the same the better estimate wins only where the loss would exceed this share of the margin.
SAME_QUALITY = 1 / 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is decided.

    Attributes
    ----------
    arm : str
        The arm that the verdict names; where nothing can be said, the one in use, or the best so far.
    sentence : str
        The verdict in words, made from the same claims as the tables.
    items_needed : tuple of int or None
        Fewest and most further items that would settle the nearest open claim.
    notes : tuple of str
        What is told beside the verdict: dearer arms that are shown better, arms that are tied with it.
    """

    verdict: Verdict
    arm: str
    sentence: str
    items_needed: tuple[int, int | None] | None
    notes: tuple[str, ...] = ()


def decide(
    claims: Sequence[Claim],
    rule: Rule,
    *,
    order: Mapping[str, int],
    synthetic: bool = False,
    n_dev_clusters: int | None = None,
) -> Outcome:
    """Choose among the claims by the rule.

    Parameters
    ----------
    claims : sequence of Claim
        All arms that were tested.
    order : mapping of str to int
        Place of each arm from simple to clever.
    synthetic : bool
        Whether the evidence is made up: then what would be chosen is provisional.
    n_dev_clusters : int, optional
        Question families that arms were picked on.

    Notes
    -----
    Under 30 families in test, or 10 in dev, nothing is said of any arm. Else, of the arms that cost no more than the
    one in use and are good enough, the cheapest group is taken (costs that differ by less than counts are the same);
    in it an arm that is shown better wins, then a better estimate where the loss would exceed a third of the margin,
    then the arm in use, then the simpler one. A dearer arm that is shown better is an upgrade: chosen where its worth
    was said, else told.
    """
    in_use = next((c for c in claims if c.arm == rule.reference), None)
    fallback = in_use or _best(claims, rule)
    if why := too_few(claims[0].n_clusters, n_dev_clusters):
        return Outcome("inconclusive", fallback.arm, few_sentence(why, in_use), None)
    reference_usd = in_use.cost_usd_per_1k if in_use else None
    within = [c for c in claims if affordable(c.cost_usd_per_1k, reference_usd, rule)]
    fit = [c for c in within if good_enough(c, rule)] or [c for c in claims if good_enough(c, rule)]
    unsettled = [c for c in within if is_open(c, rule)]
    if not fit and not unsettled:
        return Outcome("none_meets_floor", fallback.arm, none_sentence(claims, rule), None)
    if not fit:
        nearest = _nearest(unsettled)
        return Outcome("inconclusive", fallback.arm, open_sentence(unsettled, nearest, rule, in_use), _need(nearest))
    choice = choose(fit, rule, order)
    better = upgrades(claims, choice, rule)
    if worth := _worth(better, choice, rule):
        choice, better = worth, upgrades(claims, worth, rule)
    notes = [upgrade_note(u, choice, rule) for u in better]
    cheaper = [c for c in unsettled if rule.counts(c.cost_usd_per_1k, choice.cost_usd_per_1k)]
    if in_use and choice.arm == in_use.arm and cheaper:
        nearest = _nearest(cheaper)
        sentence = open_sentence(cheaper, nearest, rule, in_use)
        return Outcome("inconclusive", in_use.arm, sentence, _need(nearest), tuple(notes))
    notes += tied_note([c for c in fit if c.arm != choice.arm], choice, rule)
    if in_use and choice.arm == in_use.arm:
        return Outcome("keep_reference", choice.arm, keep_sentence(claims, choice, rule), None, tuple(notes))
    dearer = in_use is not None and rule.counts(in_use.cost_usd_per_1k, choice.cost_usd_per_1k)
    verdict: Verdict = "upgrade" if worth or dearer else "provisional" if synthetic else "chosen"
    sentence = chosen_sentence(choice, in_use, rule, verdict, n_arms=len(claims))
    return Outcome(verdict, choice.arm, sentence, _need(_nearest(cheaper)), tuple(notes))


def choose(fit: Sequence[Claim], rule: Rule, order: Mapping[str, int]) -> Claim:
    """Of arms that are good enough, one of the cheapest group: the better, then the one in use, then the simpler."""
    cheapest = min(c.cost_usd_per_1k for c in fit)
    same = [c for c in fit if not rule.counts(cheapest, c.cost_usd_per_1k)]
    if rule.direction == "higher":  # rates of different hits are not of the same items
        top = _best(same, rule)
        same = [c for c in same if c is top or not any(_better(other, c) for other in same)]
        same = [c for c in same if top.estimate - c.estimate <= rule.margin * SAME_QUALITY]
    return min(same, key=lambda c: (c.arm != rule.reference, order[c.arm]))


def upgrades(claims: Sequence[Claim], choice: Claim, rule: Rule) -> list[Claim]:
    """Arms that cost more than the choice by a counting amount and are shown better, the best first."""
    found = [
        c
        for c in claims
        if rule.counts(choice.cost_usd_per_1k, c.cost_usd_per_1k) and _better(c, choice) and good_enough(c, rule)
    ]
    return sorted(found, key=lambda c: -c.estimate)


def _worth(better: Sequence[Claim], choice: Claim, rule: Rule) -> Claim | None:
    """The upgrade that is worth most beyond its price, by what it is shown to gain at least; None where none is."""
    if rule.point_usd is None:
        return None

    def surplus(c: Claim) -> float:
        pair = c.against(choice.arm)
        gained = 100 * pair.low * (rule.point_usd or 0.0) if pair else 0.0
        return gained - rule.monthly_usd(c.cost_usd_per_1k - choice.cost_usd_per_1k)

    best = max(better, key=surplus, default=None)
    return best if best is not None and surplus(best) >= 0 else None


def _better(c: Claim, other: Claim) -> bool:
    pair = c.against(other.arm)
    return pair is not None and pair.better


def _best(claims: Sequence[Claim], rule: Rule) -> Claim:
    """Best estimate among those that are fast enough; of equals the one that stands first."""
    sign = -1.0 if rule.direction == "lower" else 1.0
    return max(claims, key=lambda c: (fast_enough(c.latency_p95_ms, rule), sign * c.estimate))


def _nearest(unsettled: Sequence[Claim]) -> Claim | None:
    """Of open claims the one that the fewest further items may settle; of equals the best estimate."""
    return min(unsettled, key=lambda c: (c.items_needed[0] if c.items_needed else 10**9, -c.estimate), default=None)


def _need(nearest: Claim | None) -> tuple[int, int | None] | None:
    return nearest.items_needed if nearest else None
