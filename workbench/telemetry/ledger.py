"""What every attempt at a model cost, and for which tenant: one row each, never changed, corrected by a further row."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from workbench.config import Clock, SystemClock
from workbench.errors import StoreError, unknown_name
from workbench.rendering.progress import waiting
from workbench.state import Batch, create_tables, execute_insert, group_commit, reading_engine
from workbench.telemetry.attribution import PURPOSES

if TYPE_CHECKING:
    import polars as pl

STATUSES = ("ok", "error", "unknown", "cached", "replayed", "correction")
NOBODY = "(none)"
_LIKE_NOBODY = re.compile(r'"*\(none\)"*')
TOKENS = ("fresh_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """One attempt at one model, or an answer that needed none.

    Attributes
    ----------
    attempt : int
        From 0 within the call; corrections count down from -1.
    started : str
        ISO time in UTC.
    purpose : str
        One of `workbench.telemetry.attribution.PURPOSES`; tenant, user and feature are empty if the caller
        names none.
    fresh_tokens, cache_read_tokens, cache_write_tokens : int
        Disjoint: their sum is the prompt.
    cost_nanos, saved_nanos : int
        1e-9 USD; saved is what an answer from a cache would have cost. Only a correction may be negative.
    status : str
        ``unknown`` where the provider may have billed an attempt without an answer: it costs what was reserved.
    cache : str
        JSON of a cache hit.
    """

    call_id: str
    attempt: int
    started: str
    latency_ms: float
    trace_id: str
    item_id: str
    tenant_id: str
    user_id: str
    feature: str
    purpose: str
    model_asked: str
    model_served: str
    route: str
    reason: str
    fresh_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    output_tokens: int
    price_version: str
    cost_nanos: int
    saved_nanos: int = 0
    status: str
    error_class: str = ""
    cache: str = ""

    def __post_init__(self) -> None:
        for kind, name, known in (("status", self.status, STATUSES), ("purpose", self.purpose, PURPOSES)):
            if name not in known:
                raise ValueError(unknown_name(kind, name, known))
        counts = [getattr(self, name) for name in (*TOKENS, "saved_nanos")]
        if min(counts) < 0 or (self.cost_nanos < 0 and self.status != "correction"):
            raise ValueError(f"tokens and amounts of call {self.call_id!r} cannot be negative: {self}")

    def to_json(self) -> str:
        """The row as a JSON object, one field each."""
        return json.dumps(dict(zip(_KINDS, _VALUES(self), strict=True)))


_TYPES = {"str": sa.Text, "int": sa.BigInteger, "float": sa.Float}
_KINDS = {f.name: getattr(f.type, "__name__", str(f.type)) for f in fields(LedgerRow)}
LEDGER_TABLE = "wb_ledger"
_LEDGER = sa.Table(
    LEDGER_TABLE,
    sa.MetaData(),
    *(
        sa.Column(name, _TYPES[kind], primary_key=name in ("call_id", "attempt"), nullable=False, autoincrement=False)
        for name, kind in _KINDS.items()
    ),
)
_VALUES = attrgetter(*_KINDS)
_READ_AT_ONCE = 20_000  # rows as Python values, which take ten times what they take as columns
_GROUPS = tuple(name for name, kind in _KINDS.items() if kind == "str" and name not in ("call_id", "cache"))


def shown_name(name: str) -> str:
    """Name of a tenant, a feature or the like as tables show it: `NOBODY` for none, and in quotes if it reads so.

    >>> shown_name("acme"), shown_name(""), shown_name("(none)")
    ('acme', '(none)', '"(none)"')
    """
    return f'"{name}"' if _LIKE_NOBODY.fullmatch(name) else name or NOBODY


def shown_names(*columns: str) -> "pl.Expr":
    """Columns of names as tables show them."""
    import polars as pl

    names = pl.col(columns)
    alike = names.str.contains(f"^(?:{_LIKE_NOBODY.pattern})$")
    return pl.when(alike).then('"' + names + '"').when(names == "").then(pl.lit(NOBODY)).otherwise(names).name.keep()


class Unattributed(NamedTuple):
    """Share of the ledger, in [0, 1], that names no tenant or no feature."""

    by_cost: float
    by_calls: float


class Ledger:
    """The ledger of one state database; appended to by any number of threads and processes."""

    def __init__(self, engine: sa.Engine, clock: Clock | None = None) -> None:
        self._engine, self._clock = engine, clock or SystemClock()
        create_tables(engine, _LEDGER)

    def add(self, rows: Sequence[LedgerRow], connection: sa.Connection | None = None) -> None:
        """Append rows, in the transaction of ``connection`` where one is given.

        Raises
        ------
        StoreError
            If an attempt is in the ledger already; none of the rows is then added.
        """
        if not rows:
            return
        if connection is None:
            group_commit(self._engine).run(_ROWS, rows)
        else:
            _insert_ledger_row(connection, rows)

    def correct(
        self, call_id: str, attempt: int, difference_nanos: int, reason: str, connection: sa.Connection | None = None
    ) -> LedgerRow:
        """Book a difference to what an attempt cost, as a further row with the attempt's attribution and time.

        What budgets count follows only with `workbench.inference.budgets.Budgets.correct`, which calls this.

        Raises
        ------
        StoreError
            If there is no such attempt, or the call would have cost less than nothing.
        """
        if connection is None:
            with self._engine.begin() as own:
                return self.correct(call_id, attempt, difference_nanos, reason, own)
        of_call = sa.select(_LEDGER).where(_LEDGER.c.call_id == call_id)
        connection.execute(of_call.with_for_update()).all()
        # read anew: what somebody else booked while this waited for the lock is not in a statement that began before
        rows = [LedgerRow(**row._mapping) for row in connection.execute(of_call)]
        found = next((row for row in rows if row.attempt == attempt and row.status != "correction"), None)
        if found is None:
            raise StoreError(f"the ledger has no attempt {attempt} of call {call_id!r} to correct")
        if (total := sum(row.cost_nanos for row in rows)) + difference_nanos < 0:
            raise StoreError(f"call {call_id!r} cost {total} nano-dollars; {difference_nanos} more would be below 0")
        booked = self._clock.now().isoformat(timespec="seconds")
        nothing: dict[str, Any] = dict.fromkeys((*TOKENS, "latency_ms", "saved_nanos"), 0)
        row = replace(
            found,
            attempt=min(0, *(r.attempt for r in rows)) - 1,
            reason=f"attempt {attempt}, booked {booked}: {reason}",
            cost_nanos=difference_nanos,
            status="correction",
            **nothing,
        )
        self.add([row], connection)
        return row

    def frame(self) -> "pl.DataFrame":
        """All rows in the order they started, one column a field of `LedgerRow`."""
        return self.columns(tuple(_KINDS)).sort("started", "call_id", "attempt")

    def columns(self, names: Sequence[str], *, since: str = "", until: str = "") -> "pl.DataFrame":
        """Some columns of the rows of a period, in no order; a million rows of six take about 2 s and 200 MB.

        >>> ledger.columns(["tenant_id", "cost_nanos"], since="2026-11-01")  # doctest: +SKIP

        Parameters
        ----------
        names : sequence of str
            Fields of `LedgerRow`.
        since, until : str, optional
            From this ISO date or time in UTC on, and before that one; empty: without an end.

        Raises
        ------
        StoreError
            If a column is not known.
        """
        import polars as pl

        for name in names:
            if name not in _KINDS:
                raise StoreError(unknown_name("column of the ledger", name, tuple(_KINDS)))
        lines = self._engine.dialect.name == "sqlite"
        values = [_LEDGER.c[name] for name in names]
        query = sa.select(_ledger_csv_line(values)) if lines else sa.select(*values)
        query = query.where(_LEDGER.c.started >= since) if since else query
        query = query.where(_LEDGER.c.started < until) if until else query
        types = {"str": pl.String, "int": pl.Int64, "float": pl.Float64}
        return self._read(query, {name: types[_KINDS[name]] for name in names}, lines=lines)

    def totals(self, by: str) -> "pl.DataFrame":
        """Sums by one column: ``by``, calls, cost_nanos, saved_nanos; dearest first, what is not known as "(none)".

        A call counts once in each group in which it has an attempt.

        Raises
        ------
        StoreError
            If the ledger cannot be summed by that column.
        """
        import polars as pl

        if by not in _GROUPS:
            raise StoreError(unknown_name("column of the ledger", by, _GROUPS))
        sums = _ledger_sums(_LEDGER.c[by])
        cost = _ledger_sum(sums.c.cost).label("cost")
        query = sa.select(sums.c.name, _ledger_sum(sums.c.calls), cost, _ledger_sum(sums.c.saved)).group_by(sums.c.name)
        query = query.order_by(cost.desc(), sums.c.name)
        schema = {by: pl.String, "calls": pl.Int64, "cost_nanos": pl.Int64, "saved_nanos": pl.Int64}
        return self._read(query, schema).with_columns(shown_names(by))

    def unattributed_share(self) -> Unattributed | None:
        """Share of what was spent, and of the calls, that names no tenant or no feature; None of an empty ledger."""
        row = _LEDGER.c
        lacking = sa.or_(row.tenant_id == "", row.feature == "")
        parts = (row.cost_nanos, sa.case((row.attempt == 0, 1), else_=0))
        sums = [_ledger_sum(part) for value in parts for part in (sa.case((lacking, value), else_=0), value)]
        with reading_engine(self._engine).begin() as connection:
            lost, spent, nameless, calls = tuple(connection.execute(sa.select(*sums)).one())
        return Unattributed(lost / spent if spent else 0.0, nameless / calls) if calls else None

    def _read(
        self, query: sa.Select[Any], schema: dict[str, type["pl.DataType"]], *, lines: bool = False
    ) -> "pl.DataFrame":
        """Rows of a query as columns; with ``lines`` each row comes as one line of CSV."""
        import polars as pl

        parts = [pl.DataFrame(schema=schema)]
        with waiting("reading the ledger"), reading_engine(self._engine).begin() as connection:
            cursor = connection.execute(query).cursor
            # the driver's own tuples: a row object for each of a million rows takes as long as reading them
            while rows := cursor.fetchmany(_READ_AT_ONCE):
                if lines:
                    text = "\n".join([line for (line,) in rows]).encode()
                    found = pl.read_csv(text, has_header=False, schema=schema)
                    parts.append(found.with_columns(pl.col(pl.String).fill_null("")))
                    continue
                columns = zip(*rows, strict=True)
                parts.append(
                    pl.DataFrame([pl.Series(n, v, t) for (n, t), v in zip(schema.items(), columns, strict=True)])
                )
        return pl.concat(parts)


def trace_costs() -> sa.Select[tuple[str, int]]:
    """Query for ``trace_id`` and ``cost_nanos`` of every trace of the ledger."""
    cost = _ledger_sum(_LEDGER.c.cost_nanos).label("cost_nanos")
    return sa.select(_LEDGER.c.trace_id, cost).where(_LEDGER.c.trace_id != "").group_by(_LEDGER.c.trace_id)


def _ledger_csv_line(values: Sequence[sa.Column[Any]]) -> "sa.Function[str]":
    """Row as SQLite writes it into one text: a value of Python for each cell takes twice the time of all the rest."""
    forms = {"str": '"%w"', "int": "%d", "float": "%!.17g"}  # %w doubles quotation marks
    return sa.func.printf(",".join(forms[_KINDS[value.name]] for value in values), *values)


def _insert_ledger_row(connection: sa.Connection, rows: Sequence[LedgerRow]) -> None:
    try:
        execute_insert(connection, _LEDGER, [tuple(map(storable_text, _VALUES(row))) for row in rows])
    except sa.exc.IntegrityError as error:
        told = ", ".join(f"{row.call_id}/{row.attempt}" for row in rows[:5])
        raise StoreError(f"the ledger has {told} already, or one of them: {error.orig}") from error


def _insert_ledger_rows(connection: sa.Connection, asked: Sequence[Sequence[LedgerRow]]) -> list[None]:
    _insert_ledger_row(connection, [row for rows in asked for row in rows])
    return [None for _ in asked]


_ROWS = Batch(2, _insert_ledger_rows)


def _ledger_sums(name: sa.Column[str]) -> sa.Subquery:
    """Parts of the sums by one column: a distinct count over all rows would sort the ids of all calls.

    First attempts count as their calls; calls whose first attempt is not in the same group follow in rows of their own.
    """
    row, first = _LEDGER.c, _LEDGER.alias().c
    calls = sa.func.sum(sa.case((row.attempt == 0, 1), else_=0)).label("calls")
    columns = (name.label("name"), calls, sa.func.sum(row.cost_nanos).label("cost"))
    all_rows = sa.select(*columns, sa.func.sum(row.saved_nanos).label("saved")).group_by(name)
    counted = sa.exists().where(first.call_id == row.call_id, first.attempt == 0, first[name.name] == name)
    others = sa.select(name, sa.func.count(row.call_id.distinct()), sa.literal(0), sa.literal(0))
    return all_rows.union_all(others.where(row.attempt != 0, ~counted).group_by(name)).subquery()


def _ledger_sum(column: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    """Whole sum, 0 over no rows; PostgreSQL sums integers to decimals."""
    return sa.cast(sa.func.coalesce(sa.func.sum(column), 0), sa.BigInteger)


def storable_text(value: object) -> object:
    """Text without what databases refuse: a strange name of a model must not lose what it cost."""
    if not isinstance(value, str) or (value.isascii() and "\0" not in value):
        return value
    return value.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
