"""Paired comparison of arms with a reference: one deciding test, the one-sided cluster bootstrap-t.

Items of one cluster (question family, document, conversation) share fate, so clusters are what is resampled.
The bootstrap-t (Efron 1979; Hall 1992, section 3.10) studentises each resample, which keeps the level on skewed
differences where a percentile interval does not. Several finalists get simultaneous bounds from the largest
of their studentised deviations (Romano and Wolf 2005).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.special import betaincinv, ndtri, stdtrit

from workbench.errors import ConfigError
from workbench.evaluation.cluster_weights import cluster_weights
from workbench.records import GateStatus
from workbench.rendering.numbers import counted

SCORES_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "arm": pl.String,
    "item_id": pl.String,
    "repeat": pl.Int32,
    "metric": pl.String,
    "value": pl.Float64,
    "error": pl.String,
    "cluster": pl.String,
    "tenant_id": pl.String,
    "latency_ms": pl.Float64,
    "cost_usd": pl.Float64,
}
MIN_CLUSTERS = 30
MIN_DIFFERING = 10
DRAWS = 4000
# Clusters' worth of alpha that is kept back: `sharper_confidence`.
KEPT_BACK = 8
# Less than this is rounding, not a difference.
NO_SPREAD = 1e-12
# Resamples beyond a quantile, below which it is no longer read off but carried on: `_deviation_quantile`.
_BEYOND = 10
# Beyond it alpha is too small to be told from 0 in floating point.
_LAST_USE = 30


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """Mean, cluster-robust standard error, and one-sided bounds, one entry per arm."""

    mean: np.ndarray
    se: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Difference of one arm from the reference over the same items, with what the gate says of it."""

    arm: str
    mean: float
    se: float
    low: float
    high: float
    status: GateStatus
    n_items: int
    n_clusters: int
    n_differ: int


def item_values(scores: pl.DataFrame, arm: str, items: Sequence[str], *, missing: float) -> np.ndarray:
    """Mean over repeats of one arm, in the order of ``items``; what failed, is NaN or is missing counts ``missing``."""
    mine = scores.filter(pl.col("arm") == arm)
    means = mine.group_by("item_id").agg(pl.col("value").fill_nan(missing).fill_null(missing).mean())
    wanted = pl.DataFrame({"item_id": list(items)})
    return wanted.join(means, on="item_id", how="left", maintain_order="left")["value"].fill_null(missing).to_numpy()


def bootstrap_t(
    values: np.ndarray, clusters: np.ndarray, *, confidence: float = 0.95, draws: int = DRAWS, seed: int = 0
) -> Bounds:
    """One-sided bounds of means, simultaneous over the rows of ``values``.

    Parameters
    ----------
    values : ndarray of float, shape (arms, items)
        Paired differences, or plain values, of the same items for every arm.
    clusters : ndarray of int, shape (items,)
        Cluster code of each item, 0 .. m - 1.
    confidence : float
        Of each one-sided bound, over all arms together; its quantile is taken at the `sharper_confidence` one.
    draws, seed : int
        Resamples and their seed.

    Returns
    -------
    Bounds
        Arrays of shape (arms,). An arm without spread has ``low == mean == high``: no statement about a
        population, which is why `classify_difference` never lets it hold.
    """
    mean, se, t = _studentised(values, clusters, draws, seed)
    spread = se > NO_SPREAD
    if not spread.any():
        return Bounds(mean, se, mean.copy(), mean.copy())
    m = int(clusters.max()) + 1
    low, high = mean.copy(), mean.copy()
    low[spread] -= _deviation_quantile(t[:, spread].max(1), sharper_confidence(confidence, m), m) * se[spread]
    high[spread] += _deviation_quantile(-t[:, spread].min(1), sharper_confidence(confidence, m), m) * se[spread]
    return Bounds(mean, se, low, high)


@dataclass(frozen=True, slots=True, eq=False)
class Pairwise:
    """Every arm against every other: entry [a, b] is arm a minus arm b, all of shape (arms, arms).

    ``low`` are one-sided lower bounds that hold at once for all a against one fixed b, whichever that is: so at once
    for all arms against the one that is truly best (multiple comparisons with the best: Hsu 1984; Edwards and Hsu
    1983, with the bootstrap's quantile in the place of Dunnett's). Where fewer than 10 clusters differ the bootstrap-t
    does not keep its level; there the bound is that of the share of clusters in which a is worse at all, each counted
    as lost whole (Clopper and Pearson 1934): wide, but exact for any values in [0, 1].

    ``differ`` and ``worse`` count the clusters that differ, and those in which a is worse; ``critical`` (shape (arms,))
    is the quantile for each b, ``size_ratio`` the largest cluster by the mean one. ``unseen`` is how far an arm may lie
    below another one from which it differs nowhere: the exact bound of no cluster that is worse. The diagonal is 0.
    """

    mean: np.ndarray
    se: np.ndarray
    low: np.ndarray
    differ: np.ndarray
    worse: np.ndarray
    critical: np.ndarray
    n_clusters: int
    size_ratio: float
    unseen: float

    @property
    def high(self) -> np.ndarray:
        """Upper bounds of a minus b, at once for all b against one fixed a: what is said against an arm."""
        return -self.low.T

    def status(self, a: int, b: int, margin: float) -> GateStatus:
        """Gate status of "a lies at most ``margin`` below b"; no claim under 30 clusters, nor without any spread."""
        if not self.differ[a, b]:
            return "identical"
        if self.n_clusters < MIN_CLUSTERS or self.se[a, b] <= NO_SPREAD:
            return "inconclusive"
        return margin_status(float(self.low[a, b]), float(self.high[a, b]), margin)


def margin_status(low: float, high: float, margin: float) -> GateStatus:
    """Status of "at most ``margin`` below" by the bounds of a difference.

    >>> margin_status(-0.02, 0.05, 0.03), margin_status(-0.09, -0.04, 0.03)
    ('holds', 'broken')
    """
    if low > -margin:
        return "holds"
    return "broken" if high < -margin else "inconclusive"


def pairwise(
    worst: np.ndarray,
    best: np.ndarray,
    clusters: np.ndarray,
    *,
    confidence: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
    critical: np.ndarray | None = None,
) -> Pairwise:
    """Bounds of the difference of every arm from every other, with simultaneous quantiles for each second arm.

    Parameters
    ----------
    worst, best : ndarray of float, shape (arms, items)
        Values of each arm at their worst and at their best: an arm's own claim counts its failures as 0, a claim
        against it as 1. The same array twice where nothing failed.
    clusters : ndarray of int, shape (items,)
        Cluster code of each item, 0 .. m - 1.
    critical : ndarray of float, shape (arms,), optional
        Quantiles that are known already, of the same arms; nothing is resampled then.
    """
    k, m = len(worst), int(clusters.max()) + 1
    pairs = [(a, b) for a in range(k) for b in range(k) if a != b]
    sizes = np.bincount(clusters, minlength=m)
    ratio = float(sizes.max() / sizes.mean())
    if not pairs:
        none = np.zeros((k, k))
        return Pairwise(none, none, none, none, none, np.zeros(k), m, ratio, 0.0)
    first, second = np.array(pairs).T
    values = np.stack([worst[a] - best[b] for a, b in pairs])
    differ = np.array([np.unique(clusters[np.abs(row) > NO_SPREAD]).size for row in values])
    lost = np.array([np.unique(clusters[row < -NO_SPREAD]).size for row in values])
    few = differ < MIN_DIFFERING
    mean, se, t = _studentised(values, clusters, draws if critical is None else 0, seed)
    plain = few | (se <= NO_SPREAD)  # nothing for the bootstrap
    if critical is None:
        critical = _deviation_quantiles(np.where(plain, 0.0, t), second, few, confidence, m)
    low = mean - np.where(plain, 0.0, critical[second]) * se
    apart = 1 - (1 - confidence) / max(k - 1, 1)
    exact = -most_worse_clusters(lost, m, apart) * ratio
    low = np.where(few, np.where(differ == 0, 0.0, exact), low)

    def square(found: np.ndarray) -> np.ndarray:
        out = np.zeros((k, k))
        out[first, second] = found
        return out

    unseen = float(most_worse_clusters(np.array(0), m, apart)) * ratio
    return Pairwise(square(mean), square(se), square(low), square(differ), square(lost), critical, m, ratio, unseen)


def most_worse_clusters(worse: np.ndarray, n_clusters: int, confidence: float) -> np.ndarray:
    """Exact one-sided upper bound of the share of clusters that are worse (Clopper and Pearson 1934).

    >>> most_worse_clusters(np.array([0, 3]), 100, 0.95).round(4).tolist()
    [0.0295, 0.0757]
    """
    share: np.ndarray = betaincinv(worse + 1, np.maximum(n_clusters - worse, 1e-9), confidence)
    return share


def _deviation_quantiles(t: np.ndarray, second: np.ndarray, few: np.ndarray, confidence: float, m: int) -> np.ndarray:
    """Quantile of the largest deviation from each second arm, over the pairs that the bootstrap is good for.

    Those that it is not have their own bounds, which spend their part of alpha.
    """
    out = []
    for b in np.unique(second):
        mine = second == b
        share = float(np.mean(~few[mine]))
        level = sharper_confidence(1 - (1 - confidence) * share, m) if share else confidence
        out.append(_deviation_quantile(t[:, mine].max(1), level, m))
    return np.array(out)


def _deviation_quantile(deviations: np.ndarray, confidence: float, m: int) -> float:
    """Quantile of resampled deviations over m clusters, also where hardly a resample lies beyond it.

    The largest of 4,000 deviations is no quantile of 99.999 %: with it every later use of a split would be judged at
    the same 99.98 %. From where 10 resamples lie beyond, the quantile grows as that of Student's t does.
    """
    level = min(confidence, 1 - min(_BEYOND / len(deviations), 0.25))
    found = float(np.quantile(deviations, level, method="higher"))
    if level == confidence:
        return found
    df = max(m - 1, 1)
    return found * float(stdtrit(df, confidence) / stdtrit(df, level))


def _studentised(
    values: np.ndarray, clusters: np.ndarray, draws: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and cluster-robust standard error of each row, and its studentised deviation in each resample."""
    m = int(clusters.max()) + 1
    counts = np.bincount(clusters, minlength=m).astype(float)
    return _studentised_ratio(
        np.stack([np.bincount(clusters, row, minlength=m) for row in values]), counts, draws, seed
    )


def _studentised_ratio(
    sums: np.ndarray, counts: np.ndarray, draws: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Total of ``sums`` for one of ``counts``, each by cluster, as `_studentised` gives the mean of items."""
    m = counts.size
    mean, se = (part[0] for part in _ratio_mean(np.ones((1, m)), sums, counts))
    parts = [_ratio_mean(weights, sums, counts) for weights in cluster_weights(m, draws, seed)]
    if not parts:
        return mean, se, np.zeros((0, len(sums)))
    means, ses = np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (means - mean) / ses
    return mean, se, np.nan_to_num(t, nan=0.0, posinf=np.inf, neginf=-np.inf)


def spent_confidence(confidence: float, use: int) -> float:
    """Confidence at which the ``use``-th set of arms is judged on one test split, so that all together keep the stated.

    Alpha is spent (over a sequence of tests: Foster and Stine 2008): the first use gets three fifths of it, each later
    one half of what is left, and so they never add up to more than the whole. The shares halve, since arms are
    proposed by those that saw the earlier scores: the k-th set is one of 2^(k - 1) that might have followed as many
    answers of yes or no (Blum and Hardt 2015). In the simulation (``tests/benchmarks/simulate_uses.py``) 50 arms, each
    built from the best before it, pass falsely in about alpha; with 6 / (pi k)^2, which costs more power up to the
    fifth use and less from the eighth on, in several times that. From the 30th use on nothing is left to be halved.

    >>> [round(spent_confidence(0.95, use), 4) for use in (1, 2, 3, 10)]
    [0.97, 0.99, 0.995, 1.0]
    """
    share = 0.6 if use <= 1 else 0.4 * 0.5 ** (min(use, _LAST_USE) - 1)
    return 1 - (1 - confidence) * share


def sharper_confidence(confidence: float, n_clusters: int) -> float:
    """Confidence to aim at so that bounds from few clusters keep the stated one.

    The level of a bootstrap-t is off by a term of order 1 / clusters (Hall 1988): from 30 clusters it gave 93 to 94 %
    for 95 % intervals, and "holds" in 6.7 % for 5 % where losses are rare and large. Keeping back 8 / clusters of
    alpha mends both in the simulation (``tests/benchmarks/simulate_gate.py``), and fades as clusters are added.

    >>> round(sharper_confidence(0.95, 30), 4), round(sharper_confidence(0.95, 300), 4)
    (0.9633, 0.9513)
    """
    return 1 - (1 - confidence) * (1 - KEPT_BACK / max(n_clusters, 2 * KEPT_BACK))


def _ratio_mean(weights: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over items and its linearised cluster standard error, for each row of cluster weights."""
    m = counts.size
    n = weights @ counts
    mean = (weights @ sums.T) / n[:, None]
    squares = weights @ (sums**2).T - 2 * mean * (weights @ (sums * counts).T)
    squares += mean**2 * (weights @ counts**2)[:, None]
    se = np.sqrt(np.maximum(squares, 0) * m / max(m - 1, 1)) / n[:, None]
    return mean, se


def classify_difference(
    difference: np.ndarray, clusters: np.ndarray, *, low: float, high: float, margin: float
) -> tuple[GateStatus, int]:
    """Gate status of "worse by less than the margin", and how many clusters differ.

    ``identical`` where no item differs; ``inconclusive`` under 30 clusters, where fewer than 10 clusters differ,
    or where there is no spread: there the bootstrap-t does not keep its level.
    """
    differing = np.unique(clusters[np.abs(difference) > NO_SPREAD]).size
    if differing == 0:
        return "identical", 0
    spread = np.ptp(difference) > NO_SPREAD
    if np.unique(clusters).size < MIN_CLUSTERS or differing < MIN_DIFFERING or not spread:
        return "inconclusive", differing
    if low > -margin:
        return "holds", differing
    return ("broken" if high < -margin else "inconclusive"), differing


def compare(
    scores: pl.DataFrame,
    arms: Sequence[str],
    *,
    reference: str,
    margin: float,
    confidence: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[PairedDifference]:
    """Paired differences of the arms from the reference, with bounds that hold for all arms at once.

    Parameters
    ----------
    scores : DataFrame
        Rows of one metric and one split (columns as `SCORES_SCHEMA`), value in [0, 1], higher is better.
    arms : sequence of str
        Arms to compare; the reference itself is left out where it is among them.
    reference : str
        Arm named beforehand.
    margin : float
        Largest loss that is acceptable, in units of the metric, greater than 0.

    Raises
    ------
    ConfigError
        If the margin is not positive or an arm has no scores.

    Notes
    -----
    A failed item counts against the claim: 0 for the candidate, 1 for the reference.
    """
    if not margin > 0:
        raise ConfigError(f"margin must be greater than 0, found {margin}")
    present = set(scores["arm"].unique())
    if unknown := sorted({reference, *arms} - present):
        raise ConfigError(f"no scores for {', '.join(unknown)}; there are {', '.join(sorted(present))}")
    candidates = [a for a in arms if a != reference]
    if not candidates:
        return []
    items, codes = item_clusters(scores)
    base = item_values(scores, reference, items, missing=1.0)
    values = np.stack([item_values(scores, a, items, missing=0.0) - base for a in candidates])
    bounds = bootstrap_t(values, codes, confidence=confidence, draws=draws, seed=seed)
    out = []
    for i, arm in enumerate(candidates):
        low, high = max(float(bounds.low[i]), -1.0), min(float(bounds.high[i]), 1.0)  # of values in [0, 1]
        status, differ = classify_difference(values[i], codes, low=low, high=high, margin=margin)
        mean, se = float(bounds.mean[i]), float(bounds.se[i])
        out.append(PairedDifference(arm, mean, se, low, high, status, len(items), int(codes.max()) + 1, differ))
    return out


def require_shares(scores: pl.DataFrame) -> None:
    """Refuse values that no bound of a share is true of.

    Raises
    ------
    ConfigError
        With the first value outside [0, 1].
    """
    wrong = scores.filter(~pl.col("value").fill_nan(None).is_between(-NO_SPREAD, 1 + NO_SPREAD))
    if wrong.height:
        arm, item, value = wrong.select("arm", "item_id", "value").row(0)
        raise ConfigError(
            f"{arm} has the value {value:g} on {item!r}, one of {counted(wrong.height, 'value')} outside [0, 1], in "
            "which bounds are told; divide the metric by its largest value"
        )


def item_clusters(scores: pl.DataFrame) -> tuple[list[str], np.ndarray]:
    """Items in sorted order and the code of each one's cluster, shape (items,)."""
    table = scores.select("item_id", "cluster").unique(["item_id"]).sort("item_id")
    codes = np.unique(table["cluster"].to_numpy(), return_inverse=True)[1]
    return table["item_id"].to_list(), codes


def mean_interval(values: np.ndarray, clusters: np.ndarray, *, seed: int = 0) -> tuple[float, float, float]:
    """Mean of values in [0, 1] with its two-sided 95 % interval, inside [0, 1] too.

    Where fewer than 10 clusters have anything below 1, or above 0, the bootstrap-t does not keep its level at that end,
    and where nothing varies it has none: there each such cluster counts as lost or won whole, by the exact bound of
    their share (Clopper and Pearson 1934).

    >>> [round(end, 3) for end in mean_interval(np.ones(30), np.arange(30))]
    [1.0, 0.884, 1.0]
    """
    bounds = bootstrap_t(values[None], clusters, confidence=0.975, seed=seed)
    low, high = exact_ends(values, clusters, float(bounds.low[0]), float(bounds.high[0]))
    return float(bounds.mean[0]), low, high


def exact_ends(
    values: np.ndarray, clusters: np.ndarray, low: float, high: float, confidence: float = 0.975
) -> tuple[float, float]:
    """Ends of the interval of a mean in [0, 1], replaced where clusters are too few for them: `mean_interval`.

    ``confidence`` is that of each end.
    """
    sizes = np.bincount(clusters)
    m, ratio = sizes.size, float(sizes.max() / sizes.mean())

    def share(of: np.ndarray) -> tuple[int, float]:
        n = np.unique(clusters[of]).size
        return n, min(float(most_worse_clusters(np.array(n), m, confidence)) * ratio, 1.0)

    (under, lost), (over, won) = share(values < 1 - NO_SPREAD), share(values > NO_SPREAD)
    if np.ptp(values) <= NO_SPREAD:  # all the same: what another cluster would have is not seen
        other = min(float(most_worse_clusters(np.array(0), m, confidence)) * ratio, 1.0)
        mean = float(values[0])
        low, high = mean * (1 - other), mean + (1 - mean) * other
    low = 1 - lost if under < MIN_DIFFERING else low
    high = won if over < MIN_DIFFERING else high
    return max(low, 0.0), min(high, 1.0)


def normal_interval(values: np.ndarray, clusters: np.ndarray) -> tuple[float, float, float]:
    """``mean_interval`` with no resample: normal at the cluster-robust error, where thousands are made at once."""
    mean, se, _ = _studentised(values[None], clusters, 0, 0)
    wide = float(ndtri(0.975) * se[0])
    return float(mean[0]), *exact_ends(values, clusters, float(mean[0]) - wide, float(mean[0]) + wide)


def ratio_interval(
    amounts: np.ndarray, counts: np.ndarray, clusters: np.ndarray, *, seed: int = 0
) -> tuple[float, float | None, float | None]:
    """Total amount for one of what is counted, such as dollars for a good answer, with its two-sided 95 % interval.

    >>> ratio_interval(np.array([3.0, 1.0]), np.array([1.0, 1.0]), np.array([0, 1]))
    (2.0, None, None)

    Parameters
    ----------
    amounts, counts : ndarray of float, shape (items,)
        What each item adds to the numerator, and to the denominator, which must not add up to 0.
    clusters : ndarray of int, shape (items,)
        Cluster code of each item, 0 .. m - 1.

    Notes
    -----
    A bootstrap-t of the ratio (Efron and Tibshirani 1993, chapter 12). There are no bounds under 30 clusters, with
    fewer than 10 that count anything, or without spread: there it does not keep its level.
    """
    m = int(clusters.max()) + 1
    by_cluster = np.bincount(clusters, counts, minlength=m)
    ratio = float(amounts.sum() / counts.sum())
    if m < MIN_CLUSTERS or np.count_nonzero(by_cluster) < MIN_DIFFERING:
        return ratio, None, None
    _, se, t = _studentised_ratio(np.bincount(clusters, amounts, minlength=m)[None], by_cluster, DRAWS, seed)
    if se[0] <= NO_SPREAD * max(abs(ratio), 1.0):
        return ratio, None, None
    reach = sharper_confidence(0.975, m)
    return (
        ratio,
        ratio - _deviation_quantile(t[:, 0], reach, m) * float(se[0]),
        ratio + _deviation_quantile(-t[:, 0], reach, m) * float(se[0]),
    )
