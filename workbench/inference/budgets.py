"""Money that may be spent: reserved before a call is made, settled after it, never more than the limit at any instant.

A conditional UPDATE decides, so that threads, processes and machines that share the database cannot together
reserve more than is left; no lock is held while a model is asked. What was reserved stays charged until it is
settled: a process that dies leaves its holds, because nobody knows what they cost, until somebody closes them.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import urlencode

import sqlalchemy as sa

from workbench.config import Clock, SystemClock
from workbench.errors import BudgetExceeded, ConfigError, StoreError, unknown_name
from workbench.inference.prices import nanos
from workbench.state import Turns, create_tables, insert_ignore, reader
from workbench.telemetry.context import Attribution
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


def window_at(window: Window, now: datetime) -> str:
    """Name of the window that a moment lies in, such as "2026-11" of a month.

    >>> window_at("month", datetime(2026, 11, 30))
    '2026-11'
    """
    return {"day": f"{now:%Y-%m-%d}", "month": f"{now:%Y-%m}", "total": "total"}[window]


def resets_at(window: str) -> str:
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
        self._turns = Turns()
        create_tables(engine, _BUDGET, _HOLD, _UNSETTLED)

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
        hold = {
            "hold_id": hold_id,
            "call_id": worst.call_id,
            "attempt": worst.attempt,
            "reserved": now.isoformat(),
            "state": "open",
            "amount_nanos": worst.cost_nanos,
            "spent_nanos": 0,
        }
        with self._turns.begin(self._engine) as connection:
            connection.execute(_HOLD.insert(), [hold | {"scope": s, "window": w} for s, w in limits])
            connection.execute(_UNSETTLED.insert().values(hold_id=hold_id, row=json.dumps(asdict(worst))))
            for key in _in_order(limits):
                _take(connection, key, limits[key], worst.cost_nanos)
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
        spent = sum(row.cost_nanos for row in rows)
        this = _HOLD.c.hold_id == hold_id
        close = sa.update(_HOLD).where(this, _HOLD.c.state == "open").values(state="settled", spent_nanos=spent)
        with self._turns.begin(self._engine) as connection:
            settled = connection.execute(close).rowcount > 0
            holds = connection.execute(sa.select(_HOLD).where(this)).all()
            if not holds:
                raise StoreError(f"there is no hold {hold_id!r} to settle; reserve before a call is made")
            if settled:
                if ledger is not None:
                    ledger.add(rows, connection)
                _charge(connection, {(h.scope, h.window) for h in holds}, spent, freed=holds[0].amount_nanos)
                connection.execute(sa.delete(_UNSETTLED).where(_UNSETTLED.c.hold_id == hold_id))
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
        with reader(self._engine).begin() as connection:
            rows = {hold.hold_id: _unsettled(hold) for hold in connection.execute(held.order_by(_HOLD.c.reserved))}
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
        with self._turns.begin(self._engine) as connection:
            row = ledger.correct(call_id, attempt, difference_nanos, reason, connection)
            holds = connection.execute(of_attempt.order_by(_HOLD.c.reserved.desc(), _HOLD.c.hold_id)).all()
            last = [h for h in holds if h.hold_id == holds[0].hold_id]
            if last:
                bill = sa.update(_HOLD).where(_HOLD.c.hold_id == last[0].hold_id)
                connection.execute(bill.values(spent_nanos=_HOLD.c.spent_nanos + difference_nanos))
            _charge(connection, {(h.scope, h.window) for h in last}, difference_nanos, freed=0)
        return row

    def table(self) -> "pl.DataFrame":
        """Every budget that was ever drawn on: scope, window, limit_nanos, spent_nanos, held_nanos, resets.

        Newest window first. The limit is that of the last call, None where it had none; ``resets`` is an ISO time,
        empty where the window never ends.
        """
        import polars as pl

        with reader(self._engine).begin() as connection:
            found = connection.execute(sa.select(_BUDGET)).all()
        names = ("scope", "window", "limit_nanos", "spent_nanos", "held_nanos", "resets")
        schema = dict(zip(names, (pl.String, pl.String, *[pl.Int64] * 3, pl.String), strict=True))
        frame = pl.DataFrame([(*row, resets_at(row.window)) for row in found], schema, orient="row")
        return frame.sort("window", "scope", descending=[True, False])

    def _limits(self, who: Attribution, now: datetime) -> dict[tuple[str, str], int | None]:
        """Limit of every scope and window that a call of this moment falls under."""
        limits: dict[tuple[str, str], int | None] = {}
        for budget in self._budgets:
            if (scope := budget.scope(who)) is not None:
                key, limit = (scope, window_at(budget.window, now)), nanos(budget.limit_usd)
                limits[key] = limit if (other := limits.get(key)) is None else min(limit, other)
        return limits or {(EVERYTHING, "total"): None}


def _unsettled(hold: sa.Row[Any]) -> LedgerRow:
    """Ledger row of a hold that nobody settled; one made by an earlier version does not say whose call it was."""
    if hold.row:
        return LedgerRow(**json.loads(hold.row))
    blank: dict[str, Any] = dict.fromkeys(
        (*FIELDS, "trace_id", "model_asked", "model_served", "route", "reason", "price_version"), ""
    ) | dict.fromkeys((*TOKENS, "latency_ms"), 0)
    blank |= {"purpose": Attribution().purpose, "started": hold.reserved, "status": "unknown"}
    return LedgerRow(call_id=hold.call_id, attempt=hold.attempt, cost_nanos=hold.amount_nanos, **blank)


def _take(connection: sa.Connection, key: tuple[str, str], limit: int | None, amount: int) -> None:
    scope, window = key
    this = (_BUDGET.c.scope == scope, _BUDGET.c.window == window)
    # PostgreSQL looks at the condition again when it gets the row; SQLite has one writer. What is free always fits:
    # spent may be above the limit, after a call that cost more than was reserved or a limit that was lowered.
    fits = [] if limit is None or not amount else [_BUDGET.c.spent_nanos + _BUDGET.c.held_nanos + amount <= limit]
    take = sa.update(_BUDGET).where(*this, *fits)
    take = take.values(held_nanos=_BUDGET.c.held_nanos + amount, limit_nanos=limit)
    if connection.execute(take).rowcount:
        return
    new = {"scope": scope, "window": window, "limit_nanos": limit, "spent_nanos": 0, "held_nanos": 0}
    insert_ignore(connection, _BUDGET, [new])
    if not connection.execute(take).rowcount:
        found = connection.execute(sa.select(_BUDGET).where(*this)).one()
        raise BudgetExceeded(
            scope=scope,
            window=window,
            limit_nanos=limit or 0,
            spent_nanos=found.spent_nanos,
            reserved_nanos=found.held_nanos,
            amount_nanos=amount,
            resets=resets_at(window),
        )


def _charge(connection: sa.Connection, keys: set[tuple[str, str]], spent: int, *, freed: int) -> None:
    for scope, window in _in_order(keys):
        charge = sa.update(_BUDGET).where(_BUDGET.c.scope == scope, _BUDGET.c.window == window)
        more = {"held_nanos": _BUDGET.c.held_nanos - freed, "spent_nanos": _BUDGET.c.spent_nanos + spent}
        connection.execute(charge.values(more))


def _in_order(keys: Mapping[tuple[str, str], object] | set[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the one order in which rows are locked: none waits in a circle; what all calls share is locked last."""
    return sorted(keys, key=lambda key: (key[0] == EVERYTHING, -key[0].count("="), key))
