"""A fitted verifier: whether two questions may share an answer, from what differs between them, as a probability.

It reads what differs between them (`workbench.caching.pair_features`). Boosted trees (Friedman 2001) are learnt on
labelled pairs of dev; on their texts retyped, with a trap put in, and beside the nearest ones of other families; and,
because all these are of one subject, on made-up pairs (`workbench.caching.made_pairs`). A logistic curve through scores
of held-out families makes them probabilities (Platt 1999). What was fitted is plain numbers, so that what was tested is
what ships.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from workbench.caching.guard import GRAVE, Guard
from workbench.caching.made_pairs import (
    MADE,
    Further,
    in_other_dress,
    made_pairs,
    nearest_of_other_families,
    retyped,
    trapped,
)
from workbench.caching.pair_features import FEATURES, Array, TextPair, Vectors, features_of, made_parts
from workbench.errors import ConfigError
from workbench.evalset.gates import PairLimit
from workbench.evalset.traffic import Pair
from workbench.records import content_hash

TREES, DEPTH, RATE, FOLDS = 500, 3, 0.025, 4
DEFAULT_SHARE, LABELLED = 0.02, "labelled"
WEIGHTS = {LABELLED: 3.0, "near": 0.3, "dress": 0.3, "retyped": 0.3, "trapped": 1.0, "made": 0.1}
PARTS_OF_LIMIT = {LABELLED: 0.25, "trapped": 0.25, "made": 0.5}


def made_sha256() -> str:
    """Hash of the made-up pairs, the features' names and what each kind weighs: what it rests on beside dev pairs."""
    return content_hash(json.dumps([made_parts(), WEIGHTS, PARTS_OF_LIMIT], sort_keys=True), *FEATURES)


@dataclass(frozen=True, slots=True, eq=False)
class Trees:
    """Boosted trees of one depth as plain numbers, a row a tree, and the logistic curve behind them."""

    base: float
    slope: float
    offset: float
    column: list[list[int]]  # -1 at a leaf
    threshold: list[list[float]]
    left: list[list[int]]
    right: list[list[int]]
    value: list[list[float]]
    _arrays: tuple[Any, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        parts = (self.column, self.threshold, self.left, self.right, self.value)
        object.__setattr__(self, "_arrays", tuple(map(np.array, parts)))

    @classmethod
    def fit(cls, x: Array, same: Array, weight: Array) -> Self:
        """Learn without the curve, which needs scores of pairs that are not learnt on."""
        from sklearn.ensemble import GradientBoostingClassifier

        learner = GradientBoostingClassifier(
            n_estimators=TREES, max_depth=DEPTH, learning_rate=RATE, subsample=0.5, max_features=0.4,
            min_samples_leaf=20, random_state=0,
        )  # fmt: skip
        trees = [each.tree_ for each in learner.fit(x, same, sample_weight=weight).estimators_[:, 0]]
        nodes = 2 ** (DEPTH + 1) - 1
        share = float(np.average(same, weights=weight))

        def padded(values: Any, fill: float) -> list[Any]:
            return [*np.round(values, 5).tolist(), *[fill] * (nodes - len(values))]

        return cls(
            float(np.log(share / (1 - share))), 1.0, 0.0,
            [padded(t.feature, -1) for t in trees], [padded(t.threshold, 0.0) for t in trees],
            [padded(t.children_left, 0) for t in trees], [padded(t.children_right, 0) for t in trees],
            [padded(RATE * t.value[:, 0, 0], 0.0) for t in trees],
        )  # fmt: skip

    def scores(self, x: Array) -> Array:
        """Log odds before the curve."""
        column, threshold, left, right, value = self._arrays
        tree, node = np.arange(len(column)), np.zeros((len(x), len(column)), int)
        for _ in range(DEPTH):
            at = column[tree, node]
            below = np.take_along_axis(x, np.maximum(at, 0), 1) <= threshold[tree, node]
            node = np.where(at >= 0, np.where(below, left[tree, node], right[tree, node]), node)
        found: Array = self.base + value[tree, node].sum(1)
        return found

    def probabilities(self, x: Array) -> Array:
        """Chance that each pair may share an answer."""
        found: Array = 1 / (1 + np.exp(-(self.slope * self.scores(x) + self.offset)))
        return found


@dataclass(frozen=True, slots=True, eq=False)
class FittedVerifier:
    """What was learnt: ``encoder_id`` is whose vectors it reads, ``least`` the probability from which it agrees."""

    encoder_id: str
    least: float
    trees: Trees

    def probabilities(self, pairs: Sequence[TextPair], vectors: Vectors) -> Array:
        """Chance that each pair (asked, cached) may share an answer."""
        return self.trees.probabilities(features_of(pairs, vectors))

    def save(self) -> dict[str, Any]:
        """Plain JSON values."""
        trees = {f.name: getattr(self.trees, f.name) for f in fields(Trees) if f.init}
        return {"encoder_id": self.encoder_id, "least": self.least, "features": list(FEATURES), "trees": trees}

    @classmethod
    def load(cls, raw: Mapping[str, Any]) -> Self:
        """Build what `save` gave.

        Raises
        ------
        ConfigError
            If the values are not those of a verifier of this version.
        """
        try:
            if tuple(raw["features"]) != FEATURES:
                raise ValueError("it reads other features")
            return cls(str(raw["encoder_id"]), float(raw["least"]), Trees(**raw["trees"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"not a fitted verifier this version reads: {error!r}") from error

    @property
    def sha256(self) -> str:
        """Hash of everything that decides."""
        return content_hash(json.dumps(self.save(), sort_keys=True))


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A verifier with those that were learnt without one fold each, for what it has seen; ``fold_of`` a text of dev."""

    verifier: FittedVerifier
    held_out: tuple[FittedVerifier, ...]
    fold_of: Mapping[str, int]

    def probabilities(self, pairs: Sequence[TextPair], vectors: Vectors, folds: Sequence[int | None]) -> Array:
        """As the verifier's, of pairs in a fold by the one that was learnt without it."""
        x, out = features_of(pairs, vectors), np.zeros(len(pairs))
        for fold in set(folds):
            rows = [i for i, mine in enumerate(folds) if mine == fold]
            chosen = self.verifier if fold is None else self.held_out[fold]
            out[rows] = chosen.trees.probabilities(x[rows])
        return out


@dataclass(frozen=True, slots=True, eq=False)
class _Lesson:
    """What is learnt on, a pair a row; ``count`` are those that the least probability is chosen on."""

    texts: list[TextPair]
    same: Array
    weight: Array
    fold: npt.NDArray[np.int64]
    kind: list[str]


def _lesson(labelled: Sequence[Pair], order: Mapping[str, int], vectors: Vectors, n_made: int) -> _Lesson:
    """Labelled pairs and what is made of their texts, in its family's fold, and made-up pairs, by topic."""
    texts = sorted({(t, p.cluster) for p in labelled for t in (p.query_a, p.query_b)})
    parts: dict[str, list[Further]] = {
        LABELLED: [(p.query_b, p.query_a, p.cluster, p.same_answer) for p in labelled],
        "near": nearest_of_other_families(labelled, vectors),
        "dress": in_other_dress(texts),
        "retyped": retyped(texts),
        "trapped": trapped(texts),
        "made": [(m.asked, m.cached, m.topic, m.same) for m in made_pairs(n_made)],
    }
    topics = {name: i % FOLDS for i, name in enumerate(sorted({m[2] for m in parts["made"]}))}
    rows = [(kind, *row) for kind, found in parts.items() for row in found]
    return _Lesson(
        [(asked, cached) for _, asked, cached, *_ in rows],
        np.array([row[4] for row in rows], float),
        np.array([WEIGHTS[row[0]] for row in rows]),
        np.array([(topics if row[0] == "made" else order)[row[3]] for row in rows]),
        [row[0] for row in rows],
    )


def fit_verifier(
    pairs: Sequence[Pair],
    limit: PairLimit,
    encoder_id: str,
    vectors: Vectors,
    *,
    guard: Guard | None = None,
    n_made: int = MADE,
) -> Fit:
    """Learn on pairs of dev and what is made of them; the least probability is chosen on what was held out.

    It is the lowest at which, of the pairs that must differ, the labelled ones and those made of their texts by a trap
    each keep a quarter of the limit (of 2 % where that is a count), and the made-up ones half of it, less those that
    the guard stops; with no labelled one of a grave kind. What just keeps the limit here is hardly shown to on test.
    """
    labelled = [p for p in pairs if p.split == "dev"]
    order = {name: i % FOLDS for i, name in enumerate(sorted({p.cluster for p in labelled}))}
    lesson = _lesson(labelled, order, vectors, n_made)
    x, same, weight, fold = features_of(lesson.texts, vectors), lesson.same, lesson.weight, lesson.fold
    scores, held_out = np.zeros(len(same)), []
    for k in range(FOLDS):
        trees = Trees.fit(x[fold != k], same[fold != k], weight[fold != k])
        scores[fold == k] = trees.scores(x[fold == k])
        held_out.append(trees)
    slope, offset = _curve(scores, same, weight)
    chance = 1 / (1 + np.exp(-(slope * scores + offset)))
    least = _least_of(lesson, chance, labelled, limit, guard)
    every = [_behind_curve(trees, slope, offset) for trees in (Trees.fit(x, same, weight), *held_out)]
    final, *rest = (FittedVerifier(encoder_id, least, trees) for trees in every)
    fold_of = {text: order[p.cluster] for p in labelled for text in (p.query_a, p.query_b)}
    return Fit(final, tuple(rest), fold_of)


def _least_of(lesson: _Lesson, chance: Array, labelled: Sequence[Pair], limit: PairLimit, guard: Guard | None) -> float:
    """Lowest probability at which every kind of wrong ones keeps its part of the limit."""
    kinds, wrong = np.array(lesson.kind), lesson.same == 0
    passes = np.array([guard is None or guard.allows(*pair) for pair in lesson.texts])
    least = 0.5
    for kind, part in PARTS_OF_LIMIT.items():
        mine = wrong & (kinds == kind)
        most = int(part * (limit.share or DEFAULT_SHARE) * mine.sum())
        served = np.sort(chance[mine & passes])[::-1]
        least = max(least, float(served[most]) if most < len(served) else 0.0)
    if limit.share is not None:
        grave = [
            c
            for p, c, ok in zip(labelled, chance, passes, strict=False)
            if ok and not p.same_answer and p.kind in GRAVE
        ]
        least = max(least, max(grave, default=0.0))
    return float(np.ceil(least * 10_000 + 1) / 10_000)


def _behind_curve(trees: Trees, slope: float, offset: float) -> Trees:
    """The same trees behind another logistic curve."""
    parts = {f.name: getattr(trees, f.name) for f in fields(Trees) if f.init}
    return Trees(**(parts | {"slope": round(slope, 5), "offset": round(offset, 5)}))


def _curve(scores: Array, same: Array, weight: Array) -> tuple[float, float]:
    from sklearn.linear_model import LogisticRegression

    found = LogisticRegression().fit(scores[:, None], same, sample_weight=weight)
    return float(found.coef_[0, 0]), float(found.intercept_[0])
