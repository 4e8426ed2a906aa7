"""Quality against cost of routers fitted without the clusters they are judged on: curves, areas and their bounds.

AIQ is RouterBench's (arXiv 2403.12031), the area under the non-decreasing upper hull of (cost, quality) between the
cheapest and the dearest single model, divided by that range; the hull of the single models, which mixing them at
random reaches, is the line to beat. APGR and CPT are RouteLLM's (arXiv 2406.18665), over the exact curve.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from workbench.errors import ConfigError, EvalsetError
from workbench.evalset.outcomes import Outcomes
from workbench.evaluation.cluster_weights import cluster_weights
from workbench.records import content_hash
from workbench.rendering.numbers import counted
from workbench.rendering.progress import waiting
from workbench.routing.policies import Policy, Router

FOLDS = 5


def fit_policy(policy: Policy, outcomes: Outcomes) -> Router:
    """Fit on all prompts given."""
    return policy.fit(outcomes.requests, outcomes.quality, outcomes.cost_usd, outcomes.models)


def cross_predict(policy: Policy, outcomes: Outcomes) -> np.ndarray:
    """Predicted quality, shape (prompts, models), each by a router that saw no prompt of the same cluster.

    Raises
    ------
    EvalsetError
        If there are fewer clusters than folds.
    """
    fold = curve_folds(outcomes.clusters)
    predicted = np.full(outcomes.quality.shape, np.nan)
    for i in range(FOLDS):
        held, rest = np.flatnonzero(fold == i), np.flatnonzero(fold != i)
        router = fit_policy(policy, outcomes.take(rest))
        predicted[held] = router.predictor.predict(outcomes.requests.take(held))
    return predicted


def curve_folds(clusters: np.ndarray, folds: int = FOLDS) -> np.ndarray:
    """Fold of each prompt: clusters in the order of their hash, dealt out one by one, so that none is in two."""
    names = sorted(set(clusters), key=content_hash)
    if len(names) < folds:
        raise EvalsetError(f"cross-fitting in {counted(folds, 'fold')} needs as many clusters, found {len(names)}")
    place = {name: i % folds for i, name in enumerate(names)}
    return np.array([place[c] for c in clusters])


DRAWS = 2000
TARGETS = (0.5, 0.8)
_STEPS = 60


@dataclass(frozen=True, slots=True)
class CurveEstimate:
    """A value with its two-sided 95 % interval over resampled clusters."""

    value: float
    low: float
    high: float

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.low > 0


@dataclass(frozen=True, slots=True, eq=False)
class RouterCurve:
    """A router over its knob: mean cost and quality of each prompt's choice, shape (prompts, knobs)."""

    quality: np.ndarray
    cost_usd: np.ndarray

    @property
    def points(self) -> np.ndarray:
        """Mean cost and mean quality at each knob, shape (knobs, 2)."""
        return np.stack([self.cost_usd.mean(0), self.quality.mean(0)], axis=1)


def curve_knob_values(cost_usd: np.ndarray) -> np.ndarray:
    """Values of a unit of quality to try, in dollars: 0, sixty on a logarithmic scale about the costs, infinity."""
    means = cost_usd.mean(0)
    scale = float(means.max() - means.min()) or 1.0
    return np.concatenate([[0.0], scale * np.geomspace(1e-3, 1e4, _STEPS), [np.inf]])


def router_curve(router: Router, predicted: np.ndarray, quality: np.ndarray, cost_usd: np.ndarray) -> RouterCurve:
    """Outcome of every choice that the knob can make; all arrays have the shape (prompts, models)."""
    values, rows = curve_knob_values(cost_usd), np.arange(len(predicted))
    picked = [router.pick(predicted, value) for value in values]
    spent = [router.spend(p, cost_usd) + router.overhead_usd for p in picked]
    return RouterCurve(np.stack([quality[rows, p] for p in picked], 1), np.stack(spent, 1))


def oracle_curve(quality: np.ndarray, cost_usd: np.ndarray) -> RouterCurve:
    """The ceiling: a router that knew the outcomes, for every value of quality."""
    values, rows = curve_knob_values(cost_usd), np.arange(len(quality))
    finite = np.where(np.isinf(values), 1e9, values)
    picked = [(value * quality - cost_usd).argmax(1) for value in finite]
    return RouterCurve(
        np.stack([quality[rows, p] for p in picked], 1), np.stack([cost_usd[rows, p] for p in picked], 1)
    )


def upper_hull(points: np.ndarray) -> np.ndarray:
    """Corners of the non-decreasing upper hull of (cost, quality) points, cheapest first.

    >>> upper_hull(np.array([[1, 0.5], [2, 0.6], [3, 0.9], [4, 0.8]])).tolist()
    [[1.0, 0.5], [3.0, 0.9]]
    """
    ranked = points[np.lexsort((points[:, 1], points[:, 0]))].astype(float)
    ranked[:, 1] = np.maximum.accumulate(ranked[:, 1])
    top, size = _hull_stack(ranked[None, :, 0], ranked[None, :, 1])
    corners = ranked[top[0, : size[0]]]
    rising: np.ndarray = corners[np.diff(corners[:, 1], prepend=-np.inf) > 0]
    return rising


def aiq(cost: np.ndarray, quality: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Area under the hull of each row of points between costs ``low`` and ``high``, divided by that range.

    Parameters
    ----------
    cost, quality : ndarray of float, shape (rows, points)
        One row a resample; a row must have a point that costs at most ``low``, or it has no area there.
    low, high : ndarray of float, shape (rows,)
        Mean cost of the cheapest and the dearest single model.
    """
    order = np.argsort(cost, axis=1, kind="stable")
    # A cheaper, better point can take the place of a dearer one: the hull never falls.
    x = np.take_along_axis(cost, order, 1)
    y = np.maximum.accumulate(np.take_along_axis(quality, order, 1), axis=1)
    x, y = np.column_stack([x, np.maximum(high, x[:, -1])]), np.column_stack([y, y[:, -1]])
    top, size = _hull_stack(x, y)
    rows, area = np.arange(len(x)), np.zeros(len(x))
    for j in range(int(size.max()) - 1):
        a, b = top[:, j], top[:, j + 1]
        x0, x1, y0, y1 = x[rows, a], x[rows, b], y[rows, a], y[rows, b]
        left, right = np.clip(x0, low, high), np.clip(x1, low, high)
        slope = (y1 - y0) / np.where(x1 > x0, x1 - x0, 1.0)
        area += np.where(j + 1 < size, (right - left) * (y0 + slope * ((left + right) / 2 - x0)), 0.0)
    return area / np.where(high > low, high - low, 1.0)


def _hull_stack(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the hull's corners and their number, for all rows at once (Andrew's monotone chain)."""
    n, k = x.shape
    top, size, rows = np.zeros((n, k), int), np.ones(n, int), np.arange(n)
    flat_x, flat_y, corners, starts = x.ravel(), y.ravel(), top.ravel(), k * rows
    for j in range(1, k):
        left = rows  # whose last corner may have to go: few of them lose more than one
        while left.size:
            start, many = starts[left], size[left]
            b, a = start + corners[start + many - 1], start + corners[start + np.maximum(many - 2, 0)]
            last, first, here, low = flat_x[b], flat_x[a], flat_x[start + j], flat_y[a]
            turn = (flat_y[b] - low) * (here - first) - (flat_y[start + j] - low) * (last - first)
            left = left[((many > 1) & (turn <= 0)) | ((many == 1) & (last == here))]
            size[left] -= 1
        corners[starts + size] = j
        size += 1
    return top, size


@dataclass(frozen=True, slots=True, eq=False)
class Deferral:
    """Quality as requests go to the strong model, those with the highest score first.

    Attributes
    ----------
    share : ndarray of float, shape (n + 1,)
        Share of requests that the strong model answers, 0 to 1.
    quality, recovered : ndarray of float, shape (n + 1,)
        Mean quality there, and the share of the gap between weak and strong that it recovers.
    """

    share: np.ndarray
    quality: np.ndarray
    recovered: np.ndarray

    @property
    def apgr(self) -> float:
        """Area under ``recovered``: a random order has .5; an oracle may exceed 1, so it is no share."""
        return float(np.trapezoid(self.recovered, self.share))

    def cpt(self, target: float) -> float:
        """Smallest share (in per cent) of strong calls that recovers ``target`` of the gap; the first crossing."""
        return 100 * float(self.share[np.argmax(self.recovered >= target)])


def deferral(score: np.ndarray, weak: np.ndarray, strong: np.ndarray) -> Deferral:
    """Deferral curve of a score, higher for requests that need the strong model; all shape (n,).

    Raises
    ------
    ConfigError
        If the strong model is not better than the weak one: there is no gap to recover.
    """
    if not strong.mean() > weak.mean():
        raise ConfigError(
            f"no gap to recover: the strong model has quality {strong.mean():.4f}, the weak one {weak.mean():.4f}"
        )
    order, n = np.argsort(-score, kind="stable"), len(score)
    quality = (weak.sum() + np.r_[0.0, np.cumsum((strong - weak)[order])]) / n
    return Deferral(np.arange(n + 1) / n, quality, (quality - weak.mean()) / (strong.mean() - weak.mean()))


@dataclass(frozen=True, slots=True, eq=False)
class ResampledCurves:
    """Draws of one thing beside its value: paired differences subtract draw by draw."""

    value: float
    draws: np.ndarray

    def minus(self, other: "ResampledCurves") -> CurveEstimate:
        """Paired difference; both must come from the same seed and prompts."""
        return ResampledCurves(self.value - other.value, self.draws - other.draws).estimate

    @property
    def estimate(self) -> CurveEstimate:
        """Value with its basic bootstrap interval, ``2 value - quantile``.

        A hull takes the best of many noisy points, so that its area is too large, and that of a resample is too
        large once more: a percentile interval doubles that bias, the basic one takes it out.
        """
        high, low = 2 * self.value - np.nanquantile(self.draws, [0.025, 0.975])
        return CurveEstimate(self.value, float(low), float(high))


@waiting("resamples of areas")
def resample_aiq(
    curves: Mapping[str, RouterCurve], cost_usd: np.ndarray, codes: np.ndarray, *, draws: int = DRAWS, seed: int = 0
) -> dict[str, ResampledCurves]:
    """AIQ of every curve over the same resampled clusters.

    Parameters
    ----------
    cost_usd : ndarray of float, shape (prompts, models)
        Of the single models: their cheapest and dearest means are the range.
    codes : ndarray of int, shape (prompts,)
        Cluster of each prompt, 0 .. m - 1.
    """
    m = int(codes.max()) + 1
    counts = np.bincount(codes, minlength=m).astype(float)
    columns = {name: _curve_by_cluster(np.hstack([c.cost_usd, c.quality]), codes, m) for name, c in curves.items()}
    single = _curve_by_cluster(cost_usd, codes, m)
    everything = np.ones((1, m))
    ends, parts = list[np.ndarray](), {name: list[np.ndarray]() for name in curves}
    for weights in (everything, *cluster_weights(m, draws, seed)):
        n = (weights @ counts)[:, None]
        ends.append(weights @ single / n)
        for name, sums in columns.items():
            parts[name].append(weights @ sums / n)
    means, out = np.concatenate(ends), dict[str, ResampledCurves]()
    for name in curves:
        cost, quality = np.split(np.concatenate(parts.pop(name)), 2, axis=1)
        areas = aiq(cost, quality, means.min(1), means.max(1))  # of all resamples at once, one a row
        out[name] = ResampledCurves(float(areas[0]), areas[1:])
    return out


def _curve_by_cluster(values: np.ndarray, codes: np.ndarray, m: int) -> np.ndarray:
    out = np.zeros((m, values.shape[1]))
    np.add.at(out, codes, values)
    return out


@waiting("resamples of deferral curves")
def resample_deferral(
    scores: Mapping[str, np.ndarray],
    weak: np.ndarray,
    strong: np.ndarray,
    codes: np.ndarray,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    targets: Sequence[float] = TARGETS,
) -> dict[str, tuple[ResampledCurves, ...]]:
    """APGR and then CPT at each target, for every score over the same resampled clusters."""
    m = int(codes.max()) + 1
    orders = {name: np.argsort(-score, kind="stable") for name, score in scores.items()}
    parts: dict[str, list[np.ndarray]] = {name: [] for name in scores}
    for weights in cluster_weights(m, draws, seed):
        for name, order in orders.items():
            parts[name].append(_weighted_deferral(weights[:, codes[order]], (strong - weak)[order], targets))
    out = {}
    for name, score in scores.items():
        curve, found = deferral(score, weak, strong), np.concatenate(parts[name])
        values = (curve.apgr, *(curve.cpt(t) for t in targets))
        out[name] = tuple(ResampledCurves(v, found[:, i]) for i, v in enumerate(values))
    return out


def _weighted_deferral(weights: np.ndarray, gain: np.ndarray, targets: Sequence[float]) -> np.ndarray:
    """APGR and CPTs of each row of item weights, in the order of the score; NaN where there is no gap."""
    share = np.cumsum(weights, axis=1)
    share /= share[:, -1:]
    recovered = np.cumsum(weights * gain, axis=1)
    gap = recovered[:, -1:].copy()
    recovered /= np.where(gap > 0, gap, np.nan)
    before = np.pad(recovered[:, :-1], ((0, 0), (1, 0)))
    area = (np.diff(share, axis=1, prepend=0.0) * (recovered + before) / 2).sum(1)
    rows = np.arange(len(weights))
    crossed = [100 * share[rows, (recovered >= t).argmax(1)] for t in targets]
    return np.column_stack([area, *crossed])
