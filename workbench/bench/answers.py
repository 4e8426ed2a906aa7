"""What the models are asked about an evalset's questions, and what their recorded answers are worth."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from workbench.bench.retrieved import SEARCHES, changed_since, recorded_rows, retrieval_usd
from workbench.errors import EvalsetError, RecordingMiss
from workbench.evaluation.correctness import found_relevant, is_yes_no, names_accepted, says
from workbench.evaluation.evalset import Evalset
from workbench.evaluation.outcomes import OUTCOMES_SCHEMA
from workbench.inference.attempts import Books
from workbench.inference.client import Client
from workbench.inference.local import PREFIX as LOCAL
from workbench.inference.messages import Request, Response
from workbench.inference.prices import MS_PER_HOUR, PriceTable
from workbench.inference.prompting import Prompts
from workbench.inference.recording import Recordings, record_command
from workbench.inference.routed import FOLDER, HITS
from workbench.records import Decision, Query, content_hash

ANSWER, FIND = "answer", "find"


@dataclass(frozen=True, slots=True)
class Asked:
    """One question, asked by one feature with one context of one model."""

    query: Query
    split: str
    feature: str
    context: str
    request: Request

    @property
    def prompt_id(self) -> str:
        """The question in this feature; what all models and contexts share."""
        return f"{self.feature}:{self.query.query_id}"

    @property
    def item_id(self) -> str:
        """The question in this feature with this context."""
        return f"{self.prompt_id}:{self.context}"


def load_prompts(evalset: Evalset) -> Prompts:
    """What the evalset's ``prompts.toml`` says."""
    return Prompts.load(evalset.path / "prompts.toml")


def recording_file(evalset: Evalset, model: str) -> Path:
    """File of one model's recorded answers."""
    return evalset.path / FOLDER / f"{model.replace('/', '-')}.jsonl"


def asked_of(evalset: Evalset, *, models: Sequence[str] = ()) -> Iterator[Asked]:
    """Every request to these models, by default all of ``prompts.toml``, in an order that has nothing to do with it.

    Each question comes first in its own feature; then those of other features as plain answers, so that whatever
    part has been recorded is a fair sample.

    Raises
    ------
    EvalsetError
        If a question has no recorded hits, or a hit is no document of the corpus.
    """
    prompts = load_prompts(evalset)
    models = models or prompts.models
    hits = {row["query_id"]: row["doc_ids"] for row in recorded_rows(evalset, HITS)}
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
        for context in prompts.contexts:
            messages = prompts.messages(
                feature, context, tenant_id=query.tenant_id, question=query.text, documents=found
            )
            for model in models:
                request = Request(model, messages, max_tokens=prompts.features[feature].max_tokens)
                yield Asked(query, split, feature, context, request)


def recorded_outcomes(evalset: Evalset, prices: PriceTable) -> tuple[pl.DataFrame, dict[str, str], list[str]]:
    """Outcomes of every model and context from the recordings, replayed through the client.

    Returns
    -------
    DataFrame
        Columns of `OUTCOMES_SCHEMA`; prompts that every model answered with every context.
    dict of str to str
        Hashes of what was read, for the fingerprint.
    list of str
        Sentences about what is missing.

    Raises
    ------
    RecordingMiss
        If a recorded answer is lost, and no changed input explains it.
    """
    prompts = load_prompts(evalset)
    replays = {m: Client({}, Books(prices), recordings=Recordings(recording_file(evalset, m))) for m in prompts.models}
    searches = {(r["tenant_id"], r["query"]): r["doc_ids"] for r in recorded_rows(evalset, SEARCHES)}
    extra_usd = retrieval_usd(evalset)
    rows, missing = [], set[str]()
    everything = list(asked_of(evalset))
    refuse_lost(evalset, everything, {m: c.recordings for m, c in replays.items() if c.recordings is not None})
    for asked in everything:
        client = replays[asked.request.model]
        recorded = client.recordings
        if asked.prompt_id in missing or recorded is None or not recorded.count(asked.request):
            missing.add(asked.prompt_id)
            continue
        request = asked.request
        done = client.complete(
            request.messages, model=request.model, max_tokens=request.max_tokens, item_id=asked.item_id
        )
        if (quality := _quality(asked, done.response, evalset, searches)) is None:
            missing.add(asked.prompt_id)
            continue
        retrieved = prompts.contexts[asked.context].documents > 0
        rows.append(_row(asked, done.response, quality, prices, extra_usd if retrieved else 0.0))
    frame = pl.DataFrame(rows, schema=OUTCOMES_SCHEMA, orient="row").filter(~pl.col("prompt_id").is_in(list(missing)))
    inputs = {f"recordings of {m}": c.recordings.read_sha256() for m, c in replays.items() if c.recordings}
    inputs[SEARCHES] = content_hash((evalset.path / FOLDER / SEARCHES).read_bytes())
    inputs |= {"retrieval usd": f"{extra_usd:.3e}", **_prompt_inputs(evalset)}
    total = frame["prompt_id"].n_unique() + len(missing)
    notes = [f"{len(missing)} of {total} prompts are left out: not all answers to them are recorded"] if missing else []
    if changed := changed_since(evalset):
        told = f"renew them with: workbench record {evalset.name}"
        notes.append(f"The prompts hold what was found before the {' and the '.join(changed)} changed; {told}")
    return frame, inputs, notes


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
        f"{len(lost)} recorded answers of {evalset.name} are lost, first that of {first.request.model} to item "
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


def _row(asked: Asked, response: Response, quality: float, prices: PriceTable, extra_usd: float) -> tuple[object, ...]:
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


def _quality(
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
