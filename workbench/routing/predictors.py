"""Predictors of quality: what a router may look at, and the models on it (logistic, neighbours, boosted, cascade)."""

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from workbench.errors import ConfigError
from workbench.evalset.outcomes import Requests
from workbench.records import content_hash

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
MAX_WORDS = 2000
_WORD = re.compile(r"\w\w+")
_SURFACE = (
    r"\S+",  # words
    r"\d+",  # numbers
    r"[.!?](?:\s|$)",  # sentences
    r"\n",
    r"[{}()\[\];=<>`]",  # code
    r"(?i)\b(?:why|how|prove|explain|derive|compare|design|analyse|analyze)\b",
    r"(?i)\b(?:if|unless|except|each|every|after|before|both)\b",
)


@runtime_checkable
class Features(Protocol):
    """Requests to rows of numbers; what it learned when it was fitted are its fields.

    ``reads`` is what of the requests it needs beside the text: "vectors", "confidence" or nothing.
    """

    reads: ClassVar[str]

    def rows(self, requests: Requests) -> Any:
        """Rows, dense or sparse, shape (n, dimensions)."""


@dataclass(frozen=True, slots=True, eq=False)
class Surface:
    """Counts of what a complex prompt has many of, on a logarithmic scale and standardised; the first is length."""

    reads: ClassVar[str] = ""
    mean: Floats
    scale: Floats

    @classmethod
    def fit(cls, requests: Requests, *, only_length: bool = False) -> Self:
        """Learn mean and scale; ``only_length`` leaves the number of characters alone."""
        raw = _surface(requests.prompts, 1 if only_length else 1 + len(_SURFACE))
        scale = raw.std(0)
        return cls(raw.mean(0), np.where(scale > 0, scale, 1.0))

    def rows(self, requests: Requests) -> Floats:
        """Standardised log counts."""
        standardised: Floats = (_surface(requests.prompts, self.mean.size) - self.mean) / self.scale
        return standardised


def _surface(prompts: Sequence[str], columns: int) -> Floats:
    counts = [_counts(text)[:columns] for text in prompts]
    logs: Floats = np.log1p(np.array(counts, float).reshape(len(prompts), columns))
    return logs


@lru_cache(maxsize=100_000)  # every fold and every policy counts the same prompts
def _counts(text: str) -> tuple[int, ...]:
    return (len(text), *(len(re.findall(pattern, text)) for pattern in _SURFACE))


@dataclass(frozen=True, slots=True)
class Embedding:
    """Vectors of the prompts, made by the caller's encoder."""

    reads: ClassVar[str] = "vectors"

    def rows(self, requests: Requests) -> Floats:
        """Vectors as they are.

        Raises
        ------
        ConfigError
            If the requests carry none.
        """
        if requests.vectors is None:
            raise ConfigError("this router reads embeddings, and the requests have none; give Requests their vectors")
        return requests.vectors


@dataclass(frozen=True, slots=True, eq=False)
class Tfidf:
    """Words, and pairs of words side by side, weighted by how rare they are, of unit length; the 2,000 most frequent.

    ``words`` are both, a pair with a blank in its middle; a router that was fitted on single words alone stays one.
    """

    reads: ClassVar[str] = ""
    words: tuple[str, ...]
    idf: Floats
    _column: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_column", {word: i for i, word in enumerate(self.words)})

    @classmethod
    def fit(cls, requests: Requests) -> Self:
        """Learn the words and pairs that two prompts or more share, and their weights."""
        frequency: dict[str, int] = {}
        for text in requests.prompts:
            for word in set(_terms(text)):
                frequency[word] = frequency.get(word, 0) + 1
        ranked = sorted((-n, word) for word, n in frequency.items() if n > 1)[:MAX_WORDS]
        words = tuple(sorted(word for _, word in ranked))
        shared = np.array([frequency[w] for w in words], float)
        return cls(words, np.log((1 + len(requests)) / (1 + shared)) + 1)

    def rows(self, requests: Requests) -> Any:
        """Sparse rows of unit length; a prompt of unknown words is a row of zeros."""
        from scipy.sparse import csr_array

        indices, indptr = [], [0]
        for text in requests.prompts:
            indices += [self._column[w] for w in _terms(text) if w in self._column]
            indptr.append(len(indices))
        weights = self.idf[np.array(indices, int)]
        x = csr_array((weights, np.array(indices, int), np.array(indptr)), (len(requests), len(self.words)))
        x.sum_duplicates()
        lengths = np.sqrt(x.multiply(x).sum(1))
        lengths[lengths == 0] = 1.0
        return x.multiply(1 / lengths[:, None]).tocsr()


def _terms(text: str) -> list[str]:
    """Words of two letters or more, and each with the one that follows.

    >>> _terms("Compare both a clause")
    ['compare', 'both', 'clause', 'compare both', 'both clause']
    """
    words = _WORD.findall(text.lower())
    return [*words, *map(" ".join, pairwise(words))]


@dataclass(frozen=True, slots=True)
class Confidence:
    """Confidence of one model in its own answer; the lowest where it gave none."""

    reads: ClassVar[str] = "confidence"
    column: int

    def rows(self, requests: Requests) -> Floats:
        """One column in [0, 1].

        Raises
        ------
        ConfigError
            If the requests carry no confidence.
        """
        if requests.confidence is None:
            raise ConfigError("a cascade reads the confidence of its first model, and the requests have none")
        return np.nan_to_num(requests.confidence[:, [self.column]], nan=0.0)


NEIGHBOURS = 100
_BLOCK = 1024


@runtime_checkable
class Predictor(Protocol):
    """Predicts the quality of every model's answer to a request."""

    def predict(self, requests: Requests) -> Floats:
        """Expected quality, shape (n, models), in the order of the models it was fitted on."""


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """The same quality for every request: one model, always."""

    quality: Floats

    def predict(self, requests: Requests) -> Floats:
        """Repeat the row."""
        return np.tile(self.quality, (len(requests), 1))


@dataclass(frozen=True, slots=True, eq=False)
class Lottery:
    """A random mix of the models on the hull: each request draws, by its text, what quality is worth to it."""

    quality: Floats

    def predict(self, requests: Requests) -> Floats:
        """Mean qualities times a number in [0, 1) that is the same for the same text."""
        draw = np.array([int(content_hash("lottery", text)[:13], 16) / 16**13 for text in requests.prompts])
        return draw[:, None] * self.quality


@dataclass(frozen=True, slots=True, eq=False)
class ByFeature:
    """Mean quality of each model for each product feature; unknown features get the overall mean (the last row)."""

    features: tuple[str, ...]
    quality: Floats

    @classmethod
    def fit(cls, requests: Requests, quality: Floats) -> Self:
        """Learn the table."""
        labels = np.array(requests.features)
        known = tuple(sorted(set(requests.features)))
        return cls(known, np.stack([*(quality[labels == f].mean(0) for f in known), quality.mean(0)]))

    def predict(self, requests: Requests) -> Floats:
        """Look the feature up."""
        place = {f: i for i, f in enumerate(self.features)}
        return self.quality[[place.get(f, len(self.features)) for f in requests.features]]


@dataclass(frozen=True, slots=True, eq=False)
class Logistic:
    """Logistic regression of each model's quality, which may be graded; ``weights`` end in the intercept."""

    features: Features
    weights: Floats

    @classmethod
    def fit(cls, features: Features, requests: Requests, quality: Floats, *, l2: float = 1.0) -> Self:
        """Least cross-entropy plus ``l2 / 2`` times the squared weights, for all models at once."""
        return cls(features, _fit_logistic(features.rows(requests).astype(np.float64), quality, l2))

    def predict(self, requests: Requests) -> Floats:
        """Probabilities."""
        from scipy.special import expit

        predicted: Floats = expit(self.features.rows(requests) @ self.weights[:-1] + self.weights[-1])
        return predicted


def _fit_logistic(x: Any, quality: Floats, l2: float, *, steps: int = 500) -> Floats:
    """Weights by accelerated gradient (Nesterov 1983), begun anew where it turns uphill (O'Donoghue and Candes 2015).

    It needs nothing but products with ``x``, dense or sparse, so that eleven models cost little more than one.
    """
    from scipy.special import expit

    w = np.zeros((x.shape[1] + 1, quality.shape[1]))
    direction, largest = np.ones(x.shape[1]), 0.0
    for _ in range(20):  # the largest eigenvalue of x'x bounds the curvature
        direction = x.T @ (x @ direction)
        largest = float(np.linalg.norm(direction))
        direction /= largest or 1.0
    rate = 1 / ((largest + len(quality)) / 4 + l2)
    ahead, momentum = w, 1.0
    for _ in range(steps):
        off = expit(x @ ahead[:-1] + ahead[-1]) - quality
        gradient = np.vstack([x.T @ off + l2 * ahead[:-1], off.sum(0)])
        if np.abs(gradient).max() < 1e-5 * len(quality):
            break
        following = ahead - rate * gradient
        uphill = (gradient * (following - w)).sum() > 0
        before, momentum = (1.0, 1.0) if uphill else (momentum, (1 + np.sqrt(1 + 4 * momentum**2)) / 2)
        ahead, w = following + (before - 1) / momentum * (following - w), following
    return ahead


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """Mean quality over the nearest prompts by cosine; few neighbours overfit (10 lose to no router at all)."""

    features: Features
    rows: Any
    quality: Floats
    k: int

    @classmethod
    def fit(cls, features: Features, requests: Requests, quality: Floats, *, k: int = NEIGHBOURS) -> Self:
        """Keep the rows; ``k`` is cut to a third of the prompts."""
        return cls(features, features.rows(requests), quality, max(1, min(k, len(requests) // 3)))

    def predict(self, requests: Requests) -> Floats:
        """Means, block by block so that memory stays flat."""
        x = self.features.rows(requests)
        out = np.empty((len(requests), self.quality.shape[1]))
        for start in range(0, len(requests), _BLOCK):
            near = x[start : start + _BLOCK] @ self.rows.T
            near = near if isinstance(near, np.ndarray) else near.toarray()
            nearest = np.argpartition(-near, self.k - 1, axis=1)[:, : self.k]
            out[start : start + _BLOCK] = self.quality[nearest].mean(1)
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Boosted:
    """Gradient boosting of shallow regression trees whose leaves hold one value a model (Friedman 2001)."""

    features: Features
    base: Floats
    column: Ints  # (trees, nodes), -1 at a leaf
    threshold: npt.NDArray[np.float32]
    left: Ints
    right: Ints
    value: Floats  # (trees, nodes, models)

    @classmethod
    def fit(
        cls, features: Features, requests: Requests, quality: Floats, *, trees: int = 60, rate: float = 0.1
    ) -> Self:
        """Fit each tree of depth 3 to what the trees before left over."""
        from sklearn.tree import DecisionTreeRegressor

        x = np.asarray(features.rows(requests), np.float32)
        base, size = quality.mean(0), 15
        left_over = quality - base
        column, threshold = np.full((trees, size), -1), np.zeros((trees, size), np.float32)
        left, right = np.zeros((trees, size), int), np.zeros((trees, size), int)
        value = np.zeros((trees, size, quality.shape[1]))
        smallest = max(10, len(requests) // 20)
        for t in range(trees):
            tree = DecisionTreeRegressor(max_depth=3, min_samples_leaf=smallest, random_state=t).fit(x, left_over)
            nodes, n = tree.tree_, tree.tree_.node_count
            column[t, :n], threshold[t, :n] = nodes.feature, nodes.threshold
            left[t, :n], right[t, :n] = nodes.children_left, nodes.children_right
            value[t, :n] = rate * nodes.value[:, :, 0]
            left_over = left_over - value[t][_boosted_leaf(x, column[t], threshold[t], left[t], right[t])]
        return cls(features, base, column, threshold, left, right, value)

    def predict(self, requests: Requests) -> Floats:
        """Sum of the trees, clipped to [0, 1]."""
        x = np.asarray(self.features.rows(requests), np.float32)
        out = np.tile(self.base, (len(requests), 1))
        for t, value in enumerate(self.value):
            out += value[_boosted_leaf(x, self.column[t], self.threshold[t], self.left[t], self.right[t])]
        return np.clip(out, 0, 1)


def _boosted_leaf(
    x: npt.NDArray[np.float32], column: Ints, threshold: npt.NDArray[np.float32], left: Ints, right: Ints
) -> Ints:
    node, rows = np.zeros(len(x), int), np.arange(len(x))
    for _ in range(3):
        inner = column[node] >= 0
        below = x[rows, np.maximum(column[node], 0)] <= threshold[node]
        node = np.where(inner, np.where(below, left[node], right[node]), node)
    return node


@dataclass(frozen=True, slots=True, eq=False)
class Cascade:
    """Ask the first model, and the second where the first is not sure enough of its answer."""

    sure: Logistic
    quality: Floats
    second: int

    def predict(self, requests: Requests) -> Floats:
        """Chance that the first is right given its confidence, mean of the second, 0 for all others."""
        out = np.zeros((len(requests), self.quality.size))
        out[:, self.second] = self.quality[self.second]
        out[:, 0] = self.sure.predict(requests)[:, 0]
        return out


def load_predictor_class(source: str) -> Callable[..., Any]:
    """Class of ``module:Class``, a user's own predictor: ``fit(requests, quality)``, then ``predict(requests)``.

    Raises
    ------
    ConfigError
        If it cannot be imported or has not both methods.
    """
    module, _, name = source.partition(":")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"policy {source!r} cannot be imported: {error}") from error
    if missing := [m for m in ("fit", "predict") if not callable(getattr(kind, m, None))]:
        raise ConfigError(f"policy {source!r} has no method {' and no '.join(missing)}")
    found: Callable[..., Any] = kind
    return found
