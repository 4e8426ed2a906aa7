"""Recorded answers as outcomes: the hits in their prompts, what was asked, and whether an answer is right."""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from workbench.errors import ConfigError, EvalsetError, RecordingMiss
from workbench.evalset.evalset import Evalset
from workbench.evalset.outcomes import STORED_SCHEMA
from workbench.inference.call_attempt import Books
from workbench.inference.client import Client
from workbench.inference.messages import LOCAL, Request, Response, Usage
from workbench.inference.prices import MS_PER_HOUR, PriceTable
from workbench.inference.recordings import FOLDER, Recordings, is_recorded_copy, record_command
from workbench.records import Decision, Query, content_hash
from workbench.rendering.numbers import counted
from workbench.routing.accepted_router import HITS
from workbench.routing.prompts import Prompts, load_prompts
from workbench.routing.recorded_hits import (
    SEARCHES,
    ArmHits,
    hits_changed_since,
    recorded_hit_rows,
    retrieval_amounts,
    retrieval_usd,
)


def answer_names_accepted(text: str, accept: Sequence[str]) -> bool:
    """Whether the text names one of the accepted names as a whole word.

    >>> answer_names_accepted("Use `df.merge(how='left_anti')`.", ["left_anti"])
    True
    >>> answer_names_accepted("premerged", ["merge"]), answer_names_accepted("C++, not C#", ["C"])
    (False, False)
    """
    return any(re.search(_whole_name(name), text, re.IGNORECASE) for name in accept)


def answer_says(text: str, accept: Sequence[str]) -> bool:
    """Whether the first word of the text is the accepted one, yes or no.

    >>> answer_says("No, it does not.", ["no"]), answer_says("Nobody knows", ["no"])
    (True, False)
    """
    first = re.match(r"\W*(\w+)", text)
    return first is not None and first[1].casefold() in {a.casefold() for a in accept}


def found_relevant(doc_ids: Sequence[str], grades: Mapping[str, int], *, depth: int = 5) -> bool:
    """Whether one of the first ``depth`` documents was judged relevant."""
    return any(grades.get(doc_id, 0) > 0 for doc_id in doc_ids[:depth])


def is_yes_no(accept: Collection[str]) -> bool:
    """Whether the question is one to be answered by yes or no."""
    return {a.casefold() for a in accept} <= {"yes", "no"}


def _whole_name(name: str) -> str:
    before = r"(?<!\w)" if name[:1].isalnum() else ""
    after = r"(?!\w|\+\+|#(?!\w))" if name[-1:].isalnum() else ""  # C++ and C# are other names than C
    return before + re.escape(name) + after


def require_recorded(evalset: Evalset, models: Sequence[str] = ()) -> None:
    """Refuse an evalset that has no recorded answers, of each of these models or of any of ``prompts.toml``.

    Raises
    ------
    ConfigError
        With the command that records them, or if there is no ``prompts.toml``.
    """
    known = load_prompts(evalset).models
    files = {model: recording_file(evalset, model) for model in models or known}
    missing = [model for model, file in files.items() if not file.is_file()]
    if missing and (models or len(missing) == len(files)):
        raise ConfigError(
            f"no answers of {', '.join(missing)} are recorded for {evalset.path.name!r} ({files[missing[0]]}); "
            f"record them: workbench record {evalset.path.name} --max-cost-usd USD"
        )


ANSWER, FIND = "answer", "find"


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One question, asked by one feature with one context of one model; ``retrieved`` by another than the accepted."""

    query: Query
    split: str
    feature: str
    context: str
    request: Request
    retrieved: ArmHits | None = None

    @property
    def prompt_id(self) -> str:
        """The question in this feature; what all models and contexts share."""
        return f"{self.feature}:{self.query.query_id}"

    @property
    def item_id(self) -> str:
        """The question in this feature with this context, and the arm that filled it."""
        return f"{self.prompt_id}:{self.retrieved.level(self.context) if self.retrieved else self.context}"


def recording_file(evalset: Evalset, model: str) -> Path:
    """File of one model's recorded answers."""
    return evalset.path / FOLDER / f"{model.replace('/', '-')}.jsonl"


def recorded_requests_of(
    evalset: Evalset, *, models: Sequence[str] = (), retrieved: ArmHits | None = None
) -> Iterator[RecordedRequest]:
    """Every request to these models, by default all of ``prompts.toml``, in an order that has nothing to do with it.

    Each question comes first in its own feature; then those of other features as plain answers, so that whatever
    part has been recorded is a fair sample. With what another arm ``retrieved``, they are those that show documents:
    the others are the same.

    Raises
    ------
    EvalsetError
        If a question has no recorded hits, or a hit is no document of the corpus.
    """
    prompts = load_prompts(evalset)
    models = models or prompts.models
    contexts = [name for name, context in prompts.contexts.items() if retrieved is None or context.documents > 0]
    hits: Mapping[str, Sequence[str]]
    if retrieved is None:
        hits = {row["query_id"]: row["doc_ids"] for row in recorded_hit_rows(evalset, HITS)}
    else:
        hits = retrieved.hits
    documents = {d.doc_id: d for d in evalset.documents}
    queries = [(s, q) for s in ("dev", "test") for q in evalset.split(s).queries]
    queries.sort(key=lambda pair: content_hash(pair[1].query_id))
    own = [(s, q, q.feature) for s, q in queries]
    plain = [(s, q, ANSWER) for s, q in queries if q.feature != ANSWER]
    for split, query, feature in [*own, *plain]:
        try:
            found = [documents[doc_id] for doc_id in hits[query.query_id]]
        except KeyError as error:
            raise EvalsetError(f"{HITS} does not fit the corpus and questions of {evalset.name}: {error}") from error
        for context in contexts:
            messages = prompts.messages(
                feature, context, tenant_id=query.tenant_id, question=query.text, documents=found
            )
            for model in models:
                limit = prompts.features[feature].max_tokens
                request = Request(model, messages, max_tokens=limit, **prompts.sampling)
                yield RecordedRequest(query, split, feature, context, request, retrieved)


def recorded_outcomes(evalset: Evalset, prices: PriceTable) -> tuple[pl.DataFrame, dict[str, str], list[str]]:
    """Outcomes of every model and context from the recordings, replayed through the client.

    Returns
    -------
    DataFrame
        Columns of `STORED_SCHEMA`; prompts that every model answered with every context. ``amounts`` is what each
        answer uses of each thing that has a price, as JSON.
    dict of str to str
        Hashes of what was read, for the fingerprint.
    list of str
        Sentences about what is missing.

    Raises
    ------
    RecordingMiss
        If a recorded answer is lost, and no changed input explains it.
    """
    replays = replays_of(evalset, prices)
    searches = {(r["tenant_id"], r["query"]): r["doc_ids"] for r in recorded_hit_rows(evalset, SEARCHES)}
    extra_usd, everything = retrieval_usd(evalset), list(recorded_requests_of(evalset))
    refuse_lost_recordings(
        evalset, everything, {m: c.recordings for m, c in replays.items() if c.recordings is not None}
    )
    retrieving = (extra_usd, retrieval_amounts(evalset))
    frame, missing, copies = replayed_outcomes(evalset, prices, everything, replays, searches, retrieving)
    inputs = {f"recordings of {m}": c.recordings.read_sha256() for m, c in replays.items() if c.recordings}
    inputs[SEARCHES] = content_hash((evalset.path / FOLDER / SEARCHES).read_bytes())
    inputs |= {"retrieval usd": f"{extra_usd:.3e}", **_prompt_inputs(evalset)}
    total = frame["prompt_id"].n_unique() + len(missing)
    out = f"{len(missing)} of {counted(total, 'prompt is', 'prompts are')} left out"
    notes = [f"{out}: not all answers to them are recorded"] if missing else []
    if copies:
        notes.append(f"no repeats, but copies of earlier ones, as of a cache: {counted(copies, 'recorded answer')}")
    if changed := hits_changed_since(evalset):
        told = f"renew them with: workbench record {evalset.name}"
        notes.append(f"The prompts hold what was found before the {' and the '.join(changed)} changed; {told}")
    return frame, inputs, notes


def replays_of(evalset: Evalset, prices: PriceTable) -> dict[str, Client]:
    """For each model of ``prompts.toml`` a client that gives its recorded answers, each once."""
    models = load_prompts(evalset).models
    return {m: Client({}, Books(prices), recordings=Recordings(recording_file(evalset, m))) for m in models}


def replayed_outcomes(
    evalset: Evalset,
    prices: PriceTable,
    asked: Iterable[RecordedRequest],
    replays: Mapping[str, Client],
    searches: Mapping[tuple[str, str], Sequence[str]],
    retrieving: tuple[float, Mapping[str, float]],
) -> tuple[pl.DataFrame, set[str], int]:
    """Outcomes of recorded answers, as `recorded_outcomes` gives them.

    Parameters
    ----------
    searches : mapping of (str, str) to sequence of str
        Documents by tenant and search query that a model wrote.
    retrieving : pair of float and mapping of str to float
        Dollars of retrieving for one prompt, and what it uses of each operation.

    Returns
    -------
    tuple
        The outcomes; prompts that are left out, because something of them is not recorded; answers that are copies.
    """
    prompts, rows, missing, copies = load_prompts(evalset), [], set[str](), 0
    for one in asked:
        client = replays[one.request.model]
        recorded = client.recordings
        if one.prompt_id in missing or recorded is None or not recorded.count(one.request):
            missing.add(one.prompt_id)
            continue
        answers = _recorded_answers(client, one, prompts)
        fresh = [response for i, response in enumerate(answers) if not is_recorded_copy(answers, i)]
        copies += len(answers) - len(fresh)
        usd, more = retrieving if prompts.contexts[one.context].documents > 0 else (0.0, {})
        for repeat, response in enumerate(fresh):
            if (quality := recorded_quality(one, response, evalset, searches)) is None:
                missing.add(one.prompt_id)
                break
            used = prices.token_amounts(one.request.model, response.usage or Usage()) | dict(more)
            rows.append((*recorded_outcome_row(one, response, quality, prices, usd), repeat, json.dumps(used)))
    schema = STORED_SCHEMA | {"amounts": pl.String}
    frame = pl.DataFrame(rows, schema=schema, orient="row").filter(~pl.col("prompt_id").is_in(list(missing)))
    return frame, missing, copies


def _recorded_answers(client: Client, asked: RecordedRequest, prompts: Prompts) -> list[Response]:
    """Every recorded answer to one request, in the order in which they came."""
    request, recorded = asked.request, client.recordings
    n = recorded.count(request, asked.item_id) if recorded else 1
    if recorded and asked.retrieved:  # the accepted arm may have found the same, and its prompt be answered
        n = n or recorded.count(request)
    given = {"model": request.model, "max_tokens": request.max_tokens, "item_id": asked.item_id, **prompts.sampling}
    return [client.complete(request.messages, **given).response for _ in range(max(n, 1))]


def refuse_lost_recordings(
    evalset: Evalset, asked: Sequence[RecordedRequest], recordings: Mapping[str, Recordings]
) -> None:
    """Refuse recordings in which something is lost; what was never recorded is none.

    Each model is asked in the order of `recorded_requests_of`, so that a pilot or a session that was cut off leaves the
    first requests of each kind answered. Lost is therefore what has no answer although a later request of its kind has
    one, what is the only model's without any, and what the accepted decision judged.

    Raises
    ------
    RecordingMiss
        If there is such a request, unless what prompts are made from has changed since: then they are others.
    """
    answered = [bool(recordings[a.request.model].count(a.request)) for a in asked]
    last = {_recorded_request_kind(a): place for place, a in enumerate(asked) if answered[place]}
    models = {model for model, *_ in last}
    decided, explained = _decided_prompts(evalset)
    lost = [
        a
        for place, a in enumerate(asked)
        if not answered[place]
        and (
            place < last.get(_recorded_request_kind(a), -1)
            or (models and a.request.model not in models)
            or a.prompt_id in decided
        )
    ]
    if not lost or explained:
        return
    first = lost[0]
    path = recordings[first.request.model].path
    command = record_command(path, first.request.model)
    raise RecordingMiss(
        f"{counted(len(lost), 'recorded answer')} of {evalset.name} lost, first that of {first.request.model} to item "
        f"{first.item_id!r} in {path.name}; restore the file, or record it with: {command}",
        item_id=first.item_id,
        command=command,
    )


def _recorded_request_kind(asked: RecordedRequest) -> tuple[str, str, str, bool]:
    """Requests that are asked in one order, and are changed by the same line of ``prompts.toml``."""
    return asked.request.model, asked.feature, asked.context, asked.feature == asked.query.feature


def _decided_prompts(evalset: Evalset) -> tuple[set[str], list[str]]:
    """Prompts that the accepted routing decision judged; and which inputs of prompts have changed, since it or hits."""
    path, changed = evalset.path / "decisions" / "routing.json", hits_changed_since(evalset)
    scores = path.with_suffix(".scores.parquet")
    if not (path.is_file() and scores.is_file()):
        return set(), changed
    before = Decision.load(path).fingerprint.inputs
    now = {"queries": evalset.inputs.get("queries"), "corpus": evalset.inputs.get("corpus"), **_prompt_inputs(evalset)}
    changed += [name for name, value in now.items() if before.get(name) not in (None, value)]
    return set(pl.read_parquet(scores)["item_id"]), changed


def _prompt_inputs(evalset: Evalset) -> dict[str, str]:
    """Hashes of the files that prompts are made from."""
    files = {HITS: evalset.path / FOLDER / HITS, "prompts": evalset.path / "prompts.toml"}
    return {name: content_hash(path.read_bytes()) for name, path in files.items()}


def recorded_outcome_row(
    asked: RecordedRequest, response: Response, quality: float, prices: PriceTable, extra_usd: float
) -> tuple[object, ...]:
    """Row of `OUTCOMES_SCHEMA` of one answer; ``extra_usd`` is what retrieving for it cost."""
    usage = response.usage
    if usage is None:
        raise EvalsetError(f"the recorded answer to {asked.item_id} has no token counts, so it has no cost")
    cost = prices.cost_nanos(asked.request.model, usage) / 1e9
    latency_ms = response.latency_ms
    if asked.request.model.startswith(LOCAL):  # priced by processor time, which no busy machine stretches
        latency_ms = cost / prices.usd_per_vcpu_hour * MS_PER_HOUR
    query = asked.query
    return (asked.prompt_id, query.text, asked.request.model, asked.context, quality, cost + extra_usd, latency_ms,
            usage.input, usage.output, response.confidence, query.cluster, asked.feature, query.tenant_id,
            asked.split)  # fmt: skip


def recorded_quality(
    asked: RecordedRequest, response: Response, evalset: Evalset, searches: Mapping[tuple[str, str], Sequence[str]]
) -> float | None:
    """1 for a right answer, None where it cannot be told yet.

    A search query is right when a relevant document is among the first five that it finds.
    """
    query = asked.query
    if asked.feature == FIND:
        text = response.text.strip()
        grades = evalset.split(asked.split).qrels.get(query.query_id, {})
        found = searches.get((query.tenant_id, text))
        return None if found is None else float(found_relevant(found, grades))
    return float((answer_says if is_yes_no(query.accept) else answer_names_accepted)(response.text, query.accept))
