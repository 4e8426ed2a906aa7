"""A trace as a waterfall: one row per span, where it lies in time, what it used, and on opening what it held.

Static HTML without scripts, so that it survives the export of a notebook and opens offline. Every text in it was
written by somebody: all of it is escaped and cut.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from workbench.rendering.numbers import number, usd_digits
from workbench.rendering.table import Column, Table
from workbench.rendering.text import visible
from workbench.telemetry.span_tree import SpanRow, SpanTotals, span_totals, spans_in_order

if TYPE_CHECKING:
    from jinja2 import Environment

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
    "wb.cache.reason": "why it missed",
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
DOCUMENTS = "gen_ai.retrieval.documents"
_SHOWN_ELSEWHERE = {"gen_ai.operation.name", "error.type"}
_DOCUMENT_TEXT = 300


@dataclass(frozen=True, slots=True)
class WaterfallPart:
    """One thing that a span holds.

    ``facts`` and ``said`` are pairs (label or role, text), ``text`` is one text in ``pairs[0]``, ``table`` a table;
    ``other`` holds what nobody named here, and is folded away.
    """

    kind: Literal["error", "facts", "said", "text", "table", "other"]
    title: str
    pairs: tuple[tuple[str, str], ...] = ()
    table: Table | None = field(default=None, kw_only=True)


def waterfall_parts(row: SpanRow, top: SpanRow) -> list[WaterfallPart]:
    """Everything that a span holds, each attribute once; its tenant and feature only if ``top`` has others."""
    same = {name for name in WHO if row.attributes.get(name) == top.attributes.get(name)}
    attributes = {name: value for name, value in row.attributes.items() if name not in same}
    out = [_waterfall_error_part(row)] if row.status == "error" else []
    for name, title in _SAID.items():
        if name in attributes:
            out.append(WaterfallPart("said", title, tuple(_waterfall_chat_messages(attributes.pop(name)))))
    for name, title in _TEXTS.items():
        if name in attributes:
            out.append(WaterfallPart("text", title, ((title, _pretty_waterfall_json(attributes.pop(name))),)))
    if DOCUMENTS in attributes:
        out.append(_waterfall_documents_part(attributes.pop(DOCUMENTS)))
    scores = [event["attributes"] for event in row.events if event["name"] == "gen_ai.evaluation.result"]
    out += [WaterfallPart("facts", "Score", _waterfall_facts_part(dict(score))) for score in scores]
    out.append(WaterfallPart("facts", "Facts", _waterfall_facts_part(attributes)))
    rest = {name: value for name, value in attributes.items() if name not in _SHOWN_ELSEWHERE}
    out.append(
        WaterfallPart(
            "other",
            "Other attributes",
            tuple((name, _waterfall_attribute_text(value)) for name, value in sorted(rest.items())),
        )
    )
    return [part for part in out if part.pairs or part.table]


def waterfall_error(row: SpanRow) -> str:
    """Class and message of the error of a span, empty where it has none."""
    if row.status != "error":
        return ""
    kind = str(row.attributes.get("error.type") or "error")
    return f"{kind}: {row.message}" if row.message else kind


def waterfall_money(usd: float) -> str:
    """Dollars with two significant digits at least.

    >>> waterfall_money(0.00042), waterfall_money(1.5)
    ('$0.00042', '$1.50')
    """
    return number(usd, usd_digits([usd]), unit="$")


def waterfall_took(row: SpanRow) -> str:
    """How long a span took."""
    return waterfall_duration(row.ended_ns - row.started_ns)


def waterfall_duration(nanos: int) -> str:
    """Nanoseconds as milliseconds or seconds, three digits or so.

    >>> [waterfall_duration(nanos) for nanos in (1_234_000, 182_400_000, 2_410_000_000, 120_000_000_000)]
    ['1.2 ms', '182 ms', '2.41 s', '120.0 s']
    """
    ms = nanos / 1e6
    if abs(ms) < 1000:
        return f"{number(ms, 1 if abs(ms) < 10 else 0)} ms"
    return f"{number(ms / 1000, 2 if abs(ms) < 100_000 else 1)} s"


def _waterfall_error_part(row: SpanRow) -> WaterfallPart:
    pairs = [("what", waterfall_error(row))]
    for event in row.events:
        if event["name"] == "exception":
            given = event["attributes"]
            pairs += [
                (w, str(given[k]))
                for k, w in (("exception.place", "at"), ("exception.stacktrace", "stack"))
                if k in given
            ]
    return WaterfallPart("error", "Error", tuple(pairs))


def _waterfall_chat_messages(value: Any) -> list[tuple[str, str]]:
    """Role and text of each message; the convention's form and that of chat providers are both read."""
    read = _parsed_waterfall_json(value)
    if not isinstance(read, list):
        return [("", _waterfall_attribute_text(read))]
    out: list[tuple[str, str]] = []
    for message in read:
        if not isinstance(message, Mapping):
            out.append(("", _waterfall_attribute_text(message)))
            continue
        role = str(message.get("role", message.get("type", "")))
        pieces = message.get("parts", message.get("content"))
        if "role" not in message and isinstance(pieces, str):
            role = ""
        listed = pieces if isinstance(pieces, list) else [pieces] if pieces not in (None, "") else []
        out += [_waterfall_piece(role, piece, message) for piece in listed]
        for call in message.get("tool_calls") or ():
            function = call.get("function", call) if isinstance(call, Mapping) else {"arguments": call}
            out.append(
                (f"{role} calls {function.get('name', '')}", _pretty_waterfall_json(function.get("arguments", "")))
            )
    return out


def _waterfall_piece(role: str, piece: Any, message: Mapping[str, Any]) -> tuple[str, str]:
    if not isinstance(piece, Mapping):
        return (f"{role} {message.get('name', '')}".strip() if role == "tool" else role), _pretty_waterfall_json(piece)
    kind = piece.get("type", "text")
    if kind == "tool_call":
        return f"{role} calls {piece.get('name', '')}", _pretty_waterfall_json(piece.get("arguments", ""))
    if kind == "tool_call_response":
        return f"{role} returns", _pretty_waterfall_json(piece.get("response", piece.get("result", "")))
    if isinstance(text := piece.get("content", piece.get("text")), str):
        return role if kind == "text" else f"{role} ({kind})", text
    return f"{role} ({kind})", _pretty_waterfall_json({k: v for k, v in piece.items() if k != "type"})


def _waterfall_documents_part(value: Any) -> WaterfallPart:
    read = _parsed_waterfall_json(value)
    if not isinstance(read, list) or not all(isinstance(document, Mapping) for document in read):
        return WaterfallPart("text", "Documents", (("Documents", _pretty_waterfall_json(read)),))
    rows = []
    for rank, document in enumerate(read, 1):
        score = document.get("score")
        text = document.get("text", document.get("content", document.get("title", "")))
        scored = score if isinstance(score, int | float) and not isinstance(score, bool) else None
        rows.append((rank, _waterfall_attribute_text(document.get("id", "")), scored, _waterfall_attribute_text(text)))
    columns = [Column("", "count"), Column("document"), Column("score", "number"), Column("text", limit=_DOCUMENT_TEXT)]
    wide = 4 if any(row[3] for row in rows) else 3
    table = Table(tuple(columns[:wide]), tuple(row[:wide] for row in rows))
    return WaterfallPart("table", f"Documents ({len(rows)})", table=table)


def _waterfall_facts_part(attributes: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Take the known facts out of the attributes."""
    known = _FACTS | WHO
    return tuple(
        (label, _waterfall_fact(name, attributes.pop(name))) for name, label in known.items() if name in attributes
    )


def _waterfall_fact(name: str, value: Any) -> str:
    if isinstance(value, float | int) and not isinstance(value, bool):
        if name.endswith(("_usd", "_nanos")):
            return waterfall_money(value / 1e9 if name.endswith("_nanos") else value)
        if name in ("gen_ai.response.time_to_first_chunk", "wb.waited_s"):
            return waterfall_duration(int(value * 1e9)) if abs(value) < 1e9 else str(value)
        return f"{value:,}" if isinstance(value, int) else number(value, 3)
    return _waterfall_attribute_text(value)


def _parsed_waterfall_json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _pretty_waterfall_json(value: Any) -> str:
    """JSON laid out for reading, anything else as it is."""
    read = _parsed_waterfall_json(value)
    if not isinstance(read, dict | list):
        return _waterfall_attribute_text(value)
    line = json.dumps(read, ensure_ascii=False)
    return line if len(line) <= 80 else json.dumps(read, ensure_ascii=False, indent=2)


def _waterfall_attribute_text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(v, str) for v in value):
        return ", ".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_COLOURED = ("chat", "embeddings", "retrieval", "execute_tool", "cache_lookup", "evaluate")
_SPANS, _TEXT, _NAME, _LABEL, _PAGE = 1000, 9000, 160, 80, 4_000_000
_COLUMNS = 28
_ROLES = ("assistant", "user", "tool")


def waterfall(rows: Sequence[SpanRow]) -> str:
    """HTML fragment of one trace, with its own style sheet, for a notebook's output or a page."""
    return _rendered_waterfall(rows, whole=False)


def waterfall_page(rows: Sequence[SpanRow]) -> str:
    """Page of one trace that loads nothing and runs nothing, and tells the browser so."""
    return _rendered_waterfall(rows, whole=True)


def _rendered_waterfall(rows: Sequence[SpanRow], *, whole: bool) -> str:
    template = _waterfall_template().get_template("waterfall.html.j2")
    if not rows:
        return template.render(whole=whole, lines=[]).strip()
    total, shown = span_totals(rows), spans_in_order(rows)
    room, lines = _PAGE, []
    for row, depth in shown[:_SPANS]:
        held = waterfall_parts(row, shown[0][0]) if room > 0 else None
        room -= sum(map(_waterfall_size, held or ()))
        lines.append(_waterfall_line(row, depth, total) | {"parts": held})
    return template.render(
        whole=whole,
        lines=lines,
        about=_waterfall_about(shown[0][0], total),
        totals=_waterfall_totals(total),
        ticks=("0", waterfall_duration(total.nanos // 2), waterfall_duration(total.nanos)),
        more=f"{len(shown) - _SPANS:,}" if len(shown) > _SPANS else "",
    ).strip()


@cache
def _waterfall_template() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    loader = PackageLoader("workbench.telemetry", "")
    env = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    env.filters |= {
        "cut": lambda text, limit: visible(str(text), limit),
        "speaker": lambda role: next((known for known in _ROLES if role.startswith(known)), ""),
        "table": lambda table: Markup(table.to_html()),
    }
    return env


def _waterfall_size(part: WaterfallPart) -> int:
    return len(part.table.to_html()) if part.table else sum(min(len(text), _TEXT) for _, text in part.pairs)


def _waterfall_about(first: SpanRow, total: SpanTotals) -> str:
    started = datetime.fromtimestamp(total.started_ns // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    who = [
        visible(f"{label} {first.attributes[name]}", _LABEL) for name, label in WHO.items() if name in first.attributes
    ]
    return " · ".join((started, *who, f"trace {visible(first.trace_id, _LABEL)}")).replace("\n", " ")


def _waterfall_totals(total: SpanTotals) -> list[tuple[str, str]]:
    found = [("took", waterfall_duration(total.nanos)), ("spans", f"{total.spans:,}")]
    found += [("model calls", f"{total.model_calls:,}")] if total.model_calls else []
    found += [("tokens in → out", f"{total.input_tokens:,} → {total.output_tokens:,}")] if total.input_tokens else []
    found += [("cost", waterfall_money(total.cost_usd))] if total.cost_usd is not None else []
    return found + ([("failed spans", f"✕ {total.errors:,}")] if total.errors else [])


def _waterfall_line(row: SpanRow, depth: int, total: SpanTotals) -> dict[str, Any]:
    """What the template says of a span in its row; the bar is drawn in thousandths of the trace."""
    after, nanos = row.started_ns - total.started_ns, row.ended_ns - row.started_ns
    thousandth = max(total.nanos, 1) / 1000
    return {
        "name": row.name,
        "kind": row.operation if row.operation in _COLOURED else "other-operation",
        "failed": row.status == "error",
        "chips": _waterfall_chips(row),
        "indent_rem": f"{min(depth, 12) * 0.9:.1f}",
        "level": depth + 1,
        "left": f"{min(after / thousandth, 996):.1f}",
        "width": f"{min(max(nanos / thousandth, 4), 1000):.1f}",
        "said": f"starts after {waterfall_duration(after)}, takes {waterfall_duration(nanos)}",
        "took": waterfall_took(row),
        "tokens": _waterfall_tokens(row),
        "cost": _waterfall_cost(row),
    }


def _waterfall_chips(row: SpanRow) -> list[tuple[str, str]]:
    """Return what must be seen without opening the span: which attempt, what failed, whether a cache answered."""
    given = row.attributes
    chips = [(f"attempt {given['wb.attempt']}", "")] if given.get("wb.attempt", 1) != 1 else []
    waited_s = given.get("wb.waited_s")
    if isinstance(waited_s, int | float) and 0 < waited_s < 1e9:
        chips.append((f"waited {waterfall_duration(int(waited_s * 1e9))}", ""))
    if row.status == "error":
        chips.append((str(given.get("error.type") or "error"), "bad"))
    source = given.get("wb.source")
    if given.get("wb.cache.hit") is True or source == "cached":
        likeness = given.get("wb.cache.similarity")
        near = f" {likeness:.3f}" if isinstance(likeness, float) else ""
        chips.append((f"✓ {given.get('wb.cache.kind', '')} cache hit{near}".replace("  ", " "), "good"))
    elif given.get("wb.cache.hit") is False:
        chips.append(("cache miss", ""))
    elif source == "replayed":
        chips.append(("replayed", ""))
    value = given.get("gen_ai.evaluation.score.value")
    if isinstance(value, int | float):
        chips.append((f"{value:g} {given.get('gen_ai.evaluation.score.label', '')}".rstrip(), ""))
    return chips


def _waterfall_tokens(row: SpanRow) -> str:
    asked, given = (row.attributes.get(f"gen_ai.usage.{side}_tokens") for side in ("input", "output"))
    known = [f"{n:,}" if isinstance(n, int) else "" for n in (asked, given)]
    return " → ".join(text for text in known if text)


def _waterfall_cost(row: SpanRow) -> str:
    cost = row.attributes.get("wb.cost_usd")
    return waterfall_money(cost) if isinstance(cost, int | float) else ""


def waterfall_text(rows: Sequence[SpanRow], *, limit: int = 400) -> str:
    """Waterfall for a terminal; each text of a span follows below, at most ``limit`` characters of it."""
    if not rows:
        return "this trace holds no spans"
    total, shown = span_totals(rows), spans_in_order(rows)[:_SPANS]
    top = shown[0][0]
    names = [_waterfall_text_name(row, depth) for row, depth in shown]
    width = min(max(map(len, names)), 60)
    lines = [
        _waterfall_about(top, total),
        "   ".join(f"{name} {value}" for name, value in _waterfall_totals(total)),
        "",
    ]
    for name, (row, _) in zip(names, shown, strict=True):
        used = f"{waterfall_took(row):>9}  {_waterfall_tokens(row):>14}  {_waterfall_cost(row)}".rstrip()
        lines.append(f"{name[:width]:<{width}} {_waterfall_text_bar(row, total)} {used}")
    for row, _ in shown:
        texts = [
            line
            for part in waterfall_parts(row, top)
            if part.kind != "other"
            for line in _waterfall_text_part(part, limit)
        ]
        lines += ["", visible(row.name, _NAME).replace("\n", " "), *texts] if texts else []
    return "\n".join(lines)


def _waterfall_text_name(row: SpanRow, depth: int) -> str:
    chips = "".join(f" [{text}]" for text, _ in _waterfall_chips(row))
    sign = "✕ " if row.status == "error" else ""
    return visible(f"{'  ' * min(depth, 12)}{sign}{row.name}{chips}", _NAME).replace("\n", " ")


def _waterfall_text_bar(row: SpanRow, total: SpanTotals) -> str:
    def at(nanos: int) -> int:
        return round(_COLUMNS * (nanos - total.started_ns) / max(total.nanos, 1))

    left = min(at(row.started_ns), _COLUMNS - 1)
    width = max(at(row.ended_ns) - left, 1)
    return "|" + (" " * left + "█" * width).ljust(_COLUMNS)[:_COLUMNS] + "|"


def _waterfall_text_part(part: WaterfallPart, limit: int) -> list[str]:
    if part.table is not None:
        return [f"  {line}" for line in (part.title, *part.table.to_text().splitlines())]
    if part.kind == "facts":
        return ["  " + visible(", ".join(f"{name} {text}" for name, text in part.pairs), limit).replace("\n", " ")]
    shown = [(name or part.title, text) for name, text in part.pairs if name != "stack"]
    return [f"  {visible(name, _LABEL)}: {visible(text, limit)}".replace("\n", "\n      ") for name, text in shown]
