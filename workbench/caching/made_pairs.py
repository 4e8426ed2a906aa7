"""Pairs that nobody asked, for a fitted verifier to learn on: from ``made_pairs.toml`` or texts of labelled pairs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from workbench.caching.guard import load_words
from workbench.caching.pair_features import Vectors, made_parts
from workbench.evalset.traffic import Pair

Further = tuple[str, str, str, bool]  # two texts, their family, and whether they may share an answer


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


MADE = 2400


def made_pairs(n: int = MADE, seed: int = 0) -> list[MadePair]:
    """Draw pairs from ``made_pairs.toml``: the same thing in other words, or with one of its parts changed."""
    parts, rng, out = made_parts(), Random(seed), list[MadePair]()
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
    return f"{text.rstrip('?')}?" if rng.random() < 0.5 else text


def in_other_dress(texts: Sequence[tuple[str, str]]) -> list[Further]:
    """Each text (with its family) beside itself in another dress, and half of the time with a typing error."""
    rng, around = Random(1), made_parts()["around"]
    return [(_mistyped(_dressed(t, rng, around), rng), _dressed(t, rng, around), family, True) for t, family in texts]


def retyped(texts: Sequence[tuple[str, str]], seed: int = 2) -> list[Further]:
    """Each text (with its family) beside itself as somebody else types it: a few words said otherwise."""
    rng, out = Random(seed), list[Further]()
    for text, family in texts:
        other = _retyped(text, rng)
        if other != text:
            out.append((other, text, family, True))
    return out


def _retyped(text: str, rng: Random) -> str:
    """Text with another start, some words said otherwise, parts in another order, or without articles."""
    parts = made_parts()
    for line in parts["starts"]:
        if found := [w for w in _split(line) if text.lower().startswith(f"{w.lower()} ")]:
            text = rng.choice([w for w in _split(line) if w not in found]) + text[len(found[0]) :]
            break
    lines = [_split(line) for line in parts["retyped"]]
    rng.shuffle(lines)
    for words in lines:
        for word in words:
            swapped = re.sub(rf"(?<![\w.-]){re.escape(word)}(?![\w-]|\.\w)", "\0", text, count=1, flags=re.IGNORECASE)
            if swapped != text and rng.random() < 0.6:
                text = swapped.replace("\0", rng.choice([w for w in words if w != word]))
                break
    if rng.random() < 0.3:
        text = re.sub(r"\b(?:the|a|an) ", "", text)
    one, comma, other = text.rstrip("?. ").partition(", ")
    if comma and min(len(one.split()), len(other.split())) > 2 and "," not in other and rng.random() < 0.4:
        text = f"{other}, {one}"
    text = text.lower() if rng.random() < 0.3 else text
    return _mistyped(_dressed(text, rng, parts["around"]), rng)


def trapped(texts: Sequence[tuple[str, str]], each: int = 3, seed: int = 3) -> list[Further]:
    """Each text (with its family) beside itself with a condition more, a clause less, another word, or two swapped."""
    rng, out = Random(seed), list[Further]()
    words = [w for text, _ in texts for w in text.split() if len(w) > 3 and w.isalpha()]
    for text, family in texts:
        for _ in range(each):
            other = rng.choice(_TRAPS)(text, words, rng)
            if other != text:
                out.append((_retyped(other, rng) if rng.random() < 0.4 else other, text, family, False))
    return out


def _with_condition(text: str, words: Sequence[str], rng: Random) -> str:
    told = rng.choice(made_parts()["conditions"] + made_parts()["scopes"])
    bare = text.rstrip("?. ")
    return rng.choice((f"{bare} {told}", f"{bare}, {told}", f"{told}, {bare}"))


def _without_clause(text: str, words: Sequence[str], rng: Random) -> str:
    """Text without what follows one of its commas or prepositions, where that says something."""
    places = [
        m.start()
        for m in re.finditer(r"(?:[,;:.]| (?:with|without|if|when|by|from|into|per|but|and|where|so)\b)", text)
    ]
    cut = [p for p in places if p > len(text) * 0.3 and len(text[p:].split()) > 2]
    return text[: rng.choice(cut)] if cut else _with_condition(text, words, rng)


def _with_other_word(text: str, words: Sequence[str], rng: Random) -> str:
    said = text.split()
    places = [i for i, w in enumerate(said) if len(w) > 3 and w.isalpha() and w.lower() not in load_words().filler]
    if not places:
        return _with_condition(text, words, rng)
    place = rng.choice(places)
    return " ".join((*said[:place], _opposite(said[place]) or rng.choice(words), *said[place + 1 :]))


def _with_small_word(text: str, words: Sequence[str], rng: Random) -> str:
    """Text with a small word or sign more, or another one, that changes what is asked."""
    said, small = text.split(), made_parts()["critical"].split()
    places = [i for i, word in enumerate(said) if word.lower() in small]
    other = rng.choice([*small, "%", "not", "or"])
    if places and rng.random() < 0.6:
        place = rng.choice(places)
        return " ".join((*said[:place], other, *said[place + 1 :]))
    place = rng.randrange(1, len(said) + 1)
    return " ".join((*said[:place], other, *said[place:]))


def _turned(text: str, words: Sequence[str], rng: Random) -> str:
    """Text in which two words that say something have changed places."""
    said = text.split()
    places = [i for i, w in enumerate(said) if len(w) > 2 and w.lower().strip(",.?:") not in load_words().filler]
    if len({said[i].lower() for i in places}) < 3:
        return _with_condition(text, words, rng)
    i, j = rng.sample(places, 2)
    said[i], said[j] = said[j], said[i]
    return " ".join(said)


_TRAPS = (_with_condition, _with_condition, _without_clause, _with_other_word, _with_small_word, _turned)


def _opposite(word: str) -> str:
    """A word of the other side, where the guard knows one."""
    for one, other in load_words().opposites:
        for side, against in ((one, other), (other, one)):
            if word.lower() in side:
                return min(against)
    return ""


def _mistyped(text: str, rng: Random) -> str:
    """Text in which one long word lacks a letter, half of the time."""
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if len(word) > 5 and word.isalpha()]
    if long and rng.random() < 0.5:
        i = rng.choice(long)
        at = rng.randrange(1, len(words[i]) - 1)
        words[i] = words[i][:at] + words[i][at + 1 :]
    return " ".join(words)


def nearest_of_other_families(dev: Sequence[Pair], vectors: Vectors, k: int = 2) -> list[Further]:
    """Each dev text with the nearest of its tenant in other families, which need other answers."""
    out = []
    for tenant in sorted({p.tenant_id for p in dev}):
        mine = sorted({(t, p.cluster) for p in dev if p.tenant_id == tenant for t in (p.query_a, p.query_b)})
        near = (known := vectors([t for t, _ in mine])) @ known.T
        for i, (text, family) in enumerate(mine):
            others = [j for j in np.argsort(-near[i], kind="stable").tolist() if mine[j][1] != family][:k]
            out += [(text, mine[j][0], family, False) for j in others]
    return out
