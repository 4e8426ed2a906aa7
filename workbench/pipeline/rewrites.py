"""Vague questions made search queries, as an axis of the answer flow: who writes them, and what must be recorded."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workbench.codec import write_whole
from workbench.config import Settings
from workbench.errors import ConfigError, RecordingMiss, unknown_name
from workbench.evalset.evalset import Evalset, load_evalset
from workbench.inference.client import Client
from workbench.inference.messages import Request
from workbench.inference.recordings import FOLDER, Recordings
from workbench.pipeline.flow import is_function, is_vague, own_rewriter, rewriter_files
from workbench.records import Document, Query, content_hash
from workbench.rendering.numbers import counted
from workbench.routing.prompts import Prompts, load_prompts
from workbench.routing.record_answers import budgeted_client, record_all_answers
from workbench.routing.recorded_hits import Search, accepted_hits_search, recorded_hit_rows
from workbench.routing.recorded_outcomes import ANSWER, FIND, RecordedRequest, recording_file

OFF = "off"
REWRITES = "rewrites.jsonl"  # what the written queries find
BARE = "bare"  # a query is written from the question alone


def check_rewrite(name: str) -> None:
    """Refuse what is neither ``off``, nor a model, nor ``module:function``.

    Raises
    ------
    ConfigError
        Saying what it may be.
    """
    if name != OFF and "/" not in name and not is_function(name):
        raise ConfigError(
            f"rewrites are 'off', a model of prompts.toml, or module:function of your own; found {name!r}"
        )


def rewritten_file(evalset: Evalset, model: str) -> Path:
    """File of what one model was asked only because questions are rewritten: queries, and answers to what they find.

    A file of its own: decisions about the other answers rest on the bytes of theirs.
    """
    return evalset.path / FOLDER / f"rewritten-{model.replace('/', '-')}.jsonl"


@dataclass(frozen=True, slots=True)
class Rewriting:
    """What one rewriter makes of the questions.

    Attributes
    ----------
    found : mapping of str to sequence of str
        Ids of what is retrieved for each question, by its id; of one that is not vague as without rewriting.
    searched : mapping of (str, str) to sequence of str
        The same by the text that is searched for, and tenant.
    inputs : mapping of str to str
        Inputs of the fingerprint.
    """

    found: Mapping[str, Sequence[str]]
    searched: Mapping[tuple[str, str], Sequence[str]]
    inputs: Mapping[str, str] = field(default_factory=dict)


def vague_questions(evalset: Evalset) -> list[tuple[str, Query]]:
    """Questions that are rewritten, each with its split, in an order that has nothing to do with them."""
    queries = [(split, q) for split in ("dev", "test") for q in evalset.split(split).queries if is_vague(q.text)]
    return sorted(queries, key=lambda pair: content_hash(pair[1].query_id))


def _asked_query(prompts: Prompts, query: Query, by: str) -> Request:
    """What a model is asked that is to write a search query."""
    messages = prompts.messages(FIND, BARE, tenant_id=query.tenant_id, question=query.text, documents=())
    return Request(by, messages, max_tokens=prompts.features[FIND].max_tokens, **prompts.sampling)


def _rewritten_query(by: str, query: Query, prompts: Prompts, root: Path, recordings: Recordings | None) -> str | None:
    """Search query of a question; None where the model's is not recorded."""
    if is_function(by):
        return own_rewriter(by, root)(query.text, query.tenant_id).strip() or query.text
    response = recordings.find(_asked_query(prompts, query, by)) if recordings else None
    return None if response is None else response.text.strip() or query.text


def load_rewriting(
    by: str, evalset: Evalset, settings: Settings, hits: Mapping[str, Sequence[str]], recordings: Recordings | None
) -> Rewriting:
    """Queries of one rewriter out of its recordings, or from your function, with what they find.

    Raises
    ------
    ConfigError
        If your function cannot be imported.
    RecordingMiss
        If a query, or what one finds, is not recorded, with what records it.
    """
    path, prompts = evalset.path / FOLDER / REWRITES, load_prompts(evalset)
    rows = recorded_hit_rows(evalset, REWRITES) if path.is_file() else []
    known = {(row["query"], row["tenant_id"]): row["doc_ids"] for row in rows}
    found, searched, missing = dict(hits), dict[tuple[str, str], Sequence[str]](), list[str]()
    vague = vague_questions(evalset)
    for _, query in vague:
        text = _rewritten_query(by, query, prompts, settings.root, recordings)
        if text is None or (text, query.tenant_id) not in known:
            missing.append(query.query_id)
            continue
        found[query.query_id] = searched[text, query.tenant_id] = known[text, query.tenant_id]
    if missing:
        command = f"workbench record {evalset.name} --rewrites {by}"
        raise RecordingMiss(
            f"of {len(missing)} of {counted(len(vague), 'vague question')} of {evalset.name} the query that "
            f"{by} makes is not "
            f"recorded, or not what it finds; first {missing[0]!r}. Nothing was run. Record them with: {command}",
            item_id=missing[0],
            command=command,
        )
    inputs = {REWRITES: content_hash(path.read_bytes())} if vague else {}
    if is_function(by):
        inputs[f"rewriter {by}"] = content_hash(*(file.read_bytes() for file in rewriter_files(by, settings.root)))
    return Rewriting(found, searched, inputs)


def record_rewrites(
    evalset: str, by: str, *, settings: Settings, models: Sequence[str] = (), max_cost_usd: float | None = None,
    questions: int | None = None, tell: Callable[[str], None] = print, client: Client | None = None,
    search: Search | None = None,
) -> int:  # fmt: skip
    """Let one rewriter make a query of every vague question, search for it, and ask every model with what it finds.

    What is recorded already is not asked again.

    Parameters
    ----------
    by : str
        Model of ``prompts.toml``, or ``module:function`` of your own.
    models : sequence of str, optional
        Those whose answers are recorded; by default all of ``prompts.toml``.
    max_cost_usd : float, optional
        As for `workbench.routing.record_answers.record_answers`, of both parts together.
    questions : int, optional
        Only the first so many vague questions: a pilot.
    search : callable, optional
        By default the accepted retrieval.

    Returns
    -------
    int
        How many requests failed.

    Raises
    ------
    ConfigError
        As for `workbench.routing.record_answers.record_answers`, or if there is no such rewriter.
    """
    check_rewrite(by)
    if is_function(by):
        own_rewriter(by, settings.root)
    found = load_evalset(evalset, settings=settings)
    prompts, search = load_prompts(found), search or accepted_hits_search(found, settings)
    if questions is not None and questions < 1:
        raise ConfigError(f"questions is a number from 1 on, found {questions}")
    asks = [*models, *([] if is_function(by) else [by])]
    if unknown := [m for m in asks if m not in prompts.models]:
        raise ConfigError(unknown_name("model", unknown[0], prompts.models))
    vague = vague_questions(found)[:questions]
    client = budgeted_client(client or Client.open(settings), max_cost_usd)
    failed = 0
    if not is_function(by):
        asked = [RecordedRequest(q, split, FIND, BARE, _asked_query(prompts, q, by)) for split, q in vague]
        failed += record_all_answers(client, {by: _rewrite_recordings(found, by, live=True)}, asked, max_cost_usd, tell)
    own = None if is_function(by) else _rewrite_recordings(found, by)
    texts = {q.query_id: _rewritten_query(by, q, prompts, settings.root, own) for _, q in vague}
    hits = _keep_rewritten_hits(found, ((text, q) for _, q in vague if (text := texts[q.query_id]) is not None), search)
    documents, wanted = {d.doc_id: d for d in found.documents}, models or prompts.models
    asked = [
        each for split, q in vague if (text := texts[q.query_id]) is not None
        for each in _rewritten_answer_requests(
            prompts, q, split, [documents[i] for i in hits[text, q.tenant_id]], wanted)
    ]  # fmt: skip
    return failed + record_all_answers(
        client, {m: _rewrite_recordings(found, m, live=True) for m in wanted}, asked, max_cost_usd, tell
    )


def _rewritten_answer_requests(
    prompts: Prompts, q: Query, split: str, shown: Sequence[Document], models: Iterable[str]
) -> Iterator[RecordedRequest]:
    """What every model is asked with what was found, in every context that shows documents."""
    for context in [name for name, size in prompts.contexts.items() if size.documents]:
        messages = prompts.messages(ANSWER, context, tenant_id=q.tenant_id, question=q.text, documents=shown)
        limit = prompts.features[ANSWER].max_tokens
        for m in models:
            yield RecordedRequest(q, split, ANSWER, context, Request(m, messages, max_tokens=limit, **prompts.sampling))


def _rewrite_recordings(evalset: Evalset, model: str, *, live: bool = False) -> Recordings:
    """What a model was asked because of rewriting, and what it was asked anyway: the same answer is not asked twice."""
    return Recordings(rewritten_file(evalset, model), live=live, also=[recording_file(evalset, model)])


def _keep_rewritten_hits(
    evalset: Evalset, written: Iterable[tuple[str, Query]], search: Search
) -> dict[tuple[str, str], list[str]]:
    """Search for what was not searched for before, and keep what it finds."""
    path = evalset.path / FOLDER / REWRITES
    rows = recorded_hit_rows(evalset, REWRITES) if path.is_file() else []
    known = {(row["query"], row["tenant_id"]): row["doc_ids"] for row in rows}
    for text, query in written:
        if (text, query.tenant_id) not in known:
            known[text, query.tenant_id] = search(Query("", text, query.tenant_id))
    told = ({"tenant_id": tenant, "query": text, "doc_ids": ids} for (text, tenant), ids in sorted(known.items()))
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in told))
    return known
