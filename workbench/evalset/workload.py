"""Made-up traffic, seeded: who asks what and when, for caches, limits, budgets and costs; nobody asked any of it.

Arrivals follow a day and a week, tenants are of unequal size, what a tenant asks is asked by Zipf's law, and bursts
come on top. The questions are those of an evalset (`workload_topics`) or numbered ones (`numbered_workload_topics`).

Whether two requests may share an answer is never guessed. Texts share one where the labels say so: questions of one
customer, family and feature with the same reference answer, and the two texts of a pair with ``same_answer`` 1, taken
together. That two texts of one family do *not* share one is known only of the labelled pairs, so each family brings
in, for each feature, one group of texts that share an answer, or the two sides of one dev pair that must differ; its
other texts are left out. Different families ask about different things, and a cache serves within one feature only.
Pairs with a ``batch`` were written after the traffic was planned: they judge caches, and nobody asks them.

``same_words`` holds texts that several customers ask word for word: each names, for each customer, the question whose
answer it needs. Its family then brings in the group that holds it.
"""

from bisect import bisect
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

from workbench.codec import from_toml
from workbench.errors import EvalsetError
from workbench.records import Query

Node = tuple[str, str]  # customer and text
DEFAULT_FEATURE = "answer"
TYPO_LETTERS = 6


@dataclass(frozen=True, slots=True)
class SharedText:
    """A text that several tenants ask, with the id of the question whose answer it needs, by tenant."""

    text: str
    answered_as: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class WorkloadBurst:
    """A share of all requests that comes within a few minutes, evenly; of one tenant, or of all as usual ("")."""

    start: datetime
    minutes: float
    share: float
    tenant: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadPlan:
    """What ``traffic.toml`` says; every key but ``same_words`` and ``bursts`` is needed.

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
    same_words : list of SharedText
        Texts that several tenants ask.
    bursts : list of Burst
        What comes beside the daily shape, as shares of all requests.
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
    same_words: Sequence[SharedText] = ()
    bursts: Sequence[WorkloadBurst] = ()


@dataclass(frozen=True, slots=True)
class WorkloadTopic:
    """What one family brings in for one feature: texts, each with the key of the answer it needs."""

    tenant_id: str
    cluster: str
    feature: str
    texts: tuple[tuple[str, str], ...]


def read_workload_plan(path: Path) -> WorkloadPlan:
    """Plan of a ``traffic.toml``.

    Raises
    ------
    EvalsetError
        If it is not TOML, or keys are missing, unknown or of another length or form than they must have.
    """
    plan = from_toml(WorkloadPlan, path, "is no plan of traffic", error=EvalsetError)
    if (len(plan.hours), len(plan.weekdays)) != (24, 7) or plan.tenants.keys() != plan.users.keys():
        raise EvalsetError(f"{path}: 24 hours, 7 weekdays, and the same names under [tenants] and [users] are expected")
    for row in plan.same_words:
        if not row.answered_as.keys() <= plan.tenants.keys():
            raise EvalsetError(
                f"{path}: [[same_words]] {row.text!r} needs under answered_as the id of a question by tenant, "
                f"of the tenants {sorted(plan.tenants)}"
            )
    for burst in plan.bursts:
        if not (0 < burst.share <= 1 and burst.minutes > 0 and burst.tenant in ("", *plan.tenants)):
            raise EvalsetError(
                f"{path}: a burst has a share in (0, 1], minutes above 0, and a tenant of the plan or none"
            )
    return plan


def numbered_workload_topics(tenants: Iterable[str], each: int, feature: str = DEFAULT_FEATURE) -> list[WorkloadTopic]:
    """So many questions of each tenant, for load that needs no meaning.

    >>> numbered_workload_topics(["acme"], 1)[0].texts
    (('question 0 of acme', 'acme/0'),)
    """
    return [
        WorkloadTopic(tenant, f"{tenant}/{k}", feature, ((f"question {k} of {tenant}", f"{tenant}/{k}"),))
        for tenant in tenants
        for k in range(each)
    ]


def workload_topics(queries: Iterable[Query], pairs: Iterable[Any], plan: WorkloadPlan) -> list[WorkloadTopic]:
    """One topic for each customer, family and feature, in alphabetical order; ``pairs`` as `traffic.Pair`."""
    queries = list(queries)
    shared = _workload_same_words(queries, plan)
    pairs = [*(pair for pair in pairs if not pair.batch), *shared]
    groups, places = _workload_paraphrases(queries, pairs)
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
        out.append(WorkloadTopic(*scope, tuple(texts)))
    return out


@dataclass(frozen=True, slots=True)
class _WorkloadSameWords:
    """A question and a text that needs its answer, as a pair that may share one."""

    pair_id: str
    query_a: str
    query_b: str
    cluster: str
    tenant_id: str
    same_answer: bool = True
    split: str = ""


def _workload_same_words(queries: Sequence[Query], plan: WorkloadPlan) -> list[_WorkloadSameWords]:
    """Pairs of the plan's ``same_words``; refused where a question is not the tenant's, or two need one answer."""
    by_id, out = {query.query_id: query for query in queries}, []
    for place, row in enumerate(plan.same_words):
        references = set()
        for tenant, name in row.answered_as.items():
            asked = by_id.get(name)
            if asked is None or asked.tenant_id != tenant:
                raise EvalsetError(f"traffic.toml: {row.text!r} names {name!r}, which is no question of {tenant}")
            references.add(_answer_needed(asked))
            out.append(_WorkloadSameWords(f"same-words-{place}-{tenant}", asked.text, row.text, asked.cluster, tenant))
        if len(references) < 2 or len(references) < len(row.answered_as):
            raise EvalsetError(f"traffic.toml: {row.text!r} must need another answer of each of several tenants")
    return out


def _answer_needed(query: Query) -> tuple[str, str]:
    """The answer that a question needs: its reference, and without one an answer of its own."""
    return (query.reference, "") if query.reference else ("", query.query_id)


def _workload_paraphrases(
    queries: Iterable[Query], pairs: Sequence[Any]
) -> tuple[dict[Node, frozenset[Node]], dict[Node, set[tuple[str, str]]]]:
    """Texts that share an answer, by text, and of each text its family with its feature ("" where not said)."""
    same: dict[Any, set[Node]] = defaultdict(set)
    places: dict[Node, set[tuple[str, str]]] = defaultdict(set)
    for query in queries:
        node = query.tenant_id, query.text
        places[node].add((query.cluster, query.feature))
        same["query", query.tenant_id, query.cluster, query.feature, _answer_needed(query)].add(node)
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


def draw_workload(topics: Sequence[WorkloadTopic], plan: WorkloadPlan) -> list[dict[str, Any]]:
    """Rows of a stream in the order of time; the same on every machine."""
    rng = Random(plan.seed + 1)
    arrivals = _workload_arrivals(plan, rng)
    asked: dict[str, list[WorkloadTopic]] = {}
    for tenant in sorted(plan.tenants):
        asked[tenant] = sorted((t for t in topics if t.tenant_id == tenant), key=lambda _: rng.random())
        if not asked[tenant]:
            raise EvalsetError(f"traffic.toml names the tenant {tenant}, who asks no question")
    topics_by = {
        t: _WorkloadChoice(mine, [(k + 1) ** -plan.zipf for k in range(len(mine))]) for t, mine in asked.items()
    }
    tenants, openings, closings = (_WorkloadChoice(w, w.values()) for w in (plan.tenants, plan.openings, plan.closings))
    rows = []
    for pos, (at, burst_of) in enumerate(arrivals):
        tenant = burst_of or tenants.pick(rng)
        topic = topics_by[tenant].pick(rng)
        text, key = topic.texts[int(rng.random() * len(topic.texts))]
        opening, closing = openings.pick(rng), closings.pick(rng)
        text = _workload_question_with_typo(text, rng) if rng.random() < plan.typos else text
        user = f"{tenant}-{int(rng.random() * plan.users[tenant]):03d}"
        row = (pos, f"{opening}{text}{closing}", key, tenant, topic.cluster, at, topic.feature, user)
        names = ("pos", "query", "answer_key", "tenant_id", "cluster", "at", "feature", "user_id")
        rows.append(dict(zip(names, row, strict=True)))
    return rows


class _WorkloadChoice:
    """Draws from names by their weights."""

    def __init__(self, names: Iterable[Any], weights: Iterable[float]) -> None:
        self._names, self._sums = list(names), list(accumulate(weights))

    def pick(self, rng: Random) -> Any:
        """One of the names."""
        at = bisect(self._sums, rng.random() * self._sums[-1])
        return self._names[min(at, len(self._sums) - 1)]


def _workload_arrivals(plan: WorkloadPlan, rng: Random) -> list[tuple[str, str]]:
    """When each request comes, in order, and whose it is where a burst says so."""
    weekday = plan.start.weekday()
    days = _WorkloadChoice(range(plan.days), [plan.weekdays[(weekday + d) % 7] for d in range(plan.days)])
    hours, out, told = _WorkloadChoice(range(24), plan.hours), list[tuple[str, str]](), 0
    for burst in plan.bursts:
        n = min(round(burst.share * plan.requests), plan.requests - told)
        moments = (burst.start + timedelta(minutes=rng.random() * burst.minutes) for _ in range(n))
        out += [(_workload_utc(at), burst.tenant) for at in moments]
        told += n
    for _ in range(plan.requests - told):
        day, hour = days.pick(rng), hours.pick(rng)
        out.append((_workload_utc(plan.start + timedelta(days=day, hours=hour, seconds=int(rng.random() * 3600))), ""))
    return sorted(out)


def _workload_utc(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds")


def _workload_question_with_typo(text: str, rng: Random) -> str:
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
