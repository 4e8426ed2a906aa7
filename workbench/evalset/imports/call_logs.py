"""Logs of production: batch files of OpenAI and Anthropic, litellm's spend, Langfuse's exports, MLflow's traces."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from workbench.errors import EvalsetError
from workbench.evalset.cells import Unusable, number, shown
from workbench.evalset.files import Row
from workbench.evalset.imports.span_logs import asked_in, hits_of, latency_between
from workbench.evalset.imports.tool_log import (
    LoggedCall,
    Retrieved,
    Score,
    Source,
    ToolLog,
    amount_of,
    at,
    attach,
    document_of,
    files_in,
    first,
    json_in,
    objects,
    question_in,
    rows_of,
    text_at,
    text_in,
    usage_in,
    usage_of,
    usd_of,
)
from workbench.inference.messages import Usage
from workbench.rendering.numbers import counted

_FILES = (".jsonl", ".csv", ".tsv", ".parquet")
_OK = 300
_LANGFUSE_CALLS = ("generation", "embedding")


def read_openai_batch(paths: Sequence[Path]) -> ToolLog:
    """Read batch files: output, errors and, for the prompts, the input; also Anthropic's results.

    They are joined by ``custom_id``, which a line of the input names once. A row of the error file is a failed call.
    Batches cost half of the price list.

    Raises
    ------
    EvalsetError
        If a file is none of these.
    """
    files = files_in(paths, (".jsonl",), "batch files")
    log = ToolLog("openai-batch", tuple(files))
    asked: dict[str, dict[str, Any]] = {}
    answers = list[tuple[Path, list[Row]]]()
    for path in files:
        rows = rows_of(path, log)
        if any("body" in row or "params" in row for _, row in rows):
            log.read += len(rows)
            log.spare += len(rows)
            asked |= {str(row.get("custom_id")): first(row, "body", "params") or {} for _, row in rows}
        else:
            answers.append((path, rows))
    if not answers:
        raise EvalsetError(f"{files[0]} is the input of a batch: give the output file too, and that of the errors")
    answered = set[str]()

    def call(line: int, row: dict[str, Any]) -> LoggedCall:
        name = text_at(row, "custom_id")
        if not name or not ({"response", "error", "result"} & row.keys()):
            raise Unusable("a line of a batch has custom_id, and response, error or result")
        if name in answered:
            raise Unusable(f"custom_id {shown(name)} stands twice")
        answered.add(name)
        return _batch_call(line, row, name, asked.get(name, {}))

    for path, rows in answers:
        log.each(path, rows, call)
    if asked and (missing := asked.keys() - answered):
        log.notes.append(f"no answer and no error yet: {counted(len(missing), 'request')} of the input")
    if not asked:
        log.notes.append("without the input file no prompt is known: give it too for outcomes and a stream")
    return log


def _batch_call(line: int, row: dict[str, Any], name: str, asked: Mapping[str, Any]) -> LoggedCall:
    body = first(row, "response.body", "result.message")
    code = number("status_code", at(row, "response.status_code"))
    error = text_at(row, "error.message", "error.code", "response.body.error.message", "result.error.error.message",
                    "result.error.message")  # fmt: skip
    kind = text_at(row, "result.type")
    failed = bool(error) or (code is not None and code >= _OK) or kind not in ("", "succeeded") or body is None
    created = at(body, "created")
    model = text_at(asked, "model") or text_at(body, "model")
    if not model:
        raise Unusable("nothing says which model was asked: a failed line names none, give the input file too")
    output = text_in(at(body, "choices.0.message")) or text_in(body) or text_in(at(body, "output.0"))
    return LoggedCall(
        line=line,
        model=model,
        served=text_at(body, "model"),
        call_id=text_at(body, "id") or text_at(row, "id"),
        prompt_id=name,
        prompt=question_in(first(asked, "messages", "input", "prompt")),
        output="" if failed else output,
        error=(error or kind or f"status {code}") if failed else "",
        usage=usage_in(at(body, "usage")),
        batch=True,
        started=latency_between(created, None)[0] if created else "",
        feature=text_at(asked, "metadata.feature"),
        tenant_id=text_at(asked, "metadata.tenant_id"),
        user_id=text_at(asked, "user", "metadata.user_id"),
    )


def read_litellm(paths: Sequence[Path]) -> ToolLog:
    """Read litellm's spend logs (a dump of LiteLLM_SpendLogs) or the payloads of its logging callbacks.

    Tokens are those of the provider's own usage object where it is there: the log's own cost may charge cached tokens
    in full. Keys that name one user in all of their requests are told.

    Raises
    ------
    EvalsetError
        If a file is none of these.
    """
    files = files_in(paths, _FILES, "litellm logs")
    log = ToolLog("litellm", tuple(files))
    keys: dict[str, set[str]] = {}

    def call(line: int, row: dict[str, Any]) -> LoggedCall:
        if "model" not in row or not ({"startTime", "start_time", "call_type"} & row.keys()):
            raise Unusable("a row of litellm has model, and startTime or call_type")
        found = _litellm_call(line, row)
        key = text_at(row, "api_key") or text_at(json_in(row.get("metadata")), "user_api_key_hash")
        keys.setdefault(key, set()).add(found.user_id)
        return found

    for path in files:
        log.each(path, rows_of(path, log), call)
    pinned = [key for key, users in keys.items() if key and len(users) == 1 and users != {""}]
    if len(log.calls) > 1 and pinned:
        log.notes.append(
            f"{counted(len(pinned), 'key names', 'keys name')} one user in all of their requests; that may be "
            "the first's alone"
        )
    return log


def _litellm_call(line: int, row: dict[str, Any]) -> LoggedCall:
    metadata, asked = json_in(row.get("metadata")), json_in(row.get("messages"))
    usage = usage_in(at(metadata, "usage_object")) or usage_in(at(json_in(row.get("response")), "usage"))
    usage = usage or usage_in({k: row.get(k) for k in ("prompt_tokens", "completion_tokens")})
    cached = str(row.get("cache_hit")).strip().lower() in ("true", "1")
    started, latency = latency_between(first(row, "startTime", "start_time"), first(row, "endTime", "end_time"))
    status = text_at(row, "status").lower() or text_at(metadata, "status").lower()
    error = text_at(row, "error_str") or text_at(metadata, "error_information.error_message") or "error"
    vendor, model = text_at(row, "custom_llm_provider"), text_at(row, "model")
    failed = status in ("failure", "error", "failed")
    if not model:
        raise Unusable("a row that names no model")
    return LoggedCall(
        line=line,
        model=f"{vendor}/{model}" if vendor and "/" not in model else model,
        call_id=text_at(row, "litellm_call_id")
        or text_at(metadata, "litellm_call_id")
        or text_at(row, "request_id", "id"),
        trace_id=text_at(row, "trace_id"),
        prompt=question_in(asked) if asked != {} else "",
        output=text_in(at(json_in(row.get("response")), "choices.0.message")),
        error=error if failed else "",
        usage=usage,
        usd=usd_of("spend", first(row, "response_cost", "spend")),
        latency_ms=None if cached or failed else latency,
        cached=cached,
        started=started,
        tenant_id=text_at(row, "team_id") or text_at(metadata, "user_api_key_team_id", "team_id"),
        user_id=text_at(row, "end_user", "user") or text_at(row, "model_parameters.user"),
        feature=_tag(first(row, "request_tags") or at(metadata, "tags")),
    )


def _tag(tags: Any) -> str:
    """First tag that the caller gave."""
    found = json_in(tags)
    return text_at(found, "0") if isinstance(found, list) else found if isinstance(found, str) else ""


def read_langfuse(paths: Sequence[Path]) -> ToolLog:
    """Read exports of Langfuse: observations and, beside them, scores; JSONL, CSV or Parquet.

    A score of a named author is a person's, one of an evaluator a model's, and others a program's.

    Raises
    ------
    EvalsetError
        If no file is one of these.
    """
    files = files_in(paths, (*_FILES, ".json"), "Langfuse exports")
    log = ToolLog("langfuse", tuple(files))
    given = list[tuple[str, str, Score]]()
    for path in files:
        rows = _document_rows(path) if path.suffix.lower() == ".json" else rows_of(path, log)
        rows = [(line, {_snake(str(name)): value for name, value in row.items()}) for line, row in rows]
        keys = {name for _, row in rows for name in row}
        of_scores = "start_time" not in keys and bool({"value", "string_value"} & keys)
        log.each(path, rows, partial(_langfuse_score, given) if of_scores else _langfuse_call)
    attach(log, given)
    return log


def _document_rows(path: Path) -> list[Row]:
    """Objects of a JSON list, or of the ``data`` of a page."""
    document = document_of(path)
    found = document if isinstance(document, list) else at(document, "data")
    if not isinstance(found, list):
        raise EvalsetError(f"{path} holds no list of objects and no page with data")
    return [(place, row) for place, row in enumerate(found, start=1) if isinstance(row, dict)]


def _snake(name: str) -> str:
    """``startTime`` as ``start_time``: both are exported."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).removeprefix("_").replace(" ", "_")


def _langfuse_call(line: int, row: dict[str, Any]) -> LoggedCall | None:
    kind = text_at(row, "type").lower()
    if "start_time" not in row or not text_at(row, "id"):
        raise Unusable("an observation of Langfuse has id, type and start_time")
    if kind not in _LANGFUSE_CALLS:
        return None
    model = text_at(row, "provided_model_name", "model", "internal_model_id")
    if not model:
        raise Unusable("a generation that names no model")
    started, latency = latency_between(row.get("start_time"), row.get("end_time"))
    seconds = amount_of("latency", row.get("latency"))
    failed = text_at(row, "level").upper() == "ERROR"
    metadata = json_in(row.get("metadata"))
    cost = first(row, "total_cost", "calculated_total_cost")
    cost = at(json_in(row.get("cost_details")), "total") if cost is None else cost
    latency = seconds * 1000 if latency is None and seconds is not None else latency
    return LoggedCall(
        line=line,
        model=model,
        call_id=text_at(row, "id"),
        trace_id=text_at(row, "trace_id"),
        prompt="" if kind == "embedding" else asked_in(json_in(row.get("input"))),
        output=text_in(json_in(row.get("output"))),
        error=(text_at(row, "status_message") or "error") if failed else "",
        usage=_langfuse_usage(row),
        usd=usd_of("total_cost", cost),
        latency_ms=None if failed else latency,
        started=started,
        tenant_id=text_at(metadata, "tenant_id", "attributes.tenant_id"),
        user_id=text_at(row, "user_id"),
        feature=text_at(metadata, "feature") or text_at(row, "name"),
    )


def _langfuse_usage(row: dict[str, Any]) -> Usage | None:
    """Of ``usage_details``: a vendor's own object, or classes ``input*`` and ``output*``, which are disjoint."""
    found = json_in(first(row, "usage_details", "usage"))
    if not isinstance(found, dict) or not found:
        return usage_of(row.get("prompt_tokens"), row.get("completion_tokens"), inside=True)
    if {"prompt_tokens", "completion_tokens", "input_tokens", "output_tokens"} & found.keys():
        return usage_in(found)
    counts = {str(key): value for key, value in found.items() if isinstance(value, int | float | str)}
    parts = {"read": 0.0, "write": 0.0, "input": 0.0, "output": 0.0}
    for key, value in counts.items():
        count = amount_of(key, value) or 0
        if key.startswith("input"):
            parts["read" if "cache_read" in key or "cached" in key else "write" if "cache" in key else "input"] += count
        elif key.startswith("output"):
            parts["output"] += count
    return usage_of(parts["input"], parts["output"], cache_read=parts["read"], cache_write=parts["write"], inside=False)


def _langfuse_score(given: list[tuple[str, str, Score]], line: int, row: dict[str, Any]) -> Score:
    name, of_call, trace = text_at(row, "name"), text_at(row, "observation_id"), text_at(row, "trace_id")
    if not name or not (trace or of_call):
        raise Unusable("a score of Langfuse has name, value, and trace_id or observation_id")
    person, judge = text_at(row, "author_user_id"), text_at(row, "evaluator_id", "config_id")
    told = text_at(row, "source").upper()
    source: Source = "human" if person or told == "ANNOTATION" else "model" if told == "EVAL" or judge else "code"
    value = row.get("value")
    score = Score(name, _score_value(value), source, person or judge, text_at(row, "comment"))
    given.append((of_call, trace, score))
    return score


def _score_value(value: Any) -> float | None:
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and value.strip().lower() in ("true", "false", "yes", "no"):
        return float(value.strip().lower() in ("true", "yes"))
    try:
        return number("value", value)
    except Unusable:
        return None


def read_mlflow(paths: Sequence[Path]) -> ToolLog:
    """Read traces of MLflow: one ``trace.to_json()`` a line, or the table of ``mlflow.search_traces``.

    Assessments of a HUMAN are people's, of an LLM_JUDGE a model's, of CODE a program's; expectations are no scores.
    A row is a trace, whose calls are its spans of the type CHAT_MODEL, LLM or EMBEDDING.

    Raises
    ------
    EvalsetError
        If a file is none of these.
    """
    files = files_in(paths, (".jsonl", ".json", ".csv", ".parquet"), "MLflow traces")
    log = ToolLog("mlflow", tuple(files))
    given = list[tuple[str, str, Score]]()
    for path in files:
        rows = _mlflow_rows(path, log)
        log.each(path, rows, partial(_mlflow_trace, path, log, given))
    attach(log, given)
    return log


def _mlflow_rows(path: Path, log: ToolLog) -> list[Row]:
    if path.suffix.lower() != ".json":
        return rows_of(path, log)
    document = document_of(path)
    rows = document if isinstance(document, list) else at(document, "traces") or [document]
    return [(place, row) for place, row in enumerate(rows, start=1) if isinstance(row, dict)]


def _mlflow_trace(
    path: Path, log: ToolLog, given: list[tuple[str, str, Score]], line: int, row: dict[str, Any]
) -> dict[str, Any] | None:
    whole = json_in(row.get("trace"))
    row = whole if isinstance(whole, dict) and "info" in whole else row
    info = row["info"] if isinstance(row.get("info"), dict) else row
    trace = text_at(info, "trace_id", "request_id")
    spans = json_in(first(row, "data.spans", "spans"))
    if not trace or not isinstance(spans, list):
        raise Unusable("a trace of MLflow has info.trace_id and data.spans")
    metadata, tags = json_in(info.get("trace_metadata")), json_in(info.get("tags"))
    who = {
        "tenant_id": text_at(tags, "tenant_id") or text_at(metadata, "tenant_id"),
        "feature": text_at(tags, "feature") or text_at(metadata, "feature") or text_at(tags, "mlflow.traceName"),
        "user_id": _dotted(metadata, "mlflow.trace.user"),
    }
    calls = [c for s in spans if isinstance(s, dict) and (c := _mlflow_span(line, path, s, trace, who, spans, log))]
    log.calls += calls
    for found in objects(json_in(first(info, "assessments"))):
        source = text_at(found, "source.source_type").upper()
        if at(found, "feedback") is not None and text_at(found, "assessment_name", "name"):
            value = at(found, "feedback.value")
            kind: Source = "human" if source == "HUMAN" else "model" if source in ("LLM_JUDGE", "AI_JUDGE") else "code"
            name = text_at(found, "assessment_name", "name")
            given.append(("", trace, Score(name, _score_value(value), kind, text_at(found, "source.source_id"))))
    return row if calls else None


def _dotted(row: Any, name: str) -> str:
    value = row.get(name) if isinstance(row, dict) else None
    return value if isinstance(value, str) else ""


def _mlflow_span(
    line: int, path: Path, span: dict[str, Any], trace: str, who: Mapping[str, str], spans: Sequence[Any], log: ToolLog
) -> LoggedCall | None:
    said = (
        {k: json_in(v) for k, v in (span.get("attributes") or {}).items()}
        if isinstance(span.get("attributes"), dict)
        else {}
    )
    kind, asked = str(said.get("mlflow.spanType", "")), said.get("mlflow.spanInputs")
    root = next((s for s in spans if isinstance(s, dict) and not first(s, "parent_span_id", "parent_id")), span)
    outer = json_in(
        (root.get("attributes") or {}).get("mlflow.spanInputs") if isinstance(root.get("attributes"), dict) else None
    )
    question = asked_in(outer) or asked_in(asked)
    if kind == "RETRIEVER":
        found = said.get("mlflow.spanOutputs")
        rows = [{"id": text_at(d, "id", "metadata.doc_uri", "metadata.id"), "score": at(d, "metadata.score")}
                for d in objects(found)]  # fmt: skip
        if asked_in(asked) or question:
            log.searches.append(
                Retrieved(line, path.name, asked_in(asked) or question, hits_of(rows), who["tenant_id"])
            )
    if kind not in ("CHAT_MODEL", "LLM", "EMBEDDING"):
        return None
    model = _dotted(said, "model") or text_at(asked, "model") or _dotted(said, "mlflow.llm.model")
    if not model:
        raise Unusable("a call of a model that names none")
    tokens = said.get("mlflow.chat.tokenUsage")
    status = first(span, "status.code", "status_code")
    failed = str(status) in ("STATUS_CODE_ERROR", "ERROR", "2")
    started, latency = latency_between(
        first(span, "start_time_unix_nano", "start_time_ns"), first(span, "end_time_unix_nano", "end_time_ns")
    )
    return LoggedCall(
        line=line,
        file=path.name,
        model=model,
        served=_dotted(said, "mlflow.llm.model"),
        call_id=f"{trace}/{text_at(span, 'span_id')}",
        trace_id=trace,
        prompt="" if kind == "EMBEDDING" else question,
        output=text_in(at(said.get("mlflow.spanOutputs"), "choices.0.message")),
        error=(text_at(span, "status.message", "status_message") or "error") if failed else "",
        usage=usage_of(
            at(tokens, "input_tokens"),
            at(tokens, "output_tokens"),
            cache_read=at(tokens, "cache_read_input_tokens"),
            cache_write=at(tokens, "cache_creation_input_tokens"),
            inside=True,
        ),
        usd=usd_of("cost", at(said.get("mlflow.llm.cost"), "total_cost")),
        latency_ms=None if failed else latency,
        started=started,
        tenant_id=who["tenant_id"],
        feature=who["feature"],
        user_id=who["user_id"],
    )
