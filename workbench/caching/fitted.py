"""A fitted verifier: whether two questions may share an answer, from what differs between them, as a probability.

It reads the cosine of the two, the words that only one of them has and how near these are to words of the other, signs
of scope, number, name and order, and every check of the `Guard`. Boosted trees (Friedman 2001) are learnt on labelled
dev pairs, on dev texts in another dress and the nearest ones of other families, and, because all these are few and of
one subject, on made-up pairs (``made_pairs.toml``); a logistic curve through scores of held-out families makes them
probabilities (Platt 1999). What was fitted is plain numbers, so that what was tested is what ships.
"""

import json
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from workbench.caching.guard import GRAVE, Guard, content_of, load_words, root_of, rules_sha256, without_typos
from workbench.errors import ConfigError
from workbench.evalset.gates import PairLimit
from workbench.evalset.traffic import Pair
from workbench.records import content_hash

Array = npt.NDArray[np.float64]
TextPair = tuple[str, str]
Vectors = Callable[[Sequence[str]], npt.NDArray[np.float32]]  # of texts and of single words, of unit length
CHECKS = tuple(f.name for f in fields(Guard))
EVERY_CHECK = Guard(**dict.fromkeys(CHECKS, True))
FEATURES = (
    "cosine", "share", "share_of_less", "fewer", "more", "cosine_of_rest", "cosine_of_rest_raw", "cosine_of_words",
    "share_raw", "least_near_in_rest", "least_near", "mean_near", "lost", "lost_share", "lost_raw", "trigrams", "drop",
    "turned", "length", "size", "in_phrases", "phrases_of_one", "names", "names_of_both", "digits", "asks",
    "asks_of_both", "prepositions", "negations", *CHECKS,
)  # fmt: skip
TREES, DEPTH, RATE, FOLDS, MADE = 200, 4, 0.06, 4, 2400
WEIGHT_OF_DEV, DEFAULT_SHARE = 3.0, 0.02
_WORD = re.compile(r"[^\W_]+(?:[.,:_/-][^\W_]+)*")


@dataclass(frozen=True, slots=True)
class _Text:
    """One text as the features see it: content words without endings, all words, and those that name or scope."""

    roots: tuple[str, ...]
    counts: Counter[str]
    words: tuple[str, ...]
    stems: frozenset[str]
    phrases: frozenset[str]
    names: frozenset[str]
    trigrams: frozenset[str]


@cache
def _parts() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("made_pairs.toml").read_text(encoding="utf-8"))


def made_sha256() -> str:
    """Hash of what a fitted verifier rests on beside dev pairs: made-up pairs, features and the rules of the guard.

    The rules count where no guard is set too, because what its checks say is among the features.
    """
    return content_hash(json.dumps(_parts(), sort_keys=True), *FEATURES, rules_sha256())


def _read(text: str) -> _Text:
    roots, counts = content_of(text)
    lower = text.lower().replace("\u2019", "'").replace("n't", " not").replace("'s", "")
    words, filler = tuple(_WORD.findall(lower)), load_words().filler
    prepositions, phrases, left = frozenset(_parts()["prepositions"].split()), set[str](), 0
    for word in words:
        left = 4 if word in prepositions else max(left - 1, 0)
        if left and word not in prepositions and word not in filler:
            phrases.add(root_of(word))
    said = [w.strip(".,?!()") for w in text.split()[1:]]
    names = {root_of(w.lower()) for w in said if w != "I" and any(c.isupper() or c.isdigit() for c in w)}
    spaced = f" {' '.join(words)} "
    return _Text(
        roots, counts, words, frozenset(map(root_of, words)), frozenset(phrases), frozenset(names),
        frozenset(spaced[i : i + 3] for i in range(len(spaced) - 2)),
    )  # fmt: skip


def features_of(pairs: Sequence[TextPair], vectors: Vectors) -> Array:
    """Features of pairs (asked, cached), shape (pairs, features), the same both ways; words are embedded one by one."""
    read = {text: _read(text) for pair in pairs for text in pair}
    wanted = list(dict.fromkeys([*read, *(w for t in read.values() for w in (*t.words, *t.roots))]))
    known = dict(zip(wanted, vectors(wanted), strict=True)) if wanted else {}
    rows = [_row(a, b, read[a], read[b], known) for a, b in pairs]
    return np.round(np.array(rows, float).reshape(len(pairs), len(FEATURES)), 4)


def _row(asked: str, cached: str, a: _Text, b: _Text, known: Mapping[str, npt.NDArray[np.float32]]) -> list[float]:
    mine, theirs = without_typos(a.counts - b.counts, b.counts - a.counts)
    rest_a, rest_b = [w for w in a.roots if w in mine], [w for w in b.roots if w in theirs]
    raw_a = [w for w in a.words if root_of(w) not in b.stems]
    raw_b = [w for w in b.words if root_of(w) not in a.stems]
    cosine = float(known[asked] @ known[cached])
    size, (fewer, more) = max(len(a.roots), len(b.roots), 1), sorted((len(rest_a), len(rest_b)))
    in_rest = _near(rest_a, rest_b, known) + _near(rest_b, rest_a, known)
    near = _near(rest_a, b.roots, known) + _near(rest_b, a.roots, known)
    raw = _near(raw_a, b.words, known) + _near(raw_b, a.words, known)
    lost, share_raw = sum(1 - x for x in near) / 2, max(len(raw_a), len(raw_b)) / max(len(a.words), len(b.words), 1)
    listed = _parts()
    sets = [(frozenset(t.words), t) for t in (a, b)]
    (all_a, _), (all_b, _) = sets
    scope = [t.phrases - other.stems for t, other in ((a, b), (b, a))]
    named = [t.names - other.stems for t, other in ((a, b), (b, a))]
    asks = [s & frozenset(listed["asks"].split()) for s, _ in sets]
    prepositions = frozenset(listed["prepositions"].split())
    negations = [sum(w in load_words().negations for w in t.words) for t in (a, b)]
    numbers = [{w for w in s if w[0].isdigit()} for s, _ in sets]
    told = {objection.partition(":")[0] for objection in EVERY_CHECK.explain(asked, cached)}
    return [
        cosine, more / size, fewer / size, min(fewer, 4), min(more, 6),
        _mean_cosine(rest_a, rest_b, known), _mean_cosine(raw_a, raw_b, known), _mean_cosine(a.roots, b.roots, known),
        share_raw, min(in_rest, default=1.0), min(near, default=1.0), sum(near) / len(near) if near else 1.0,
        lost, lost / size, sum(1 - x for x in raw) / 2,
        len(a.trigrams & b.trigrams) / max(len(a.trigrams | b.trigrams), 1),
        min((1 - cosine) / (share_raw + 0.05), 3.0),
        _turned(a, b), abs(np.log((len(a.roots) + 1) / (len(b.roots) + 1))), np.log(size),
        min(len(scope[0]) + len(scope[1]), 5), bool(scope[0]) != bool(scope[1]),
        min(len(named[0]) + len(named[1]), 4), bool(named[0] and named[1]), numbers[0] != numbers[1],
        asks[0] != asks[1], bool(asks[0] - asks[1] and asks[1] - asks[0]), len((all_a ^ all_b) & prepositions),
        abs(negations[0] - negations[1]), *(check in told for check in CHECKS),
    ]  # fmt: skip


def _near(words: Sequence[str], others: Sequence[str], known: Mapping[str, npt.NDArray[np.float32]]) -> list[float]:
    """Cosine of each word to the nearest of the others, 0 where there is none."""
    if not words:
        return []
    if not others:
        return [0.0] * len(words)
    found = np.array([known[w] for w in words]) @ np.array([known[w] for w in others]).T
    return [float(x) for x in found.max(1)]


def _mean_cosine(a: Sequence[str], b: Sequence[str], known: Mapping[str, npt.NDArray[np.float32]]) -> float:
    if not a or not b:
        return 0.0 if a or b else 1.0
    one, other = (np.sum([known[w] for w in words], axis=0) for words in (a, b))
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / length if length else 0.0


def _turned(a: _Text, b: _Text) -> float:
    """Share of pairs of shared words that stand in another order."""
    place = {root: i for i, root in reversed(list(enumerate(b.roots)))}
    shared = [root for root in dict.fromkeys(a.roots) if root in place]
    turned = sum(place[x] > place[y] for x, y in combinations(shared, 2))
    return turned / max(len(shared) * (len(shared) - 1) / 2, 1)


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
        told = {"encoder_id": self.encoder_id, "least": self.least, "features": list(FEATURES)}
        return told | {"rules": rules_sha256(), "trees": trees}

    @classmethod
    def load(cls, raw: Mapping[str, Any]) -> Self:
        """Build what `save` gave.

        Raises
        ------
        ConfigError
            If the values are not those of a verifier of this version.
        """
        try:
            if tuple(raw["features"]) != FEATURES or raw["rules"] != rules_sha256():
                raise ValueError("it reads other features, or what other rules of the guard say")
            return cls(str(raw["encoder_id"]), float(raw["least"]), Trees(**raw["trees"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"not a fitted verifier this version reads: {error!r}") from error

    @property
    def sha256(self) -> str:
        """Hash of everything that decides."""
        return content_hash(json.dumps(self.save(), sort_keys=True))


@dataclass(frozen=True, slots=True)
class MadePair:
    """A made-up pair; ``topic`` is what it asks about, and the family that is held out."""

    asked: str
    cached: str
    same: bool
    topic: str


_KINDS = [
    "same",
    "same",
    "same",
    "same",
    "stem",
    "name",
    "name",
    "scope",
    "scope",
    "other_scope",
    "thing",
    "thing",
    "topic",
    "turned",
]


def made_pairs(n: int = MADE, seed: int = 0) -> list[MadePair]:
    """Draw pairs from ``made_pairs.toml``: the same thing in other words, or with one of its parts changed."""
    parts, rng, out = _parts(), Random(seed), list[MadePair]()
    topics = {name: [_split(line) for line in lines] for name, lines in (parts["topics"] | parts["questions"]).items()}
    stems, names = [_split(line) for line in parts["stems"]], [_split(line) for line in parts["names"]]
    while len(out) < n:
        kind, topic = rng.choice(_KINDS), rng.choice(list(topics))
        mine = [["{}"]] if topic in parts["questions"] else stems
        thing, (x, y) = rng.choice(topics[topic]), rng.sample(rng.choice(names), 2)
        stem = mine[0] if rng.random() < 0.4 else rng.choice(mine)
        scope = rng.choice(parts["scopes"]) if kind in ("scope", "other_scope") or rng.random() < 0.3 else ""
        fits = {"stem": len(mine) > 1, "name": "{x}" in thing[0], "turned": "{y}" in thing[0]}
        if not fits.get(kind, True):
            continue
        other: dict[str, Any] = {"stem": stem, "thing": thing, "x": x, "y": y, "scope": scope}
        other |= _changed(kind, other, rng, mine, topics, topic, names, parts["scopes"])
        wording = (rng.randrange(12), rng.randrange(8))
        second = tuple(w if rng.random() < 0.5 else rng.randrange(12) for w in wording)
        front = rng.random() < 0.2
        one = _dressed(_said(stem, thing, x, y, scope, wording, front), rng, parts["around"])
        two = _dressed(_said(**other, wording=second, front=front ^ (rng.random() < 0.2)), rng, parts["around"])
        if one.strip("? ").lower() != two.strip("? ").lower():
            out.append(MadePair(*((two, one) if rng.random() < 0.5 else (one, two)), kind == "same", topic))
    return out


def _changed(
    kind: str, now: Mapping[str, Any], rng: Random, stems: Any, topics: Any, topic: str, names: Any, scopes: Any
) -> dict[str, Any]:
    """What the second question has instead."""
    if kind == "stem":
        return {"stem": rng.choice([s for s in stems if s is not now["stem"]])}
    if kind == "name":
        return {"x": rng.choice([n for n in next(g for g in names if now["x"] in g) if n not in (now["x"], now["y"])])}
    if kind == "turned":
        return {"x": now["y"], "y": now["x"]}
    if kind == "scope":
        return {"scope": ""}
    if kind == "other_scope":
        return {"scope": rng.choice([s for s in scopes if s != now["scope"]])}
    if kind == "thing":
        return {"thing": rng.choice([t for t in topics[topic] if t is not now["thing"]])}
    if kind == "topic":
        return {"thing": rng.choice(topics[rng.choice([t for t in topics if t != topic])])}
    return {}


def _split(line: str) -> list[str]:
    return [part.strip() for part in line.split(" / ")]


def _said(
    stem: Sequence[str], thing: Sequence[str], x: str, y: str, scope: str, wording: Sequence[int], front: bool
) -> str:
    asked = thing[wording[1] % len(thing)].replace("{x}", x).replace("{y}", y)
    text = stem[wording[0] % len(stem)].replace("{}", asked)
    return text if not scope else f"{scope}, {text}" if front else f"{text} {scope}"


def _dressed(text: str, rng: Random, around: Sequence[str]) -> str:
    """Greeting, capital, question mark or none of them: of no matter."""
    text = rng.choice(around).replace("{}", text) if rng.random() < 0.25 else text
    text = text[0].upper() + text[1:] if rng.random() < 0.5 else text
    return f"{text}?" if rng.random() < 0.5 else text


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


def fit_verifier(
    pairs: Sequence[Pair],
    limit: PairLimit,
    encoder_id: str,
    vectors: Vectors,
    *,
    guard: Guard | None = None,
    n_made: int = MADE,
) -> Fit:
    """Learn on dev pairs and made-up ones; the least probability is chosen on what was held out.

    The trees are the same for the same pairs in any order, whatever the guard; the least probability is not, as it is
    chosen on what this guard lets pass: give that which the verifier will stand behind.

    It is the lowest at which pairs of dev that must differ, and that the guard does not stop, keep the limit, with none
    of a grave kind where it is a share; and at which at most half of that share (of 2 % where the limit is a count) of
    all that must differ are served, made-up ones too: what just keeps the limit here is hardly shown to on test.
    """
    # in one order, whatever that of the file is: each tree draws its rows by their place
    dev = sorted((p for p in pairs if p.split == "dev"), key=lambda p: (p.pair_id, p.query_a, p.query_b))
    made = made_pairs(n_made)
    further = [*_nearest_of_other_families(dev, vectors), *_in_other_dress(dev)]
    texts: list[TextPair] = [(p.query_b, p.query_a) for p in dev]
    texts += [(a, b) for a, b, *_ in further] + [(m.asked, m.cached) for m in made]
    same = np.array([*(p.same_answer for p in dev), *(f[3] for f in further), *(m.same for m in made)], float)
    families = [*(p.cluster for p in dev), *(f[2] for f in further)]
    order = {name: i % FOLDS for i, name in enumerate(sorted({*families}))}
    topics = {name: i % FOLDS for i, name in enumerate(sorted({m.topic for m in made}))}
    fold = np.array([*(order[f] for f in families), *(topics[m.topic] for m in made)])
    weight = np.ones(len(same))
    weight[: len(dev)] = WEIGHT_OF_DEV
    x, scores = features_of(texts, vectors), np.zeros(len(same))
    held_out = []
    for k in range(FOLDS):
        trees = Trees.fit(x[fold != k], same[fold != k], weight[fold != k])
        scores[fold == k] = trees.scores(x[fold == k])
        held_out.append(trees)
    slope, offset = _curve(scores, same)
    chance = 1 / (1 + np.exp(-(slope * scores + offset)))
    labelled = np.array([True] * len(dev) + [False] * len(further) + [True] * len(made))
    traps = [(p, c) for p, c in zip(dev, chance, strict=False) if not p.same_answer]
    open_to = [(p, c) for p, c in traps if guard is None or guard.allows(p.query_b, p.query_a)]
    of_dev = np.array([c for _, c in open_to])
    grave = max((c for p, c in open_to if p.kind in GRAVE and limit.share is not None), default=0.0)
    least = _least(chance[(same == 0) & labelled], of_dev, limit.most(len(traps)), (limit.share or DEFAULT_SHARE) / 2)
    least = max(least, round(grave + 0.001, 3))
    every = [_behind_curve(trees, slope, offset) for trees in (Trees.fit(x, same, weight), *held_out)]
    final, *rest = (FittedVerifier(encoder_id, least, trees) for trees in every)
    fold_of = {text: order[p.cluster] for p in dev for text in (p.query_a, p.query_b)}
    return Fit(final, tuple(rest), fold_of)


def _behind_curve(trees: Trees, slope: float, offset: float) -> Trees:
    """The same trees behind another logistic curve."""
    parts = {f.name: getattr(trees, f.name) for f in fields(Trees) if f.init}
    return Trees(**(parts | {"slope": round(slope, 5), "offset": round(offset, 5)}))


def _curve(scores: Array, same: Array) -> tuple[float, float]:
    from sklearn.linear_model import LogisticRegression

    found = LogisticRegression().fit(scores[:, None], same)
    return float(found.coef_[0, 0]), float(found.intercept_[0])


def _least(wrong: Array, of_dev: Array, most: int, share: float) -> float:
    """Lowest probability at which at most ``share`` of the wrong ones, and at most so many of dev, are served."""
    for step in range(50, 1000):
        least = step / 1000
        if (wrong >= least).sum() <= share * len(wrong) and (of_dev >= least).sum() <= most:
            return least
    return 1.0


Further = tuple[str, str, str, bool]  # two texts, their family, and whether they may share an answer


def _in_other_dress(dev: Sequence[Pair]) -> list[Further]:
    """Each dev text with itself in another dress, and half of the time with a typing error."""
    rng, around = Random(1), _parts()["around"]
    texts = sorted({(t, p.cluster) for p in dev for t in (p.query_a, p.query_b)})
    return [(_mistyped(_dressed(t, rng, around), rng), _dressed(t, rng, around), family, True) for t, family in texts]


def _mistyped(text: str, rng: Random) -> str:
    """Text in which one long word lacks a letter, half of the time."""
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if len(word) > 5 and word.isalpha()]
    if long and rng.random() < 0.5:
        i = rng.choice(long)
        at = rng.randrange(1, len(words[i]) - 1)
        words[i] = words[i][:at] + words[i][at + 1 :]
    return " ".join(words)


def _nearest_of_other_families(dev: Sequence[Pair], vectors: Vectors, k: int = 2) -> list[Further]:
    """Each dev text with the nearest of its tenant in other families, which need other answers."""
    out = []
    for tenant in sorted({p.tenant_id for p in dev}):
        mine = sorted({(t, p.cluster) for p in dev if p.tenant_id == tenant for t in (p.query_a, p.query_b)})
        near = (known := vectors([t for t, _ in mine])) @ known.T
        for i, (text, family) in enumerate(mine):
            others = [j for j in np.argsort(-near[i], kind="stable").tolist() if mine[j][1] != family][:k]
            out += [(text, mine[j][0], family, False) for j in others]
    return out
