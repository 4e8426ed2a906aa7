"""Recorded answers as outcomes: the hits in their prompts, what was asked, and whether an answer is right."""

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

from workbench.codec import write_whole
from workbench.config import Settings
from workbench.errors import ConfigError, EvalsetError, RecordingMiss
from workbench.evalset.evalset import Evalset
from workbench.evalset.outcomes import STORED_SCHEMA
from workbench.inference.attempt import Books
from workbench.inference.client import Client
from workbench.inference.embedding import load_embedder
from workbench.inference.encoders import MiniLM
from workbench.inference.messages import LOCAL, Request, Response, Usage
from workbench.inference.prices import DECLARED, MS_PER_HOUR, PriceTable
from workbench.inference.recordings import FOLDER, Recordings, is_copy, record_command
from workbench.records import Decision, Query, content_hash
from workbench.rendering.numbers import counted
from workbench.retrieval.arms import build_arm
from workbench.retrieval.searcher import Searcher
from workbench.retrieval.strategies import Arm
from workbench.routing.prompts import Prompts, load_prompts
from workbench.routing.route import FOUND_WITH, HITS, retrieval_arm


def names_accepted(text: str, accept: Sequence[str]) -> bool:
    """Whether the text names one of the accepted names as a whole word.

    >>> names_accepted("Use `df.merge(how='left_anti')`.", ["left_anti"]), names_accepted("premerged", ["merge"])
    (True, False)
    """
    return any(re.search(_whole_name(name), text, re.IGNORECASE) for name in accept)


def says(text: str, accept: Sequence[str]) -> bool:
    """Whether the first word of the text is the accepted one, yes or no.

    >>> says("No, it does not.", ["no"]), says("Nobody knows", ["no"])
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
    after = r"(?!\w)" if name[-1:].isalnum() else ""
    return before + re.escape(name) + after


SEARCHES = "searches.jsonl"
HITS_KEPT = 5
Search = Callable[[Query], list[str]]


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
    now = depends_on(evalset, retrieval_arm(evalset.path))
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
    _write_recorded(evalset, HITS, ({"query_id": q.query_id, "doc_ids": search(q)} for q in queries))
    if gone or changed != ["questions"]:
        _write_recorded(evalset, SEARCHES, ())
    text = json.dumps(depends_on(evalset, retrieval_arm(evalset.path)), indent=1) + "\n"
    (evalset.path / FOLDER / FOUND_WITH).write_text(text, encoding="utf-8")


def keep_searches(evalset: Evalset, written: Iterable[tuple[str, str]], search: Search) -> None:
    """Record what search queries find, each a tenant and a text that a model wrote; what is recorded is kept."""
    known = {(row["tenant_id"], row["query"]): row["doc_ids"] for row in recorded_rows(evalset, SEARCHES)}
    found = (
        {"tenant_id": t, "query": text, "doc_ids": known[t, text] if (t, text) in known else search(Query("", text, t))}
        for t, text in sorted(set(written))
    )
    _write_recorded(evalset, SEARCHES, found)


def accepted_search(evalset: Evalset, settings: Settings) -> Search:
    """Ids of the first five documents by the accepted retrieval arm, which is made ready when it is first asked."""

    def accepted() -> Arm:
        if not (path := _decision_path(evalset)).is_file():
            raise ConfigError(f"contexts are what the accepted retrieval finds; accept a decision first ({path})")
        return build_arm(Decision.load(path).parameters)

    return search_by(lambda: ready_searcher(evalset, settings, accepted()))


def search_by(make_ready: Callable[[], tuple[Searcher, Arm]]) -> Search:
    """Ids of the first five documents that an arm finds; it is made ready when it is first asked."""
    ready = cache(make_ready)

    def search(query: Query) -> list[str]:
        searcher, arm = ready()
        return [hit.doc_id for hit in searcher.search(arm, query, HITS_KEPT)]

    return search


def ready_searcher(evalset: Evalset, settings: Settings, arm: Arm) -> tuple[Searcher, Arm]:
    """Searcher of an evalset's corpus whose table of the arm is there, and the arm."""
    tokenizer = MiniLM(settings.cache / "weights")
    embedders = {name: load_embedder(name, settings) for name in arm.embedders}
    searcher = Searcher(evalset.documents, evalset.inputs["corpus"], settings, embedders, tokenizer)
    searcher.prepare(arm)
    return searcher, arm


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


def retrieval_amounts(evalset: Evalset) -> dict[str, float]:
    """What retrieving for one prompt uses of each operation; its dollars where the decision does not say."""
    if not (usd := retrieval_usd(evalset)):
        return {}
    decision = Decision.load(_decision_path(evalset))
    counted = decision.claim(decision.arm).amounts
    return {name: n / 1000 for name, n in counted.items()} or {f"retrieval{DECLARED}": usd}


def _decision_path(evalset: Evalset) -> Path:
    return evalset.path / "decisions" / "retrieval.json"


def depends_on(evalset: Evalset, arm: str) -> dict[str, str]:
    """Hashes of what an arm's hits depend on; ``arm`` is that of its parameters."""
    questions = sorted(f"{q.query_id}\t{q.tenant_id}\t{q.text}" for q in evalset.queries)
    return {
        "retrieval arm": arm,
        "corpus": evalset.inputs.get("corpus", ""),
        "questions": content_hash(*questions),
    }


def _write_recorded(evalset: Evalset, name: str, rows: Iterable[dict[str, object]]) -> None:
    """Write one file, whole or not at all."""
    path = evalset.path / FOLDER / name
    path.parent.mkdir(exist_ok=True)
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


ANSWER, FIND = "answer", "find"


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


@dataclass(frozen=True, slots=True)
class Asked:
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


def asked_of(evalset: Evalset, *, models: Sequence[str] = (), retrieved: ArmHits | None = None) -> Iterator[Asked]:
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
        hits = {row["query_id"]: row["doc_ids"] for row in recorded_rows(evalset, HITS)}
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
                yield Asked(query, split, feature, context, request, retrieved)


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
    searches = {(r["tenant_id"], r["query"]): r["doc_ids"] for r in recorded_rows(evalset, SEARCHES)}
    extra_usd, everything = retrieval_usd(evalset), list(asked_of(evalset))
    refuse_lost(evalset, everything, {m: c.recordings for m, c in replays.items() if c.recordings is not None})
    retrieving = (extra_usd, retrieval_amounts(evalset))
    frame, missing, copies = replayed(evalset, prices, everything, replays, searches, retrieving)
    inputs = {f"recordings of {m}": c.recordings.read_sha256() for m, c in replays.items() if c.recordings}
    inputs[SEARCHES] = content_hash((evalset.path / FOLDER / SEARCHES).read_bytes())
    inputs |= {"retrieval usd": f"{extra_usd:.3e}", **_prompt_inputs(evalset)}
    total = frame["prompt_id"].n_unique() + len(missing)
    out = f"{len(missing)} of {counted(total, 'prompt is', 'prompts are')} left out"
    notes = [f"{out}: not all answers to them are recorded"] if missing else []
    if copies:
        notes.append(f"no repeats, but copies of earlier ones, as of a cache: {counted(copies, 'recorded answer')}")
    if changed := changed_since(evalset):
        told = f"renew them with: workbench record {evalset.name}"
        notes.append(f"The prompts hold what was found before the {' and the '.join(changed)} changed; {told}")
    return frame, inputs, notes


def replays_of(evalset: Evalset, prices: PriceTable) -> dict[str, Client]:
    """For each model of ``prompts.toml`` a client that gives its recorded answers, each once."""
    models = load_prompts(evalset).models
    return {m: Client({}, Books(prices), recordings=Recordings(recording_file(evalset, m))) for m in models}


def replayed(
    evalset: Evalset,
    prices: PriceTable,
    asked: Iterable[Asked],
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
        fresh = [response for i, response in enumerate(answers) if not is_copy(answers, i)]
        copies += len(answers) - len(fresh)
        usd, more = retrieving if prompts.contexts[one.context].documents > 0 else (0.0, {})
        for repeat, response in enumerate(fresh):
            if (quality := quality_of(one, response, evalset, searches)) is None:
                missing.add(one.prompt_id)
                break
            used = prices.token_amounts(one.request.model, response.usage or Usage()) | dict(more)
            rows.append((*outcome_row(one, response, quality, prices, usd), repeat, json.dumps(used)))
    schema = STORED_SCHEMA | {"amounts": pl.String}
    frame = pl.DataFrame(rows, schema=schema, orient="row").filter(~pl.col("prompt_id").is_in(list(missing)))
    return frame, missing, copies


def _recorded_answers(client: Client, asked: Asked, prompts: Prompts) -> list[Response]:
    """Every recorded answer to one request, in the order in which they came."""
    request, recorded = asked.request, client.recordings
    n = recorded.count(request, asked.item_id) if recorded else 1
    if recorded and asked.retrieved:  # the accepted arm may have found the same, and its prompt be answered
        n = n or recorded.count(request)
    given = {"model": request.model, "max_tokens": request.max_tokens, "item_id": asked.item_id, **prompts.sampling}
    return [client.complete(request.messages, **given).response for _ in range(max(n, 1))]


def refuse_lost(evalset: Evalset, asked: Sequence[Asked], recordings: Mapping[str, Recordings]) -> None:
    """Refuse recordings in which something is lost; what was never recorded is none.

    Each model is asked in the order of `asked_of`, so that a pilot or a session that was cut off leaves the first
    requests of each kind answered. Lost is therefore what has no answer although a later request of its kind has one,
    what is the only model's without any, and what the accepted decision judged.

    Raises
    ------
    RecordingMiss
        If there is such a request, unless what prompts are made from has changed since: then they are others.
    """
    answered = [bool(recordings[a.request.model].count(a.request)) for a in asked]
    last = {_kind(a): place for place, a in enumerate(asked) if answered[place]}
    models = {model for model, *_ in last}
    decided, explained = _decided(evalset)
    lost = [
        a
        for place, a in enumerate(asked)
        if not answered[place]
        and (place < last.get(_kind(a), -1) or (models and a.request.model not in models) or a.prompt_id in decided)
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


def _kind(asked: Asked) -> tuple[str, str, str, bool]:
    """Requests that are asked in one order, and are changed by the same line of ``prompts.toml``."""
    return asked.request.model, asked.feature, asked.context, asked.feature == asked.query.feature


def _decided(evalset: Evalset) -> tuple[set[str], list[str]]:
    """Prompts that the accepted routing decision judged; and which inputs of prompts have changed, since it or hits."""
    path, changed = evalset.path / "decisions" / "routing.json", changed_since(evalset)
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


def outcome_row(
    asked: Asked, response: Response, quality: float, prices: PriceTable, extra_usd: float
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


def quality_of(
    asked: Asked, response: Response, evalset: Evalset, searches: Mapping[tuple[str, str], Sequence[str]]
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
    return float((says if is_yes_no(query.accept) else names_accepted)(response.text, query.accept))
