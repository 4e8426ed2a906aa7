"""Metrics of ragas that ask a model, through the workbench client: its definitions, our money, records and failures.

ragas asks through two methods of the model that it is given; here both go to `Client.complete`, so that each call has
the purpose ``judge``, a budget, a row of the ledger and a recording. What ragas would turn into a NaN that leaves the
mean, into 0, or into the mean of those verdicts that are there, is a row with an error and no value.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from workbench.errors import ConfigError, MalformedAnswer, ProviderError, RateLimited, WorkbenchError, unknown_name
from workbench.evalset.echoes import load_ragas
from workbench.evaluation.compare import SCORES_SCHEMA
from workbench.extras import extras_named
from workbench.inference.batch import BatchItem, ask_batch_item, capped_client
from workbench.inference.client import Client
from workbench.inference.embedding import Embedder
from workbench.inference.messages import Request
from workbench.quality.answer_metrics import MeasuredAnswer
from workbench.rendering.numbers import counted, usd
from workbench.telemetry.attribution import attributed, carry_attribution

QUESTIONS = 3  # that answer_relevancy makes of an answer, where a temperature lets them differ
_ASKED, _SAID, _SHOWN, _RIGHT = "user_input", "response", "retrieved_contexts", "reference"
# Class of ragas.metrics.collections, and what it reads of an item.
RAGAS_METRICS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "faithfulness": ("Faithfulness", (_ASKED, _SAID, _SHOWN)),
    "answer_relevancy": ("AnswerRelevancy", (_ASKED, _SAID)),
    "context_precision": ("ContextPrecision", (_ASKED, _RIGHT, _SHOWN)),
    "context_utilization": ("ContextUtilization", (_ASKED, _SAID, _SHOWN)),
    "context_recall": ("ContextRecall", (_ASKED, _SHOWN, _RIGHT)),
    "factual_correctness": ("FactualCorrectness", (_SAID, _RIGHT)),
    "answer_accuracy": ("AnswerAccuracy", (_ASKED, _SAID, _RIGHT)),
    "context_relevance": ("ContextRelevance", (_ASKED, _SHOWN)),
    "response_groundedness": ("ResponseGroundedness", (_SAID, _SHOWN)),
    "rubric": ("DomainSpecificRubrics", (_ASKED, _SAID)),
}
_RUBRIC = tuple(f"score{i}_description" for i in range(1, 6))
_WHAT = {_ASKED: "question", _SAID: "answer", _SHOWN: "retrieved text", _RIGHT: "reference"}
_BINARY = ("verdict", "attributed", "noncommittal")
_LISTS = ("statements", "claims", "classifications")


@dataclass(frozen=True, slots=True)
class _RagasRun:
    """What is the same for every item."""

    client: Client
    model: str
    max_tokens: int
    temperature: float
    embedder: Embedder | None
    rubric: Mapping[str, str]


def score_with_ragas(
    arm: str,
    answers: Sequence[MeasuredAnswer],
    metrics: Sequence[str],
    client: Client,
    *,
    model: str,
    max_cost_usd: float | None,
    embedder: Embedder | None = None,
    rubric: Mapping[str, str] | None = None,
    max_tokens: int = 1024,
    temperature: float = 0.0,
    threads: int = 1,
    tell: Callable[[str], None] = print,
) -> pl.DataFrame:
    """``score_with_ragas("ours", answers, ["faithfulness"], client, model="openai/gpt-5.4-nano", max_cost_usd=1.0)``.

    Scores in [0, 1], higher is better, columns `SCORES_SCHEMA`: one row per item and metric of `RAGAS_METRICS`, with
    the milliseconds and dollars of its calls. With ``client.recordings`` live, a run that was cut off goes on where it
    stopped: recorded answers are not asked for again, and items whose call had failed are. These are raw verdicts of a
    model: what they may decide, a licence says.

    Parameters
    ----------
    max_cost_usd : float or None
        Dollars that this run may spend; reserved call by call, since what is asked depends on what was answered. None
        only where all answers are recorded.
    embedder : Embedder, optional
        For "answer_relevancy", which compares questions made of the answer with the one asked: one at temperature 0,
        where others would be copies, else `QUESTIONS`. A cosine below 0 counts as 0.
    rubric : mapping of str to str, optional
        For "rubric": ``score1_description`` to ``score5_description``; a score s is the value (s - 1) / 4.

    Raises
    ------
    ConfigError
        If a metric is not known or lacks what it needs, two items have one id, or the limit is missing.
    MissingExtra
        If ragas is not installed.
    BudgetExceeded, RecordingMiss, SettlementFailed
        From the first call that could not be made; what was answered before is recorded.
    """
    _refuse_ragas_metrics(answers, metrics, client, max_cost_usd, embedder, rubric)
    with extras_named():
        ragas = load_ragas()
    ragas.judge.register(_RagasJudge)
    ragas.vectors.register(_RagasVectors)
    tell(f"{counted(len(answers), 'answer')} by {', '.join(metrics)} of ragas {ragas.version}, asked of {model}")
    job = _RagasRun(capped_client(client, max_cost_usd), model, max_tokens, temperature, embedder, rubric or {})
    collections, rows = ragas.metrics, dict[tuple[str, str], Future[tuple[object, ...]]]()
    pool = ThreadPoolExecutor(threads)  # ragas is asynchronous: in a notebook it needs a thread without a loop
    try:
        with attributed(purpose="judge"):
            for answer in answers:
                for metric in metrics:
                    rows[metric, answer.item_id] = pool.submit(
                        carry_attribution(_ragas_metric_row), job, collections, arm, answer, metric
                    )
        for row in as_completed(rows.values()):
            row.result()  # what stops the run stops it at once
        done = [rows[metric, answer.item_id].result() for metric in metrics for answer in answers]
    finally:
        pool.shutdown(cancel_futures=True)
    scores = pl.DataFrame(done, schema=SCORES_SCHEMA, orient="row")
    tell(
        f"{counted(scores['value'].count(), 'value')}, {counted(scores['error'].count(), 'error')}, "
        f"{usd(float(scores['cost_usd'].sum()))}"
    )
    return scores


def _refuse_ragas_metrics(
    answers: Sequence[MeasuredAnswer], metrics: Sequence[str], client: Client, max_cost_usd: float | None,
    embedder: Embedder | None, rubric: Mapping[str, str] | None,
) -> None:  # fmt: skip
    for metric in metrics:
        if metric not in RAGAS_METRICS:
            raise ConfigError(unknown_name("metric of ragas", metric, sorted(RAGAS_METRICS)))
    if twice := [name for name, n in Counter([*metrics, *(a.item_id for a in answers)]).items() if n > 1]:
        raise ConfigError(f"scores are told apart by item_id and metric, found several of {twice[0]!r}")
    if "answer_relevancy" in metrics and embedder is None:
        raise ConfigError("the metric 'answer_relevancy' compares vectors; give score_with_ragas an embedder")
    if "rubric" in metrics and set(rubric or ()) != set(_RUBRIC):
        raise ConfigError(f"the metric 'rubric' needs {', '.join(_RUBRIC)}; found {', '.join(rubric or ()) or 'none'}")
    if client.recordings is not None and not client.recordings.live:
        return
    if max_cost_usd is None or not client.books.budgets:
        found = "no max_cost_usd" if max_cost_usd is None else "a client without budgets"
        raise ConfigError(f"a judge that is asked live spends money under a limit, found {found}; set max_cost_usd, "
                          "with a client of Client.open")  # fmt: skip


def _ragas_metric_row(
    job: _RagasRun, collections: Any, arm: str, answer: MeasuredAnswer, metric: str
) -> tuple[object, ...]:
    value: float | None = None
    judge = _RagasJudge(
        job, f"ragas:{metric}:{answer.item_id}", answer.tenant_id, (0, 2, 4) if "accur" in metric else ()
    )
    texts = {_ASKED: answer.question, _SAID: answer.text, _SHOWN: list((answer.retrieved or {}).values()),
             _RIGHT: answer.reference}  # fmt: skip
    given = {name: texts[name] for name in RAGAS_METRICS[metric][1]}
    error: Exception | str | None = next(
        (f"item has no {_WHAT[k]}" for k, text in given.items() if not "".join(text).strip()), None
    )
    if error is None:
        try:
            value = float(asyncio.run(_ragas_metric(job, collections, metric, judge).ascore(**given)).value)
        except Exception as raised:  # noqa: BLE001  the boundary of one item: the others go on, and are paid for
            error = raised
        error = judge.failed or error  # some metrics of ragas go on after a call that failed
    if isinstance(error, WorkbenchError) and not isinstance(error, ProviderError | RateLimited):
        raise error
    if isinstance(error, Exception):
        error = f"{type(error).__name__}: {error}"
    elif value is not None:
        value = (value - 1) / 4 if metric == "rubric" else value
        value = min(max(value, 0.0), 1.0) if metric == "answer_relevancy" and math.isfinite(value) else value
        error = None if 0 <= value <= 1 else f"the value is {value}"
    return (
        arm, answer.item_id, 0, metric, value if error is None else None, error, answer.cluster or answer.item_id,
        answer.tenant_id, judge.latency_ms if judge.calls else None, judge.cost_nanos / 1e9 if judge.calls else None,
    )  # fmt: skip


def _ragas_metric(job: _RagasRun, collections: Any, metric: str, judge: "_RagasJudge") -> Any:
    own: dict[str, Any] = {}
    if metric == "answer_relevancy":
        own = {"embeddings": _RagasVectors(job.embedder), "strictness": QUESTIONS if job.temperature else 1}
    elif metric == "rubric":
        own = {"rubrics": dict(job.rubric)}
    return getattr(collections, RAGAS_METRICS[metric][0])(llm=judge, **own)


@dataclass(slots=True)
class _RagasJudge:
    """What ragas asks, for one item and metric: an ``InstructorBaseRagasLLM`` on the workbench client.

    After a call that failed it asks no more, whatever ragas tries.
    """

    job: _RagasRun
    item_id: str
    tenant_id: str
    ratings: tuple[int, ...]
    calls: int = 0
    cost_nanos: int = 0
    latency_ms: float = 0.0
    failed: Exception | None = None
    _seen: Counter[str] = field(default_factory=Counter)
    _listed: int = 0

    async def agenerate(self, prompt: str, response_model: Any) -> Any:
        return self.generate(prompt, response_model)

    def generate(self, prompt: str, response_model: Any) -> Any:
        if self.failed is None:
            try:
                return self._ask(prompt, response_model)
            except Exception as error:  # noqa: BLE001  kept, since ragas may swallow it
                self.failed = error
        raise self.failed

    def _ask(self, prompt: str, response_model: Any) -> Any:
        schema = _closed_ragas_schema(response_model.model_json_schema())
        request = Request(
            self.job.model, ({"role": "user", "content": prompt},), max_tokens=self.job.max_tokens,
            temperature=self.job.temperature, seed=self._seen[prompt], schema=schema,
        )  # fmt: skip
        self._seen[prompt] += 1  # asked again, it is another sample
        self.calls += 1
        done = ask_batch_item(self.job.client, BatchItem(self.item_id, request, self.tenant_id))
        self.cost_nanos += getattr(done, "cost_nanos", 0)
        if isinstance(done, Exception):
            raise done
        self.latency_ms += done.response.latency_ms
        try:
            said = response_model.model_validate_json(done.text)
        except ValueError as error:
            raise MalformedAnswer(f"the judge's answer has not the form of {response_model.__name__}") from error
        if wrong := next(self._wrong(said.model_dump()), ""):
            raise MalformedAnswer(f"the judge's answer is no verdict: {wrong}")
        return said

    def _wrong(self, said: Mapping[str, Any]) -> Iterator[str]:
        """What ragas would count all the same: nothing at all, numbers beside the scale, fewer verdicts than asked."""
        for name, value in said.items():
            rows = value if isinstance(value, list) else []
            if name in _LISTS and not rows:
                yield f"{name} is empty"
            if name == "question" and not value.strip():
                yield "the question is empty"
            if name in _BINARY and value not in (0, 1):
                yield f"{name} is {value}, and may be 0 or 1"
            if name == "rating" and value not in (allowed := self.ratings or (0, 1, 2)):
                yield f"rating is {value}, and may be {', '.join(map(str, allowed))}"
            if name in _LISTS and rows and isinstance(rows[0], str):
                self._listed = len(rows)
            elif name == "statements" and rows and len(rows) != self._listed:
                yield f"{counted(len(rows), 'verdict')} on {counted(self._listed, 'statement')}"
            for row in rows:
                yield from self._wrong(row) if isinstance(row, dict) else ()


@dataclass(frozen=True, slots=True)
class _RagasVectors:
    """An ``Embedder`` as ragas asks it."""

    embedder: Embedder | None

    async def aembed_text(self, text: str) -> list[float]:
        return (await self.aembed_texts([text]))[0]

    async def aembed_texts(self, texts: list[str]) -> list[list[float]]:
        if self.embedder is None:
            raise ConfigError("answer_relevancy needs an embedder")
        vectors: list[list[float]] = self.embedder.embed(texts).tolist()
        return vectors


def _closed_ragas_schema(schema: Any) -> Any:
    """Schema whose objects have no further keys, as vendors ask of a schema that an answer must fulfil."""
    if isinstance(schema, list):
        return [_closed_ragas_schema(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed_ragas_schema(part) for key, part in schema.items()}
    return closed | {"additionalProperties": False} if closed.get("type") == "object" else closed
