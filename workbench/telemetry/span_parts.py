"""What a span holds, in the form in which a person reads it: messages, documents, tools, scores, errors, facts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from workbench.rendering.table import Column, Table, number, usd_digits
from workbench.telemetry.tree import SpanRow

# What is worth a place of its own, in the order of reading.
_FACTS = {
    "gen_ai.request.model": "model asked",
    "gen_ai.response.model": "model served",
    "gen_ai.provider.name": "provider",
    "wb.attempt": "attempt",
    "wb.waited_s": "waited for its turn",
    "wb.route": "route",
    "wb.reason": "reason",
    "gen_ai.usage.input_tokens": "input tokens",
    "gen_ai.usage.cache_read.input_tokens": "read from cache",
    "gen_ai.usage.cache_creation.input_tokens": "written to cache",
    "gen_ai.usage.output_tokens": "output tokens",
    "wb.cost_usd": "cost",
    "wb.saved_usd": "saved",
    "wb.cache.saved_nanos": "saved",
    "wb.source": "source",
    "wb.cache.kind": "cache",
    "wb.cache.hit": "cache hit",
    "wb.cache.similarity": "similarity",
    "wb.cache.threshold": "threshold",
    "gen_ai.response.finish_reasons": "finished",
    "gen_ai.response.time_to_first_chunk": "first text after",
    "gen_ai.tool.name": "tool",
    "wb.retrieval.strategy": "strategy",
    "wb.retrieval.k": "k",
    "wb.retrieval.filter": "filter",
    "gen_ai.evaluation.name": "score",
    "gen_ai.evaluation.score.value": "value",
    "gen_ai.evaluation.score.label": "label",
    "gen_ai.evaluation.explanation": "explanation",
}
WHO = {
    "wb.tenant_id": "tenant",
    "wb.user_id": "user",
    "wb.feature": "feature",
    "wb.purpose": "purpose",
    "wb.item_id": "item",
}
_TEXTS = {
    "gen_ai.retrieval.query.text": "Query",
    "gen_ai.tool.call.arguments": "Arguments",
    "gen_ai.tool.call.result": "Result",
    "gen_ai.evaluation.explanation": "Explanation",
    "input.value": "Input",
    "output.value": "Output",
}
_SAID = {
    "gen_ai.system_instructions": "Instructions",
    "gen_ai.input.messages": "Asked",
    "gen_ai.output.messages": "Answered",
}
_DOCUMENTS = "gen_ai.retrieval.documents"
_SHOWN_ELSEWHERE = {"gen_ai.operation.name", "error.type"}
_DOCUMENT_TEXT = 300


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that a span holds.

    ``facts`` and ``said`` are pairs (label or role, text), ``text`` is one text in ``pairs[0]``, ``table`` a table;
    ``other`` holds what nobody named here, and is folded away.
    """

    kind: Literal["error", "facts", "said", "text", "table", "other"]
    title: str
    pairs: tuple[tuple[str, str], ...] = ()
    table: Table | None = field(default=None, kw_only=True)


def parts(row: SpanRow, top: SpanRow) -> list[Part]:
    """Everything that a span holds, each attribute once; for whom it worked only where ``top`` says otherwise."""
    same = {name for name in WHO if row.attributes.get(name) == top.attributes.get(name)}
    attributes = {name: value for name, value in row.attributes.items() if name not in same}
    out = [_error(row)] if row.status == "error" else []
    for name, title in _SAID.items():
        if name in attributes:
            out.append(Part("said", title, tuple(_said(attributes.pop(name)))))
    for name, title in _TEXTS.items():
        if name in attributes:
            out.append(Part("text", title, ((title, _pretty(attributes.pop(name))),)))
    if _DOCUMENTS in attributes:
        out.append(_documents(attributes.pop(_DOCUMENTS)))
    scores = [event["attributes"] for event in row.events if event["name"] == "gen_ai.evaluation.result"]
    out += [Part("facts", "Score", _facts(dict(score))) for score in scores]
    out.append(Part("facts", "Facts", _facts(attributes)))
    rest = {name: value for name, value in attributes.items() if name not in _SHOWN_ELSEWHERE}
    out.append(Part("other", "Other attributes", tuple((name, _plain(value)) for name, value in sorted(rest.items()))))
    return [part for part in out if part.pairs or part.table]


def error_of(row: SpanRow) -> str:
    """Class and message of the error of a span, empty where it has none."""
    if row.status != "error":
        return ""
    kind = str(row.attributes.get("error.type") or "error")
    return f"{kind}: {row.message}" if row.message else kind


def money(usd: float) -> str:
    """Dollars with two significant digits at least.

    >>> money(0.00042), money(1.5)
    ('$0.00042', '$1.50')
    """
    return number(usd, usd_digits([usd]), unit="$")


def took(row: SpanRow) -> str:
    """How long a span took."""
    return duration(row.ended_ns - row.started_ns)


def duration(nanos: int) -> str:
    """Nanoseconds as milliseconds or seconds, three digits or so.

    >>> duration(1_234_000), duration(182_400_000), duration(2_410_000_000), duration(120_000_000_000)
    ('1.2 ms', '182 ms', '2.41 s', '120.0 s')
    """
    ms = nanos / 1e6
    if abs(ms) < 1000:
        return f"{number(ms, 1 if abs(ms) < 10 else 0)} ms"
    return f"{number(ms / 1000, 2 if abs(ms) < 100_000 else 1)} s"


def _error(row: SpanRow) -> Part:
    pairs = [("what", error_of(row))]
    for event in row.events:
        if event["name"] == "exception":
            given = event["attributes"]
            pairs += [
                (w, str(given[k]))
                for k, w in (("exception.place", "at"), ("exception.stacktrace", "stack"))
                if k in given
            ]
    return Part("error", "Error", tuple(pairs))


def _said(value: Any) -> list[tuple[str, str]]:
    """Role and text of each message; the convention's form and that of chat providers are both read."""
    read = _read(value)
    if not isinstance(read, list):
        return [("", _plain(read))]
    out: list[tuple[str, str]] = []
    for message in read:
        if not isinstance(message, Mapping):
            out.append(("", _plain(message)))
            continue
        role = str(message.get("role", message.get("type", "")))
        pieces = message.get("parts", message.get("content"))
        if "role" not in message and isinstance(pieces, str):
            role = ""
        listed = pieces if isinstance(pieces, list) else [pieces] if pieces not in (None, "") else []
        out += [_piece(role, piece, message) for piece in listed]
        for call in message.get("tool_calls") or ():
            function = call.get("function", call) if isinstance(call, Mapping) else {"arguments": call}
            out.append((f"{role} calls {function.get('name', '')}", _pretty(function.get("arguments", ""))))
    return out


def _piece(role: str, piece: Any, message: Mapping[str, Any]) -> tuple[str, str]:
    if not isinstance(piece, Mapping):
        return (f"{role} {message.get('name', '')}".strip() if role == "tool" else role), _pretty(piece)
    kind = piece.get("type", "text")
    if kind == "tool_call":
        return f"{role} calls {piece.get('name', '')}", _pretty(piece.get("arguments", ""))
    if kind == "tool_call_response":
        return f"{role} returns", _pretty(piece.get("response", piece.get("result", "")))
    if isinstance(text := piece.get("content", piece.get("text")), str):
        return role if kind == "text" else f"{role} ({kind})", text
    return f"{role} ({kind})", _pretty({k: v for k, v in piece.items() if k != "type"})


def _documents(value: Any) -> Part:
    read = _read(value)
    if not isinstance(read, list) or not all(isinstance(document, Mapping) for document in read):
        return Part("text", "Documents", (("Documents", _pretty(read)),))
    rows = []
    for rank, document in enumerate(read, 1):
        score = document.get("score")
        text = document.get("text", document.get("content", document.get("title", "")))
        scored = score if isinstance(score, int | float) and not isinstance(score, bool) else None
        rows.append((rank, _plain(document.get("id", "")), scored, _plain(text)))
    columns = [Column("", "count"), Column("document"), Column("score", "number"), Column("text", limit=_DOCUMENT_TEXT)]
    wide = 4 if any(row[3] for row in rows) else 3
    table = Table(tuple(columns[:wide]), tuple(row[:wide] for row in rows))
    return Part("table", f"Documents ({len(rows)})", table=table)


def _facts(attributes: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Take the known facts out of the attributes."""
    known = _FACTS | WHO
    return tuple((label, _fact(name, attributes.pop(name))) for name, label in known.items() if name in attributes)


def _fact(name: str, value: Any) -> str:
    if isinstance(value, float | int) and not isinstance(value, bool):
        if name.endswith(("_usd", "_nanos")):
            return money(value / 1e9 if name.endswith("_nanos") else value)
        if name in ("gen_ai.response.time_to_first_chunk", "wb.waited_s"):
            return duration(int(value * 1e9)) if abs(value) < 1e9 else str(value)
        return f"{value:,}" if isinstance(value, int) else number(value, 3)
    return _plain(value)


def _read(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _pretty(value: Any) -> str:
    """JSON laid out for reading, anything else as it is."""
    read = _read(value)
    if not isinstance(read, dict | list):
        return _plain(value)
    line = json.dumps(read, ensure_ascii=False)
    return line if len(line) <= 80 else json.dumps(read, ensure_ascii=False, indent=2)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(v, str) for v in value):
        return ", ".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
