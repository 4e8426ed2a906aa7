"""A mean from few labels and many judgements: prediction-powered inference with power tuning (PPI++).

A judge's score is a control variate: it moves the estimate only as far as it was seen to go with people's labels, so
that a judge that knows nothing costs nothing but its calls. Angelopoulos, Duchi and Zrnic, "PPI++: Efficient
Prediction-Powered Inference", 2023, arXiv 2311.01453. Clusters (families, conversations, tenants) enter through the
bootstrap-t of `workbench.evaluation.compare`, on the linearised value of each item.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from workbench.errors import ConfigError
from workbench.evaluation.compare import MIN_CLUSTERS, bootstrap_t, exact_ends
from workbench.rendering.numbers import counted

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PPIEstimate:
    """Mean of the labels over all items, with its two-sided interval.

    Attributes
    ----------
    weight : float
        How much of the judge is used, in [0, 1]: lambda of PPI++; 0 where it goes against the labels, or nowhere.
    label_factor : float
        Variance with the judge over the variance of the labels alone: that share of the labels gives the same
        interval.
    n_labels, n_items : int
        Items with a label, and all items that were judged.
    """

    mean: float
    se: float
    low: float
    high: float
    weight: float
    label_factor: float
    n_labels: int
    n_items: int


def ppi_mean(
    labels: Floats,
    judged: Floats,
    unlabelled: Floats,
    *,
    clusters: npt.NDArray[np.int64] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> PPIEstimate:
    """``ppi_mean(labels, judged, unlabelled).low``: mean label of all items, labelled or not.

    Parameters
    ----------
    labels, judged : ndarray of float, shape (n,)
        What people and the judge say of the same n items, drawn at random of all; for a paired comparison the
        differences between two arms, of both.
    unlabelled : ndarray of float, shape (N,)
        What the judge says of the other items.
    clusters : ndarray of int, shape (n + N,), optional
        Cluster of each labelled item, then of each other one. Without them the items are independent and the interval
        is the normal one of the paper, which is too narrow for few labels that nearly all say the same.

    Notes
    -----
    Where all labels but those of fewer than 10 clusters are 1, or 0, the bootstrap does not keep its level at that end:
    there the interval reaches at least as far as the exact one of the labels alone (Clopper and Pearson 1934).

    Raises
    ------
    ConfigError
        If there are fewer than two labels, no other item, values that are no numbers, or, with clusters, labels in
        fewer than 30 of them.

    >>> labels, judged = np.array([1.0, 1, 0, 1]), np.array([0.9, 0.8, 0.2, 0.9])
    >>> found = ppi_mean(labels, judged, np.array([0.2, 0.1, 0.9, 0.1, 0.2, 0.1]))
    >>> round(found.mean, 3), float(labels.mean())
    (0.522, 0.75)
    """
    n, others = len(labels), len(unlabelled)
    _refuse_ppi_labels(labels, judged, unlabelled, clusters)
    weight = _ppi_tuned_weight(labels, judged, unlabelled)
    rest = labels - weight * judged
    imputed, rectifier = weight * unlabelled.mean(), rest.mean()
    mean = float(imputed + rectifier)
    total = n + others
    values = mean + np.concatenate([
        (total / n) * (rest - rectifier),
        (total / others) * (weight * unlabelled - imputed),
    ])  # fmt: skip
    if clusters is None:
        se = float(np.sqrt(np.mean((values - mean) ** 2) / total))
        reach = float(ndtri((1 + confidence) / 2)) * se
        low, high = mean - reach, mean + reach
    else:
        codes = np.unique(clusters, return_inverse=True)[1]
        bounds = bootstrap_t(values[None], codes, confidence=(1 + confidence) / 2, seed=seed)
        se, low, high = float(bounds.se[0]), float(bounds.low[0]), float(bounds.high[0])
        low, high = _ppi_exact_ends(labels, codes[:n], low, high, (1 + confidence) / 2)
    alone = float(labels.var()) / n
    used = float(rest.var()) / n + weight**2 * float(unlabelled.var()) / others
    return PPIEstimate(mean, se, low, high, weight, min(used / alone, 1.0) if alone else 1.0, n, total)


def _ppi_exact_ends(
    labels: Floats, clusters: npt.NDArray[np.int64], low: float, high: float, confidence: float
) -> tuple[float, float]:
    """Ends that no few bad, or good, labels make too narrow; of labels in [0, 1], or differences in [-1, 1]."""
    least = -1.0 if labels.min() < 0 or not labels.any() else 0.0
    wide = 1.0 - least
    codes = np.unique(clusters, return_inverse=True)[1]
    ends = exact_ends((labels - least) / wide, codes, 1.0, 0.0, confidence)
    return min(low, least + wide * ends[0]), max(high, least + wide * ends[1])


def label_factor(
    labels: Floats, judged: Floats, clusters: npt.NDArray[np.int64] | None = None, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Share of the labels still needed where the judge is asked of as many further items as one likes, and its bound.

    It is 1 - rho^2 of label and score, less what two unrelated columns of this length show by chance (the adjusted
    R^2); over the sums of clusters where there are some. The bound is one-sided, of Fisher's z. A judge that goes
    against the labels saves none: its factor is 1.

    >>> label_factor(np.array([0.0, 1, 0, 1] * 10), np.array([0.0, 1, 1, 1] * 10))[0].__round__(2)
    0.68
    """
    codes = np.arange(len(labels)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    y, f = (np.bincount(codes, values - values.mean()) for values in (labels, judged))
    m = len(y)
    spread = float(np.sqrt((y @ y) * (f @ f)))
    if m < 4 or not spread:
        return 1.0, 1.0
    rho = float(np.clip(y @ f / spread, -1, 1))
    if rho <= 0:
        return 1.0, 1.0
    least = float(np.tanh(np.arctanh(min(rho, 1 - 1e-12)) - ndtri(confidence) / np.sqrt(m - 3)))
    return min((1 - rho**2) * (m - 1) / (m - 2), 1.0), 1 - max(least, 0.0) ** 2


def labels_for(estimate: PPIEstimate, distance: float) -> int:
    """``labels_for(found, 0.02)``: labels in all until an interval as of now reaches no further than ``distance``.

    Its width falls with the root of the labels, where the judge has been asked of all items.
    """
    if distance <= 0:
        raise ConfigError(f"an interval of reach {distance} needs endless labels; give a distance above 0")
    reach = (estimate.high - estimate.low) / 2
    return max(estimate.n_labels, int(np.ceil(estimate.n_labels * (reach / distance) ** 2)))


@dataclass(frozen=True, slots=True)
class NextLabel:
    """One item to label; ``place`` is that in the ``unlabelled`` of `next_labels`.

    Attributes
    ----------
    in_cluster : int
        Labels that its cluster has by then.
    reach : float
        How far the interval reaches to each side once it and those before it are labelled.
    shrinks : float
        Share of the reach that this one label takes off; negative in a cluster that has too many already.
    """

    place: int
    in_cluster: int
    reach: float
    shrinks: float


def next_labels(
    estimate: PPIEstimate,
    rest: Floats,
    unlabelled: Floats,
    clusters: npt.NDArray[np.int64],
    *,
    most: int = 10,
) -> list[NextLabel]:
    """``next_labels(found, labels - found.weight * judged, unlabelled, codes)``: what to label next, best first.

    The variance of a mean of n labels is ``between * sum(n_c^2) / n^2 + within / n`` over clusters of n_c, its parts
    by the analysis of variance, and that of the judge's mean stays: a label in a cluster without one shrinks the
    interval most. What the judge says of an item is not looked at: labels chosen by it would be no random draw of all
    items, on which `ppi_mean` rests. In simulations with 160 labels and 160 more, in clusters of up to 4, the interval
    told was at most a tenth narrower than the one that came. Among equal ones the first is taken, so give them in an
    order drawn at random.

    Parameters
    ----------
    rest : ndarray of float, shape (n,)
        What the judge leaves of each label.
    unlabelled : ndarray of float, shape (N,)
        What it says of the items that could be labelled; ``place`` counts these.
    clusters : ndarray of int, shape (n + N,)
        Cluster of each labelled item, then of each other one.
    """
    n = len(rest)
    parts, counts = _ppi_variance_parts(rest, clusters[:n]), Counter(clusters[:n].tolist())
    fixed = estimate.weight**2 * _ppi_variance_of_mean(
        _ppi_variance_parts(unlabelled, clusters[n:]), Counter(clusters[n:].tolist())
    )
    waiting = dict(enumerate(clusters[n:].tolist()))
    out: list[NextLabel] = []

    def spread() -> float:
        return float(np.sqrt(_ppi_variance_of_mean(parts, counts) + fixed))

    before = reach = (estimate.high - estimate.low) / 2
    unit = before / spread() if spread() else 0.0
    while waiting and len(out) < most:
        place = min(waiting, key=lambda at: (counts[waiting[at]], at))
        cluster = waiting.pop(place)
        counts[cluster] += 1
        reach = unit * spread() if unit else before
        out.append(NextLabel(place, counts[cluster] - 1, reach, 1 - reach / before if before else 0.0))
        before = reach
    return out


def _ppi_variance_of_mean(parts: tuple[float, float], counts: Counter[int]) -> float:
    """Variance of the mean of so many values per cluster."""
    n = counts.total()
    return parts[0] * sum(k * k for k in counts.values()) / n**2 + parts[1] / n


def _ppi_variance_parts(values: Floats, clusters: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Variance between clusters and within them (one-way analysis of variance, unequal sizes)."""
    codes = np.unique(clusters, return_inverse=True)[1]
    sizes = np.bincount(codes)
    n, m = len(values), len(sizes)
    means = np.bincount(codes, values) / sizes
    if n == m or m < 2:  # one label a cluster: nothing tells the two apart, and nothing needs to
        return float(values.var(ddof=1)) if n > 1 else 0.0, 0.0
    within = float(((values - means[codes]) ** 2).sum()) / (n - m)
    among = float((sizes * (means - values.mean()) ** 2).sum()) / (m - 1)
    return max((among - within) / ((n - (sizes**2).sum() / n) / (m - 1)), 0.0), within


def _ppi_tuned_weight(labels: Floats, judged: Floats, unlabelled: Floats) -> float:
    """Lambda of PPI++ for a mean (their equation 8), within [0, 1]."""
    spread = float(np.cov(np.concatenate([judged, unlabelled])))
    if not spread:
        return 0.0
    together = float(np.mean((labels - labels.mean()) * (judged - judged.mean())))
    return float(np.clip(together / ((1 + len(labels) / len(unlabelled)) * spread), 0, 1))


def _refuse_ppi_labels(
    labels: Floats, judged: Floats, unlabelled: Floats, clusters: npt.NDArray[np.int64] | None
) -> None:
    if len(labels) < 2 or len(labels) != len(judged) or not len(unlabelled):
        raise ConfigError(
            "2 labels or more are needed, each with the judge's score, and items without one; "
            f"found {counted(len(labels), 'label')}, {counted(len(judged), 'score')} of them and "
            f"{len(unlabelled)} of other items"
        )
    if not all(np.isfinite(part).all() for part in (labels, judged, unlabelled)):
        raise ConfigError("labels and scores must be numbers; leave out and count the items that have none")
    if clusters is not None:
        if len(clusters) != len(labels) + len(unlabelled):
            raise ConfigError(
                f"each of {counted(len(labels) + len(unlabelled), 'item')} needs a cluster, found {len(clusters)}"
            )
        if (found := len(np.unique(clusters[: len(labels)]))) < MIN_CLUSTERS:
            raise ConfigError(f"labels in {MIN_CLUSTERS} clusters or more are needed, found {found}")
