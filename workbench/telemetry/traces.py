"""Traces out of the state database, to look at in a notebook, a terminal or a page."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from workbench.config import Clock, SystemClock
from workbench.errors import TraceError
from workbench.rendering.progress import waiting
from workbench.rendering.table import Column, Table
from workbench.rendering.text import cell_html
from workbench.state import reading_engine
from workbench.telemetry.ledger import LEDGER_TABLE, trace_costs
from workbench.telemetry.span_tree import SPANS, SpanRow
from workbench.telemetry.waterfall import DOCUMENTS, waterfall, waterfall_page, waterfall_text

_LISTED = 20
_POLL_S = 0.05


@dataclass(frozen=True, slots=True, repr=False)
class Trace:
    """All spans of one trace: shows itself in a notebook, and as text anywhere else."""

    trace_id: str
    rows: tuple[SpanRow, ...]

    def show(self) -> None:
        """Display the waterfall in a notebook cell; elsewhere its text goes to the terminal."""
        from IPython.display import display

        display(self)

    def text(self) -> str:
        """Waterfall as plain text."""
        return waterfall_text(self.rows)

    def html(self) -> str:
        """Waterfall as one HTML page that loads and runs nothing."""
        return waterfall_page(self.rows)

    def _repr_html_(self) -> str:
        return cell_html(waterfall(self.rows))

    def __repr__(self) -> str:
        return self.text()


def load_trace(engine: sa.Engine, trace_id: str, *, wait_s: float = 2.0) -> Trace:
    """Load the spans of one trace.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        State database.
    trace_id : str
        32 hexadecimal digits, or the first ones of them where they name one trace.
    wait_s : float
        How long to wait for the outermost span, which is written a moment after it ended.

    Raises
    ------
    TraceError
        If there is no such trace, or several begin like this; says which the latest ones are.
    """
    wanted = trace_id.strip().lower()
    deadline = time.monotonic() + wait_s
    while True:
        found = _select_traces(engine, wanted)
        if any(top for _, top in found) or time.monotonic() >= deadline:
            break
        time.sleep(_POLL_S)
    ids = sorted({row.trace_id for row, _ in found})
    if len(ids) != 1:
        asked = f"several traces begin with {wanted!r}: {', '.join(ids[:5])}" if ids else f"no trace {trace_id!r}"
        raise TraceError(f"{asked[:400]}; {_latest_trace_rows(engine)}")
    return Trace(ids[0], tuple(row for row, _ in found))


def stored_trace(engine: sa.Engine, trace_id: str) -> Trace | None:
    """Spans of one trace that are written by now, or None; unlike `load_trace` it looks for no others to name."""
    found = _select_traces(engine, trace_id)
    ids = {row.trace_id for row, _ in found}
    return Trace(ids.pop(), tuple(row for row, _ in found)) if len(ids) == 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFilter:
    """Which traces are listed; None, False and 0 leave none out.

    Attributes
    ----------
    tenant, feature : str or None
        Whose; "" is nobody's.
    failed : bool
        Those alone that ended in an error.
    least_cost_usd : float
        Dollars by the ledger, over all attempts of the trace.
    most_score : float or None
        Highest score of those that have one, from `workbench.quality.feedback.feedback_trace_scores`: in [0, 1].
    """

    tenant: str | None = None
    feature: str | None = None
    failed: bool = False
    least_cost_usd: float = 0.0
    most_score: float | None = None


def latest_traces(
    engine: sa.Engine, limit: int = _LISTED, *, only: TraceFilter | None = None, scores: sa.Select[Any] | None = None
) -> Table:
    """List the latest traces, newest first: id, start, name, duration, status, cost, score, tenant, feature.

    Parameters
    ----------
    scores : sqlalchemy.Select, optional
        Query for ``trace_id`` and ``score`` of the traces that have one; its table must be there.
    """
    names = ("trace", "started", "name", "took", "status", "cost usd", "score", "tenant", "feature")
    kinds: dict[str, Any] = {"took": "ms", "status": "status", "cost usd": "usd", "score": "number"}
    rows = []
    if sa.inspect(engine).has_table(SPANS.name):
        spent = trace_costs().subquery() if sa.inspect(engine).has_table(LEDGER_TABLE) else _no_trace_rows("cost_nanos")
        said = scores.subquery() if scores is not None else _no_trace_rows("score")
        query = sa.select(SPANS, spent.c.cost_nanos, said.c.score).where(SPANS.c.top.is_(True), *_trace_conditions(
            engine, only or TraceFilter(), spent.c.cost_nanos, said.c.score))  # fmt: skip
        whole = SPANS.outerjoin(spent, spent.c.trace_id == SPANS.c.trace_id)
        whole = whole.outerjoin(said, said.c.trace_id == SPANS.c.trace_id)
        query = query.select_from(whole).order_by(SPANS.c.started_ns.desc()).limit(limit)
        with waiting("reading the traces"), reading_engine(engine).connect() as connection:
            rows = [_listed_trace(row) for row in connection.execute(query).mappings()]
    return Table(tuple(Column(name, kinds.get(name, "text")) for name in names), tuple(rows))


def _no_trace_rows(column: str) -> sa.Subquery:
    """No row, of the same columns as what is not there."""
    nobody = sa.cast(sa.null(), sa.Text).label("trace_id"), sa.cast(sa.null(), sa.Float).label(column)
    return sa.select(*nobody).where(sa.false()).subquery()


def _trace_conditions(
    engine: sa.Engine, only: TraceFilter, cost_nanos: sa.ColumnElement[Any], score: sa.ColumnElement[Any]
) -> Iterator[sa.ColumnElement[bool]]:
    text = SPANS.c.attributes  # SQLite reads JSON out of text, PostgreSQL out of what is cast
    told = sa.type_coerce(text, sa.JSON) if engine.dialect.name == "sqlite" else sa.cast(text, sa.JSON)
    for name, value in (("wb.tenant_id", only.tenant), ("wb.feature", only.feature)):
        if value is not None:
            yield sa.func.coalesce(told[name].as_string(), "") == value
    if only.failed:
        yield SPANS.c.status == "error"
    if only.least_cost_usd:
        yield cost_nanos >= round(only.least_cost_usd * 1e9)
    if only.most_score is not None:
        yield score <= only.most_score


def _listed_trace(found: Mapping[Any, Any]) -> tuple[str | float | None, ...]:
    columns = dict(found)
    cost_nanos, score = columns.pop("cost_nanos"), columns.pop("score")
    row = _span_of_trace(columns)
    started = datetime.fromtimestamp(row.started_ns // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    took = (row.ended_ns - row.started_ns) / 1e6
    who = (str(row.attributes.get("wb.tenant_id", "")), str(row.attributes.get("wb.feature", "")))
    cost_usd = None if cost_nanos is None else int(cost_nanos) / 1e9
    status = "error" if row.status == "error" else "done"
    return row.trace_id, started, row.name, took, status, cost_usd, score, *who


def _select_traces(engine: sa.Engine, wanted: str) -> list[tuple[SpanRow, bool]]:
    if not (0 < len(wanted) <= 32 and set(wanted) <= set("0123456789abcdef")):
        return []
    if not sa.inspect(engine).has_table(SPANS.name):
        return []
    # a range, because the primary key serves it on both databases
    inside = SPANS.c.trace_id.between(wanted.ljust(32, "0"), wanted.ljust(32, "f"))
    query = sa.select(SPANS).where(inside).order_by(SPANS.c.started_ns).limit(10_000)
    with reading_engine(engine).connect() as connection:
        return [(_span_of_trace(row), row["top"]) for row in connection.execute(query).mappings()]


def _span_of_trace(row: Mapping[Any, Any]) -> SpanRow:
    plain = {name: value for name, value in row.items() if name not in ("top", "attributes", "events")}
    return SpanRow(**plain, attributes=json.loads(row["attributes"]), events=json.loads(row["events"]))


def _latest_trace_rows(engine: sa.Engine) -> str:
    rows = latest_traces(engine, 5).rows
    if not rows:
        return (
            "no trace is stored in this database yet: run something with Tracing on it, or look at WORKBENCH_STATE_URL"
        )
    return "the latest are:" + "".join(f"\n  {row[0]}  {row[1]}  {row[2]}" for row in rows)


def documents_of_span(attributes: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Documents that a span retrieved, best first: id, score and text of each, as far as they are kept."""
    value = attributes.get(DOCUMENTS)
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):  # cut, because it was long
        return []
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def trace_best_scores(engine: sa.Engine, since: datetime, until: datetime) -> dict[str, float]:
    """Highest score of what each trace of a period retrieved, by trace; none where content is not kept."""
    out: dict[str, float] = {}
    if not sa.inspect(engine).has_table(SPANS.name):
        return out
    first, last = (int(moment.timestamp()) * 1_000_000_000 for moment in (since, until))
    query = sa.select(SPANS.c.trace_id, SPANS.c.attributes).where(
        SPANS.c.started_ns >= first, SPANS.c.started_ns < last, SPANS.c.attributes.contains(DOCUMENTS, autoescape=True)
    )
    with reading_engine(engine).connect() as connection:
        for trace_id, attributes in connection.execute(query):
            for document in documents_of_span(json.loads(attributes)):
                score = document.get("score")
                if isinstance(score, int | float) and not isinstance(score, bool):
                    out[trace_id] = max(out.get(trace_id, float(score)), float(score))
    return out


_BATCH = 200  # traces in one transaction: writers wait for milliseconds


class Forgotten(NamedTuple):
    """How much was deleted."""

    traces: int
    spans: int


@waiting("forgetting traces")
def forget_traces(engine: sa.Engine, before: datetime, *, clock: Clock | None = None) -> Forgotten:
    """Delete the traces whose last span ended before a moment, in batches that hold up no writer.

    On SQLite what was deleted is overwritten as well; on PostgreSQL a later vacuum does that.

    Raises
    ------
    TraceError
        If the moment lies in the future.
    """
    if before > (now := (clock or SystemClock()).now()):
        raise TraceError(f"traces can be forgotten up to now, {now.isoformat()}; {before.isoformat()} is in the future")
    if not sa.inspect(engine).has_table(SPANS.name):
        return Forgotten(0, 0)
    before_ns = int(before.timestamp()) * 1_000_000_000
    old = sa.select(SPANS.c.trace_id).group_by(SPANS.c.trace_id).having(sa.func.max(SPANS.c.ended_ns) < before_ns)
    with reading_engine(engine).begin() as connection:
        ids = connection.execute(old).scalars().all()
    spans = 0
    for i in range(0, len(ids), _BATCH):
        # of a trace that goes on meanwhile, what is new stays
        gone = sa.delete(SPANS).where(SPANS.c.trace_id.in_(ids[i : i + _BATCH]), SPANS.c.ended_ns < before_ns)
        with engine.begin() as connection:
            if engine.dialect.name == "sqlite":
                connection.exec_driver_sql("PRAGMA secure_delete=ON")
            spans += connection.execute(gone).rowcount
    if engine.dialect.name == "sqlite":
        _empty_trace_log(engine)
    return Forgotten(len(ids), spans)


def _empty_trace_log(engine: sa.Engine) -> None:
    """Move SQLite's write-ahead log into the file, because the log still holds what was deleted."""
    raw = engine.raw_connection()
    try:
        raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        raw.close()
