"""Which threshold is shown to keep the share of wrong answers among hits under alpha, by bounds that know clusters.

Two denominators, never mixed: the *false-hit rate* is false hits by hits (what a served user feels), the *error
rate* is false hits by requests.

The false-hit rate need not fall as the threshold rises, so that methods for monotone losses do not apply; thresholds
are walked through in an order fixed beforehand (fixed-sequence learn-then-test, Angelopoulos et al. 2021, arXiv
2110.01052), which costs nothing for having tried several. Of the two methods that keep their promise when requests of
one cluster share fate, the walk certifies more (`simulate_certificates` shows it for the traffic at hand), so it is the
default.
What the promise speaks of: the cluster-robust bound of *new* intents that come as these did, Clopper and Pearson's,
beside it, of more requests of *these* intents alone. A heavy cluster that was not drawn cannot be seen: without an
allowance, one that made a tenth of all false hits broke 8 to 13 % of simulated promises instead of 5 %. So the promise
allows for one unseen that makes an eighth of them (`UNSEEN`), and nothing is claimed from fewer than 15 clusters that
count (`effective_hit_clusters`). Where one intent makes more of the traffic than that, it needs a certificate of its
own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr, bdtrik, betainc, betaincinv, ndtri, stdtrit

from workbench.evaluation.compare import MIN_CLUSTERS
from workbench.rendering.numbers import counted, percent

Array = npt.NDArray[np.float64]
# 1 down to .3 in steps of .0025: set without looking at labels.
GRID: Array = np.arange(400, 119, -1) / 400
POWER = 0.8
UNSEEN = 1 / 8  # share of all false hits that one cluster may make that was not drawn
MIN_EFFECTIVE = 15


@dataclass(frozen=True, slots=True, eq=False)
class ThresholdSweep:
    """Hits and false hits at every distinct score, highest first."""

    thresholds: Array
    hits: npt.NDArray[np.int64]
    false: npt.NDArray[np.int64]


def sweep_thresholds(scores: Array, false: npt.NDArray[np.bool_]) -> ThresholdSweep:
    """Count hits (score >= threshold) and false hits at all distinct scores with one sort.

    >>> found = sweep_thresholds(np.array([0.9, 0.8, 0.9]), np.array([True, False, False]))
    >>> found.thresholds.tolist(), found.hits.tolist(), found.false.tolist()
    ([0.9, 0.8], [2, 3], [1, 1])
    """
    order = np.argsort(scores)[::-1]
    ranked = scores[order]
    ends = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], np.full(min(len(ranked), 1), True)])
    return ThresholdSweep(ranked[ends], ends + 1, np.cumsum(false[order], dtype=np.int64)[ends])


def clopper_pearson(false: Array, hits: Array, confidence: float = 0.95) -> tuple[Array, Array]:
    """Exact one-sided lower and upper bounds of a rate, each at ``confidence``; counts need not be whole."""
    right = np.maximum(hits - false, 1e-9)
    low = np.where(false > 0, betaincinv(np.maximum(false, 1e-9), right + 1, 1 - confidence), 0.0)
    high = np.where(false < hits, betaincinv(false + 1, right, confidence), 1.0)
    return low, high


@dataclass(frozen=True, slots=True, eq=False)
class HitCounts:
    """Hits and false hits of each cluster at each threshold of a falling grid, shape (clusters, thresholds).

    ``requests`` are those of each cluster.
    """

    thresholds: Array
    hits: Array
    false: Array
    requests: Array

    def take(self, clusters: npt.NDArray[np.int64]) -> "HitCounts":
        """Counts of these clusters, each as often as it is named: a repeat is a cluster of its own."""
        return HitCounts(self.thresholds, self.hits[clusters], self.false[clusters], self.requests[clusters])

    @property
    def rate(self) -> Array:
        """False hits by hits at each threshold, 0 where nothing hits."""
        rate: Array = self.false.sum(0) / np.maximum(self.hits.sum(0), 1)
        return rate


def count_hits(
    scores: Array, false: npt.NDArray[np.bool_], clusters: npt.NDArray[np.int64], thresholds: Array = GRID
) -> HitCounts:
    """Count by cluster code (0 .. m - 1) at falling thresholds; a score of minus infinity never hits."""
    m = int(clusters.max()) + 1 if len(clusters) else 0
    cell = np.searchsorted(-thresholds, -scores)  # the first threshold that the score reaches
    shape = (m, len(thresholds) + 1)
    hits, wrong = np.zeros(shape), np.zeros(shape)
    np.add.at(hits, (clusters, cell), 1)
    np.add.at(wrong, (clusters[false], cell[false]), 1)
    return HitCounts(thresholds, hits[:, :-1].cumsum(1), wrong[:, :-1].cumsum(1), hits.sum(1))


def hit_design_effect(counts: HitCounts) -> Array:
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


def effective_hit_clusters(counts: HitCounts) -> Array:
    """Clusters of one size that say as much as those there are (Kish 1965): few where one holds most of the hits."""
    n, squares = counts.hits.sum(0), (counts.hits**2).sum(0)
    found: Array = n**2 / np.maximum(squares, 1)
    return found


def effective_hits(counts: HitCounts, confidence: float = 0.95) -> Array:
    """Independent hits that say as much as those there are: hits by design effect, less for few clusters.

    The correction is for the degrees of freedom of the effective clusters (Korn and Graubard 1998), against the normal
    quantile where theirs has that of t for the number of hits: hits that are told twice inside their cluster say no
    more, wherever clusters share fate (`hit_design_effect` above 1) or nothing is false.
    """
    n = counts.hits.sum(0)
    m = np.maximum(effective_hit_clusters(counts), 2)
    correction = ndtri(confidence) / stdtrit(m - 1, confidence)
    effective: Array = n / hit_design_effect(counts) * correction**2
    return effective


def korn_graubard(counts: HitCounts, confidence: float = 0.95) -> tuple[Array, Array]:
    """Cluster-robust one-sided lower and upper bounds of the false-hit rate at each threshold."""
    effective = effective_hits(counts, confidence)
    return clopper_pearson(counts.rate * effective, effective, confidence)


def promised_false_hit_bound(counts: HitCounts, confidence: float = 0.95) -> Array:
    """Upper bound that a certificate goes by: cluster-robust, and with the allowance for what was not drawn."""
    effective = effective_hits(counts, confidence)
    return clopper_pearson(_allowed_false_hits(counts.rate) * effective, effective, confidence)[1]


def _allowed_false_hits(rate: Any) -> Any:
    return np.minimum(rate / (1 - UNSEEN), 1.0)


def _hits_shown(counts: HitCounts, alpha: float, confidence: float) -> npt.NDArray[np.bool_]:
    effective = effective_hits(counts, confidence)
    bound = hits_show(_allowed_false_hits(counts.rate) * effective, effective, alpha, confidence)
    shown: npt.NDArray[np.bool_] = bound & (effective_hit_clusters(counts) >= MIN_EFFECTIVE)
    return shown


def hits_show(false: Array, hits: Array, alpha: float, confidence: float) -> npt.NDArray[np.bool_]:
    """Whether the exact upper bound is at most ``alpha``: the same as comparing it, without computing it."""
    right = np.maximum(hits - false, 1e-9)
    shown: npt.NDArray[np.bool_] = (false < hits) & (betainc(false + 1, right, alpha) >= confidence)
    return shown


@cache
def hits_needed_to_certify(alpha: float, rate: float, *, confidence: float = 0.95) -> int | None:
    """Independent hits for which "at most alpha" is shown with 80 % power when the truth is ``rate``.

    None where no number of hits shows it, because the rate is not under alpha.

    >>> hits_needed_to_certify(0.05, 0.0), hits_needed_to_certify(0.05, 0.025), hits_needed_to_certify(0.01, 0.01)
    (59, 361, None)
    """
    if rate >= alpha:
        return None
    n = int(np.ceil(np.log(1 - confidence) / np.log(1 - alpha)))
    while _certificate_power(n, alpha, rate, confidence) < POWER:
        n += max(1, n // 400)
    return n


def _certificate_power(n: int, alpha: float, rate: float, confidence: float) -> float:
    """Chance that at most as many of ``n`` hits are false as still show a rate of at most alpha."""
    most = float(np.floor(np.nan_to_num(bdtrik(1 - confidence, n, alpha), nan=-1.0)))
    if most < 0 or bdtr(most, n, alpha) > 1 - confidence:
        most -= 1
    return float(bdtr(most, n, rate)) if most >= 0 else 0.0


CAUTION = 0.7
RATE_END = 0.9  # one-sided: both ends of the 80 % interval of a rate that further labels are planned with
CONFIRM_STEP = 4  # places of the grid: thresholds .01 apart
NO_NUMBER = "no number of labels at this threshold: its rate is not under alpha"


# A method picks a place on the grid, or none; it sees calibration counts alone.
Method = Callable[[HitCounts, float, float], int | None]


def naive_threshold(counts: HitCounts, alpha: float, confidence: float) -> int | None:
    """Lowest threshold whose measured rate is at most alpha: what threshold optimisers do, and no certificate."""
    fits = (counts.rate <= alpha) & (counts.hits.sum(0) > 0)
    return int(np.flatnonzero(fits)[-1]) if fits.any() else None


def fixed_sequence_threshold(counts: HitCounts, alpha: float, confidence: float) -> int | None:
    """Walk down from the first threshold with hits enough, while the cluster-robust bound is at most alpha."""
    return _walk_thresholds(counts, alpha, confidence, _hits_shown(counts, alpha, confidence))


def fixed_sequence_threshold_iid(counts: HitCounts, alpha: float, confidence: float) -> int | None:
    """Walk likewise with Clopper-Pearson's bound, which takes requests of one cluster for independent."""
    return _walk_thresholds(
        counts, alpha, confidence, hits_show(counts.false.sum(0), counts.hits.sum(0), alpha, confidence)
    )


def choose_threshold_then_certify(counts: HitCounts, alpha: float, confidence: float) -> int | None:
    """Choose the lowest threshold at 0.7 alpha on every other cluster, certify it on the rest.

    Clusters stand in no order that knows of labels, so that every other one is as good as a draw.
    """
    chosen = naive_threshold(counts.take(np.arange(0, len(counts.hits), 2)), CAUTION * alpha, confidence)
    if chosen is None:
        return None
    rest = counts.take(np.arange(1, len(counts.hits), 2))
    enough = (rest.hits[:, chosen] > 0).sum() >= MIN_CLUSTERS
    return chosen if enough and _hits_shown(rest, alpha, confidence)[chosen] else None


METHODS: dict[str, Method] = {
    "fixed sequence, cluster-robust": fixed_sequence_threshold,
    "choose on half, certify on half": choose_threshold_then_certify,
    "fixed sequence, clusters ignored": fixed_sequence_threshold_iid,
    "naive: lowest threshold under alpha": naive_threshold,
}


def _walk_thresholds(counts: HitCounts, alpha: float, confidence: float, shown: npt.NDArray[np.bool_]) -> int | None:
    start = first_threshold_with_hits(counts, alpha, confidence)
    if start is None or not shown[start]:
        return None
    stops = np.flatnonzero(~shown[start:])
    return start + int(stops[0]) - 1 if stops.size else len(shown) - 1


def first_threshold_with_hits(counts: HitCounts, alpha: float, confidence: float) -> int | None:
    """Start of the walk: the first threshold with `hits_to_start` in clusters enough; labels are not looked at."""
    enough = (counts.hits.sum(0) >= hits_to_start(alpha, confidence)) & ((counts.hits > 0).sum(0) >= MIN_CLUSTERS)
    enough &= effective_hit_clusters(counts) >= MIN_EFFECTIVE
    return int(np.flatnonzero(enough)[0]) if enough.any() else None


def hits_to_start(alpha: float, confidence: float) -> int:
    """Hits for 80 % power where the truth is half of alpha."""
    return hits_needed_to_certify(alpha, alpha / 2, confidence=confidence) or 0


@dataclass(frozen=True, slots=True)
class ThresholdCertificate:
    """A threshold with what was found on the calibration part; where none is certified, the nearest one.

    Attributes
    ----------
    hits, false : int
        At the threshold; ``clusters`` are those with a hit, ``effective_clusters`` those that count.
    low, high : float
        Cluster-robust one-sided bounds of the false-hit rate among new intents of the kind; ``exact_high`` takes hits
        for independent, and speaks of these intents alone.
    labels_needed : tuple or None
        Fewest and most further labelled hits for 80 % power, at both ends of the 80 % interval of the measured rate;
        the most is None where that end is not under alpha. None where certified, or where no number would do.
    """

    certified: bool
    threshold: float
    hits: int
    false: int
    clusters: int
    low: float
    high: float
    exact_high: float
    design_effect: float
    labels_needed: tuple[int, int | None] | None
    note: str
    effective_clusters: float = 0.0

    @property
    def rate(self) -> float:
        """False hits by hits."""
        return self.false / max(self.hits, 1)


def certify_threshold(
    counts: HitCounts,
    alpha: float,
    confidence: float,
    *,
    lowest: float = -1.0,
    confirm: Callable[[float], HitCounts] | None = None,
) -> ThresholdCertificate:
    """Lowest threshold that the cluster-robust walk reaches, or the nearest one and what it lacks.

    Parameters
    ----------
    counts : Counts
        Of the calibration part, in the shadow: every earlier request is cached.
    lowest : float
        Keeps the walk from going further, for a reason that did not look at these labels.
    confirm : callable, optional
        Counts of the true replay of the calibration part at one threshold. Where its bound is not under alpha as
        well, the threshold is raised until it is: at loose thresholds the shadow looks better than a real cache.
    """
    within = counts.thresholds >= lowest
    if not within.any():
        note = "must-differ pairs are served at every threshold"
        return _describe_certificate(counts, 0, confidence, certified=False, note=note)
    allowed = HitCounts(counts.thresholds[within], counts.hits[:, within], counts.false[:, within], counts.requests)
    start, place = (
        first_threshold_with_hits(allowed, alpha, confidence),
        fixed_sequence_threshold(allowed, alpha, confidence),
    )
    for each in range(place, start - 1, -CONFIRM_STEP) if place is not None and start is not None else ():
        if confirm is None:
            return _describe_certificate(allowed, each, confidence, certified=True, note="cluster-robust walk")
        bound = float(promised_false_hit_bound(confirm(float(allowed.thresholds[each])), confidence)[0])
        if bound <= alpha:
            note = f"cluster-robust walk, confirmed by true replay (at most {bound:.4f})"
            return _describe_certificate(allowed, each, confidence, certified=True, note=note)
    if place is not None:
        note = "certified in the shadow, but no true replay confirms it"
        return _describe_certificate(allowed, place, confidence, certified=False, note=note)
    refusal = _refuse_certificate(allowed, alpha, confidence)
    held = f"; must-differ pairs keep it from going under {lowest:g}" if within.sum() < len(within) else ""
    return replace(refusal, note=refusal.note + held)


def _refuse_certificate(counts: HitCounts, alpha: float, confidence: float) -> ThresholdCertificate:
    """Threshold under alpha that could start the walk with the fewest further requests; else the one it started at."""
    clusters, hits, rate = (counts.hits > 0).sum(0), counts.hits.sum(0), counts.rate
    start = first_threshold_with_hits(counts, alpha, confidence)
    last = len(clusters) - 1 if start is None else start
    effective = effective_hit_clusters(counts)
    enough = (clusters >= MIN_CLUSTERS) & (effective >= MIN_EFFECTIVE)
    fits = [int(i) for i in np.flatnonzero(enough & (_allowed_false_hits(rate) < alpha)) if i <= last]
    if not fits:
        note = NO_NUMBER
        if clusters[last] < MIN_CLUSTERS:
            note = f"{counted(clusters[last], 'cluster')} with a hit, a claim needs at least {MIN_CLUSTERS}"
        elif effective[last] < MIN_EFFECTIVE:
            heaviest = f"one has {percent(counts.hits[:, last].max() / hits[last])} of the hits"
            few_effective = (
                f"{counted(clusters[last], 'cluster counts', 'clusters count')} as "
                f"{effective[last]:.1f}, since {heaviest}"
            )
            note = f"{few_effective}; a claim needs {MIN_EFFECTIVE}: certify that one apart"
        return _describe_certificate(counts, last, confidence, certified=False, note=note)
    per_effective = hits[fits] / effective_hits(counts, confidence)[fits]
    needed = {
        i: _hits_for_certificate(float(rate[i]), alpha, confidence, each)
        for i, each in zip(fits, per_effective, strict=True)
    }
    place = min(needed, key=lambda i: (needed[i] / hits[i], i))
    ends = [np.float64(end[place]) for end in korn_graubard(counts, RATE_END)]
    each = float(per_effective[fits.index(place)])
    few, many = (
        max(int(np.ceil(_hits_for_certificate(end, alpha, confidence, each) - hits[place])), 1)
        if _allowed_false_hits(end) < alpha
        else None
        for end in ends
    )
    few = few or max(int(np.ceil(needed[place] - hits[place])), 1)
    requests = int(np.ceil(few * counts.requests.sum() / hits[place]))
    told = f"between {few:,} and {many:,}" if many else f"at least {few:,}"
    note = (
        f"{told} more labelled hits at {counts.thresholds[place]:g}; "
        f"{counted(requests, 'more request has', 'more requests have')} the fewest"
    )
    return _describe_certificate(counts, place, confidence, certified=False, note=note, labels=(few, many))


def _hits_for_certificate(rate: float, alpha: float, confidence: float, per_effective: float) -> float:
    """Hits for 80 % power at the measured rate and design effect, and for the walk to start there."""
    rate = rate / (1 - UNSEEN)
    shown = (hits_needed_to_certify(alpha, round(rate, 5), confidence=confidence) or 0) * per_effective
    return max(shown, hits_to_start(alpha, confidence))


def _describe_certificate(
    counts: HitCounts,
    place: int,
    confidence: float,
    *,
    certified: bool,
    note: str,
    labels: tuple[int, int | None] | None = None,
) -> ThresholdCertificate:
    low, high = korn_graubard(counts, confidence)[0], promised_false_hit_bound(counts, confidence)
    hits, false = counts.hits.sum(0)[place], counts.false.sum(0)[place]
    exact = clopper_pearson(np.array([false]), np.array([hits]), confidence)[1][0]
    return ThresholdCertificate(
        certified, float(counts.thresholds[place]), int(hits), int(false), int((counts.hits[:, place] > 0).sum()),
        float(low[place]), float(high[place]), float(exact), float(hit_design_effect(counts)[place]), labels, note,
        float(effective_hit_clusters(counts)[place]),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class CertificateTrial:
    """How one method did over many draws, as shares of them; ``hit_rate`` is the mean, a refusal counts 0."""

    method: str
    design: str
    draws: int
    broken: float
    certified: float
    hit_rate: float


def simulate_certificates(
    counts: HitCounts,
    alpha: float,
    confidence: float,
    *,
    draws: int,
    seed: int = 0,
    methods: Sequence[str] = tuple(METHODS),
) -> list[CertificateTrial]:
    """Draw calibration sets from all pairs, half as many, and see how often each method's promise is broken.

    Pairs are drawn one by one (iid), and by whole clusters, as many as there are, with replacement. Broken =
    certified although the rate of all pairs at that threshold is above alpha; a refusal breaks nothing.
    """
    rng = np.random.default_rng(seed)
    designs: Mapping[str, Callable[[], HitCounts]] = {
        "pairs": lambda: _draw_calibration_pairs(counts, rng),
        "clusters": lambda: counts.take(rng.integers(0, len(counts.hits), len(counts.hits))),
    }
    truth, hit_rate = counts.rate, counts.hits.sum(0) / counts.requests.sum()
    trials = []
    for design, draw in designs.items():
        places: dict[str, list[int | None]] = {name: [] for name in methods}
        for _ in range(draws):
            drawn = draw()
            for name in methods:
                places[name].append(METHODS[name](drawn, alpha, confidence))
        for name, found in places.items():
            kept = [i for i in found if i is not None]
            broken, hits = sum(truth[i] > alpha for i in kept), sum(hit_rate[i] for i in kept)
            trials.append(CertificateTrial(name, design, draws, broken / draws, len(kept) / draws, float(hits) / draws))
    return trials


def _draw_calibration_pairs(counts: HitCounts, rng: np.random.Generator) -> HitCounts:
    """Half as many pairs, with replacement: one multinomial draw over cluster, threshold first reached, and label."""
    hits, false = (np.diff(part, axis=1, prepend=0) for part in (counts.hits, counts.false))
    cells = np.stack([hits - false, false])
    missed = counts.requests - counts.hits[:, -1]
    weights = np.r_[cells.ravel(), missed]
    drawn = rng.multinomial(int(weights.sum()) // 2, weights / weights.sum()).astype(float)
    right, wrong = drawn[: cells.size].reshape(cells.shape).cumsum(2)
    requests = right[:, -1] + wrong[:, -1] + drawn[cells.size :]
    # clusters in another order every time, because one method takes every other one
    return HitCounts(counts.thresholds, right + wrong, wrong, requests).take(rng.permutation(len(requests)))
