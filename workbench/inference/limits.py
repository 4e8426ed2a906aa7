"""Requests and tokens per minute, exact across threads, processes and machines that share the state database.

Each call reserves the moment at which it may start, in a log of such moments; then it sleeps until then. Nobody
polls, and the first to come is the first to go. Within any window of the given length the log holds no more than
the limit: a sliding window, not a bucket, which would let nearly twice as much through in some windows.
"""

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from workbench.config import Clock, SystemClock
from workbench.errors import ConfigError, RateLimited
from workbench.inference.streams import pause
from workbench.state import Turns, create_tables, insert_ignore

# Added to the window: a call starts some time after its moment, and these delays differ. They were up to 0.17 s on two
# cores with 15 threads ready to run; a machine that delays its calls by more can start too many in some window.
MARGIN_S = 0.2
_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Limit:
    """What a provider allows for one model in any minute; None is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name} must be 1 or more, found {value}; None is no limit")


@dataclass(frozen=True, slots=True)
class Slot:
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
        self, engine: sa.Engine, limits: Mapping[str, Limit], clock: Clock | None = None, window_s: float = 60.0
    ) -> None:
        self._engine, self._limits, self._clock = engine, dict(limits), clock or SystemClock()
        self._window_us = round((window_s + MARGIN_S) * _US)
        self._turns = Turns()
        create_tables(engine, _GATE, _SLOT)

    def tokens_per_minute(self, model: str) -> int | None:
        """Tokens at most that one request may announce; None where there is no limit."""
        limit = self._limits.get(model)
        return limit.tokens_per_minute if limit else None

    def wait(self, model: str, tokens: int, *, deadline_s: float) -> Slot:
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
        if limit is None or limit == Limit():
            return Slot(model)
        if limit.tokens_per_minute is not None and tokens > limit.tokens_per_minute:
            raise RateLimited(
                f"a request of up to {tokens:,} tokens to {model} can never start: {limit.tokens_per_minute:,} are "
                "allowed a minute; shorten the prompt, lower max_tokens or raise the limit",
                model=model,
                retry_after_s=None,
            )
        slot_id = uuid.uuid4().hex
        with self._turns.begin(self._engine) as connection:
            _enter(connection, model)
            now = self._now_us(connection)
            connection.execute(
                sa.delete(_SLOT).where(_SLOT.c.model == model, _SLOT.c.start_us < now - 2 * self._window_us)
            )
            start = self._earliest(connection, model, limit, tokens, now)
            wait_s = (start - now) / _US
            if wait_s > deadline_s:
                raise RateLimited(
                    f"the limit of {model} lets this request start in {wait_s:.1f} s, which is later than the "
                    f"{deadline_s:.1f} s that it can wait; try again later or raise the limit",
                    model=model,
                    retry_after_s=wait_s,
                )
            connection.execute(_SLOT.insert().values(slot_id=slot_id, model=model, start_us=start, tokens=tokens))
        slot = Slot(model, slot_id, wait_s)
        try:
            if wait_s > 0:
                pause(self._clock, wait_s)
        except BaseException:  # Ctrl-C while it waits, or a stream that is left
            self.cancel(slot)
            raise
        return slot

    def settle(self, slot: Slot, tokens: int) -> None:
        """Count the tokens that were used, so that those behind need not wait for what was not.

        What was more than announced can overfill the window by the difference: announce the worst case.
        """
        if slot.slot_id:
            with self._turns.begin(self._engine) as connection:
                connection.execute(sa.update(_SLOT).where(_SLOT.c.slot_id == slot.slot_id).values(tokens=tokens))

    def cancel(self, slot: Slot) -> None:
        """Give back the turn of a call that was not made."""
        if slot.slot_id:
            with self._turns.begin(self._engine) as connection:
                connection.execute(sa.delete(_SLOT).where(_SLOT.c.slot_id == slot.slot_id))

    def _earliest(self, connection: sa.Connection, model: str, limit: Limit, tokens: int, now: int) -> int:
        """First moment at which request and tokens fit, after all requests that came earlier."""
        mine = _SLOT.c.model == model
        last = connection.execute(sa.select(sa.func.max(_SLOT.c.start_us)).where(mine)).scalar()
        start = max(now, last or 0)
        query = sa.select(_SLOT.c.start_us, _SLOT.c.tokens).where(mine, _SLOT.c.start_us > start - self._window_us)
        rows = connection.execute(query.order_by(_SLOT.c.start_us)).all()
        requests = len(rows) + 1 - (limit.requests_per_minute or math.inf)
        surplus = sum(row.tokens for row in rows) + tokens - (limit.tokens_per_minute or math.inf)
        for row in rows:  # the oldest leave the window first
            if requests <= 0 and surplus <= 0:
                break
            requests, surplus, start = requests - 1, surplus - row.tokens, max(start, row.start_us + self._window_us)
        return start

    def _now_us(self, connection: sa.Connection) -> int:
        if connection.dialect.name == "postgresql" and isinstance(self._clock, SystemClock):
            seconds = sa.func.extract("epoch", sa.func.clock_timestamp())
            return int(connection.execute(sa.select(sa.cast(seconds * _US, sa.BigInteger))).scalar_one())
        return round(self._clock.now().timestamp() * _US)


def _enter(connection: sa.Connection, model: str) -> None:
    """Hold the model's gate until the transaction ends; the threads that wait are served in the order of coming."""
    enter = sa.update(_GATE).where(_GATE.c.model == model).values(passed=_GATE.c.passed + 1)
    if not connection.execute(enter).rowcount:
        insert_ignore(connection, _GATE, [{"model": model, "passed": 0}])
        connection.execute(enter)
