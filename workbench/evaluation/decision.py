"""From test scores to claims, and from claims to one decision: the cheapest arm shown to lie near the best.

The best is that of all arms tested that cost no more than the arm in use (Hsu 1984, multiple comparisons with the
best): which of them it is need not be known, since an arm's bounds hold against each of them. The anchor, the arm that
was accepted first, is always among those that an arm is compared with, so that a chain of small losses, each shown to
be acceptable, cannot add up (retention of effect: D'Agostino, Massaro and Sullivan 2003).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from scipy.special import ndtri

from workbench.evaluation.compare import (
    DRAWS,
    MIN_CLUSTERS,
    MIN_DIFFERING,
    NO_SPREAD,
    Pairwise,
    item_clusters,
    item_values,
    margin_status,
    mean_interval,
    normal_interval,
    pairwise,
    require_shares,
    spent_confidence,
)
from workbench.evaluation.decision_sentences import (
    chosen_sentence,
    few_sentence,
    keep_sentence,
    none_sentence,
    open_sentence,
    tied_note,
    upgrade_note,
)
from workbench.evaluation.power import TARGET, chance_of_each, clusters_range, few_clusters_needed, soonest_clusters
from workbench.records import Claim, GateStatus, PairedBounds, Rule, Verdict
from workbench.rendering.numbers import counted

# Measured latency is noisy, so that an arm breaks its limit only when it is beyond it by this share.
LATENCY_TOLERANCE = 0.2
MIN_DEV_CLUSTERS = 10
# How bad the worst of several statuses is, mildest first.
_SEVERITY: tuple[GateStatus, ...] = ("identical", "holds", "inconclusive", "broken")


@dataclass(frozen=True, slots=True)
class ArmFacts:
    """What is known of an arm beside its scores; ``order`` breaks ties of cost: simpler arms come first.

    ``amounts`` are what 1,000 requests use of each thing that has a price.
    """

    name: str
    parameters: dict[str, Any]
    cost_usd_per_1k: float
    latency_p95_ms: float | None
    order: int
    spread: tuple[float, float] | None = None
    amounts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class ArmValues:
    """Scores of the arms on the same items, in the order of their facts.

    Attributes
    ----------
    own, worst, best : ndarray of float, shape (arms, items)
        What an arm's own interval, claims of it, and claims against it are made from. They differ where an item failed
        (0, 0 and 1), and where an arm's hits are not judged well enough.
    clusters : ndarray of int, shape (items,)
    coverage : ndarray of float, shape (arms,)
        Values by items and repeats.
    """

    own: np.ndarray
    worst: np.ndarray
    best: np.ndarray
    clusters: np.ndarray
    coverage: np.ndarray

    @classmethod
    def of(cls, scores: pl.DataFrame, names: Sequence[str], *, against: pl.DataFrame | None = None) -> "ArmValues":
        """Read rows of one metric and one split; ``against`` replaces them where they count against other arms.

        Raises
        ------
        ConfigError
            If a value lies outside [0, 1], in which every bound is told.
        """
        require_shares(scores)
        items, codes = item_clusters(scores)
        low = np.stack([item_values(scores, name, items, missing=0.0) for name in names])
        high = np.stack([item_values(scores if against is None else against, n, items, missing=1.0) for n in names])
        asked = len(items) * pl.col("repeat").n_unique()  # of an arm's own repeats
        share = pl.col("value").fill_nan(None).count() / asked
        found = dict(scores.group_by("arm").agg(share).iter_rows())
        return cls(low, low, high, codes, np.array([found.get(name, 0.0) for name in names]))

    def take(self, clusters: np.ndarray) -> "ArmValues":
        """Items of these clusters, each cluster as often as it is named; a repeat is a cluster of its own."""
        order = np.argsort(self.clusters, kind="stable")
        starts = np.searchsorted(self.clusters[order], np.arange(int(self.clusters.max()) + 2))
        places = [order[starts[c] : starts[c + 1]] for c in clusters]
        at, codes = np.concatenate(places), np.repeat(np.arange(len(places)), [len(p) for p in places])
        return ArmValues(self.own[:, at], self.worst[:, at], self.best[:, at], codes, self.coverage)


def is_fast_enough(latency_p95_ms: float | None, rule: Rule) -> bool:
    """Whether a measured latency keeps the limit, with the tolerance; what was not timed does."""
    limit = rule.latency_limit_ms
    return limit is None or latency_p95_ms is None or latency_p95_ms <= limit * (1 + LATENCY_TOLERANCE)


def affordable(cost_usd_per_1k: float, reference_usd_per_1k: float | None, rule: Rule) -> bool:
    """Whether an arm costs no more than the arm in use; without one, whether it keeps the limit of costs, if any."""
    if reference_usd_per_1k is not None:
        return not rule.counts(reference_usd_per_1k, cost_usd_per_1k)
    return rule.max_usd_per_1k is None or cost_usd_per_1k <= rule.max_usd_per_1k


def rivals_of(arm: ArmFacts, facts: Sequence[ArmFacts], rule: Rule) -> list[str]:
    """Arms that this one must not lie far below: what one could have for the money, and the anchor.

    For an arm that costs no more than the arm in use these are all such arms, for a dearer one all that cost no more
    than itself. An arm that is too slow is none that one could have.
    """
    in_use = next((f.cost_usd_per_1k for f in facts if f.name == rule.reference), None)
    within = affordable(arm.cost_usd_per_1k, in_use, rule)

    def rivals(f: ArmFacts) -> bool:
        if f.name == rule.anchor:
            return True
        usd = f.cost_usd_per_1k
        had = affordable(usd, in_use, rule) if within else not rule.counts(arm.cost_usd_per_1k, usd)
        return had and is_fast_enough(f.latency_p95_ms, rule)

    return [f.name for f in facts if f.name != arm.name and rivals(f)]


def make_claims(
    test: pl.DataFrame, facts: Sequence[ArmFacts], rule: Rule, *, against: pl.DataFrame | None = None, seed: int = 0
) -> tuple[Claim, ...]:
    """One claim an arm, the arm in use first, from the test rows of the rule's metric.

    Parameters
    ----------
    test : DataFrame
        Rows of the arms (columns arm, item_id, repeat, value, cluster). A failed item counts 0 for its arm, and 1
        where another arm is compared with it.
    against : DataFrame, optional
        Rows that replace ``test`` where they count against other arms: an arm whose value is only bounded counts as
        good as it may be there, and as bad as it may be in its own claim.
    """
    ordered = sorted(facts, key=lambda f: (f.name != rule.reference, f.order))
    values = ArmValues.of(test, [f.name for f in ordered], against=against)
    return claims_of(values, ordered, rule, pairwise_of(values, rule, seed=seed), seed=seed)


def pairwise_of(values: ArmValues, rule: Rule, *, seed: int = 0, draws: int = DRAWS) -> Pairwise:
    """Every arm against every other, at the confidence that is left for this use of the split."""
    confidence = spent_confidence(rule.confidence, rule.use)
    return pairwise(values.worst, values.best, values.clusters, confidence=confidence, seed=seed, draws=draws)


def claims_of(
    values: ArmValues, facts: Sequence[ArmFacts], rule: Rule, pairs: Pairwise, *, seed: int = 0, resampled: bool = False
) -> tuple[Claim, ...]:
    """Claims from bounds that are known; ``resampled`` takes a normal interval, where thousands are made at once."""
    at = {f.name: i for i, f in enumerate(facts)}
    intervals = _arm_intervals(values, seed, resampled=resampled)
    out = []
    for i, f in enumerate(facts):
        mine = tuple(_paired_bounds(pairs, i, j, other.name, rule) for j, other in enumerate(facts) if i != j)
        rivals, against = _against_rivals(f, facts, mine, rule)
        mean, low, high = (float(part[i]) for part in intervals)
        claim = Claim(
            arm=f.name,
            parameters=dict(f.parameters),
            estimate=mean,
            estimate_low=low,
            estimate_high=high,
            cost_usd_per_1k=f.cost_usd_per_1k,
            latency_p95_ms=f.latency_p95_ms,
            coverage=float(values.coverage[i]),
            n_items=len(values.clusters),
            n_clusters=pairs.n_clusters,
            spread=f.spread,
            pairs=mine,
            amounts=dict(f.amounts),
            **against,
        )
        out.append(claim if resampled else _with_need(claim, rule, rivals, pairs, i, at))
    return tuple(out)


def _against_rivals(
    arm: ArmFacts, facts: Sequence[ArmFacts], mine: Sequence[PairedBounds], rule: Rule
) -> tuple[list[PairedBounds], dict[str, Any]]:
    """Pairs with the arms that this one must not lie far below, and what a claim says of them together."""
    names, at = set(rivals_of(arm, facts, rule)), {f.name: i for i, f in enumerate(facts)}
    rivals = [p for p in mine if p.other in names]
    nearest = min(rivals, key=lambda p: (p.difference, at[p.other]), default=None)
    worst = min(rivals, key=lambda p: p.low, default=None)
    status: GateStatus = max((p.shown(rule.margin) for p in rivals), key=_SEVERITY.index, default="identical")
    return rivals, {
        "status": status,
        "difference": nearest.difference if nearest else 0.0,
        "low": worst.low if worst else 0.0,
        "high": min(p.high for p in rivals) if rivals else 0.0,
        "n_clusters_differ": worst.n_clusters_differ if worst else 0,
        "best": nearest.other if nearest else "",
    }


def restated_claims(claims: Sequence[Claim], rule: Rule, costs: Sequence[float]) -> tuple[Claim, ...]:
    """The same claims at other costs (dollars per 1,000 requests), or by a rule with another margin or limit.

    The bounds stay, since neither enters them; which arms are rivals, and what the bounds say, is judged anew.
    Certificates of caches stand as long as they lie under alpha: what a larger alpha would certify is not in them.
    """
    if rule.direction == "lower":
        return tuple(_recertified_claim(c, rule, cost) for c, cost in zip(claims, costs, strict=True))
    facts = [
        ArmFacts(c.arm, c.parameters, cost, c.latency_p95_ms, place)
        for place, (c, cost) in enumerate(zip(claims, costs, strict=True))
    ]
    out = []
    for c, f in zip(claims, facts, strict=True):
        mine = tuple(_claim_at_margin(p, c.n_clusters, rule.margin) for p in c.pairs)
        against = _against_rivals(f, facts, mine, rule)[1]
        out.append(replace(c, cost_usd_per_1k=f.cost_usd_per_1k, pairs=mine, items_needed=None, **against))
    return tuple(out)


def _claim_at_margin(pair: PairedBounds, n_clusters: int, margin: float) -> PairedBounds:
    stays = not pair.n_clusters_differ or n_clusters < MIN_CLUSTERS or pair.difference - pair.low <= NO_SPREAD
    return pair if stays else replace(pair, status=margin_status(pair.low, pair.high, margin))


def _recertified_claim(c: Claim, rule: Rule, cost_usd_per_1k: float) -> Claim:
    kept = c.status != "holds" or max(c.high, c.estimate) <= rule.margin
    return replace(c, cost_usd_per_1k=cost_usd_per_1k, status=c.status if kept else "inconclusive")


def _paired_bounds(pairs: Pairwise, a: int, b: int, other: str, rule: Rule) -> PairedBounds:
    low, high = max(float(pairs.low[a, b]), -1.0), min(float(pairs.high[a, b]), 1.0)  # of values in [0, 1]
    mean, differ = float(pairs.mean[a, b]), int(pairs.differ[a, b])
    unseen = 0.0 if differ else min(pairs.unseen, 1.0)
    return PairedBounds(other, mean, low, high, differ, pairs.status(a, b, rule.margin), unseen)


def _arm_intervals(values: ArmValues, seed: int, *, resampled: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of each arm with its two-sided 95 % interval, inside [0, 1]: of its own, so not simultaneous."""
    interval = normal_interval if resampled else partial(mean_interval, seed=seed)
    mean, low, high = np.array([interval(row, values.clusters) for row in values.own]).T
    return mean, low, high


def good_enough(c: Claim, rule: Rule) -> bool:
    """Whether the claim holds, the lower end of the arm's own interval meets the floor, and it keeps the latency."""
    meets = rule.floor is None or c.estimate_low >= rule.floor
    return meets and c.status in ("holds", "identical") and is_fast_enough(c.latency_p95_ms, rule)


def is_open_claim(c: Claim, rule: Rule) -> bool:
    """Whether more questions could still make the arm good enough: not where its own estimate says that it is not."""
    if c.status == "broken" or not is_fast_enough(c.latency_p95_ms, rule) or c.difference <= -rule.margin:
        return False
    if rule.floor is not None and c.estimate_low < rule.floor:
        return c.estimate_high >= rule.floor
    return c.status == "inconclusive"


def _contested_claims(claims: Sequence[Claim], rule: Rule) -> list[Claim]:
    """Arms that lie below others only by what failed or is not judged, which lie below them in turn."""
    far = {(c.arm, p.other) for c in claims for p in c.pairs if p.difference < 0}
    mutual = [c for c in claims if all((p.other, c.arm) in far for p in c.pairs if p.difference <= -rule.margin)]
    told = [replace(c, difference=0.0, note="what failed or is not judged decides") for c in mutual]
    return [c for c in told if rule.direction == "higher" and is_open_claim(c, rule)]


def _with_need(
    c: Claim, rule: Rule, rivals: Sequence[PairedBounds], pairs: Pairwise, i: int, at: Mapping[str, int]
) -> Claim:
    """Claim with the further items for 80 % power, or with the reason why no number of them helps."""
    if not is_open_claim(c, rule) or c.n_clusters < 2:
        return c
    ranges: list[tuple[int, int | None]] = []
    # at once for all arms against one, and all that are open have to hold
    level = chance_of_each(spent_confidence(rule.confidence, rule.use), max(len(c.pairs), 1))
    far = [p for p in rivals if p.shown(rule.margin) == "inconclusive" and p.difference > -rule.margin]
    still = [p for p in far if p.status == "inconclusive"] or far  # ties alone: as many as show the margin
    for p in still:
        j, se, distance = at[p.other], float(pairs.se[i, at[p.other]]), rule.margin + min(p.difference, 0.0)
        share, chance, ways = p.n_clusters_differ / c.n_clusters, chance_of_each(TARGET, len(still)), []
        if se > 0:
            ways.append(clusters_range(se, distance, c.n_clusters, level, chance, share))
        if p.n_clusters_differ < MIN_DIFFERING:
            worse = int(pairs.worse[i, j])
            ways.append(few_clusters_needed(worse, c.n_clusters, rule.margin / pairs.size_ratio, level))
        if ways:
            ranges.append(soonest_clusters(ways))
    if rule.floor is not None and c.estimate_low < rule.floor != c.estimate:
        own = float((c.estimate_high - c.estimate_low) / 2 / ndtri(0.975))
        ranges.append(clusters_range(own, abs(c.estimate - rule.floor), c.n_clusters, 0.975, TARGET, 1.0))
    if not ranges:
        return replace(c, note="the differences have no spread to plan with")
    items = c.n_items / c.n_clusters
    few = int(np.ceil(max(max(r[0] for r in ranges) - c.n_clusters, 1) * items))
    ends = [r[1] for r in ranges]
    known = [end for end in ends if end is not None]
    many = int(np.ceil(max(max(known) - c.n_clusters, 1) * items)) if len(known) == len(ends) else None
    return replace(c, items_needed=(few, many))


def too_few_families(n_clusters: int, n_dev_clusters: int | None) -> str:
    """Why so few question families allow no verdict, "" where they are enough."""
    for n, split, least in ((n_clusters, "test", MIN_CLUSTERS), (n_dev_clusters, "dev", MIN_DEV_CLUSTERS)):
        if n is not None and n < least:
            return f"too few questions: {counted(n, 'family')} in {split}, {least} are needed"
    return ""


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
    if rule.direction == "lower" and in_use:  # what errs must save
        usd = in_use.cost_usd_per_1k
        claims = [c for c in claims if c is in_use or rule.counts(c.cost_usd_per_1k, usd)]
    fallback = in_use or _best_claim(claims, rule)
    if why := too_few_families(claims[0].n_clusters, n_dev_clusters):
        return Outcome("inconclusive", fallback.arm, few_sentence(why, in_use), None)
    reference_usd = in_use.cost_usd_per_1k if in_use else None
    within = [c for c in claims if affordable(c.cost_usd_per_1k, reference_usd, rule)]
    fit = [c for c in within if good_enough(c, rule)] or [c for c in claims if good_enough(c, rule)]
    unsettled = [c for c in within if is_open_claim(c, rule)] or ([] if fit else _contested_claims(within, rule))
    if not fit and not unsettled:
        return Outcome("none_meets_floor", fallback.arm, none_sentence(claims, rule), None)
    if not fit:
        nearest = _nearest_claim(unsettled)
        return Outcome("inconclusive", fallback.arm, open_sentence(unsettled, nearest, rule, in_use), _need(nearest))
    choice = choose_arm(fit, rule, order)
    better = claim_upgrades(claims, choice, rule)
    if worth := _worthiest_upgrade(better, choice, rule):
        choice, better = worth, claim_upgrades(claims, worth, rule)
    notes = [upgrade_note(u, choice, rule) for u in better]
    cheaper = [c for c in unsettled if rule.counts(c.cost_usd_per_1k, choice.cost_usd_per_1k)]
    if in_use and choice.arm == in_use.arm and cheaper:
        nearest = _nearest_claim(cheaper)
        sentence = open_sentence(cheaper, nearest, rule, in_use)
        return Outcome("inconclusive", in_use.arm, sentence, _need(nearest), tuple(notes))
    notes += tied_note([c for c in fit if c.arm != choice.arm], choice, rule)
    if in_use and choice.arm == in_use.arm:
        return Outcome("keep_reference", choice.arm, keep_sentence(claims, choice, rule), None, tuple(notes))
    dearer = in_use is not None and rule.counts(in_use.cost_usd_per_1k, choice.cost_usd_per_1k)
    verdict: Verdict = "upgrade" if worth or dearer else "provisional" if synthetic else "chosen"
    places = [ArmFacts(c.arm, {}, c.cost_usd_per_1k, c.latency_p95_ms, 0) for c in claims]
    mine = next(f for f in places if f.name == choice.arm)
    sentence = chosen_sentence(choice, in_use, rule, verdict, n_arms=1 + len(rivals_of(mine, places, rule)))
    return Outcome(verdict, choice.arm, sentence, _need(_nearest_claim(cheaper)), tuple(notes))


def choose_arm(fit: Sequence[Claim], rule: Rule, order: Mapping[str, int]) -> Claim:
    """Of arms that are good enough, one of the cheapest group: the better, then the one in use, then the simpler."""
    cheapest = min(c.cost_usd_per_1k for c in fit)
    same = [c for c in fit if not rule.counts(cheapest, c.cost_usd_per_1k)]
    if rule.direction == "higher":  # rates of different hits are not of the same items
        top = _best_claim(same, rule)
        same = [c for c in same if c is top or not any(_more_gain(other, c) for other in same)]
        same = [c for c in same if top.estimate - c.estimate <= rule.margin * SAME_QUALITY]
    return min(same, key=lambda c: (c.arm != rule.reference, order[c.arm]))


def claim_upgrades(claims: Sequence[Claim], choice: Claim, rule: Rule) -> list[Claim]:
    """Arms that cost more than the choice by a counting amount and are shown better, the best first."""
    found = [
        c
        for c in claims
        if rule.counts(choice.cost_usd_per_1k, c.cost_usd_per_1k) and _more_gain(c, choice) and good_enough(c, rule)
    ]
    return sorted(found, key=lambda c: -c.estimate)


def _worthiest_upgrade(better: Sequence[Claim], choice: Claim, rule: Rule) -> Claim | None:
    """The upgrade that is worth most beyond its price, by what it is shown to gain at least; None where none is."""
    if rule.point_usd is None:
        return None

    def surplus(c: Claim) -> float:
        pair = c.against(choice.arm)
        gained = 100 * pair.low * (rule.point_usd or 0.0) if pair else 0.0
        return gained - rule.monthly_usd(c.cost_usd_per_1k - choice.cost_usd_per_1k)

    best = max(better, key=surplus, default=None)
    return best if best is not None and surplus(best) >= 0 else None


def _more_gain(c: Claim, other: Claim) -> bool:
    pair = c.against(other.arm)
    return pair is not None and pair.better


def _best_claim(claims: Sequence[Claim], rule: Rule) -> Claim:
    """Best estimate among those that are fast enough; of equals the one that stands first."""
    sign = -1.0 if rule.direction == "lower" else 1.0
    return max(claims, key=lambda c: (is_fast_enough(c.latency_p95_ms, rule), sign * c.estimate))


def _nearest_claim(unsettled: Sequence[Claim]) -> Claim | None:
    """Of open claims the one that the fewest further items may settle; of equals the best estimate."""
    return min(unsettled, key=lambda c: (c.items_needed[0] if c.items_needed else 10**9, -c.estimate), default=None)


def _need(nearest: Claim | None) -> tuple[int, int | None] | None:
    return nearest.items_needed if nearest else None
