"""Levels of retrieval: other arms than the accepted one, as far as answers to their prompts are recorded.

An answer depends on what was retrieved. What another arm finds is searched once and kept in
``recordings/hits-ARM.jsonl``, without a model; where it finds the same documents in the same order, the prompt is the
same and its answer is recorded already. An arm is a level of a factorial once *every* prompt of it is answered: those
that happen to be are the ones on which the arms agree, and would show no difference between them.
"""

import json
import math
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import polars as pl

from workbench.codec import from_json, write_whole
from workbench.config import Settings
from workbench.errors import EvalsetError
from workbench.evalset.evalset import Evalset
from workbench.inference.batch import CostEstimate, estimate_batch
from workbench.inference.messages import LOCAL, Request
from workbench.inference.prices import PriceTable, project_prices
from workbench.inference.recordings import FOLDER
from workbench.records import Decision, Query, content_hash, parameters_of
from workbench.rendering.numbers import counted, usd
from workbench.retrieval.arms import is_fitted, named_arm
from workbench.retrieval.searcher import Searcher
from workbench.retrieval.strategies import Arm
from workbench.routing.recorded_hits import ArmHits, Search, hits_depend_on, ready_hits_searcher, search_hits_by
from workbench.routing.recorded_outcomes import RecordedRequest, recorded_requests_of, replayed_outcomes, replays_of

BYTES_PER_TOKEN = 4
_ANY = "hits-*.jsonl"


@dataclass(frozen=True, slots=True)
class _LevelHead:
    """First line of a file of hits: the arm, what it uses for one prompt, and what the hits depend on."""

    arm: str
    amounts: Mapping[str, float]
    found_with: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _LevelHits:
    """Any other line: documents for a question, or for a search query of a tenant."""

    doc_ids: tuple[str, ...]
    query_id: str = ""
    tenant_id: str = ""
    query: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """One context filled by another arm.

    Attributes
    ----------
    answers : int
        Requests that it takes: every prompt, asked of every model.
    missing : tuple of Request
        Those without a recorded answer.
    frame : DataFrame or None
        Outcomes as `workbench.routing.recorded_outcomes.recorded_outcomes` gives them; None unless everything is
        recorded.
    inputs : mapping of str to str
        Hashes of what was read, for the fingerprint.
    """

    retrieved: ArmHits
    context: str
    answers: int
    missing: tuple[Request, ...]
    frame: pl.DataFrame | None
    inputs: Mapping[str, str]

    @property
    def name(self) -> str:
        """Context and arm."""
        return self.retrieved.level(self.context)


def level_hits_file(evalset: Evalset, arm: str) -> Path:
    """File of what another arm found."""
    return evalset.path / FOLDER / f"hits-{re.sub(r'[^A-Za-z0-9_]+', '-', arm).strip('-')}.jsonl"


def retrieve_level(
    evalset: Evalset, settings: Settings, arm: str, tell: Callable[[str], None], *, searcher: Searcher | None = None
) -> tuple[ArmHits, Search]:
    """What another arm finds for every question, as it is recorded or else searched and recorded now; and its search.

    Parameters
    ----------
    arm : str
        Name of an arm of 01_retrieval that is not fitted.
    searcher : Searcher, optional
        Stands in place of one with the arm's own embedders.

    Raises
    ------
    ConfigError
        If no arm is called so, or its name does not say all of it.
    """
    built = named_arm(arm)

    @cache
    def ready() -> tuple[Searcher, Arm]:
        if searcher is None:
            return ready_hits_searcher(evalset, settings, built)
        searcher.prepare(built)
        return searcher, built

    search = search_hits_by(ready)
    path = level_hits_file(evalset, arm)
    if path.is_file() and not _stale_level_hits(evalset, before := _read_level_hits(path)):
        return before, search
    tell(f"{path.name} of {evalset.name} is recorded: what {arm} finds for {counted(len(evalset.queries), 'question')}")
    queries = sorted(evalset.queries, key=lambda q: q.query_id)
    hits = {q.query_id: search(q) for q in queries}
    used = ready()[0].amounts(built, queries, project_prices(settings.root))
    found = ArmHits(arm, {name: n / 1000 for name, n in used.items()}, level_found_with(evalset, arm), hits, {})
    write_level_hits(evalset, found)
    return found, search


def keep_level_hits(
    evalset: Evalset, retrieved: ArmHits, written: Iterable[tuple[str, str]], search: Search
) -> ArmHits:
    """Record what search queries find by another arm, each a tenant and a text; what is recorded is kept."""
    known = retrieved.searches
    found = {
        (tenant, text): known[tenant, text] if (tenant, text) in known else search(Query("", text, tenant))
        for tenant, text in sorted(set(written))
    }
    if found != known:
        retrieved = replace(retrieved, searches=found)
        write_level_hits(evalset, retrieved)
    return retrieved


def read_levels(evalset: Evalset, prices: PriceTable, prompt_ids: Collection[str]) -> tuple[list[Level], list[str]]:
    """Levels of the arms whose hits are recorded, each in every context that shows documents.

    Parameters
    ----------
    prompt_ids : collection of str
        Prompts that a level must have answers to: those of the accepted arm.

    Returns
    -------
    list of Level
        By file and context; one without outcomes is not covered.
    list of str
        Why the hits of an arm say nothing about today, arm by arm.

    Raises
    ------
    EvalsetError
        If a file of hits is none.
    """
    levels, notes, clients = list[Level](), list[str](), replays_of(evalset, prices)
    recorded = {model: client.recordings for model, client in clients.items() if client.recordings is not None}
    for path in sorted((evalset.path / FOLDER).glob(_ANY)):
        retrieved = _read_level_hits(path)
        if changed := _stale_level_hits(evalset, retrieved):
            again = _level_command(evalset, retrieved.arm)
            notes.append(f"what {retrieved.arm} found is from before the {' and the '.join(changed)} changed; renew "
                         f"it with: {again}")  # fmt: skip
            continue
        asked: dict[str, list[RecordedRequest]] = {}
        for one in recorded_requests_of(evalset, retrieved=retrieved):
            if one.prompt_id in prompt_ids:
                asked.setdefault(one.context, []).append(one)
        for context, mine in asked.items():
            missing = tuple(a.request for a in mine if not recorded[a.request.model].count(a.request))
            whole = None if missing else _replayed_level(evalset, prices, retrieved, mine)
            levels.append(Level(retrieved, context, len(mine), missing, *(whole or (None, {}))))
    return levels, notes


def _replayed_level(
    evalset: Evalset, prices: PriceTable, retrieved: ArmHits, asked: Sequence[RecordedRequest]
) -> tuple[pl.DataFrame, dict[str, str]] | None:
    """Outcomes of one context, and what was read for them; None where something that a query finds is not recorded."""
    clients, level = replays_of(evalset, prices), retrieved.level(asked[0].context)
    usd = sum(n * prices.rate(name) for name, n in retrieved.amounts.items())
    frame, left, _ = replayed_outcomes(evalset, prices, asked, clients, retrieved.searches, (usd, retrieved.amounts))
    read = {f"recordings of {m} with {level}": c.recordings.read_sha256() for m, c in clients.items() if c.recordings}
    read[f"hits of {retrieved.arm}"] = content_hash(level_hits_file(evalset, retrieved.arm).read_bytes())
    return None if left else (frame, read)


def uncovered_levels(
    evalset: Evalset, prices: PriceTable, levels: Sequence[Level], judged: Collection[str]
) -> list[str]:
    """Sentences about arms that are no level: how many answers are not recorded, what they cost, how to get them.

    ``judged`` are the arms of the accepted retrieval decision but its own: those without recorded hits are named.
    """
    told, arms = list[str](), list(dict.fromkeys(level.retrieved.arm for level in levels))
    for arm in arms:
        mine = [level for level in levels if level.retrieved.arm == arm]
        if all(level.frame is not None for level in mine):
            continue
        missing = [request for level in mine for request in level.missing]
        worst = estimate_batch(missing, prices)
        total = sum(level.answers for level in mine)
        parts = ", ".join(f"{len(level.missing):,} with {level.context}" for level in mine if level.frame is None)
        hours = core_hours(missing, prices)
        took = f", about {hours:.1f} hours on one core" if hours else ""
        told.append(
            f"{arm} is no level of retrieval here: of {counted(total, 'answer')} to its prompts "
            f"{len(missing):,} are not "
            f"recorded ({parts}); they cost at most {usd(worst.worst_usd, up=True)}{took}: "
            f"{_level_command(evalset, arm, worst)}"
        )
    unknown = [arm for arm in judged if arm not in arms]
    if named := [arm for arm in unknown if not is_fitted(arm)]:
        told.append(
            f"what {', '.join(named)} found is not recorded, which takes no model; to record it and be told what "
            f"answers to its prompts cost: {_level_command(evalset, named[0])}"
        )
    if fitted := [arm for arm in unknown if is_fitted(arm)]:
        told.append(
            f"{', '.join(fitted)} can be no level of retrieval: its weights are kept where it is accepted alone"
        )
    return told


def levels_sentence(prices: PriceTable, names: Sequence[str], levels: Sequence[Level]) -> str:
    """Say which levels retrieval has, and what the arm that lacks least takes to be one."""
    told = f"Levels of retrieval: {', '.join(names)}"
    missing: dict[str, list[Request]] = {}
    for level in levels:
        if level.frame is None:
            missing.setdefault(level.retrieved.arm, []).extend(level.missing)
    if not missing:
        return told
    arm = min(missing, key=lambda name: (len(missing[name]), name))
    worst = estimate_batch(missing[arm], prices)
    return f"{told}; to have {arm} too takes {counted(worst.requests, 'call')}, at most {usd(worst.worst_usd, up=True)}"


def judged_beside(evalset: Evalset) -> list[str]:
    """Arms that the accepted retrieval decision judged beside its own."""
    path = evalset.path / "decisions" / "retrieval.json"
    decision = Decision.load(path) if path.is_file() else None
    return [c.arm for c in decision.claims if c.arm != decision.arm] if decision else []


def core_hours(still: Sequence[Request], prices: PriceTable) -> float:
    """Processor hours of what local models are still to answer; they are priced by processor time."""
    local = [r for r in still if r.model.startswith(LOCAL)]
    tokens = [sum(len(str(m["content"]).encode()) for m in r.messages) // BYTES_PER_TOKEN for r in local]
    spent = sum(
        prices.worst_nanos(r.model, input_tokens=n, max_tokens=r.max_tokens) for r, n in zip(local, tokens, strict=True)
    )
    return spent / 1e9 / prices.usd_per_vcpu_hour


def _level_command(evalset: Evalset, arm: str, worst: CostEstimate | None = None) -> str:
    paid = f" --max-cost-usd {math.ceil(worst.worst_usd * 1e4) / 1e4:g}" if worst and worst.requests else ""
    return f"workbench record {shlex.quote(evalset.name)} --retrieval {shlex.quote(arm)}{paid}"


def level_found_with(evalset: Evalset, arm: str) -> dict[str, str]:
    """Hashes of what the hits of an arm depend on, as it is now."""
    return hits_depend_on(evalset, content_hash(json.dumps(parameters_of(named_arm(arm)), sort_keys=True)))


def _stale_level_hits(evalset: Evalset, retrieved: ArmHits) -> list[str]:
    """What the hits of an arm depend on and is no longer as it was."""
    now = level_found_with(evalset, retrieved.arm)
    return [name for name, value in now.items() if retrieved.found_with.get(name) != value]


def _read_level_hits(path: Path) -> ArmHits:
    """Hits of one file, which says itself of which arm."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise EvalsetError(f"{path} cannot be read: {error!r}") from error
    head = from_json(_LevelHead, lines[0], f"{path}:1 is no head of hits", error=EvalsetError)
    rows = [
        from_json(_LevelHits, line, f"{path}:{number} is no hits", error=EvalsetError)
        for number, line in enumerate(lines[1:], start=2)
        if line
    ]
    hits = {row.query_id: row.doc_ids for row in rows if row.query_id}
    searches = {(row.tenant_id, row.query): row.doc_ids for row in rows if not row.query_id}
    return ArmHits(head.arm, head.amounts, head.found_with, hits, searches)


def write_level_hits(evalset: Evalset, retrieved: ArmHits) -> None:
    """Write what another arm found, whole or not at all."""
    rows: list[dict[str, object]] = [
        {"arm": retrieved.arm, "amounts": dict(retrieved.amounts), "found_with": dict(retrieved.found_with)}
    ]
    rows += [{"query_id": query_id, "doc_ids": list(ids)} for query_id, ids in retrieved.hits.items()]
    rows += [
        {"tenant_id": tenant, "query": text, "doc_ids": list(ids)} for (tenant, text), ids in retrieved.searches.items()
    ]
    path = level_hits_file(evalset, retrieved.arm)
    path.parent.mkdir(exist_ok=True)
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
