"""Rates among cache hits, counted at every threshold, with exact and with cluster-robust bounds.

Two denominators, never mixed: the *false-hit rate* is false hits by hits (what a served user feels), the *error
rate* is false hits by requests.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr, bdtrik, betainc, betaincinv, ndtri, stdtrit

Array = npt.NDArray[np.float64]
# 1 down to .3 in steps of .0025: set without looking at labels.
GRID: Array = np.arange(400, 119, -1) / 400
POWER = 0.8


@dataclass(frozen=True, slots=True)
class Sweep:
    """Hits and false hits at every distinct score, highest first."""

    thresholds: Array
    hits: npt.NDArray[np.int64]
    false: npt.NDArray[np.int64]


def sweep(scores: Array, false: npt.NDArray[np.bool_]) -> Sweep:
    """Count hits (score >= threshold) and false hits at all distinct scores with one sort.

    >>> found = sweep(np.array([0.9, 0.8, 0.9]), np.array([True, False, False]))
    >>> found.thresholds.tolist(), found.hits.tolist(), found.false.tolist()
    ([0.9, 0.8], [2, 3], [1, 1])
    """
    order = np.argsort(scores)[::-1]
    ranked = scores[order]
    ends = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], np.full(min(len(ranked), 1), True)])
    return Sweep(ranked[ends], ends + 1, np.cumsum(false[order], dtype=np.int64)[ends])


def clopper_pearson(false: Array, hits: Array, confidence: float = 0.95) -> tuple[Array, Array]:
    """Exact one-sided lower and upper bounds of a rate, each at ``confidence``; counts need not be whole."""
    right = np.maximum(hits - false, 1e-9)
    low = np.where(false > 0, betaincinv(np.maximum(false, 1e-9), right + 1, 1 - confidence), 0.0)
    high = np.where(false < hits, betaincinv(false + 1, right, confidence), 1.0)
    return low, high


@dataclass(frozen=True, slots=True)
class Counts:
    """Hits and false hits of each cluster at each threshold of a falling grid, shape (clusters, thresholds).

    ``requests`` are those of each cluster.
    """

    thresholds: Array
    hits: Array
    false: Array
    requests: Array

    def take(self, clusters: npt.NDArray[np.int64]) -> "Counts":
        """Counts of these clusters, each as often as it is named: a repeat is a cluster of its own."""
        return Counts(self.thresholds, self.hits[clusters], self.false[clusters], self.requests[clusters])

    @property
    def rate(self) -> Array:
        """False hits by hits at each threshold, 0 where nothing hits."""
        rate: Array = self.false.sum(0) / np.maximum(self.hits.sum(0), 1)
        return rate


def count(
    scores: Array, false: npt.NDArray[np.bool_], clusters: npt.NDArray[np.int64], thresholds: Array = GRID
) -> Counts:
    """Count by cluster code (0 .. m - 1) at falling thresholds; a score of minus infinity never hits."""
    m = int(clusters.max()) + 1 if len(clusters) else 0
    cell = np.searchsorted(-thresholds, -scores)  # the first threshold that the score reaches
    shape = (m, len(thresholds) + 1)
    hits, wrong = np.zeros(shape), np.zeros(shape)
    np.add.at(hits, (clusters, cell), 1)
    np.add.at(wrong, (clusters[false], cell[false]), 1)
    return Counts(thresholds, hits[:, :-1].cumsum(1), wrong[:, :-1].cumsum(1), hits.sum(1))


def design_effect(counts: Counts) -> Array:
    """How many times more hits are needed because those of one cluster share fate, at each threshold; at least 1.

    Where no hit is false it cannot be estimated, and each cluster counts as one hit.
    """
    hits, false = counts.hits, counts.false
    n, k = hits.sum(0), false.sum(0)
    m = np.maximum((hits > 0).sum(0), 2)
    p = k / np.maximum(n, 1)
    variance = m / (m - 1) * ((false - p * hits) ** 2).sum(0) / np.maximum(n, 1) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        effect = np.where(k > 0, variance * n / (p * (1 - p)), n / m)
    at_least_1: Array = np.maximum(np.nan_to_num(effect, nan=1.0, posinf=1.0), 1.0)
    return at_least_1


def effective_hits(counts: Counts, confidence: float = 0.95) -> Array:
    """Independent hits that say as much as those there are: hits by design effect, less for few clusters.

    The correction is for the degrees of freedom of the clusters that hit (Korn and Graubard 1998), against the normal
    quantile where theirs has that of t for the number of hits: hits that are told twice inside their cluster say no
    more, wherever clusters share fate (`design_effect` above 1) or nothing is false.
    """
    n = counts.hits.sum(0)
    m = np.maximum((counts.hits > 0).sum(0), 2)
    correction = ndtri(confidence) / stdtrit(m - 1, confidence)
    effective: Array = n / design_effect(counts) * correction**2
    return effective


def korn_graubard(counts: Counts, confidence: float = 0.95) -> tuple[Array, Array]:
    """Cluster-robust one-sided lower and upper bounds of the false-hit rate at each threshold."""
    effective = effective_hits(counts, confidence)
    return clopper_pearson(counts.rate * effective, effective, confidence)


def shows(false: Array, hits: Array, alpha: float, confidence: float) -> npt.NDArray[np.bool_]:
    """Whether the exact upper bound is at most ``alpha``: the same as comparing it, without computing it."""
    right = np.maximum(hits - false, 1e-9)
    shown: npt.NDArray[np.bool_] = (false < hits) & (betainc(false + 1, right, alpha) >= confidence)
    return shown


@cache
def hits_needed(alpha: float, rate: float, *, confidence: float = 0.95) -> int | None:
    """Independent hits for which "at most alpha" is shown with 80 % power when the truth is ``rate``.

    None where no number of hits shows it, because the rate is not under alpha.

    >>> hits_needed(0.05, 0.0), hits_needed(0.05, 0.025), hits_needed(0.01, 0.01)
    (59, 361, None)
    """
    if rate >= alpha:
        return None
    n = int(np.ceil(np.log(1 - confidence) / np.log(1 - alpha)))
    while _power(n, alpha, rate, confidence) < POWER:
        n += max(1, n // 400)
    return n


def _power(n: int, alpha: float, rate: float, confidence: float) -> float:
    """Chance that at most as many of ``n`` hits are false as still show a rate of at most alpha."""
    most = float(np.floor(np.nan_to_num(bdtrik(1 - confidence, n, alpha), nan=-1.0)))
    if most < 0 or bdtr(most, n, alpha) > 1 - confidence:
        most -= 1
    return float(bdtr(most, n, rate)) if most >= 0 else 0.0
