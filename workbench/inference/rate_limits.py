"""Requests and tokens per minute, exact across threads, processes and machines that share the state database.

Each call reserves the moment at which it may start, in a log of such moments; then it sleeps until then. Nobody
polls, and the first to come is the first to go. Within any window of the given length the log holds no more than
the limit: a sliding window, not a bucket, which would let nearly twice as much through in some windows.
"""

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from workbench.config import Clock, SystemClock
from workbench.errors import ConfigError, RateLimited
from workbench.inference.streams import pause
from workbench.rendering.numbers import counted
from workbench.state import Batch, create_tables, execute, execute_insert, group_commit

# Added to the window: a call starts some time after its moment, and these delays differ. They were up to 0.17 s on two
# cores with 15 threads ready to run; a machine that delays its calls by more can start too many in some window.
MARGIN_S = 0.2
_US = 1_000_000


@dataclass(frozen=True, slots=True)
class RateLimit:
    """What a provider allows for one model in any minute; None is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name} must be 1 or more, found {value}; None is no limit")


@dataclass(frozen=True, slots=True)
class RateSlot:
    """A moment at which a call may start; ``waited_s`` is how long that took. Without an id there was no limit."""

    model: str
    slot_id: str = ""
    waited_s: float = 0.0


_METADATA = sa.MetaData()
_GATE = sa.Table(
    "wb_gate", _METADATA, sa.Column("model", sa.Text, primary_key=True), sa.Column("passed", sa.BigInteger)
)
_SLOT = sa.Table(
    "wb_slot",
    _METADATA,
    sa.Column("slot_id", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("start_us", sa.BigInteger, nullable=False),
    sa.Column("tokens", sa.BigInteger, nullable=False),
    sa.Index("wb_slot_by_start", "model", "start_us"),
)


class RateLimiter:
    """Makes calls wait for their turn.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        From `workbench.state.open_engine`; what shares the database shares the limits.
    limits : mapping of str to Limit
        By model; a model without one never waits.
    clock : Clock, optional
        The machine's own by default. On PostgreSQL real time is the server's, so that machines whose clocks differ
        agree.
    window_s : float
        Seconds for which the limits hold; only tests have another minute.
    """

    def __init__(
        self, engine: sa.Engine, limits: Mapping[str, RateLimit], clock: Clock | None = None, window_s: float = 60.0
    ) -> None:
        self._engine, self._limits, self._clock = engine, dict(limits), clock or SystemClock()
        self._window_us = round((window_s + MARGIN_S) * _US)
        self._group = group_commit(engine)
        create_tables(engine, _GATE, _SLOT)

    def tokens_per_minute(self, model: str) -> int | None:
        """Tokens at most that one request may announce; None where there is no limit."""
        limit = self._limits.get(model)
        return limit.tokens_per_minute if limit else None

    def wait(self, model: str, tokens: int, *, deadline_s: float) -> RateSlot:
        """Sleep until the call may start.

        Parameters
        ----------
        tokens : int
            Upper bound of the call's tokens; see `settle`.
        deadline_s : float
            Longest wait that makes sense.

        Raises
        ------
        RateLimited
            At once, if the turn would come later than that or can never come; then no turn is used up.
        """
        limit = self._limits.get(model)
        if limit is None or limit == RateLimit():
            return RateSlot(model)
        if limit.tokens_per_minute is not None and tokens > limit.tokens_per_minute:
            raise RateLimited(
                f"a request of up to {counted(tokens, 'token')} to {model} can never start: "
                f"{limit.tokens_per_minute:,} are "
                "allowed a minute; shorten the prompt, lower max_tokens or raise the limit",
                model=model,
                retry_after_s=None,
            )
        slot_id = uuid.uuid4().hex
        ask = _RateWait(slot_id, model, limit, tokens, deadline_s, self._window_us, self._clock)
        wait_s: float = self._group.run(_TURNS, ask)
        slot = RateSlot(model, slot_id, wait_s)
        try:
            if wait_s > 0:
                pause(self._clock, wait_s)
        except BaseException:  # Ctrl-C while it waits, or a stream that is left
            self.cancel(slot)
            raise
        return slot

    def settle(self, slot: RateSlot, tokens: int) -> None:
        """Count the tokens that were used, so that those behind need not wait for what was not.

        What was more than announced can overfill the window by the difference: announce the worst case.
        """
        if slot.slot_id:
            self._group.later(_TURNS, _RateUsed(slot.slot_id, slot.model, tokens))

    def cancel(self, slot: RateSlot) -> None:
        """Give back the turn of a call that was not made."""
        if slot.slot_id:
            self._group.run(_TURNS, _RateCancel(slot.slot_id, slot.model))


@dataclass(frozen=True, slots=True)
class _RateWait:
    slot_id: str
    model: str
    limit: RateLimit
    tokens: int
    deadline_s: float
    window_us: int
    clock: Clock


@dataclass(frozen=True, slots=True)
class _RateUsed:
    slot_id: str
    model: str
    tokens: int


@dataclass(frozen=True, slots=True)
class _RateCancel:
    slot_id: str
    model: str


_Ask = _RateWait | _RateUsed | _RateCancel


def _give_rate_turns(connection: sa.Connection, asked: Sequence[_Ask]) -> list[float | RateLimited | None]:
    """Count what was used, give back what was not, then give turns in the order of coming."""
    for model in sorted({ask.model for ask in asked}):
        _enter_rate_gate(connection, model)
    execute(connection, _USED, [(ask.tokens, ask.slot_id) for ask in asked if isinstance(ask, _RateUsed)])
    execute(connection, _CANCEL, [(ask.slot_id,) for ask in asked if isinstance(ask, _RateCancel)])
    outcomes: dict[str, float | RateLimited] = {}
    queues: dict[tuple[str, int], list[_RateWait]] = {}
    for ask in asked:
        if isinstance(ask, _RateWait):
            queues.setdefault((ask.model, ask.window_us), []).append(ask)
    for (model, window_us), queue in queues.items():
        now, last = _now_and_last_start(connection, model, queue[0].clock)
        execute(connection, _FORGET, (model, now - 2 * window_us))
        window, slots = _RateWindow(connection, model, window_us, max(now, last)), []
        for ask in queue:
            start = window.earliest(ask.limit, ask.tokens)
            wait_s = (start - now) / _US
            if wait_s > ask.deadline_s:
                outcomes[ask.slot_id] = _too_late_for_slot(ask, wait_s)
                continue
            outcomes[ask.slot_id] = wait_s
            window.add(start, ask.tokens)
            slots.append((ask.slot_id, model, start, ask.tokens))
        execute_insert(connection, _SLOT, slots)
    return [outcomes[ask.slot_id] if isinstance(ask, _RateWait) else None for ask in asked]


_TURNS = Batch(1, _give_rate_turns)


def _too_late_for_slot(ask: _RateWait, wait_s: float) -> RateLimited:
    return RateLimited(
        f"the limit of {ask.model} lets this request start in {wait_s:.1f} s, which is later than the "
        f"{ask.deadline_s:.1f} s that it can wait; try again later or raise the limit",
        model=ask.model,
        retry_after_s=wait_s,
    )


class _RateWindow:
    """Slots of the last window before the next start, their moments read only where they matter."""

    def __init__(self, connection: sa.Connection, model: str, window_us: int, start: int) -> None:
        self._connection, self._model, self._window_us, self._start = connection, model, window_us, start
        ((self._requests, self._tokens),) = execute(connection, _SUMS, (model, start - window_us))
        self._added: list[tuple[int, int]] = []
        self._slots: list[tuple[int, int]] | None = None

    def earliest(self, limit: RateLimit, tokens: int) -> int:
        """First moment, after all requests that came earlier, at which request and tokens fit."""
        most, room = limit.requests_per_minute or math.inf, limit.tokens_per_minute or math.inf
        if self._slots is None and self._requests < most and self._tokens + tokens <= room:
            return self._start
        if self._slots is None:
            before = execute(self._connection, _MOMENTS, (self._model, self._start - self._window_us))
            self._slots = [*map(tuple, before), *self._added]
        self._slots = [slot for slot in self._slots if slot[0] > self._start - self._window_us]
        start, requests = self._start, len(self._slots) + 1 - most
        surplus = sum(used for _, used in self._slots) + tokens - room
        for moment, used in self._slots:  # the oldest leave the window first
            if requests <= 0 and surplus <= 0:
                break
            requests, surplus, start = requests - 1, surplus - used, max(start, moment + self._window_us)
        return start

    def add(self, start: int, tokens: int) -> None:
        """Count a slot that was given."""
        self._start = start
        self._requests, self._tokens = self._requests + 1, self._tokens + tokens
        (self._added if self._slots is None else self._slots).append((start, tokens))


def _now_and_last_start(connection: sa.Connection, model: str, clock: Clock) -> tuple[int, int]:
    """Now, in microseconds, and the last start that was given."""
    if connection.dialect.name == "postgresql" and isinstance(clock, SystemClock):
        ((now, last),) = execute(connection, _SERVER_MOMENT, (model,))
    else:
        ((last,),) = execute(connection, _LAST, (model,))
        now = round(clock.now().timestamp() * _US)
    return now, last or 0


_PASS = "UPDATE wb_gate SET passed = passed + 1 WHERE model = ? RETURNING passed"
_NEW_GATE = "INSERT INTO wb_gate (model, passed) VALUES (?, 0) ON CONFLICT DO NOTHING"
_LAST = "SELECT max(start_us) FROM wb_slot WHERE model = ?"
_SERVER_MOMENT = f"""SELECT CAST(extract(epoch FROM clock_timestamp()) * {_US} AS BIGINT), max(start_us)
FROM wb_slot WHERE model = ?"""
_SUMS = "SELECT count(*), CAST(coalesce(sum(tokens), 0) AS BIGINT) FROM wb_slot WHERE model = ? AND start_us > ?"
_MOMENTS = "SELECT start_us, tokens FROM wb_slot WHERE model = ? AND start_us > ? ORDER BY start_us"
_USED = "UPDATE wb_slot SET tokens = ? WHERE slot_id = ?"
_CANCEL = "DELETE FROM wb_slot WHERE slot_id = ?"
_FORGET = "DELETE FROM wb_slot WHERE model = ? AND start_us < ?"


def _enter_rate_gate(connection: sa.Connection, model: str) -> None:
    """Hold the model's gate until the transaction ends; the threads that wait are served in the order of coming."""
    while not execute(connection, _PASS, (model,)):
        execute(connection, _NEW_GATE, (model,))
