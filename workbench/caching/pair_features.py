"""What differs between two questions, as numbers: what the fitted verifier reads."""

import re
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import SequenceMatcher
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from workbench.caching.guard import Guard, content_of, load_words, root_of, without_typos

Array = npt.NDArray[np.float64]
TextPair = tuple[str, str]
Vectors = Callable[[Sequence[str]], npt.NDArray[np.float32]]  # of texts and of single words, of unit length
CHECKS = tuple(f.name for f in fields(Guard))
EVERY_CHECK = Guard(**dict.fromkeys(CHECKS, True))
FEATURES = (
    "cosine", "share", "share_of_less", "fewer", "more", "cosine_of_rest", "cosine_of_rest_raw", "cosine_of_words",
    "share_raw", "least_near_in_rest", "least_near", "mean_near", "lost", "lost_share", "lost_raw", "trigrams", "drop",
    "turned", "length", "size", "in_phrases", "phrases_of_one", "names", "names_of_both", "digits", "asks",
    "asks_of_both", "prepositions", "negations", "told_few", "told_more", "surplus", "surplus_far", "match_worst",
    "match_far", "blocks", "swaps", "longest_alone", "moved", "turned_told", "symbols", "critical",
    "harmless", "latin", *CHECKS,
)  # fmt: skip
# words, and every sign that is no punctuation
_TOKEN = re.compile(r"[^\W_]+(?:[.,:_/'-][^\W_]+)*|[^\w\s.,;:!?'\"()`\u2019-]")
_WORD = re.compile(r"[^\W_]+(?:[.,:_/-][^\W_]+)*")


@dataclass(frozen=True, slots=True)
class _Text:
    """One text as the features see it: content words without endings, all words, and those that name or scope.

    ``told`` are the words and signs that say something, ``told_not`` those that change no question.
    """

    roots: tuple[str, ...]
    counts: Counter[str]
    words: tuple[str, ...]
    stems: frozenset[str]
    phrases: frozenset[str]
    names: frozenset[str]
    trigrams: frozenset[str]
    told: tuple[str, ...]
    told_not: tuple[str, ...]


@cache
def made_parts() -> dict[str, Any]:
    """What ``made_pairs.toml`` holds."""
    return tomllib.loads(Path(__file__).with_name("made_pairs.toml").read_text(encoding="utf-8"))


def _read(text: str) -> _Text:
    roots, counts = content_of(text)
    lower = text.lower().replace("\u2019", "'").replace("n't", " not").replace("'s", "")
    words, filler = tuple(_WORD.findall(lower)), load_words().filler
    prepositions, phrases, left = frozenset(made_parts()["prepositions"].split()), set[str](), 0
    for word in words:
        left = 4 if word in prepositions else max(left - 1, 0)
        if left and word not in prepositions and word not in filler:
            phrases.add(root_of(word))
    said = [w.strip(".,?!()") for w in text.split()[1:]]
    names = {root_of(w.lower()) for w in said if w != "I" and any(c.isupper() or c.isdigit() for c in w)}
    tokens, harmless = _TOKEN.findall(lower.replace("'", "")), frozenset(made_parts()["harmless"].split())
    told = tuple(w for w in tokens if w not in harmless)
    spaced = f" {' '.join(words)} "
    return _Text(
        roots, counts, words, frozenset(map(root_of, words)), frozenset(phrases), frozenset(names),
        frozenset(spaced[i : i + 3] for i in range(len(spaced) - 2)), told, tuple(w for w in tokens if w in harmless),
    )  # fmt: skip


def features_of(pairs: Sequence[TextPair], vectors: Vectors) -> Array:
    """Features of pairs (asked, cached), shape (pairs, features), the same both ways; words are embedded one by one."""
    read = {text: _read(text) for pair in pairs for text in pair}
    left = {pair: _left(read[pair[0]].told, read[pair[1]].told) for pair in pairs}
    words = (w for t in read.values() for w in (*t.words, *t.roots, *t.told))
    wanted = list(dict.fromkeys([*read, *words]))
    known = dict(zip(wanted, vectors(wanted), strict=True)) if wanted else {}
    rows = [
        [
            *_row(a, b, read[a], read[b], known),
            *_row_of_told(read[a], read[b], left[a, b], known),
            *_told_by_guard(a, b),
        ]
        for a, b in pairs
    ]
    return np.round(np.array(rows, float).reshape(len(pairs), len(FEATURES)), 4)


def _told_by_guard(asked: str, cached: str) -> list[bool]:
    told = {objection.partition(":")[0] for objection in EVERY_CHECK.explain(asked, cached)}
    return [check in told for check in CHECKS]


def _left(a: Sequence[str], b: Sequence[str]) -> tuple[list[str], list[str]]:
    """Words of each text that the other lacks, in their order, typing errors apart."""
    sides = Counter(map(root_of, a)), Counter(map(root_of, b))
    mine, theirs = without_typos(sides[0] - sides[1], sides[1] - sides[0])
    out = []
    for words, rest in ((a, Counter(mine)), (b, Counter(theirs))):
        kept = []
        for word in words:
            if rest[root_of(word)] > 0:
                rest[root_of(word)] -= 1
                kept.append(word)
        out.append(kept)
    return out[0], out[1]


def _row_of_told(
    a: _Text, b: _Text, left: tuple[list[str], list[str]], known: Mapping[str, npt.NDArray[np.float32]]
) -> list[float]:
    """What differs among the words and signs that say something: swapped, alone in one text, moved."""
    few, more = sorted(left, key=len)
    pairs, alone = _matched(few, more, known)
    far = [1 - max(_near([w], (b if more is left[0] else a).told, known), default=0.0) for w in alone]
    one, other = ([root_of(w) for w in t.told] for t in (a, b))
    first, second = sorted((one, other))
    compared = SequenceMatcher(None, first, second, autojunk=False)
    changes = [c for c in compared.get_opcodes() if c[0] != "equal"]
    alone_in = [max(c[2] - c[1], c[4] - c[3]) for c in changes if c[0] != "replace"]
    symbols = [Counter(w for w in t.told if not w[0].isalnum()) for t in (a, b)]
    critical = frozenset(made_parts()["critical"].split())
    small = [Counter(w for w in t.told if w in critical) for t in (a, b)]
    said = [Counter(t.told_not) for t in (a, b)]
    return [
        min(len(few), 5), min(len(more), 8), min(len(alone), 6), sum(far), min((c for c, _ in pairs), default=1.0),
        sum(1 - c for c, _ in pairs), min(len(changes), 8), min(sum(c[0] == "replace" for c in changes), 5),
        min(max(alone_in, default=0), 6), one != other and not few and not more,
        _turned(one, other), _apart(symbols), _apart(small), min(_apart(said), 8),
        all(w.isascii() for t in (a, b) for w in t.told),
    ]  # fmt: skip


def _apart(counts: Sequence[Counter[str]]) -> int:
    return ((counts[0] - counts[1]) + (counts[1] - counts[0])).total()


def _matched(
    few: Sequence[str], more: Sequence[str], known: Mapping[str, npt.NDArray[np.float32]]
) -> tuple[list[tuple[float, str]], list[str]]:
    """Each word of the fewer with one of the more, as near as can be; and the words of the more that are left alone."""
    if not few:
        return [], list(more)
    near = np.array([known[w] for w in few]) @ np.array([known[w] for w in more]).T
    rows, columns = linear_sum_assignment(-near)
    taken = set(columns.tolist())
    return [(float(near[r, c]), few[r]) for r, c in zip(rows, columns, strict=True)], [
        w for i, w in enumerate(more) if i not in taken
    ]


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
    listed = made_parts()
    sets = [(frozenset(t.words), t) for t in (a, b)]
    (all_a, _), (all_b, _) = sets
    scope = [t.phrases - other.stems for t, other in ((a, b), (b, a))]
    named = [t.names - other.stems for t, other in ((a, b), (b, a))]
    asks = [s & frozenset(listed["asks"].split()) for s, _ in sets]
    prepositions = frozenset(listed["prepositions"].split())
    negations = [sum(w in load_words().negations for w in t.words) for t in (a, b)]
    numbers = [{w for w in s if w[0].isdigit()} for s, _ in sets]
    return [
        cosine, more / size, fewer / size, min(fewer, 4), min(more, 6),
        _mean_cosine(rest_a, rest_b, known), _mean_cosine(raw_a, raw_b, known), _mean_cosine(a.roots, b.roots, known),
        share_raw, min(in_rest, default=1.0), min(near, default=1.0), sum(near) / len(near) if near else 1.0,
        lost, lost / size, sum(1 - x for x in raw) / 2,
        len(a.trigrams & b.trigrams) / max(len(a.trigrams | b.trigrams), 1),
        min((1 - cosine) / (share_raw + 0.05), 3.0),
        _turned(a.roots, b.roots), abs(np.log((len(a.roots) + 1) / (len(b.roots) + 1))), np.log(size),
        min(len(scope[0]) + len(scope[1]), 5), bool(scope[0]) != bool(scope[1]),
        min(len(named[0]) + len(named[1]), 4), bool(named[0] and named[1]), numbers[0] != numbers[1],
        asks[0] != asks[1], bool(asks[0] - asks[1] and asks[1] - asks[0]), len((all_a ^ all_b) & prepositions),
        abs(negations[0] - negations[1]),
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


def _turned(one: Sequence[str], other: Sequence[str]) -> float:
    """Share of pairs of shared words that stand in another order."""
    place = {word: i for i, word in reversed(list(enumerate(other)))}
    shared = [word for word in dict.fromkeys(one) if word in place]
    turned = sum(place[x] > place[y] for x, y in combinations(shared, 2))
    return turned / max(len(shared) * (len(shared) - 1) / 2, 1)
