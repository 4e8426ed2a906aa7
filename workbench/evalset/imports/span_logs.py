"""Spans of OpenTelemetry as calls and searches: GenAI conventions, OpenInference and Langfuse's own attributes.

Read are OTLP as JSON (one document, or one request a line, as the file exporter writes them; spans and log records) and
the tables of spans that Phoenix exports. protobuf's own JSON is another form: its ids are base64.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from workbench.errors import EvalsetError
from workbench.evalset.cells import Unusable, number_cell, shown_cell
from workbench.evalset.files import Row
from workbench.evalset.imports.log_fields import (
    answer_tier_field,
    field_at,
    field_text,
    json_field,
    langfuse_usage_field,
    log_document,
    log_files_in,
    log_rows,
    message_text_field,
    moment_field,
    question_field,
    tier_field,
    usage_fields,
    usd_field,
)
from workbench.evalset.imports.logged_calls import LoggedCall, LoggedScore, LoggedSearch, ToolLog, attach_logged_scores
from workbench.inference.messages import Usage

_HEX = re.compile(r"[0-9a-fA-F]{16}|[0-9a-fA-F]{32}")
_OF_MODELS = ("chat", "text_completion", "generate_content", "embeddings")
_KINDS = ("llm", "embedding", "generation")
_ERRORS = (2, "2", "STATUS_CODE_ERROR", "ERROR")
_TENANT = ("wb.tenant_id", "tenant_id", "tenant.id", "metadata.tenant_id", "langfuse.trace.metadata.tenant_id")
_USER = ("wb.user_id", "user.id", "enduser.id", "user_id", "metadata.user_id", "langfuse.user.id")
_FEATURE = ("wb.feature", "feature", "metadata.feature", "langfuse.trace.metadata.feature", "gen_ai.agent.name")
_DEEPEST = 1000
_SERVED = ("gen_ai.response.model", "llm.model_name", "langfuse.observation.model.name", "embedding.model_name")
_OPENAI = ("openai", "gen_ai.openai")  # what is OpenAI's own in the GenAI conventions; the older name after the newer
# Tokens of the prompt, of the output, read from a cache, written to one; older names after the newer.
_GENAI_USAGE = (
    ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens"),
    ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens"),
    ("gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.cache_read_input_tokens"),
    ("gen_ai.usage.cache_creation.input_tokens", "gen_ai.usage.cache_creation_input_tokens"),
)
_OPENINFERENCE_USAGE = (
    ("llm.token_count.prompt",),
    ("llm.token_count.completion",),
    ("llm.token_count.prompt_details.cache_read",),
    ("llm.token_count.prompt_details.cache_write",),
)


@dataclass(slots=True)
class LoggedSpan:
    """One span; ``said`` has its attributes by dotted name, those of objects and lists inside them too."""

    line: int
    file: str
    trace_id: str
    span_id: str
    parent_id: str
    start: float
    started: str
    latency_ms: float | None
    error: str
    said: dict[str, Any]
    shared: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What kind of work it is, in lower case."""
        names = ("openinference.span.kind", "langfuse.observation.type", "span_kind", "gen_ai.operation.name")
        return next((str(self.said[n]).lower() for n in names if self.said.get(n)), "")

    @property
    def of_model(self) -> bool:
        """Whether a model was called in it."""
        kind = self.kind
        if kind in _KINDS or kind in _OF_MODELS:
            return True
        return not kind and "gen_ai.request.model" in self.said


def read_otlp(paths: Sequence[Path]) -> ToolLog:
    """Read spans that OpenTelemetry's JSON exporters wrote, by the GenAI conventions, OpenInference's, or Langfuse's.

    Raises
    ------
    EvalsetError
        If a file is none of these.
    """
    return _read_spans("otlp", paths)


def read_openinference(paths: Sequence[Path]) -> ToolLog:
    """Read spans with OpenInference's attributes: OTLP as JSON, or a table that Phoenix exported.

    Raises
    ------
    EvalsetError
        If a file is none of these.
    """
    return _read_spans("openinference", paths)


def _read_spans(tool: str, paths: Sequence[Path]) -> ToolLog:
    files = log_files_in(paths, (".json", ".jsonl", ".parquet"), "spans")
    log, spans, events = ToolLog(tool, tuple(files)), list[LoggedSpan](), list[Mapping[str, Any]]()

    for path in files:
        log.each(path, _span_rows(path, log, events), partial(_keep_span, path.name, spans))
    _sort_spans(log, spans, events)
    return log


def _keep_span(file: str, spans: list[LoggedSpan], line: int, row: dict[str, Any]) -> LoggedSpan:
    spans.append(span_of(line, row, file))
    return spans[-1]


def _span_rows(path: Path, log: ToolLog, events: list[Mapping[str, Any]]) -> Iterator[Row]:
    """Spans of a file, each with its resource's attributes; log records go to ``events``."""
    whole = log_document(path) if path.suffix.lower() == ".json" else None
    objects = whole if isinstance(whole, list) else [whole]
    parts = log_rows(path, log) if whole is None else [(0, row) for row in objects if isinstance(row, dict)]
    known = [part for _, part in parts if {"resourceSpans", "resourceLogs", "context.span_id", "context"} & part.keys()]
    if not known:
        raise EvalsetError(
            f"{path} has no resourceSpans and no context.span_id: it is no OTLP as JSON and no table of Phoenix"
        )
    place = 0
    for line, part in parts:
        if "context.span_id" in part or field_at(part, "context.span_id"):  # Phoenix
            yield line, part
        for shared, scope in _span_scopes(part, "resourceSpans", "scopeSpans"):
            for span in _span_list(scope, "spans"):
                place += 1
                yield line or place, {**span, "_resource": shared}
        for _, scope in _span_scopes(part, "resourceLogs", "scopeLogs"):
            events += _span_list(scope, "logRecords")


def _span_scopes(part: Any, resources: str, scopes: str) -> Iterator[tuple[Mapping[str, Any], Any]]:
    for resource in _span_list(part, resources):
        shared = span_attributes_of(field_at(resource, "resource.attributes"))
        for scope in _span_list(resource, scopes):
            yield shared, scope


def _span_list(row: Any, name: str) -> list[dict[str, Any]]:
    found = field_at(row, name)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def span_attributes_of(pairs: Any) -> dict[str, Any]:
    """Attributes of OTLP as plain values: 64-bit integers are text there, and NaN is none.

    >>> span_attributes_of([{"key": "n", "value": {"intValue": "7"}}, {"key": "x", "value": {"doubleValue": "NaN"}}])
    {'n': 7, 'x': None}
    """
    rows = pairs if isinstance(pairs, list) else []
    return {
        row["key"]: _otlp_value(row.get("value"))
        for row in rows
        if isinstance(row, dict) and isinstance(row.get("key"), str)
    }


def _otlp_value(value: Any, depth: int = 0) -> Any:
    if not isinstance(value, dict) or not value or depth > 50:
        return None
    kind, held = next(iter(value.items()))
    if kind == "intValue":
        text = str(held)
        return int(text) if re.fullmatch(r"-?\d{1,19}", text, re.ASCII) else None
    if kind == "doubleValue":
        try:
            found = float(held)
        except (TypeError, ValueError):
            return None
        return None if math.isnan(found) else found
    if kind == "arrayValue":
        return [_otlp_value(item, depth + 1) for item in _span_list(held, "values")]
    if kind == "kvlistValue":
        return {
            r["key"]: _otlp_value(r.get("value"), depth + 1)
            for r in _span_list(held, "values")
            if isinstance(r.get("key"), str)
        }
    return held


def span_of(line: int, row: dict[str, Any], file: str) -> LoggedSpan:
    """LoggedSpan of OTLP or of a table of Phoenix.

    Raises
    ------
    Unusable
        If it has no ids or times; ids of 24 characters are those that protobuf's own JSON makes of hex.
    """
    if "traceId" in row:
        ids = [row.get(name) or "" for name in ("traceId", "spanId", "parentSpanId")]
        said, times = (
            span_attributes_of(row.get("attributes")),
            (row.get("startTimeUnixNano"), row.get("endTimeUnixNano")),
        )
        failed, told = field_at(row, "status.code") in _ERRORS, field_text(row, "status.message")
        events = [span_attributes_of(event.get("attributes")) for event in _span_list(row, "events")]
        told = told or next((str(e["exception.message"]) for e in events if e.get("exception.message")), "")
        failed = failed or any("exception.message" in event for event in events)
    else:
        flat = dict(row)
        ids = [_span_text(flat, n) for n in ("context.trace_id", "context.span_id", "parent_id")]
        said = {name.removeprefix("attributes."): value for name, value in flat.items() if value is not None}
        times = (flat.get("start_time"), flat.get("end_time"))
        failed, told = flat.get("status_code") in _ERRORS, _span_text(flat, "status_message")
    for name, found in zip(("trace", "span", "parent"), ids, strict=True):
        if not isinstance(found, str) or (found and not _HEX.fullmatch(found)) or (not found and name != "parent"):
            raise Unusable(f"the {name} id {shown_cell(found)} is not in hex: it is no id of OTLP as JSON")
    start, started = moment_field("start time", times[0])
    end = moment_field("end time", times[1])[0] if times[1] is not None else None
    return LoggedSpan(
        line, file, ids[0].lower(), ids[1].lower(), ids[2].lower(), start, started,
        None if end is None or end < start else _span_milliseconds(times, start, end),
        (told or "error") if failed else "", dict(_flat_span(said)), row.get("_resource") or {},
    )  # fmt: skip


def _span_text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name, field_at(row, name))
    return value if isinstance(value, str) else ""


def _span_milliseconds(times: tuple[Any, Any], start: float, end: float) -> float:
    """Exact where both are nanoseconds: a float of seconds since 1970 keeps no more than half a microsecond."""
    if all(isinstance(t, str) and t.isdigit() for t in times):
        return (int(times[1]) - int(times[0])) / 1e6
    return (end - start) * 1000


def _flat_span(said: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Dotted names of everything inside; the JSON of ``metadata`` is read too."""
    for name, value in said.items():
        value = json_field(value) if name in ("metadata", "attributes.metadata") else value
        inner = dict(enumerate(value)) if isinstance(value, list) else value
        if isinstance(inner, dict) and inner and depth < 20:
            yield from _flat_span({str(key): item for key, item in inner.items()}, f"{prefix}{name}.", depth + 1)
        else:
            yield f"{prefix}{name}", value


def _sort_spans(log: ToolLog, spans: Sequence[LoggedSpan], events: Sequence[Mapping[str, Any]]) -> None:
    """Spans of models as calls and those of searches as searches; what holds another call is none itself."""
    by_id = {(span.trace_id, span.span_id): span for span in spans}
    asked, given = _of_span_events(events)
    outer = set[tuple[str, str]]()
    for span in spans:
        if span.of_model:
            outer |= {(s.trace_id, s.span_id) for s in _spans_above(span, by_id) if s.of_model}
    paths = {path.name: path for path in log.files}
    for span in spans:
        key = (span.trace_id, span.span_id)
        try:
            if span.of_model and key in outer:
                log.set_aside(paths[span.file], span.line, "it holds another call of a model, which is counted")
            elif span.of_model:
                log.calls.append(_call_of_span(span, list(_spans_above(span, by_id)), asked.get(key)))
            elif span.kind in ("retriever", "retrieval"):
                log.searches.append(_search_of_span(span, list(_spans_above(span, by_id))))
            else:
                log.spare += 1
        except Unusable as error:
            log.set_aside(paths[span.file], span.line, str(error))
        given += [("", span.trace_id, score) for score in _span_annotations(span)]
    attach_logged_scores(log, given)


def _spans_above(span: LoggedSpan, by_id: Mapping[tuple[str, str], LoggedSpan]) -> Iterator[LoggedSpan]:
    """Spans around one, from the inside; a loop of parents ends."""
    seen = {span.span_id}
    while (
        (parent := by_id.get((span.trace_id, span.parent_id))) and parent.span_id not in seen and len(seen) < _DEEPEST
    ):
        yield parent
        seen.add(parent.span_id)
        span = parent


def _of_span_events(
    events: Iterable[Mapping[str, Any]],
) -> tuple[dict[tuple[str, str], Any], list[tuple[str, str, LoggedScore]]]:
    """Of log records: messages that were asked, by span, and results of evaluations."""
    asked, given = dict[tuple[str, str], Any](), list[tuple[str, str, LoggedScore]]()
    for event in events:
        said = span_attributes_of(event.get("attributes"))
        trace, span = field_text(event, "traceId").lower(), field_text(event, "spanId").lower()
        if (messages := said.get("gen_ai.input.messages")) is not None:
            asked[trace, span] = messages
        if name := said.get("gen_ai.evaluation.name"):
            given.append(
                ("", trace, LoggedScore(str(name), _span_score(said.get("gen_ai.evaluation.score.value")), "model"))
            )
    return asked, given


def _span_score(value: Any) -> float | None:
    try:
        return float(value) if isinstance(value, bool) else number_cell("score", value)
    except Unusable:
        return None


def _span_annotations(span: LoggedSpan) -> Iterator[LoggedScore]:
    """Annotations that Phoenix exports beside spans: ``annotations.NAME.score``, a person's or a model's."""
    for key, value in span.said.items():
        found = re.fullmatch(r"annotations\.(.+)\.score", key)
        if found:
            kind = str(span.said.get(f"annotations.{found[1]}.annotator_kind", "")).upper()
            source = {"HUMAN": "human", "CODE": "code"}.get(kind, "model")
            yield LoggedScore(found[1], _span_score(value), source)  # type: ignore[arg-type]


def _call_of_span(span: LoggedSpan, above: Sequence[LoggedSpan], messages: Any) -> LoggedCall:
    said = span.said
    vendor = _first_of_span(said, "gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system")
    parameters = json_field(said.get("llm.invocation_parameters"))
    asked = json_field(said.get("input.value"))
    served = _first_of_span(said, *_SERVED)
    model = (
        _first_of_span(said, "gen_ai.request.model")
        or field_text(parameters, "model")
        or field_text(asked, "model")
        or served
    )
    if not model:
        raise Unusable("it names no model (gen_ai.request.model, llm.model_name)")
    around = [span, *above]
    return LoggedCall(
        line=span.line,
        file=span.file,
        model=f"{vendor}/{model}" if vendor and "/" not in model else model,
        served=served,
        call_id=span.span_id,
        trace_id=span.trace_id,
        prompt="" if "embedding" in span.kind else _span_question(span, above, messages),
        output=_span_output(said),
        error=span.error,
        usage=_span_usage(said),
        usd=usd_field("cost", _span_cost(said)),
        tier=_span_tier(said, parameters, asked),
        latency_ms=None if span.error else span.latency_ms,
        started=span.started,
        tenant_id=_said_around_span(around, _TENANT),
        user_id=_said_around_span(around, _USER),
        feature=_said_around_span(around, _FEATURE),
    )


def _first_of_span(said: Mapping[str, Any], *names: str) -> str:
    return next((str(said[n]) for n in names if isinstance(said.get(n), str | int) and said[n] != ""), "")


def _said_around_span(spans: Sequence[LoggedSpan], names: Sequence[str]) -> str:
    """What a span or one around it says, from the inside; then what its resource says."""
    for said in (*(span.said for span in spans), spans[0].shared):
        if found := _first_of_span(said, *names):
            return found.strip('"')
    return ""


def _span_question(span: LoggedSpan, above: Sequence[LoggedSpan], messages: Any) -> str:
    """What the user asked: the input of the outermost span that has one, else the last message of the user."""
    for outer in reversed(above):
        for name in ("input.value", "langfuse.observation.input", "gen_ai.input.messages"):
            if text := asked_in_span(json_field(outer.said.get(name))):
                return text
    for found in (messages, span.said.get("gen_ai.input.messages"), span.said.get("langfuse.observation.input")):
        if found is not None and (text := asked_in_span(json_field(found))):
            return text
    for prefix in ("llm.input_messages", "gen_ai.prompt", "gen_ai.input.messages"):
        if text := asked_in_span(_span_messages(span.said, prefix)):
            return text
    return asked_in_span(json_field(span.said.get("input.value")))


def asked_in_span(found: Any) -> str:
    """Question in an input: a text, messages, or an object with one text."""
    if isinstance(found, dict) and not {"messages", "input", "contents", "prompt"} & set(found):
        args = found.get("args")
        texts = args if isinstance(args, list) and args else list(found.values())
        plain = [t for t in texts if isinstance(t, str)]
        return plain[0] if len(plain) == 1 else field_text(found, "question", "query", "text")
    return question_field(found)


def _span_messages(said: Mapping[str, Any], prefix: str) -> list[dict[str, str]]:
    """Messages that were flattened: ``PREFIX.0.message.role`` and the like; the parts of one are joined."""
    found: dict[int, dict[str, str]] = {}
    for key, value in said.items():
        if not key.startswith(f"{prefix}.") or not isinstance(value, str):
            continue
        place, _, name = key[len(prefix) + 1 :].partition(".")
        if not place.isdigit() or len(place) > 6:
            continue
        name = name.removeprefix("message.")
        message = found.setdefault(int(place), {})
        if name == "role":
            message["role"] = value
        elif name == "content" or re.fullmatch(
            r"(contents|content|parts)\.\d+\.(message_content\.)?(text|content)", name
        ):
            message["content"] = "\n".join(filter(None, (message.get("content", ""), value)))
    return [found[place] for place in sorted(found)]


def _span_output(said: Mapping[str, Any]) -> str:
    for prefix in ("llm.output_messages", "gen_ai.completion"):
        if rows := _span_messages(said, prefix):
            return message_text_field(rows[0])
    for name in ("gen_ai.output.messages", "langfuse.observation.output", "output.value"):
        if said.get(name) is not None:
            found = json_field(said[name])
            return message_text_field(found[0]) if isinstance(found, list) and found else message_text_field(found)
    return ""


def _span_usage(said: Mapping[str, Any]) -> Usage | None:
    if (own := json_field(said.get("langfuse.observation.usage_details"))) is not None:
        return langfuse_usage_field(own)
    names = _GENAI_USAGE if any(name.startswith("gen_ai.usage.") for name in said) else _OPENINFERENCE_USAGE
    prompt, output, read, written = (next((said[n] for n in some if n in said), None) for some in names)
    return usage_fields(prompt, output, cache_read=read, cache_write=written, inside=True)


def _span_cost(said: Mapping[str, Any]) -> Any:
    details = json_field(said.get("langfuse.observation.cost_details"))
    names = ("gen_ai.usage.cost", "llm.cost.total", "gen_ai.usage.total_cost")
    return field_at(details, "total") or next((said[n] for n in names if said.get(n) is not None), None)


def _span_tier(said: Mapping[str, Any], *asked: Any) -> str:
    """Tier by the answer, else by what was asked for."""
    own = json_field(said.get("langfuse.observation.model.parameters"))
    return tier_field(
        *(said.get(f"{vendor}.response.service_tier") for vendor in _OPENAI),
        *(answer_tier_field(json_field(said.get(name))) for name in ("output.value", "langfuse.observation.output")),
        *(said.get(f"{vendor}.request.service_tier") for vendor in _OPENAI),
        *(field_at(each, "service_tier") for each in (*asked, own)),
    )


def _search_of_span(span: LoggedSpan, above: Sequence[LoggedSpan]) -> LoggedSearch:
    query = asked_in_span(json_field(span.said.get("input.value"))) or _first_of_span(
        span.said, "gen_ai.retrieval.query.text"
    )
    found: dict[int, dict[str, Any]] = {}
    for key, value in span.said.items():
        parts = re.fullmatch(r"(?:gen_ai\.)?retrieval\.documents\.(\d{1,6})\.(?:document\.)?(id|score)", key)
        if parts:
            found.setdefault(int(parts[1]), {})[parts[2]] = value
    own = json_field(span.said.get("gen_ai.retrieval.documents"))
    rows = [found[place] for place in sorted(found)] or [row for row in own or () if isinstance(row, dict)]
    if not query.strip():
        raise Unusable("a search that does not say what it searched for (input.value)")
    return LoggedSearch(span.line, span.file, query, hits_of_span(rows), _said_around_span([span, *above], _TENANT))


def hits_of_span(rows: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, float], ...]:
    """Ids and scores of documents that were found, best first; without a score the order counts.

    Raises
    ------
    Unusable
        If one has no id: a run without ids says nothing.
    """
    hits = []
    for place, row in enumerate(rows):
        name = field_text(row, "id")
        if not name or name.split() != [name]:
            raise Unusable(f"a document that was found has the id {shown_cell(name)}; an id has no blanks")
        score = _span_score(row.get("score"))
        hits.append((name, -float(place) if score is None else score))
    scored = [row.get("score") is not None for row in rows]
    if any(scored) and not all(scored):
        hits = [(name, -float(place)) for place, (name, _) in enumerate(hits)]
    return tuple(hits)
