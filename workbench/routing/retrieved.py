"""What the accepted retrieval finds for an evalset's questions: recorded, so that prompts are the same everywhere."""

import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from workbench.config import Settings
from workbench.errors import ConfigError, EvalsetError
from workbench.evalset.evalset import Evalset
from workbench.inference.embedding import MiniLM, load_embedder
from workbench.inference.recordings import FOLDER
from workbench.records import Decision, Query, content_hash
from workbench.retrieval.arms import build_arm
from workbench.retrieval.searcher import Searcher
from workbench.retrieval.strategies import Arm
from workbench.routing.route import FOUND_WITH, HITS, retrieval_arm

SEARCHES = "searches.jsonl"
HITS_KEPT = 5
Search = Callable[[Query], list[str]]


def recorded_rows(evalset: Evalset, name: str) -> list[dict[str, Any]]:
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


def changed_since(evalset: Evalset) -> list[str]:
    """What hits depend on and is no longer as when they were recorded, as far as that was noted beside them."""
    path = evalset.path / FOLDER / FOUND_WITH
    before: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    now = _depends_on(evalset)
    return [name for name, value in before.items() if now.get(name) != value]


def renew(evalset: Evalset, search: Search, tell: Callable[[str], None]) -> None:
    """Search for every question anew where the recorded hits no longer fit, and say why."""
    changed = changed_since(evalset)
    gone = [name for name in (HITS, SEARCHES, FOUND_WITH) if not (evalset.path / FOLDER / name).is_file()]
    if not changed and not gone:
        return
    why = [f"the {name} changed" for name in changed] + [f"there is no {name}" for name in gone]
    tell(f"{HITS} of {evalset.name} is recorded anew: {', '.join(why)}; prompts that change with it are asked again")
    queries = sorted(evalset.queries, key=lambda q: q.query_id)
    _write(evalset, HITS, ({"query_id": q.query_id, "doc_ids": search(q)} for q in queries))
    if gone or changed != ["questions"]:
        _write(evalset, SEARCHES, ())
    text = json.dumps(_depends_on(evalset), indent=1) + "\n"
    (evalset.path / FOLDER / FOUND_WITH).write_text(text, encoding="utf-8")


def keep_searches(evalset: Evalset, written: Iterable[tuple[str, str]], search: Search) -> None:
    """Record what search queries find, each a tenant and a text that a model wrote; what is recorded is kept."""
    known = {(row["tenant_id"], row["query"]): row["doc_ids"] for row in recorded_rows(evalset, SEARCHES)}
    found = (
        {"tenant_id": t, "query": text, "doc_ids": known[t, text] if (t, text) in known else search(Query("", text, t))}
        for t, text in sorted(set(written))
    )
    _write(evalset, SEARCHES, found)


def accepted_search(evalset: Evalset, settings: Settings) -> Search:
    """Ids of the first five documents by the accepted retrieval arm, which is made ready when it is first asked."""

    @cache
    def ready() -> tuple[Searcher, Arm]:
        if not (path := _decision_path(evalset)).is_file():
            raise ConfigError(f"contexts are what the accepted retrieval finds; accept a decision first ({path})")
        arm = build_arm(Decision.load(path).parameters)
        tokenizer = MiniLM(settings.cache / "weights")
        embedder = tokenizer if arm.embedder == "minilm" else load_embedder(arm.embedder, settings)
        searcher = Searcher(evalset.documents, evalset.inputs["corpus"], settings, embedder, tokenizer)
        searcher.prepare(arm)
        return searcher, arm

    def search(query: Query) -> list[str]:
        searcher, arm = ready()
        return [hit.doc_id for hit in searcher.search(arm, query, HITS_KEPT)]

    return search


def retrieval_usd(evalset: Evalset) -> float:
    """Dollars of retrieving for one prompt, by the accepted retrieval decision; 0 without one."""
    path = _decision_path(evalset)
    if not path.is_file():
        return 0.0
    decision = Decision.load(path)
    costs = [c.cost_usd_per_1k for c in decision.claims if c.arm == decision.arm]
    if not costs:
        raise EvalsetError(f"{path} has no claim about its own arm {decision.arm!r}, so retrieving has no cost")
    return costs[0] / 1000


def _decision_path(evalset: Evalset) -> Path:
    return evalset.path / "decisions" / "retrieval.json"


def _depends_on(evalset: Evalset) -> dict[str, str]:
    questions = sorted(f"{q.query_id}\t{q.tenant_id}\t{q.text}" for q in evalset.queries)
    return {
        "retrieval arm": retrieval_arm(evalset.path),
        "corpus": evalset.inputs.get("corpus", ""),
        "questions": content_hash(*questions),
    }


def _write(evalset: Evalset, name: str, rows: Iterable[dict[str, object]]) -> None:
    """Write one file, whole or not at all."""
    path = evalset.path / FOLDER / name
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    part.replace(path)
