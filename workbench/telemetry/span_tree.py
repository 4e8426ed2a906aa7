"""Stored spans: their table, one as a plain value, and the tree that those of one trace form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

_ASKS, _FREE = ("chat", "text_completion", "generate_content"), ("cached", "replayed")

SPANS = sa.Table(
    "wb_span",
    sa.MetaData(),
    sa.Column("trace_id", sa.String(32), primary_key=True),
    sa.Column("span_id", sa.String(16), primary_key=True),
    sa.Column("parent_id", sa.String(16), nullable=False),
    sa.Column("top", sa.Boolean, nullable=False),  # has no parent here, whatever stands around it elsewhere
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("operation", sa.Text, nullable=False),
    sa.Column("status", sa.String(5), nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("started_ns", sa.BigInteger, nullable=False),
    sa.Column("ended_ns", sa.BigInteger, nullable=False),
    sa.Column("attributes", sa.Text, nullable=False),
    sa.Column("events", sa.Text, nullable=False),
    # of the outermost spans alone, for the list of the latest traces
    sa.Index("wb_span_top", "started_ns", sqlite_where=sa.text("top IS 1"), postgresql_where=sa.text("top IS TRUE")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanRow:
    """One finished span.

    Attributes
    ----------
    parent_id : str
        Empty where there is none; the parent may also be elsewhere or not finished yet.
    status : str
        ``unset``, ``ok`` or ``error``; ``message`` says more about an error.
    started_ns, ended_ns : int
        Nanoseconds since 1970, UTC.
    attributes, events
        By the names of OpenTelemetry's GenAI conventions and ``wb.*``.
    """

    trace_id: str
    span_id: str
    parent_id: str = ""
    name: str = ""
    operation: str = ""
    status: str = "unset"
    message: str = ""
    started_ns: int = 0
    ended_ns: int = 0
    attributes: Mapping[str, Any]
    events: Sequence[Mapping[str, Any]] = ()


def spans_in_order(rows: Sequence[SpanRow]) -> list[tuple[SpanRow, int]]:
    """Every span once, each with its depth, parents before children and siblings by start.

    A span whose parent is not among them stands at the top; so does one of each circle, which only a damaged table
    can hold.
    """
    ids = {row.span_id for row in rows}
    children: dict[str, list[SpanRow]] = {}
    ordered = sorted(rows, key=lambda row: (row.started_ns, -row.ended_ns, row.span_id))
    for row in ordered:
        children.setdefault(row.parent_id if row.parent_id in ids else "", []).append(row)
    out: list[tuple[SpanRow, int]] = []
    seen: set[str] = set()
    for start in (*children.get("", ()), *ordered):
        stack = [(start, 0)]
        while stack:
            row, depth = stack.pop()
            if row.span_id not in seen:
                seen.add(row.span_id)
                out.append((row, depth))
                stack += [(child, depth + 1) for child in reversed(children.get(row.span_id, ()))]
    return out


@dataclass(frozen=True, slots=True)
class SpanTotals:
    """Sums over a trace; a sum that stands on a span around others counts only where those have none."""

    spans: int
    started_ns: int
    nanos: int
    errors: int
    model_calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None


def span_totals(rows: Sequence[SpanRow]) -> SpanTotals:
    """Sums over the spans of a trace, which must not be empty."""
    started = min(row.started_ns for row in rows)
    costs = _innermost_spans(rows, "wb.cost_usd")
    return SpanTotals(
        spans=len(rows),
        started_ns=started,
        nanos=max(row.ended_ns for row in rows) - started,
        errors=sum(row.status == "error" for row in rows),
        model_calls=sum(row.operation in _ASKS and row.attributes.get("wb.source") not in _FREE for row in rows),
        input_tokens=int(sum(_innermost_spans(rows, "gen_ai.usage.input_tokens"))),
        output_tokens=int(sum(_innermost_spans(rows, "gen_ai.usage.output_tokens"))),
        cost_usd=sum(costs) if costs else None,
    )


def _innermost_spans(rows: Sequence[SpanRow], name: str) -> list[float]:
    """Values of the spans that have the attribute and below which none has."""
    having = {row.span_id: row for row in rows if isinstance(row.attributes.get(name), int | float)}
    parents = {row.span_id: row.parent_id for row in rows}
    above: set[str] = set()
    for span_id in having:
        parent = parents[span_id]
        while parent in parents and parent not in above:
            above.add(parent)
            parent = parents[parent]
    return [float(row.attributes[name]) for span_id, row in having.items() if span_id not in above]
