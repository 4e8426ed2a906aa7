"""Draw made-up traffic from the labelled texts of an evalset: who asks what, when, by a plan in ``traffic.toml``.

Whether two requests may share an answer is never guessed. Texts share one where the labels say so: questions of one
customer, family and feature with the same reference answer, and the two texts of a pair with ``same_answer`` 1, taken
together. That two texts of one family do *not* share one is known only of the labelled pairs, so each family brings
in, for each feature, one group of texts that share an answer, or the two sides of one dev pair that must differ; its
other texts are left out. Different families ask about different things, and a cache serves within one feature only.

``same_words`` holds texts that several customers ask word for word: each names, for each customer, the question whose
answer it needs. Its family then brings in the group that holds it.
"""

import tomllib
from bisect import bisect
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

from workbench.errors import EvalsetError

Node = tuple[str, str]  # customer and text
DEFAULT_FEATURE = "answer"
TYPO_LETTERS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What ``traffic.toml`` says; every key but ``same_words`` is needed.

    Attributes
    ----------
    zipf : float
        Exponent: the k-th most asked thing of a customer is asked in proportion to ``k ** -zipf``.
    typos : float
        Share of requests with a typing error in one word.
    must_differ : float
        Share of the dev families that bring in a pair that must differ.
    tenants, openings, closings : dict
        Weights by name or by text.
    users : dict
        Number of users of each tenant.
    hours, weekdays : list of float
        Weights of the 24 hours, and of Monday to Sunday.
    same_words : list of dict
        Texts that several tenants ask, each ``text`` with ``answered_as``: the id of a question by tenant.
    """

    seed: int
    requests: int
    start: datetime
    days: int
    zipf: float
    typos: float
    must_differ: float
    tenants: Mapping[str, float]
    users: Mapping[str, int]
    openings: Mapping[str, float]
    closings: Mapping[str, float]
    hours: Sequence[float]
    weekdays: Sequence[float]
    same_words: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Topic:
    """What one family brings in for one feature: texts, each with the key of the answer it needs."""

    tenant_id: str
    cluster: str
    feature: str
    texts: tuple[tuple[str, str], ...]


def read_plan(path: Path) -> Plan:
    """Plan of a ``traffic.toml``.

    Raises
    ------
    EvalsetError
        If it is not TOML, or a key is missing, unknown or of another length or form than it must have.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EvalsetError(f"{path} is not TOML: {error}") from error
    names = {f.name: f.default is MISSING for f in fields(Plan)}
    missing, unknown = sorted(n for n in names if names[n] and n not in raw), sorted(raw.keys() - names)
    if missing or unknown:
        raise EvalsetError(f"{path}: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}")
    if (len(raw["hours"]), len(raw["weekdays"])) != (24, 7) or raw["tenants"].keys() != raw["users"].keys():
        raise EvalsetError(f"{path}: 24 hours, 7 weekdays, and the same names under [tenants] and [users] are expected")
    for row in raw.get("same_words", ()):
        if row.keys() != {"text", "answered_as"} or not set(row["answered_as"]) <= raw["tenants"].keys():
            found = row.get("text", sorted(row))
            raise EvalsetError(
                f"{path}: [[same_words]] {found!r} needs a text, and under answered_as the id of a question by tenant, "
                f"of the tenants {sorted(raw['tenants'])}"
            )
    return Plan(**raw)


def topics_of(queries: Iterable[Mapping[str, Any]], pairs: Iterable[Any], plan: Plan) -> list[Topic]:
    """One topic for each customer, family and feature, in alphabetical order; ``pairs`` as `traffic.Pair`."""
    queries = list(queries)
    shared = _same_words(queries, plan)
    pairs = [*pairs, *shared]
    groups, places = _answer_groups(queries, pairs)
    wanted = {groups[one.tenant_id, one.query_b] for one in shared}
    scopes: dict[tuple[str, str, str], list[frozenset[Node]]] = defaultdict(list)
    for group in set(groups.values()):
        found = {place for node in group for place in places[node] if place[1]} or {
            (place[0], DEFAULT_FEATURE) for node in group for place in places[node]
        }
        if len(found) == 1:  # a text of two families or features tells neither
            cluster, feature = found.pop()
            scopes[min(group)[0], cluster, feature].append(group)
    differ = defaultdict(list)
    for pair in pairs:
        one, other = (groups[pair.tenant_id, text] for text in (pair.query_a, pair.query_b))
        for scope in [s for s in scopes if s[:2] == (pair.tenant_id, pair.cluster)]:
            if pair.split == "dev" and not pair.same_answer and {one, other} <= set(scopes[scope]) and one != other:
                differ[scope].append((one, other))
    rng, out = Random(plan.seed), []
    for scope in sorted(scopes):
        group = min(scopes[scope], key=lambda g: (-len(g), min(g)))
        chosen: tuple[frozenset[Node], ...] = (group,)
        if differ[scope] and rng.random() < plan.must_differ:
            chosen = differ[scope][int(rng.random() * len(differ[scope]))]
        if (held := wanted.intersection(scopes[scope])) and not held & set(chosen):
            chosen = (min(held, key=min),)
        texts = [(text, "/".join((*scope, str(key)))) for key, group in enumerate(chosen) for _, text in sorted(group)]
        out.append(Topic(*scope, tuple(texts)))
    return out


@dataclass(frozen=True, slots=True)
class _SameWords:
    """A question and a text that needs its answer, as a pair that may share one."""

    pair_id: str
    query_a: str
    query_b: str
    cluster: str
    tenant_id: str
    same_answer: bool = True
    split: str = ""


def _same_words(queries: Sequence[Mapping[str, Any]], plan: Plan) -> list[_SameWords]:
    """Pairs of the plan's ``same_words``; refused where a question is not the tenant's, or two need one answer."""
    by_id, out = {query.get("_id"): query for query in queries}, []
    for place, row in enumerate(plan.same_words):
        references = set()
        for tenant, name in row["answered_as"].items():
            about = by_id[name]["metadata"] if name in by_id else {}
            if about.get("tenant_id") != tenant:
                raise EvalsetError(f"traffic.toml: {row['text']!r} names {name!r}, which is no question of {tenant}")
            references.add(about["reference"])
            text = by_id[name]["text"]
            out.append(_SameWords(f"same-words-{place}-{tenant}", text, row["text"], about["cluster"], tenant))
        if len(references) < 2 or len(references) < len(row["answered_as"]):
            raise EvalsetError(f"traffic.toml: {row['text']!r} must need another answer of each of several tenants")
    return out


def _answer_groups(
    queries: Iterable[Mapping[str, Any]], pairs: Sequence[Any]
) -> tuple[dict[Node, frozenset[Node]], dict[Node, set[tuple[str, str]]]]:
    """Texts that share an answer, by text, and of each text its family with its feature ("" where not said)."""
    same: dict[Any, set[Node]] = defaultdict(set)
    places: dict[Node, set[tuple[str, str]]] = defaultdict(set)
    for query in queries:
        about = query["metadata"]
        node = about["tenant_id"], query["text"]
        places[node].add((about["cluster"], about["feature"]))
        same["query", about["tenant_id"], about["cluster"], about["feature"], about["reference"]].add(node)
    for pair in pairs:
        both = [(pair.tenant_id, text) for text in (pair.query_a, pair.query_b)]
        for node in both:
            places[node].add((pair.cluster, ""))
        for names in [both] if pair.same_answer else [[both[0]], [both[1]]]:
            same["pair", pair.pair_id, *names].update(names)
    groups: dict[Node, frozenset[Node]] = {}
    for nodes in same.values():
        whole = frozenset(nodes).union(*(groups.get(node, ()) for node in nodes))
        groups |= dict.fromkeys(whole, whole)
    return groups, places


def draw_requests(topics: Sequence[Topic], plan: Plan) -> list[dict[str, Any]]:
    """Rows of a stream in the order of time; the same on every machine."""
    rng = Random(plan.seed + 1)
    times = sorted(_moment(plan, rng) for _ in range(plan.requests))
    asked: dict[str, list[Topic]] = {}
    for tenant in sorted(plan.tenants):
        asked[tenant] = sorted((t for t in topics if t.tenant_id == tenant), key=lambda _: rng.random())
        if not asked[tenant]:
            raise EvalsetError(f"traffic.toml names the tenant {tenant}, who asks no question")
    zipf = {tenant: [(k + 1) ** -plan.zipf for k in range(len(mine))] for tenant, mine in asked.items()}
    rows = []
    for pos, at in enumerate(times):
        tenant = _pick(plan.tenants, plan.tenants.values(), rng)
        topic = _pick(asked[tenant], zipf[tenant], rng)
        text, key = topic.texts[int(rng.random() * len(topic.texts))]
        opening, closing = (_pick(part, part.values(), rng) for part in (plan.openings, plan.closings))
        text = _typo(text, rng) if rng.random() < plan.typos else text
        user = f"{tenant}-{int(rng.random() * plan.users[tenant]):03d}"
        row = (pos, f"{opening}{text}{closing}", key, tenant, topic.cluster, at, topic.feature, user)
        names = ("pos", "query", "answer_key", "tenant_id", "cluster", "at", "feature", "user_id")
        rows.append(dict(zip(names, row, strict=True)))
    return rows


def _pick(names: Iterable[Any], weights: Iterable[float], rng: Random) -> Any:
    sums = list(accumulate(weights))
    return list(names)[min(bisect(sums, rng.random() * sums[-1]), len(sums) - 1)]


def _moment(plan: Plan, rng: Random) -> str:
    weekday = plan.start.weekday()
    day = _pick(range(plan.days), [plan.weekdays[(weekday + d) % 7] for d in range(plan.days)], rng)
    hour = _pick(range(24), plan.hours, rng)
    at = plan.start + timedelta(days=day, hours=hour, seconds=int(rng.random() * 3600))
    return at.astimezone(UTC).isoformat(timespec="seconds")


def _typo(text: str, rng: Random) -> str:
    """Text in which one long word lacks a letter, or has two swapped."""
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if len(word) >= TYPO_LETTERS and word.isalpha()]
    if not long:
        return text
    i = long[int(rng.random() * len(long))]
    word, at = words[i], 1 + int(rng.random() * (len(words[i]) - 3))
    swapped = rng.random() < 0.5
    words[i] = word[:at] + (word[at + 1] + word[at] + word[at + 2 :] if swapped else word[at + 1 :])
    return " ".join(words)
