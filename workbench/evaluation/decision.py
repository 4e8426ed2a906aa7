"""From scores on the test split to one decision: the cheapest arm that is shown to be good enough."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from workbench.evaluation.comparison import PairedDifference, compare, item_clusters, item_values, mean_interval
from workbench.evaluation.power import clusters_needed
from workbench.records import Claim, Rule, Verdict

# Measured latency is noisy, so that an arm breaks its limit only when it is beyond it by this share.
LATENCY_TOLERANCE = 0.2
MAX_FINALISTS = 3


@dataclass(frozen=True, slots=True)
class ArmFacts:
    """What is known of an arm beside its scores; ``order`` breaks ties of cost: simpler arms come first."""

    name: str
    parameters: Mapping[str, Any]
    cost_usd_per_1k: float
    latency_p95_ms: float | None
    order: int
    spread: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """Verdict, the arm it names, the sentence a reader sees, and the questions still needed (None: not the issue)."""

    verdict: Verdict
    arm: str
    sentence: str
    items_needed: int | None


def pick_reference(dev: pl.DataFrame, facts: Sequence[ArmFacts]) -> str:
    """Arm with the highest mean on dev; of equals the one declared first."""
    items, _ = item_clusters(dev)
    means = {f.name: item_values(dev, f.name, items, missing=0.0).mean() for f in facts}
    return max(facts, key=lambda f: (round(means[f.name], 9), -f.order)).name


def pick_finalists(dev: pl.DataFrame, facts: Sequence[ArmFacts], rule: Rule) -> list[str]:
    """At most three arms to be judged on test, chosen on dev alone.

    Of the arms that cost less than the reference (or the same, and are simpler) and may be within the margin, first
    those that no arm at their cost or below beats, then those with the best dev mean. There may be none: then the
    reference stands alone.
    """
    cost = {f.name: f.cost_usd_per_1k for f in facts}
    order = {f.name: f.order for f in facts}
    items, _ = item_clusters(dev)
    values = {f.name: item_values(dev, f.name, items, missing=0.0) for f in facts}
    means = {name: float(v.mean()) for name, v in values.items()}
    reference = rule.reference
    cheaper = [a for a in cost if (cost[a], order[a]) < (cost[reference], order[reference])]
    twins = {a for a in cheaper if cost[a] == cost[reference] and np.array_equal(values[a], values[reference])}
    near = [a for a in cheaper if means[a] > means[reference] - 2 * rule.margin and a not in twins]
    beaten = {a for a in near if any(cost[b] <= cost[a] and means[b] > means[a] for b in near)}
    best = sorted(near, key=lambda a: (a in beaten, -means[a], order[a]))[:MAX_FINALISTS]
    return sorted(best, key=lambda a: (cost[a], order[a]))


def make_claims(
    test: pl.DataFrame, facts: Sequence[ArmFacts], rule: Rule, *, against: pl.DataFrame | None = None, seed: int = 0
) -> tuple[Claim, ...]:
    """One claim an arm, the reference first; ``test`` holds the rows of the rule's metric only.

    ``against`` replaces ``test`` where arms are compared with the reference, not in their own estimates: there a
    reference whose value is only bounded counts as good as it may be, and must meet the floor as bad as it may be.
    """
    items, codes = item_clusters(test)
    compared, repeats = test if against is None else against, test["repeat"].n_unique()
    settings: dict[str, Any] = {"margin": rule.margin, "confidence": rule.confidence, "seed": seed}
    differences = compare(compared, [f.name for f in facts], reference=rule.reference, **settings)
    of_arm = {d.arm: d for d in differences}
    itself = PairedDifference(rule.reference, 0.0, 0.0, 0.0, 0.0, "identical", len(items), int(codes.max()) + 1, 0)
    out = []
    for f in sorted(facts, key=lambda f: (f.name != rule.reference, f.order)):
        values = item_values(test, f.name, items, missing=0.0)
        mean, low, high = mean_interval(values, codes, seed=seed)
        measured = test.filter(pl.col("arm") == f.name)["value"].count()
        d = of_arm.get(f.name, itself)
        needed, note = (None, "reference") if d is itself else _needed(d, rule)
        out.append(
            Claim(
                arm=f.name,
                parameters=dict(f.parameters),
                status=d.status,
                estimate=mean,
                estimate_low=low,
                estimate_high=high,
                difference=d.mean,
                low=d.low,
                high=d.high,
                cost_usd_per_1k=f.cost_usd_per_1k,
                latency_p95_ms=f.latency_p95_ms,
                coverage=measured / (len(items) * repeats),
                n_items=d.n_items,
                n_clusters=d.n_clusters,
                n_clusters_differ=d.n_differ,
                items_needed=needed,
                spread=f.spread,
                note=note,
            )
        )
    return tuple(out)


def _needed(d: PairedDifference, rule: Rule) -> tuple[int | None, str]:
    """Further items for 80 % power at the observed difference, or why no number of them helps."""
    if d.status != "inconclusive":
        return None, ""
    effect = min(d.mean, 0.0)
    if effect <= -rule.margin:
        return None, "no number of questions shows this at the observed difference"
    if d.se <= 0 or d.n_differ == 0:
        return None, "the differences have no spread to plan with"
    sd = d.se * np.sqrt(d.n_clusters)
    clusters = clusters_needed(sd, rule.margin, confidence=rule.confidence, effect=effect)
    more = max(clusters - d.n_clusters, 1)
    return int(np.ceil(more * d.n_items / d.n_clusters)), f"{d.n_differ} of {d.n_clusters} clusters differ"


def decide(claims: Sequence[Claim], rule: Rule, *, order: Mapping[str, int], synthetic: bool = False) -> Outcome:
    """Cheapest arm whose claim holds, meets the floor and the latency limit; else what can be said instead.

    An arm meets the floor when the lower end of its own 95 % interval does.
    """
    price = {c.arm: (c.cost_usd_per_1k, order[c.arm]) for c in claims}
    reference = next(c for c in claims if c.arm == rule.reference)
    fit = [c for c in claims if good_enough(c, rule) and fast_enough(c, rule)]
    open_claims = [c for c in claims if _undecided(c, rule)]
    if not fit:
        if not open_claims:
            return Outcome("none_meets_floor", rule.reference, _none_sentence(claims, rule), None)
        return Outcome("inconclusive", rule.reference, _open_sentence(open_claims, rule), _fewest(open_claims))
    best = min(fit, key=lambda c: price[c.arm])
    # An open question about an arm that would save nothing is not worth more labels.
    cheaper_open = [c for c in open_claims if c.cost_usd_per_1k < best.cost_usd_per_1k]
    if best.arm != rule.reference:
        verdict: Verdict = "provisional" if synthetic else "chosen"
        return Outcome(verdict, best.arm, _chosen_sentence(best, reference, rule, verdict), _fewest(cheaper_open))
    if cheaper_open:
        return Outcome("inconclusive", rule.reference, _open_sentence(cheaper_open, rule), _fewest(cheaper_open))
    return Outcome("keep_reference", rule.reference, _keep_sentence(claims, rule), None)


def fast_enough(c: Claim, rule: Rule) -> bool:
    """Whether the measured latency keeps the limit, with the tolerance; an arm that was not timed does."""
    if rule.latency_limit_ms is None or c.latency_p95_ms is None:
        return True
    return c.latency_p95_ms <= rule.latency_limit_ms * (1 + LATENCY_TOLERANCE)


def good_enough(c: Claim, rule: Rule) -> bool:
    """Whether the claim holds and the lower end of the arm's own interval meets the floor."""
    meets = rule.floor is None or c.estimate_low >= rule.floor
    return meets and c.status in ("holds", "identical")


def _undecided(c: Claim, rule: Rule) -> bool:
    """Whether more questions could still make the arm good enough: not where its own estimate says that it is not."""
    if c.status == "broken" or not fast_enough(c, rule) or (c.arm != rule.reference and c.difference <= -rule.margin):
        return False
    if rule.floor is not None and c.estimate_low < rule.floor:
        return c.estimate_high >= rule.floor
    return c.status == "inconclusive"


def _fewest(claims: Sequence[Claim]) -> int | None:
    return min((c.items_needed for c in claims if c.items_needed is not None), default=None)


def _chosen_sentence(best: Claim, reference: Claim, rule: Rule, verdict: Verdict) -> str:
    percent = f"{rule.confidence:.0%}".replace("%", " %")
    start = "Provisionally use" if verdict == "provisional" else "Use"
    return (
        f"{start} {best.arm}: shown at {percent} confidence to lose less than {rule.margin:g} {rule.metric} against "
        f"{rule.reference} (difference {best.difference:+.3f}, at least {best.low:+.3f}), {_saving(best, reference)}."
    )


def _saving(best: Claim, reference: Claim) -> str:
    cost, before = best.cost_usd_per_1k, reference.cost_usd_per_1k
    share = 1 - cost / before if before else 0.0
    if share < 0.005:
        return f"at the same ${before:.3g} per 1,000 requests, and simpler"
    return f"at ${cost:.3g} instead of ${before:.3g} per 1,000 requests ({100 * share:.0f} % less)"


def _keep_sentence(claims: Sequence[Claim], rule: Rule) -> str:
    others = len(claims) - 1
    if not others:
        return f"Keep {rule.reference}: no cheaper candidate came near it on the dev questions."
    losses = ", ".join(f"{c.arm} {c.difference:+.3f}" for c in claims if c.arm != rule.reference)
    return (
        f"Keep {rule.reference}: no cheaper finalist is shown to lose less than {rule.margin:g} {rule.metric} "
        f"against it ({losses})."
    )


def _none_sentence(claims: Sequence[Claim], rule: Rule) -> str:
    if rule.floor is not None and all(c.estimate_high < rule.floor for c in claims):
        best = max(claims, key=lambda c: c.estimate)
        return (
            f"Nothing meets the floor of {rule.floor:g} {rule.metric}: the best is {best.arm} with {best.estimate:.3f} "
            f"[{best.estimate_low:.3f}, {best.estimate_high:.3f}]."
        )
    return f"Nothing meets both the floor and the latency limit of {rule.latency_limit_ms:g} ms (95th percentile)."


def _open_sentence(claims: Sequence[Claim], rule: Rule) -> str:
    names = ", ".join(c.arm for c in claims)
    needed = _fewest(claims)
    more = f"label about {needed:,} more questions" if needed else "no number of further questions would settle it"
    return f"Cannot tell yet whether {names} is good enough; keep {rule.reference} meanwhile, {more}."
