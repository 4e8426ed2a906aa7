"""Recorded hits: what the accepted retrieval found for the prompts, what that depends on, and what it costs."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from workbench.codec import write_whole
from workbench.config import Settings
from workbench.errors import ConfigError, EvalsetError
from workbench.evalset.evalset import Evalset
from workbench.inference.embedding import load_embedder
from workbench.inference.encoders import MiniLM
from workbench.inference.prices import DECLARED
from workbench.inference.recordings import FOLDER
from workbench.records import Decision, Query, content_hash
from workbench.retrieval.arms import build_arm
from workbench.retrieval.searcher import Searcher
from workbench.retrieval.strategies import Arm
from workbench.routing.accepted_router import FOUND_WITH, HITS, retrieval_arm

SEARCHES = "searches.jsonl"
HITS_KEPT = 5


Search = Callable[[Query], list[str]]


def recorded_hit_rows(evalset: Evalset, name: str) -> list[dict[str, Any]]:
    """Rows of one file of what was found.

    Raises
    ------
    EvalsetError
        If it cannot be read.
    """
    path = evalset.path / FOLDER / name
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (OSError, ValueError) as error:
        told = f"workbench record {evalset.name}"
        raise EvalsetError(f"{path} cannot be read: {error!r}; record it with: {told}") from error


def hits_changed_since(evalset: Evalset) -> list[str]:
    """What hits depend on and is no longer as when they were recorded, as far as that was noted beside them."""
    path = evalset.path / FOLDER / FOUND_WITH
    before: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    now = hits_depend_on(evalset, retrieval_arm(evalset.path))
    return [name for name, value in before.items() if now.get(name) != value]


def renew_hits(evalset: Evalset, search: Search, tell: Callable[[str], None]) -> None:
    """Search for every question anew where the recorded hits no longer fit, and say why."""
    changed = hits_changed_since(evalset)
    gone = [name for name in (HITS, SEARCHES, FOUND_WITH) if not (evalset.path / FOLDER / name).is_file()]
    if not changed and not gone:
        return
    why = [f"the {name} changed" for name in changed] + [f"there is no {name}" for name in gone]
    tell(f"{HITS} of {evalset.name} is recorded anew: {', '.join(why)}; prompts that change with it are asked again")
    queries = sorted(evalset.queries, key=lambda q: q.query_id)
    _write_recorded_hits(evalset, HITS, ({"query_id": q.query_id, "doc_ids": search(q)} for q in queries))
    if gone or changed != ["questions"]:
        _write_recorded_hits(evalset, SEARCHES, ())
    text = json.dumps(hits_depend_on(evalset, retrieval_arm(evalset.path)), indent=1) + "\n"
    (evalset.path / FOLDER / FOUND_WITH).write_text(text, encoding="utf-8")


def keep_search_hits(evalset: Evalset, written: Iterable[tuple[str, str]], search: Search) -> None:
    """Record what search queries find, each a tenant and a text that a model wrote; what is recorded is kept."""
    known = {(row["tenant_id"], row["query"]): row["doc_ids"] for row in recorded_hit_rows(evalset, SEARCHES)}
    found = (
        {"tenant_id": t, "query": text, "doc_ids": known[t, text] if (t, text) in known else search(Query("", text, t))}
        for t, text in sorted(set(written))
    )
    _write_recorded_hits(evalset, SEARCHES, found)


def accepted_hits_search(evalset: Evalset, settings: Settings) -> Search:
    """Ids of the first five documents by the accepted retrieval arm, which is made ready when it is first asked."""

    def accepted() -> Arm:
        if not (path := _retrieval_decision_path(evalset)).is_file():
            raise ConfigError(f"contexts are what the accepted retrieval finds; accept a decision first ({path})")
        return build_arm(Decision.load(path).parameters)

    return search_hits_by(lambda: ready_hits_searcher(evalset, settings, accepted()))


def search_hits_by(make_ready: Callable[[], tuple[Searcher, Arm]]) -> Search:
    """Ids of the first five documents that an arm finds; it is made ready when it is first asked."""
    ready = cache(make_ready)

    def search(query: Query) -> list[str]:
        searcher, arm = ready()
        return [hit.doc_id for hit in searcher.search(arm, query, HITS_KEPT)]

    return search


def ready_hits_searcher(evalset: Evalset, settings: Settings, arm: Arm) -> tuple[Searcher, Arm]:
    """Searcher of an evalset's corpus whose table of the arm is there, and the arm."""
    tokenizer = MiniLM(settings.cache / "weights")
    embedders = {name: load_embedder(name, settings) for name in arm.embedders}
    searcher = Searcher(evalset.documents, evalset.inputs["corpus"], settings, embedders, tokenizer)
    searcher.prepare(arm)
    return searcher, arm


def retrieval_usd(evalset: Evalset) -> float:
    """Dollars of retrieving for one prompt, by the accepted retrieval decision; 0 without one."""
    path = _retrieval_decision_path(evalset)
    if not path.is_file():
        return 0.0
    decision = Decision.load(path)
    costs = [c.cost_usd_per_1k for c in decision.claims if c.arm == decision.arm]
    if not costs:
        raise EvalsetError(f"{path} has no claim about its own arm {decision.arm!r}, so retrieving has no cost")
    return costs[0] / 1000


def retrieval_amounts(evalset: Evalset) -> dict[str, float]:
    """What retrieving for one prompt uses of each operation; its dollars where the decision does not say."""
    if not (usd := retrieval_usd(evalset)):
        return {}
    decision = Decision.load(_retrieval_decision_path(evalset))
    counted = decision.claim(decision.arm).amounts
    return {name: n / 1000 for name, n in counted.items()} or {f"retrieval{DECLARED}": usd}


def _retrieval_decision_path(evalset: Evalset) -> Path:
    return evalset.path / "decisions" / "retrieval.json"


def hits_depend_on(evalset: Evalset, arm: str) -> dict[str, str]:
    """Hashes of what an arm's hits depend on; ``arm`` is that of its parameters."""
    questions = sorted(f"{q.query_id}\t{q.tenant_id}\t{q.text}" for q in evalset.queries)
    return {
        "retrieval arm": arm,
        "corpus": evalset.inputs.get("corpus", ""),
        "questions": content_hash(*questions),
    }


def _write_recorded_hits(evalset: Evalset, name: str, rows: Iterable[dict[str, object]]) -> None:
    """Write one file, whole or not at all."""
    path = evalset.path / FOLDER / name
    path.parent.mkdir(exist_ok=True)
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


@dataclass(frozen=True, slots=True)
class ArmHits:
    """What another retrieval arm than the accepted one found.

    Attributes
    ----------
    arm : str
        Its name.
    amounts : mapping of str to float
        What retrieving for one prompt uses of each operation, as prices name them.
    found_with : mapping of str to str
        Hashes of what the hits depend on.
    hits : mapping of str to sequence of str
        Best documents by question, best first.
    searches : mapping of (str, str) to sequence of str
        The same by tenant and search query that a model wrote.
    """

    arm: str
    amounts: Mapping[str, float]
    found_with: Mapping[str, str]
    hits: Mapping[str, Sequence[str]]
    searches: Mapping[tuple[str, str], Sequence[str]]

    def level(self, context: str) -> str:
        """Name of a context that is filled by this arm; that of the accepted one is the context's own."""
        return f"{context} of {self.arm.replace(' · ', '/')}"
