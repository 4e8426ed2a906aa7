"""Which arms go to the test split, by their spread on dev alone; and what stands beside a verdict: how steady it is."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.special import ndtri

from workbench.errors import ConfigError
from workbench.evaluation.compare import Pairwise, pairwise, spent_confidence
from workbench.evaluation.decision import (
    ArmFacts,
    ArmValues,
    Outcome,
    affordable,
    claims_of,
    decide,
    is_fast_enough,
    pairwise_of,
)
from workbench.evaluation.decision_sentences import signed
from workbench.evaluation.power import TARGET, chance_of_all, chance_of_each, chance_of_holding, clusters_needed
from workbench.evaluation.repeats import repeats_difference_note
from workbench.records import Claim, Rule
from workbench.rendering.numbers import counted, percent
from workbench.rendering.table import Shown, Table

# However little the test can carry, so many of dev's arms are tested; and never more than so many.
FEWEST, MOST = 3, 8
RESAMPLES = 200
# Under this share of resamples the choice is one of several that the questions would have supported.
STEADY = 0.8
FINALIST = "dev does not rule it out"


def require_arm(asked: str, known: Collection[str]) -> None:
    """Refuse a reference that is no arm of a run; "" names none.

    Raises
    ------
    ConfigError
        With the arms that there are.
    """
    if asked and asked not in known:
        raise ConfigError(f"reference {asked!r} is not an arm of this run; there are {', '.join(known)}")


@dataclass(frozen=True, slots=True)
class Screen:
    """What dev says: the arms that go on, simplest first, and the chance that the test shows equals to be near.

    ``power`` is for arms that are truly equal: the chance that one of them is shown to be near all others of ``names``,
    on a split that nobody has used; None where dev has no spread to tell. ``left_behind`` are arms that dev cannot rule
    out, but that the test could not carry.
    """

    names: tuple[str, ...]
    power: float | None
    left_behind: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Finalists(Shown):
    """What goes to the test split: the rule, the arms with the reason for each, and the dev scores they came from.

    ``power`` is the chance that the test shows arms which are truly equal to be near each other, None where dev has no
    spread to tell; ``left_behind`` are arms that dev cannot rule out, but that the test could not carry.
    """

    rule: Rule
    roles: Mapping[str, str]
    dev: pl.DataFrame
    power: float | None = None
    left_behind: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Arms that are tested."""
        return tuple(self.roles)

    @property
    def n_dev_clusters(self) -> int:
        """Question families that they were picked on."""
        return self.dev["cluster"].n_unique()

    @property
    def always(self) -> tuple[str, ...]:
        """Arms that are tested whatever dev says."""
        return tuple(name for name, role in self.roles.items() if role != FINALIST)

    @property
    def table(self) -> Table:
        """Arms with the reason for each."""
        why = f"Dev: {counted(self.n_dev_clusters, 'family')}"
        if self.power is not None:
            why += (
                f"; if all are equal, the test shows one to be near the others with a chance of {percent(self.power)}"
            )
        if self.left_behind:
            why += f"; not ruled out by dev, but more than the test can carry: {', '.join(self.left_behind)}"
        best = sorted(self.roles, key=lambda name: -float(np.nansum(self.dev.filter(arm=name)["value"].to_numpy())))
        if len(best) > 1 and (told := repeats_difference_note(self.dev, best[0], best[1])):
            why += f". {told}"
        return Table.of(("arm", "why it is tested"), list(self.roles.items()), why)


def screen_arms(
    dev: pl.DataFrame,
    facts: Sequence[ArmFacts],
    rule: Rule,
    *,
    always: Collection[str] = (),
    test_clusters: int,
    seed: int = 0,
) -> Screen:
    """Pick the arms that dev cannot rule out, as many as the test can carry.

    An arm goes on unless dev shows it to lie more than the margin below the best there; where it saves nothing that
    counts against the best, unless it is shown to be worse at all. First come those that no arm at their cost or below
    beats, then those with the best mean. At least three are tested, and no more than leave an 80 % chance that arms
    which are truly equal are shown to be near each other.

    Parameters
    ----------
    dev : DataFrame
        Rows of the rule's metric on dev.
    always : collection of str
        Arms that are tested whatever dev says: the one in use, the anchor, the user's own systems.
    test_clusters : int
        Question families in test.
    """
    values = ArmValues.of(dev, [f.name for f in facts])
    pairs = pairwise(values.worst, values.best, values.clusters, confidence=rule.confidence, seed=seed)
    mean = dict(zip((f.name for f in facts), values.own.mean(1).tolist(), strict=True))
    alive = [
        f for f in _finalists_without_twins(facts, values, always) if _may_be_finalist(f, facts, pairs, mean, rule)
    ]
    beaten = {f.name for f in alive if any(_finalist_beats(g, f, mean, rule) for g in alive)}
    ranked = sorted(alive, key=lambda f: (f.name in beaten, -mean[f.name], f.order))
    fixed = [f for f in facts if f.name in always]
    rest = [f for f in ranked if f.name not in always]
    n = _finalists_carried(len(fixed), len(rest), _finalists_sd(pairs, [*fixed, *rest], facts), rule, test_clusters)
    names = sorted([*fixed, *rest[:n]], key=lambda f: f.order)
    power = _finalists_power(len(names), _finalists_sd(pairs, names, facts), rule, test_clusters)
    return Screen(tuple(f.name for f in names), power, tuple(f.name for f in rest[n:]))


def _finalists_without_twins(facts: Sequence[ArmFacts], values: ArmValues, always: Collection[str]) -> list[ArmFacts]:
    """Arms without those that score the same as a simpler one on every question, at the same cost."""
    out, seen = [], set()
    for i, f in sorted(enumerate(facts), key=lambda pair: pair[1].order):
        key = (f.cost_usd_per_1k, values.own[i].tobytes())
        if key not in seen or f.name in always:
            out.append(f)
        seen.add(key)
    return out


def _may_be_finalist(
    arm: ArmFacts, facts: Sequence[ArmFacts], pairs: Pairwise, mean: Mapping[str, float], rule: Rule
) -> bool:
    """Whether dev leaves it open that this arm is chosen, or an upgrade."""
    if not is_fast_enough(arm.latency_p95_ms, rule):
        return False
    at = {f.name: i for i, f in enumerate(facts)}
    in_use = next((f.cost_usd_per_1k for f in facts if f.name == rule.reference), None)
    within = [
        f for f in facts if affordable(f.cost_usd_per_1k, in_use, rule) and is_fast_enough(f.latency_p95_ms, rule)
    ]
    others = [f for f in within or facts if f.name != arm.name]
    best = max(others, key=lambda f: mean[f.name], default=None)
    if best is None:
        return True
    saves = rule.counts(arm.cost_usd_per_1k, best.cost_usd_per_1k)
    return bool(pairs.high[at[arm.name], at[best.name]] >= (-rule.margin if saves else 0.0))


def _finalist_beats(one: ArmFacts, other: ArmFacts, mean: Mapping[str, float], rule: Rule) -> bool:
    """Whether an arm costs no more than another, and is better on dev."""
    return mean[one.name] > mean[other.name] and not rule.counts(other.cost_usd_per_1k, one.cost_usd_per_1k)


def _finalists_sd(pairs: Pairwise, arms: Sequence[ArmFacts], facts: Sequence[ArmFacts]) -> float:
    """Median over the pairs of arms of the standard deviation of their difference per family, 0 where none differ."""
    at = {f.name: i for i, f in enumerate(facts)}
    found = [pairs.se[at[a.name], at[b.name]] for a in arms for b in arms if a is not b]
    spread = [se for se in found if se > 0]
    return float(np.median(spread) * np.sqrt(pairs.n_clusters)) if spread else 0.0


def _finalists_carried(n_fixed: int, n_rest: int, sd: float, rule: Rule, test_clusters: int) -> int:
    """How many of the further arms are tested."""
    n = min(n_rest, MOST)
    while n > FEWEST and (_finalists_power(n_fixed + n, sd, rule, test_clusters) or 1.0) < TARGET:
        n -= 1
    return n


def _finalists_power(n_arms: int, sd: float, rule: Rule, test_clusters: int) -> float | None:
    if sd <= 0 or n_arms < 2:
        return None
    at_level = chance_of_each(spent_confidence(rule.confidence, rule.use), n_arms - 1)
    return chance_of_all(chance_of_holding(sd, rule.margin, test_clusters, confidence=at_level), n_arms - 1)


def chosen_shares(
    dev: pl.DataFrame,
    test: pl.DataFrame,
    facts: Sequence[ArmFacts],
    rule: Rule,
    *,
    always: Collection[str] = (),
    seed: int = 0,
    draws: int = RESAMPLES,
) -> dict[str, float]:
    """How often each arm would be chosen had other families of questions been asked; "" where nothing would be.

    Families of dev and of test are drawn with replacement, and the rule is followed anew: which of the tested arms dev
    lets through, then the decision, with the quantiles of the real test split. It says how tied the arms are, and is
    no confidence.
    """
    names, order = [f.name for f in facts], {f.name: f.order for f in facts}
    on_dev, on_test = ArmValues.of(dev, names), ArmValues.of(test, names)
    critical_dev = pairwise_of(on_dev, rule, seed=seed).critical
    critical_test = pairwise_of(on_test, rule, seed=seed).critical
    rng = np.random.default_rng(seed)
    found: Counter[str] = Counter()
    for _ in range(draws):
        drawn = [v.take(rng.integers(n, size=n)) for v in (on_dev, on_test) for n in [int(v.clusters.max()) + 1]]
        first, second = (
            pairwise(v.worst, v.best, v.clusters, critical=c)
            for v, c in zip(drawn, (critical_dev, critical_test), strict=True)
        )
        mean = dict(zip(names, drawn[0].own.mean(1).tolist(), strict=True))
        kept = [i for i, f in enumerate(facts) if f.name in always or _may_be_finalist(f, facts, first, mean, rule)]
        outcome = decide(
            claims_of(
                _only_finalists(drawn[1], kept),
                [facts[i] for i in kept],
                rule,
                _only_finalist_pairs(second, kept),
                resampled=True,
            ),
            rule,
            order=order,
            n_dev_clusters=first.n_clusters,
        )
        said = outcome.verdict in ("chosen", "upgrade", "keep_reference", "provisional")
        found[outcome.arm if said else ""] += 1
    return {arm: n / draws for arm, n in found.most_common()}


def _only_finalists(values: ArmValues, at: Sequence[int]) -> ArmValues:
    return ArmValues(values.own[at], values.worst[at], values.best[at], values.clusters, values.coverage[at])


def _only_finalist_pairs(pairs: Pairwise, at: Sequence[int]) -> Pairwise:
    grid = np.ix_(at, at)
    parts = (pairs.mean, pairs.se, pairs.low, pairs.differ, pairs.worse)
    mean, se, low, differ, worse = (part[grid] for part in parts)
    return Pairwise(mean, se, low, differ, worse, pairs.critical[at], pairs.n_clusters, pairs.size_ratio, pairs.unseen)


def beside_verdict(claims: Sequence[Claim], rule: Rule, outcome: Outcome, shares: Mapping[str, float]) -> list[str]:
    """What stands beside a verdict: how steady it is, the distance from the anchor, how worn the test split is."""
    out = []
    share = shares.get(outcome.arm, 0.0)
    if outcome.verdict in ("chosen", "upgrade", "provisional") and share < STEADY:
        others = ", ".join(f"{arm or 'none'} {percent(s)}" for arm, s in shares.items() if arm != outcome.arm)
        out.append(f"With other questions of this kind it would be chosen in {percent(share)} of cases ({others}).")
    chosen = next(c for c in claims if c.arm == outcome.arm)
    if pair := chosen.against(rule.anchor):
        out.append(
            f"Against the anchor {rule.anchor}, accepted first: {signed(pair.difference)} {rule.metric}, between "
            f"{signed(pair.low)} and {signed(pair.high)}."
        )
    if rule.use > 1:
        looks = f"{counted(rule.use, 'different set')} of arms have been judged on this test split"
        out.append(f"{looks}{_worn_test_split(rule)} {_test_split_renewal(claims, rule)}")
    return out


def _worn_test_split(rule: Rule) -> str:
    """What several looks at one test split take from this one."""
    kept = spent_confidence(rule.confidence, rule.use), spent_confidence(rule.confidence, 1), rule.confidence
    now, fresh, whole = (percent(1 - confidence, significant=2) for confidence in kept)
    return (
        f". All looks at it together may be wrong in {whole} of cases: {now} are left for this look, of {fresh} for a "
        "first one, so its bounds are wider."
    )


def verdict_note_now(note: str, rule: Rule) -> str:
    """A note of a decision that was accepted earlier, in the words of today."""
    now, fresh = (percent(spent_confidence(rule.confidence, use), 2) for use in (rule.use, 1))
    return note.replace(f", so bounds are at {now} instead of {fresh} confidence.", _worn_test_split(rule))


def _test_split_renewal(claims: Sequence[Claim], rule: Rule) -> str:
    """How many new test questions would do as well as a split that nobody has used."""
    spreads = [
        (p.difference - p.low, c) for c in claims for p in c.pairs if p.n_clusters_differ and p.difference > p.low
    ]
    if not spreads:
        return "New test questions would renew it."
    wide, claim = sorted(spreads, key=lambda pair: pair[0])[len(spreads) // 2]
    critical = ndtri(spent_confidence(rule.confidence, rule.use))
    sd = wide / critical * claim.n_clusters**0.5
    families = clusters_needed(float(sd), rule.margin, confidence=spent_confidence(rule.confidence, 1))
    items = -(-families * claim.n_items // claim.n_clusters)
    return f"About {counted(items, 'new test question')} would renew it."
