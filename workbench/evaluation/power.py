"""How many questions a claim needs: said before the arms run, and again with every "cannot tell"."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.special import bdtrc, betaincinv, gammaincinv, nctdtr, ndtr, ndtri, stdtrit

from workbench.evaluation.compare import (
    MIN_CLUSTERS,
    MIN_DIFFERING,
    most_worse_clusters,
    sharper_confidence,
    spent_confidence,
)
from workbench.records import Rule
from workbench.rendering.numbers import counted, percent
from workbench.rendering.table import Column, Table

_MOST_CLUSTERS = 10**15
TARGET = 0.8
# The spread that a number of further questions is planned with is itself uncertain: both ends of its 80 % interval.
SPREAD_ENDS = (0.9, 0.1)


@dataclass(frozen=True, slots=True)
class Power:
    """What a test split of ``n_clusters`` can show at margin ``margin`` if the arms are truly equal.

    Attributes
    ----------
    power : float
        Chance that the claim holds.
    clusters_needed : int
        Clusters at which that chance is 80 %.
    detectable : float
        Smallest margin for which the chance is 80 % with the clusters there are.
    """

    margin: float
    sd: float
    n_clusters: int
    power: float
    clusters_needed: int
    detectable: float


def clusters_needed(
    sd: float,
    margin: float,
    *,
    confidence: float = 0.95,
    effect: float = 0.0,
    power: float = TARGET,
    differing: float = 1.0,
) -> int:
    """Clusters for which "not worse than -margin" is shown with 80 % power when the truth is ``effect``.

    Parameters
    ----------
    sd : float
        Standard deviation of the difference per cluster: the cluster-robust standard error times the square root
        of the clusters, so that it holds unequal cluster sizes and within-cluster correlation.
    margin, effect : float
        In units of the metric; ``effect + margin`` must be greater than 0.
    power : float
        Chance that it is shown.
    differing : float
        Share of the clusters in which the two arms differ. The bootstrap needs 10 such, and those in which they do not
        tell nothing of the spread.

    Returns
    -------
    int
        At least 30, below which no claim is made; at most 1e15, beyond which nothing is counted.

    Examples
    --------
    >>> clusters_needed(0.133, 0.02)
    278
    """
    if effect + margin <= 0:
        raise ValueError(f"no number of clusters shows a loss of less than {margin} when the truth is {effect}")

    def enough(m: int) -> bool:
        told = chance_of_holding(sd, effect + margin, m, confidence=confidence, differing=differing)
        return bool(bdtrc(MIN_DIFFERING - 1, m, differing) >= power and told >= power)

    sizes, further = [MIN_CLUSTERS], 1  # half a percent apart, of which few are tried: more clusters never show less
    while sizes[-1] < _MOST_CLUSTERS and not enough(sizes[-1]):
        for _ in range(further):
            sizes.append(min(sizes[-1] + max(1, sizes[-1] // 200), _MOST_CLUSTERS))
        further *= 2
    return sizes[min(bisect_left(sizes, True, key=enough), len(sizes) - 1)]


def chance_of_all(each: float, n: int) -> float:
    """Chance that n comparisons with one arm all come true, if each does with chance ``each``.

    Differences from one arm share it, so that their correlation is one half if all arms vary alike (Dunnett 1955).

    >>> round(chance_of_all(0.8, 1), 2), round(chance_of_all(0.8, 3), 2), round(chance_of_all(0.8, 7), 2)
    (0.8, 0.61, 0.45)
    """
    if n < 2:
        return each
    nodes, weights = np.polynomial.hermite_e.hermegauss(64)
    return float(weights @ ndtr(np.sqrt(2) * ndtri(each) + nodes) ** n / weights.sum())


@cache
def chance_of_each(joint: float, n: int) -> float:
    """Chance of each of n comparisons with one arm at which they all come true with chance ``joint``.

    >>> round(chance_of_each(0.95, 1), 3), round(chance_of_each(0.95, 3), 3)
    (0.95, 0.98)
    """
    if n < 2:
        return joint
    from scipy.optimize import brentq

    found = brentq(lambda z: chance_of_all(float(ndtr(z)), n) - joint, -8, 8)
    return float(ndtr(found))


def chance_of_holding(
    sd: float, shift: float, n_clusters: int, *, confidence: float = 0.95, differing: float = 1.0
) -> float:
    """Power of the one-sided t test with ``n_clusters`` clusters for a true distance ``shift`` from the margin.

    At the confidence that the bounds aim at, see `workbench.evaluation.compare.sharper_confidence`. Where losses are
    rare and large the power is lower: the simulation finds 0.7 where this says 0.8, for exponential losses.
    """
    if n_clusters < 2:
        return 0.0
    df = max(n_clusters * differing - 1, 1)
    if sd <= 0:
        return float(shift > 0)
    critical = stdtrit(df, sharper_confidence(confidence, n_clusters))
    noncentrality = shift / sd * n_clusters**0.5
    power = 1 - float(nctdtr(df, noncentrality, critical))
    if np.isnan(power):  # so far from the critical value it cannot be computed this way
        from scipy.stats import nct

        power = float(nct.sf(critical, df, noncentrality))
    return power


def plan_power(sd: float, margin: float, n_clusters: int, *, confidence: float = 0.95) -> Power:
    """Power of a split at a margin, the clusters it would need, and the margin it can show."""
    low, high = 1e-6, 4.0
    for _ in range(60):
        middle = (low + high) / 2
        enough = chance_of_holding(sd, middle, n_clusters, confidence=confidence) >= TARGET
        low, high = (low, middle) if enough else (middle, high)
    return Power(
        margin=margin,
        sd=sd,
        n_clusters=n_clusters,
        power=chance_of_holding(sd, margin, n_clusters, confidence=confidence),
        clusters_needed=clusters_needed(sd, margin, confidence=confidence),
        detectable=high,
    )


def clusters_range(
    se: float, distance: float, m: int, confidence: float, power: float, differing: float
) -> tuple[int, int | None]:
    """Clusters that are needed at both ends of the interval of the spread, which m clusters have shown."""
    sd, how = se * np.sqrt(m), {"confidence": confidence, "power": power, "differing": differing}
    ends = [sd * np.sqrt((m - 1) / (2 * gammaincinv((m - 1) / 2, end))) for end in SPREAD_ENDS]
    few, many = (clusters_needed(float(one), distance, **how) for one in ends)
    return few, many


def soonest_clusters(ways: Sequence[tuple[int, int | None]]) -> tuple[int, int | None]:
    """The smallest of several numbers of clusters, each of which is enough, at both ends; None has no end."""
    return min(few for few, _ in ways), min((many for _, many in ways if many is not None), default=None)


def few_clusters_needed(worse: int, m: int, margin: float, confidence: float) -> tuple[int, int | None]:
    """Clusters at which the exact bound lies under the margin, at the share that is worse and at its upper end."""

    def needed(share: float) -> int | None:
        n = m
        while share < margin and n < 10**6:
            if most_worse_clusters(np.array([np.ceil(share * n)]), n, confidence)[0] < margin:
                return n
            n += max(1, n // 50)
        return None

    ends = betaincinv(worse + 1, max(m - worse, 1), SPREAD_ENDS[0])
    return needed(worse / m) or 10**6, needed(float(ends))


def power_table(spreads: Sequence[float], clusters: Mapping[str, str], rule: Rule, *, items: str) -> Table:
    """What a test split can show at the rule's margin, at the confidence that its use of the split leaves.

    Parameters
    ----------
    spreads : sequence of float
        Assumed standard deviations per cluster of the paired difference.
    clusters : mapping of str to str
        Cluster of each test item.
    items : str
        What the items are called, such as questions.

    Examples
    --------
    >>> rule = Rule("ndcg@10", "usd_per_1k_requests", "", 0.02, 0.95, use=2)
    >>> power_table([0.133], {f"q{i}": f"family {i}" for i in range(300)}, rule, items="questions").caption
    'Power of 300 test questions in 300 families, margin 0.02, at 99.00 % confidence: use 2 of this test split; \
for two arms, more of them take more'
    """
    families, confidence = len(set(clusters.values())), spent_confidence(rule.confidence, rule.use)
    plans = [plan_power(sd, rule.margin, families, confidence=confidence) for sd in spreads]
    columns = (
        Column("spread per family (sd)", "number", digits=2),
        Column("chance that an equal arm is shown to be one", "share"),
        Column("families needed for 80 %", "count"),
        Column("margin that can be shown", "number", digits=3),
    )
    rows = tuple((p.sd, p.power, p.clusters_needed, p.detectable) for p in plans)
    caption = (
        f"Power of {len(clusters):,} test {items} in {counted(families, 'family')}, margin {rule.margin:g}, at "
        f"{percent(confidence, 2)} confidence: use {rule.use} of this test split; for two arms, more of them take more"
    )
    return Table(columns, rows, caption)
