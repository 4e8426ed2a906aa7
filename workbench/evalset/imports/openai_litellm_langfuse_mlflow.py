"""Logs of production: batch files of OpenAI and Anthropic, litellm's spend, Langfuse's exports, MLflow's traces."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from workbench.errors import EvalsetError
from workbench.evalset.cells import Unusable, number_cell, shown_cell
from workbench.evalset.files import Row
from workbench.evalset.imports.log_fields import (
    amount_field,
    answer_tier_field,
    field_at,
    field_objects,
    field_text,
    first_field,
    json_field,
    langfuse_usage_field,
    log_document,
    log_files_in,
    log_rows,
    message_text_field,
    question_field,
    span_latency,
    tier_field,
    usage_fields,
    usd_field,
    vendor_usage_field,
)
from workbench.evalset.imports.logged_calls import (
    LoggedCall,
    LoggedScore,
    LoggedSearch,
    Source,
    ToolLog,
    attach_logged_scores,
)
from workbench.evalset.imports.span_logs import asked_in_span, hits_of_span
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
    files = log_files_in(paths, (".jsonl",), "batch files")
    log = ToolLog("openai-batch", tuple(files))
    asked: dict[str, dict[str, Any]] = {}
    answers = list[tuple[Path, list[Row]]]()
    for path in files:
        rows = log_rows(path, log)
        if any("body" in row or "params" in row for _, row in rows):
            log.read += len(rows)
            log.spare += len(rows)
            asked |= {str(row.get("custom_id")): first_field(row, "body", "params") or {} for _, row in rows}
        else:
            answers.append((path, rows))
    if not answers:
        raise EvalsetError(f"{files[0]} is the input of a batch: give the output file too, and that of the errors")
    answered = set[str]()

    def call(line: int, row: dict[str, Any]) -> LoggedCall:
        name = field_text(row, "custom_id")
        if not name or not ({"response", "error", "result"} & row.keys()):
            raise Unusable("a line of a batch has custom_id, and response, error or result")
        if name in answered:
            raise Unusable(f"custom_id {shown_cell(name)} stands twice")
        answered.add(name)
        return _openai_batch_call(line, row, name, asked.get(name, {}))

    for path, rows in answers:
        log.each(path, rows, call)
    if asked and (missing := asked.keys() - answered):
        log.notes.append(f"no answer and no error yet: {counted(len(missing), 'request')} of the input")
    if not asked:
        log.notes.append("without the input file no prompt is known: give it too for outcomes and a stream")
    return log


def _openai_batch_call(line: int, row: dict[str, Any], name: str, asked: Mapping[str, Any]) -> LoggedCall:
    body = first_field(row, "response.body", "result.message")
    code = number_cell("status_code", field_at(row, "response.status_code"))
    error = field_text(row, "error.message", "error.code", "response.body.error.message", "result.error.error.message",
                    "result.error.message")  # fmt: skip
    kind = field_text(row, "result.type")
    failed = bool(error) or (code is not None and code >= _OK) or kind not in ("", "succeeded") or body is None
    created = field_at(body, "created")
    model = field_text(asked, "model") or field_text(body, "model")
    if not model:
        raise Unusable("nothing says which model was asked: a failed line names none, give the input file too")
    output = (
        message_text_field(field_at(body, "choices.0.message"))
        or message_text_field(body)
        or message_text_field(field_at(body, "output.0"))
    )
    return LoggedCall(
        line=line,
        model=model,
        served=field_text(body, "model"),
        call_id=field_text(body, "id") or field_text(row, "id"),
        prompt_id=name,
        prompt=question_field(first_field(asked, "messages", "input", "prompt")),
        output="" if failed else output,
        error=(error or kind or f"status {code}") if failed else "",
        usage=vendor_usage_field(field_at(body, "usage")),
        tier="batch",
        started=span_latency(created, None)[0] if created else "",
        feature=field_text(asked, "metadata.feature"),
        tenant_id=field_text(asked, "metadata.tenant_id"),
        user_id=field_text(asked, "user", "metadata.user_id"),
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
    files = log_files_in(paths, _FILES, "litellm logs")
    log = ToolLog("litellm", tuple(files))
    keys: dict[str, set[str]] = {}

    def call(line: int, row: dict[str, Any]) -> LoggedCall:
        if "model" not in row or not ({"startTime", "start_time", "call_type"} & row.keys()):
            raise Unusable("a row of litellm has model, and startTime or call_type")
        found = _litellm_call(line, row)
        key = field_text(row, "api_key") or field_text(json_field(row.get("metadata")), "user_api_key_hash")
        keys.setdefault(key, set()).add(found.user_id)
        return found

    for path in files:
        log.each(path, log_rows(path, log), call)
    pinned = [key for key, users in keys.items() if key and len(users) == 1 and users != {""}]
    if len(log.calls) > 1 and pinned:
        log.notes.append(
            f"{counted(len(pinned), 'key names', 'keys name')} one user in all of their requests; that may be "
            "the first's alone"
        )
    return log


def _litellm_call(line: int, row: dict[str, Any]) -> LoggedCall:
    metadata, asked = json_field(row.get("metadata")), json_field(row.get("messages"))
    usage = vendor_usage_field(field_at(metadata, "usage_object")) or vendor_usage_field(
        field_at(json_field(row.get("response")), "usage")
    )
    usage = usage or vendor_usage_field({k: row.get(k) for k in ("prompt_tokens", "completion_tokens")})
    cached = str(row.get("cache_hit")).strip().lower() in ("true", "1")
    started, latency = span_latency(
        first_field(row, "startTime", "start_time"), first_field(row, "endTime", "end_time")
    )
    status = field_text(row, "status").lower() or field_text(metadata, "status").lower()
    error = field_text(row, "error_str") or field_text(metadata, "error_information.error_message") or "error"
    vendor, model = field_text(row, "custom_llm_provider"), field_text(row, "model")
    failed = status in ("failure", "error", "failed")
    if not model:
        raise Unusable("a row that names no model")
    return LoggedCall(
        line=line,
        model=f"{vendor}/{model}" if vendor and "/" not in model else model,
        call_id=field_text(row, "litellm_call_id")
        or field_text(metadata, "litellm_call_id")
        or field_text(row, "request_id", "id"),
        trace_id=field_text(row, "trace_id"),
        prompt=question_field(asked) if asked != {} else "",
        output=message_text_field(field_at(json_field(row.get("response")), "choices.0.message")),
        error=error if failed else "",
        usage=usage,
        usd=usd_field("spend", first_field(row, "response_cost", "spend")),
        latency_ms=None if cached or failed else latency,
        cached=cached,
        tier=_litellm_tier(row, metadata),
        started=started,
        tenant_id=field_text(row, "team_id") or field_text(metadata, "user_api_key_team_id", "team_id"),
        user_id=field_text(row, "end_user", "user") or field_text(row, "model_parameters.user"),
        feature=_litellm_tag(first_field(row, "request_tags") or field_at(metadata, "tags")),
    )


def _litellm_tier(row: Mapping[str, Any], metadata: Any) -> str:
    """Tier by the answer, by its usage, by what litellm charged, or by the request: a stream's answer names none."""
    return tier_field(
        answer_tier_field(json_field(row.get("response"))),
        field_at(metadata, "usage_object.service_tier"),
        field_at(json_field(row.get("cost_breakdown")), "service_tier"),
        field_at(metadata, "cost_breakdown.service_tier"),
        field_at(json_field(row.get("model_parameters")), "service_tier"),
        field_at(json_field(row.get("proxy_server_request")), "service_tier"),
    )


def _litellm_tag(tags: Any) -> str:
    """First tag that the caller gave."""
    found = json_field(tags)
    return field_text(found, "0") if isinstance(found, list) else found if isinstance(found, str) else ""


def read_langfuse(paths: Sequence[Path]) -> ToolLog:
    """Read exports of Langfuse: observations and, beside them, scores; JSONL, CSV or Parquet.

    A score of a named author is a person's, one of an evaluator a model's, and others a program's.

    Raises
    ------
    EvalsetError
        If no file is one of these.
    """
    files = log_files_in(paths, (*_FILES, ".json"), "Langfuse exports")
    log = ToolLog("langfuse", tuple(files))
    given = list[tuple[str, str, LoggedScore]]()
    for path in files:
        rows = _langfuse_rows(path) if path.suffix.lower() == ".json" else log_rows(path, log)
        rows = [(line, {_langfuse_snake(str(name)): value for name, value in row.items()}) for line, row in rows]
        keys = {name for _, row in rows for name in row}
        of_scores = "start_time" not in keys and bool({"value", "string_value"} & keys)
        log.each(path, rows, partial(_langfuse_score, given) if of_scores else _langfuse_call)
    attach_logged_scores(log, given)
    return log


def _langfuse_rows(path: Path) -> list[Row]:
    """Objects of a JSON list, or of the ``data`` of a page."""
    document = log_document(path)
    found = document if isinstance(document, list) else field_at(document, "data")
    if not isinstance(found, list):
        raise EvalsetError(f"{path} holds no list of objects and no page with data")
    return [(place, row) for place, row in enumerate(found, start=1) if isinstance(row, dict)]


def _langfuse_snake(name: str) -> str:
    """``startTime`` as ``start_time``: both are exported."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).removeprefix("_").replace(" ", "_")


def _langfuse_call(line: int, row: dict[str, Any]) -> LoggedCall | None:
    kind = field_text(row, "type").lower()
    if "start_time" not in row or not field_text(row, "id"):
        raise Unusable("an observation of Langfuse has id, type and start_time")
    if kind not in _LANGFUSE_CALLS:
        return None
    model = field_text(row, "provided_model_name", "model", "internal_model_id")
    if not model:
        raise Unusable("a generation that names no model")
    started, latency = span_latency(row.get("start_time"), row.get("end_time"))
    seconds = amount_field("latency", row.get("latency"))
    failed = field_text(row, "level").upper() == "ERROR"
    metadata = json_field(row.get("metadata"))
    cost = first_field(row, "total_cost", "calculated_total_cost")
    cost = field_at(json_field(row.get("cost_details")), "total") if cost is None else cost
    latency = seconds * 1000 if latency is None and seconds is not None else latency
    return LoggedCall(
        line=line,
        model=model,
        call_id=field_text(row, "id"),
        trace_id=field_text(row, "trace_id"),
        prompt="" if kind == "embedding" else asked_in_span(json_field(row.get("input"))),
        output=message_text_field(json_field(row.get("output"))),
        error=(field_text(row, "status_message") or "error") if failed else "",
        usage=_langfuse_usage(row),
        usd=usd_field("total_cost", cost),
        tier=tier_field(
            answer_tier_field(json_field(row.get("output"))),
            field_at(metadata, "service_tier"),
            field_at(json_field(row.get("model_parameters")), "service_tier"),
        ),
        latency_ms=None if failed else latency,
        started=started,
        tenant_id=field_text(metadata, "tenant_id", "attributes.tenant_id"),
        user_id=field_text(row, "user_id"),
        feature=field_text(metadata, "feature") or field_text(row, "name"),
    )


def _langfuse_usage(row: dict[str, Any]) -> Usage | None:
    found = json_field(first_field(row, "usage_details", "usage"))
    if not isinstance(found, dict) or not found:
        return usage_fields(row.get("prompt_tokens"), row.get("completion_tokens"), inside=True)
    return langfuse_usage_field(found)


def _langfuse_score(given: list[tuple[str, str, LoggedScore]], line: int, row: dict[str, Any]) -> LoggedScore:
    name, of_call, trace = field_text(row, "name"), field_text(row, "observation_id"), field_text(row, "trace_id")
    if not name or not (trace or of_call):
        raise Unusable("a score of Langfuse has name, value, and trace_id or observation_id")
    person, judge = field_text(row, "author_user_id"), field_text(row, "evaluator_id", "config_id")
    told = field_text(row, "source").upper()
    source: Source = "human" if person or told == "ANNOTATION" else "model" if told == "EVAL" or judge else "code"
    value = row.get("value")
    score = LoggedScore(name, _langfuse_score_value(value), source, person or judge, field_text(row, "comment"))
    given.append((of_call, trace, score))
    return score


def _langfuse_score_value(value: Any) -> float | None:
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and value.strip().lower() in ("true", "false", "yes", "no"):
        return float(value.strip().lower() in ("true", "yes"))
    try:
        return number_cell("value", value)
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
    files = log_files_in(paths, (".jsonl", ".json", ".csv", ".parquet"), "MLflow traces")
    log = ToolLog("mlflow", tuple(files))
    given = list[tuple[str, str, LoggedScore]]()
    for path in files:
        rows = _mlflow_rows(path, log)
        log.each(path, rows, partial(_mlflow_trace, path, log, given))
    attach_logged_scores(log, given)
    return log


def _mlflow_rows(path: Path, log: ToolLog) -> list[Row]:
    if path.suffix.lower() != ".json":
        return log_rows(path, log)
    document = log_document(path)
    rows = document if isinstance(document, list) else field_at(document, "traces") or [document]
    return [(place, row) for place, row in enumerate(rows, start=1) if isinstance(row, dict)]


def _mlflow_trace(
    path: Path, log: ToolLog, given: list[tuple[str, str, LoggedScore]], line: int, row: dict[str, Any]
) -> dict[str, Any] | None:
    whole = json_field(row.get("trace"))
    row = whole if isinstance(whole, dict) and "info" in whole else row
    info = row["info"] if isinstance(row.get("info"), dict) else row
    trace = field_text(info, "trace_id", "request_id")
    spans = json_field(first_field(row, "data.spans", "spans"))
    if not trace or not isinstance(spans, list):
        raise Unusable("a trace of MLflow has info.trace_id and data.spans")
    metadata, tags = json_field(info.get("trace_metadata")), json_field(info.get("tags"))
    who = {
        "tenant_id": field_text(tags, "tenant_id") or field_text(metadata, "tenant_id"),
        "feature": field_text(tags, "feature")
        or field_text(metadata, "feature")
        or field_text(tags, "mlflow.traceName"),
        "user_id": _mlflow_dotted(metadata, "mlflow.trace.user"),
    }
    calls = [c for s in spans if isinstance(s, dict) and (c := _mlflow_span(line, path, s, trace, who, spans, log))]
    log.calls += calls
    for found in field_objects(json_field(first_field(info, "assessments"))):
        source = field_text(found, "source.source_type").upper()
        if field_at(found, "feedback") is not None and field_text(found, "assessment_name", "name"):
            value = field_at(found, "feedback.value")
            kind: Source = "human" if source == "HUMAN" else "model" if source in ("LLM_JUDGE", "AI_JUDGE") else "code"
            name = field_text(found, "assessment_name", "name")
            given.append(
                (
                    "",
                    trace,
                    LoggedScore(name, _langfuse_score_value(value), kind, field_text(found, "source.source_id")),
                )
            )
    return row if calls else None


def _mlflow_dotted(row: Any, name: str) -> str:
    value = row.get(name) if isinstance(row, dict) else None
    return value if isinstance(value, str) else ""


def _mlflow_span(
    line: int, path: Path, span: dict[str, Any], trace: str, who: Mapping[str, str], spans: Sequence[Any], log: ToolLog
) -> LoggedCall | None:
    said = (
        {k: json_field(v) for k, v in (span.get("attributes") or {}).items()}
        if isinstance(span.get("attributes"), dict)
        else {}
    )
    kind, asked = str(said.get("mlflow.spanType", "")), said.get("mlflow.spanInputs")
    root = next((s for s in spans if isinstance(s, dict) and not first_field(s, "parent_span_id", "parent_id")), span)
    outer = json_field(
        (root.get("attributes") or {}).get("mlflow.spanInputs") if isinstance(root.get("attributes"), dict) else None
    )
    question = asked_in_span(outer) or asked_in_span(asked)
    if kind == "RETRIEVER":
        found = said.get("mlflow.spanOutputs")
        rows = [{"id": field_text(d, "id", "metadata.doc_uri", "metadata.id"), "score": field_at(d, "metadata.score")}
                for d in field_objects(found)]  # fmt: skip
        if asked_in_span(asked) or question:
            log.searches.append(
                LoggedSearch(line, path.name, asked_in_span(asked) or question, hits_of_span(rows), who["tenant_id"])
            )
    if kind not in ("CHAT_MODEL", "LLM", "EMBEDDING"):
        return None
    model = _mlflow_dotted(said, "model") or field_text(asked, "model") or _mlflow_dotted(said, "mlflow.llm.model")
    if not model:
        raise Unusable("a call of a model that names none")
    tokens = said.get("mlflow.chat.tokenUsage")
    status = first_field(span, "status.code", "status_code")
    failed = str(status) in ("STATUS_CODE_ERROR", "ERROR", "2")
    started, latency = span_latency(
        first_field(span, "start_time_unix_nano", "start_time_ns"),
        first_field(span, "end_time_unix_nano", "end_time_ns"),
    )
    return LoggedCall(
        line=line,
        file=path.name,
        model=model,
        served=_mlflow_dotted(said, "mlflow.llm.model"),
        call_id=f"{trace}/{field_text(span, 'span_id')}",
        trace_id=trace,
        prompt="" if kind == "EMBEDDING" else question,
        output=message_text_field(field_at(said.get("mlflow.spanOutputs"), "choices.0.message")),
        error=(field_text(span, "status.message", "status_message") or "error") if failed else "",
        usage=usage_fields(
            field_at(tokens, "input_tokens"),
            field_at(tokens, "output_tokens"),
            cache_read=field_at(tokens, "cache_read_input_tokens"),
            cache_write=field_at(tokens, "cache_creation_input_tokens"),
            inside=True,
        ),
        usd=usd_field("cost", field_at(said.get("mlflow.llm.cost"), "total_cost")),
        tier=tier_field(answer_tier_field(said.get("mlflow.spanOutputs")), field_at(asked, "service_tier")),
        latency_ms=None if failed else latency,
        started=started,
        tenant_id=who["tenant_id"],
        feature=who["feature"],
        user_id=who["user_id"],
    )
