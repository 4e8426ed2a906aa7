"""Money that may be spent: reserved before a call is made, settled after it, never more than the limit at any instant.

A conditional UPDATE decides, so that threads, processes and machines that share the database cannot together
reserve more than is left; no lock is held while a model is asked. What was reserved stays charged until it is
settled: a process that dies leaves its holds, because nobody knows what they cost, until somebody closes them.
"""

import json
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import urlencode

import sqlalchemy as sa

from workbench.config import Clock, SystemClock
from workbench.errors import BudgetExceeded, ConfigError, StoreError, unknown_name
from workbench.inference.prices import nanos
from workbench.state import Batch, create_tables, execute, execute_insert, group_commit, reading_engine, sql_marks
from workbench.telemetry.attribution import Attribution
from workbench.telemetry.ledger import TOKENS, Ledger, LedgerRow

if TYPE_CHECKING:
    import polars as pl


Window = Literal["day", "month", "total"]
EVERYTHING = "all"
FIELDS = tuple(f.name for f in fields(Attribution))


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit on spending, one for each combination of what ``by`` names.

    Attributes
    ----------
    limit_usd : float
        May be 0; then no call that costs anything is made.
    window : {"day", "month", "total"}
        What it is for, in UTC; "total" never starts anew.
    by : tuple of str
        Fields of `Attribution` that each have a budget of their own; an empty field is one like any other.
    only : mapping of str to str
        Calls with these fields alone; all where it is empty.
    name : str
        Tells budgets of the same calls apart, such as that of one batch.
    """

    limit_usd: float
    window: Window
    by: tuple[str, ...] = ()
    only: Mapping[str, str] = field(default_factory=dict)
    name: str = ""

    def __post_init__(self) -> None:
        for name in (*self.by, *self.only):
            if name not in FIELDS:
                raise ConfigError(unknown_name("field of a budget", name, FIELDS))
        if self.window not in get_args(Window):
            raise ConfigError(unknown_name("window of a budget", self.window, get_args(Window)))
        try:
            nanos(self.limit_usd)
        except ValueError as error:
            raise ConfigError(f"the limit of a budget is dollars, 0 or more: {error}") from error

    def scope(self, who: Attribution) -> str | None:
        """Which budget of this kind a call falls under, None where under none.

        >>> Budget(1.0, "day", by=("tenant_id",)).scope(Attribution(tenant_id="acme"))
        'tenant_id=acme'
        """
        if any(getattr(who, name) != value for name, value in self.only.items()):
            return None
        # Equal scopes are the same calls, however they came about; no value can forge the name of another.
        named = [("name", self.name)] if self.name else []
        return urlencode([*named, *sorted((n, getattr(who, n)) for n in {*self.by, *self.only})],
                         errors="surrogatepass") or EVERYTHING  # fmt: skip


DEFAULT_BUDGETS = (Budget(10.0, "day"), Budget(100.0, "month"))


def budget_window_at(window: Window, now: datetime) -> str:
    """Name of the window that a moment lies in, such as "2026-11" of a month.

    >>> budget_window_at("month", datetime(2026, 11, 30))
    '2026-11'
    """
    return {"day": f"{now:%Y-%m-%d}", "month": f"{now:%Y-%m}", "total": "total"}[window]


def budget_resets_at(window: str) -> str:
    """ISO time at which a window of this name ends, empty where it never does."""
    if window == "total":
        return ""
    is_month = len(window) == len("2026-11")
    start = datetime.fromisoformat(f"{window}-01" if is_month else window).replace(tzinfo=UTC)
    end = (start.replace(day=28) + timedelta(days=4)).replace(day=1) if is_month else start + timedelta(days=1)
    return end.isoformat()


LONGEST_CALL = timedelta(hours=1)  # what is younger may still be under way

_METADATA = sa.MetaData()
_BUDGET = sa.Table(
    "wb_budget",
    _METADATA,
    sa.Column("scope", sa.Text, primary_key=True),
    sa.Column("window", sa.Text, primary_key=True),
    sa.Column("limit_nanos", sa.BigInteger),
    sa.Column("spent_nanos", sa.BigInteger, nullable=False),
    sa.Column("held_nanos", sa.BigInteger, nullable=False),
)
_HOLD = sa.Table(
    "wb_hold",
    _METADATA,
    sa.Column("hold_id", sa.Text, primary_key=True),
    sa.Column("scope", sa.Text, primary_key=True),
    sa.Column("window", sa.Text, primary_key=True),
    sa.Column("call_id", sa.Text, nullable=False, index=True),
    sa.Column("attempt", sa.BigInteger, nullable=False),
    sa.Column("reserved", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("amount_nanos", sa.BigInteger, nullable=False),
    sa.Column("spent_nanos", sa.BigInteger, nullable=False),
)
# What the ledger gets where nobody settles a hold. A table of its own, so that databases without it need no change.
_UNSETTLED = sa.Table(
    "wb_hold_row",
    _METADATA,
    sa.Column("hold_id", sa.Text, primary_key=True),
    sa.Column("row", sa.Text, nullable=False),
)


_Key = tuple[str, str]  # scope and window
_THESE = 'SELECT hold_id, scope, "window", state, amount_nanos FROM wb_hold WHERE hold_id IN ({})'
_CLOSE = "UPDATE wb_hold SET state = 'settled', spent_nanos = ? WHERE hold_id = ?"
_FORGET = "DELETE FROM wb_hold_row WHERE hold_id IN ({})"
_BUDGETS = """SELECT scope, "window", limit_nanos, spent_nanos, held_nanos FROM wb_budget
WHERE (scope, "window") IN (VALUES {})"""
_ORDER = """scope = 'all', length(replace(scope, '=', '')) - length(scope), scope COLLATE "C", "window" COLLATE "C\""""
_UNUSED = """INSERT INTO wb_budget (scope, "window", spent_nanos, held_nanos) VALUES (?, ?, 0, 0)
ON CONFLICT DO NOTHING RETURNING scope"""
_STATE = """UPDATE wb_budget SET held_nanos = ?, spent_nanos = ?, limit_nanos = ? WHERE scope = ? AND "window" = ?"""
_CHANGE = """UPDATE wb_budget SET held_nanos = held_nanos + ?, spent_nanos = spent_nanos + ?
WHERE scope = ? AND "window" = ?"""


class Budgets:
    """Budgets of one state database; what is spent and held survives the process.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        From `workbench.state.open_engine`.
    budgets : sequence of Budget
        Of equal scopes and windows the smallest limit holds.
    clock : Clock, optional
        Tells the window of a reservation.
    """

    def __init__(
        self, engine: sa.Engine, budgets: Sequence[Budget] = DEFAULT_BUDGETS, clock: Clock | None = None
    ) -> None:
        self._engine, self._budgets, self._clock = engine, tuple(budgets), clock or SystemClock()
        self._group, self._known = group_commit(engine), set[_Key]()
        create_tables(engine, _BUDGET, _HOLD, _UNSETTLED)

    @property
    def engine(self) -> sa.Engine:
        """The state database."""
        return self._engine

    def instead(self, budget: Budget) -> "Budgets":
        """Another budget alone, on the same database: what is spent there takes nothing from these."""
        return Budgets(self._engine, (budget,), self._clock)

    def and_also(self, budget: Budget) -> "Budgets":
        """These budgets and one more, on the same database."""
        return Budgets(self._engine, (*self._budgets, budget), self._clock)

    def reserve(self, worst: LedgerRow, *, hold_id: str = "") -> str:
        """Set an attempt's worst cost aside in every budget that applies, or in none; returns the id of the hold.

        Parameters
        ----------
        worst : LedgerRow
            What the ledger gets if the attempt is never settled, see `close_holds`.
        hold_id : str, optional
            New id, for a caller who must be able to settle the hold although this method was interrupted.

        Raises
        ------
        BudgetExceeded
            If it does not fit; nothing is written.
        """
        now = self._clock.now().astimezone(UTC)
        who = Attribution(**{name: getattr(worst, name) for name in FIELDS})
        hold_id, limits = hold_id or uuid.uuid4().hex, self._limits(who, now)
        # who settles a hold has its id already: inside `together` nobody needs to wait for it
        self._group.later(_BOOKS, _BudgetReserve(hold_id, worst, now.isoformat(), limits, self._known))
        return hold_id

    def settle(self, hold_id: str, rows: Sequence[LedgerRow], ledger: Ledger | None) -> bool:
        """Write what came of a call and charge it, in one transaction; no rows means that it cost nothing.

        A hold is settled once: another time changes nothing and adds no rows. What cost more than was reserved is
        charged in full. Returns whether this time settled it.

        Raises
        ------
        StoreError
            If there is no such hold, or the ledger has a row already; then nothing is settled.
        """
        settled: bool = self._group.run(_BOOKS, _BudgetSettle(hold_id, rows, ledger))
        return settled

    def close_holds(self, before: datetime, ledger: Ledger) -> list[LedgerRow]:
        """Charge in full every hold of before a moment that nobody settled, since the process that made it is dead.

        Each is closed in a transaction of its own, with a row of status "unknown". A call that is under way all the
        same finds its hold settled: its answer stays, what it really cost is lost.

        Returns
        -------
        list of LedgerRow
            What was written.

        Raises
        ------
        ConfigError
            If the moment is less than an hour ago; nothing is closed then.
        """
        if before > (latest := self._clock.now() - LONGEST_CALL):
            raise ConfigError(
                f"holds of before {before.isoformat()} may be of calls that are still under way; close those of before "
                f"{latest.isoformat(timespec='seconds')} at the latest"
            )
        held = sa.select(_HOLD, _UNSETTLED.c.row).outerjoin(_UNSETTLED, _UNSETTLED.c.hold_id == _HOLD.c.hold_id)
        held = held.where(_HOLD.c.state == "open", _HOLD.c.reserved < before.astimezone(UTC).isoformat())
        with reading_engine(self._engine).begin() as connection:
            rows = {
                hold.hold_id: _unsettled_hold_row(hold) for hold in connection.execute(held.order_by(_HOLD.c.reserved))
            }
        return [row for hold_id, row in rows.items() if self.settle(hold_id, [row], ledger)]

    def correct(self, call_id: str, attempt: int, difference_nanos: int, reason: str, *, ledger: Ledger) -> LedgerRow:
        """Book a difference to what a settled attempt cost, in the ledger and in the windows it was charged to.

        Raises
        ------
        StoreError
            As `Ledger.correct`; nothing is booked then.
        """
        of_attempt = sa.select(_HOLD).where(
            _HOLD.c.call_id == call_id, _HOLD.c.attempt == attempt, _HOLD.c.state == "settled"
        )

        def book(connection: sa.Connection) -> LedgerRow:
            row = ledger.correct(call_id, attempt, difference_nanos, reason, connection)
            holds = connection.execute(of_attempt.order_by(_HOLD.c.reserved.desc(), _HOLD.c.hold_id)).all()
            last = [h for h in holds if h.hold_id == holds[0].hold_id]
            if last:
                bill = sa.update(_HOLD).where(_HOLD.c.hold_id == last[0].hold_id)
                connection.execute(bill.values(spent_nanos=_HOLD.c.spent_nanos + difference_nanos))
            _charge_budgets(connection, {(h.scope, h.window): [0, difference_nanos] for h in last})
            return row

        return self._group.alone(book)

    def table(self) -> "pl.DataFrame":
        """Every budget that was ever drawn on: scope, window, limit_nanos, spent_nanos, held_nanos, resets.

        Newest window first. The limit is that of the last call, None where it had none; ``resets`` is an ISO time,
        empty where the window never ends.
        """
        import polars as pl

        with reading_engine(self._engine).begin() as connection:
            found = connection.execute(sa.select(_BUDGET)).all()
        names = ("scope", "window", "limit_nanos", "spent_nanos", "held_nanos", "resets")
        schema = dict(zip(names, (pl.String, pl.String, *[pl.Int64] * 3, pl.String), strict=True))
        frame = pl.DataFrame([(*row, budget_resets_at(row.window)) for row in found], schema, orient="row")
        return frame.sort("window", "scope", descending=[True, False])

    def _limits(self, who: Attribution, now: datetime) -> dict[_Key, int | None]:
        """Limit of every scope and window that a call of this moment falls under."""
        limits: dict[_Key, int | None] = {}
        for budget in self._budgets:
            if (scope := budget.scope(who)) is not None:
                key, limit = (scope, budget_window_at(budget.window, now)), nanos(budget.limit_usd)
                limits[key] = limit if (other := limits.get(key)) is None else min(limit, other)
        return limits or {(EVERYTHING, "total"): None}


def _unsettled_hold_row(hold: sa.Row[Any]) -> LedgerRow:
    """Ledger row of a hold that nobody settled; one made by an earlier version does not say whose call it was."""
    if hold.row:
        return LedgerRow(**json.loads(hold.row))
    blank: dict[str, Any] = dict.fromkeys(
        (*FIELDS, "trace_id", "model_asked", "model_served", "route", "reason", "price_version"), ""
    ) | dict.fromkeys((*TOKENS, "latency_ms"), 0)
    blank |= {"purpose": Attribution().purpose, "started": hold.reserved, "status": "unknown"}
    return LedgerRow(call_id=hold.call_id, attempt=hold.attempt, cost_nanos=hold.amount_nanos, **blank)


@dataclass(frozen=True, slots=True)
class _BudgetReserve:
    hold_id: str
    worst: LedgerRow
    reserved: str
    limits: Mapping[_Key, int | None]
    known: set[_Key]  # budgets that have a row


@dataclass(frozen=True, slots=True)
class _BudgetSettle:
    hold_id: str
    rows: Sequence[LedgerRow]
    ledger: Ledger | None


def _book_budgets(connection: sa.Connection, asked: Sequence[_BudgetReserve | _BudgetSettle]) -> list[object]:
    """Settle, then reserve what fits; the rows that all calls share are locked last, and for as short as can be."""
    changes: dict[_Key, list[int]] = {}
    settled = _settle_holds([ask for ask in asked if isinstance(ask, _BudgetSettle)], connection, changes)
    reserved = _reserve_budgets([ask for ask in asked if isinstance(ask, _BudgetReserve)], connection, changes)
    return [next(settled if isinstance(ask, _BudgetSettle) else reserved) for ask in asked]


_BOOKS = Batch(0, _book_budgets)


def _settle_holds(
    asked: Sequence[_BudgetSettle], connection: sa.Connection, changes: dict[_Key, list[int]]
) -> Iterator[bool | StoreError]:
    """Close the holds that are open, with their rows; what becomes of budgets is added to ``changes``."""
    if not asked:
        return iter(())
    ids = tuple(dict.fromkeys(ask.hold_id for ask in asked))
    holds = defaultdict(list)
    for hold_id, *hold in execute(connection, _THESE.format(sql_marks(len(ids))), ids, lock='hold_id, scope, "window"'):
        holds[hold_id].append(hold)
    outcomes: list[bool | StoreError] = []
    closed: dict[str, _BudgetSettle] = {}
    for ask in asked:
        if ask.hold_id not in holds:
            outcomes.append(StoreError(f"there is no hold {ask.hold_id!r} to settle; reserve before a call is made"))
            continue
        outcomes.append(ask.hold_id not in closed and holds[ask.hold_id][0][2] == "open")
        if outcomes[-1]:
            closed[ask.hold_id] = ask
    spent = {hold_id: sum(row.cost_nanos for row in ask.rows) for hold_id, ask in closed.items()}
    if ledger := next((ask.ledger for ask in closed.values() if ask.ledger), None):
        ledger.add([row for ask in closed.values() if ask.ledger for row in ask.rows], connection)
    if closed:
        execute(connection, _CLOSE, [(spent[hold_id], hold_id) for hold_id in closed])
        execute(connection, _FORGET.format(sql_marks(len(closed))), tuple(closed))
    for hold_id in closed:
        for scope, window, _, amount in holds[hold_id]:
            change = changes.setdefault((scope, window), [0, 0])
            change[0] -= amount
            change[1] += spent[hold_id]
    return iter(outcomes)


def _reserve_budgets(
    asked: Sequence[_BudgetReserve], connection: sa.Connection, changes: dict[_Key, list[int]]
) -> Iterator[BudgetExceeded | None]:
    """Hold what fits, in the order of coming, and write all ``changes``."""
    if not asked:
        _charge_budgets(connection, changes)
        return iter(())
    fresh = _budgets_in_order({key for ask in asked for key in ask.limits if key not in ask.known})
    new = {key for key in fresh if execute(connection, _UNUSED, key)}
    states = _locked_budgets(
        connection, _budgets_in_order({key for ask in asked for key in ask.limits} | changes.keys())
    )
    for key, (held, spent) in changes.items():
        states[key].held += held
        states[key].spent += spent
    outcomes = [_hold_in_budgets(states, ask) for ask in asked]
    taken = [ask for ask, refused in zip(asked, outcomes, strict=True) if refused is None]
    used = {key for ask in taken for key in ask.limits}
    for scope, window in _budgets_in_order(new - used):
        execute(connection, 'DELETE FROM wb_budget WHERE scope = ? AND "window" = ?', (scope, window))
    written = [(s.held, s.spent, s.limit, *key) for key, s in states.items() if key in used or key in changes]
    execute(connection, _STATE, written)
    execute_insert(connection, _HOLD, [
        (ask.hold_id, *key, ask.worst.call_id, ask.worst.attempt, ask.reserved, "open", ask.worst.cost_nanos, 0)
        for ask in taken for key in ask.limits
    ])  # fmt: skip
    execute_insert(connection, _UNSETTLED, [(ask.hold_id, ask.worst.to_json()) for ask in taken])
    for ask in taken:
        ask.known.update(ask.limits)
    return iter(outcomes)


@dataclass(slots=True)
class _DrawnBudget:
    """One row of the budgets, locked by this transaction."""

    limit: int | None
    spent: int
    held: int


def _locked_budgets(connection: sa.Connection, keys: Sequence[_Key]) -> dict[_Key, _DrawnBudget]:
    """Rows of the budgets, locked in the order of the keys until the transaction ends."""
    values, texts = ", ".join(["(?, ?)"] * len(keys)), tuple(text for key in keys for text in key)
    rows = execute(connection, _BUDGETS.format(values), texts, lock=_ORDER)
    found = {(scope, window): _DrawnBudget(*state) for scope, window, *state in rows}
    for key in keys:
        if key not in found:  # somebody deleted it from the database
            execute(connection, _UNUSED, key)
            found[key] = _DrawnBudget(None, 0, 0)
    return {key: found[key] for key in keys}


def _hold_in_budgets(states: Mapping[_Key, _DrawnBudget], ask: _BudgetReserve) -> BudgetExceeded | None:
    """Hold an amount in every budget that applies; an error where it does not fit one."""
    amount = ask.worst.cost_nanos
    for key in _budgets_in_order(ask.limits):
        limit, state = ask.limits[key], states[key]
        # What is free always fits: spent may be above the limit, after a call that cost more than was reserved or a
        # limit that was lowered.
        if limit is not None and amount and state.spent + state.held + amount > limit:
            return BudgetExceeded(
                scope=key[0],
                window=key[1],
                limit_nanos=limit,
                spent_nanos=state.spent,
                reserved_nanos=state.held,
                amount_nanos=amount,
                resets=budget_resets_at(key[1]),
            )
    for key, limit in ask.limits.items():
        states[key].held += amount
        states[key].limit = limit
    return None


def _charge_budgets(connection: sa.Connection, changes: Mapping[_Key, Sequence[int]]) -> None:
    """Add what is held and what is spent to the budgets."""
    execute(connection, _CHANGE, [(*changes[key], *key) for key in _budgets_in_order(changes)])


def _budgets_in_order(keys: Iterable[_Key]) -> list[_Key]:
    """Return the one order in which rows are locked: none waits in a circle; what all calls share is locked last."""
    return sorted(keys, key=lambda key: (key[0] == EVERYTHING, -key[0].count("="), key))
