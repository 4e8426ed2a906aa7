"""What was invalidated when, in the state database: answers that were on their way meanwhile are not kept.

Invalidations are counted, not timed: the clocks of two machines differ. Whoever keeps an answer holds the counter's
row until it commits, and an invalidation raises it first: either it is seen, or it finds the entry and drops it.
"""

from collections.abc import Iterable

import sqlalchemy as sa

from workbench.caching.scope import Scope, exact_scope_json
from workbench.state import insert_ignore

METADATA = sa.MetaData()
# What was invalidated last when: rows with "" stand for any, and the one of "" alone counts them all.
INVALIDATIONS = sa.Table(
    "wb_cache_invalidation",
    METADATA,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("tenant_id", sa.Text, primary_key=True),
    sa.Column("corpus_version", sa.Text, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
)

# No call takes longer than a day.
CALL_US = 86_400e6
_I = INVALIDATIONS.c
_COUNTER = sa.and_(_I.source == "", _I.tenant_id == "", _I.corpus_version == "")
# What every call executes is made once: SQLAlchemy takes longer to make a statement than SQLite to execute it.
_MOMENT = sa.select(_I.number).where(_COUNTER)
_HELD_MOMENT = _MOMENT.with_for_update(read=True)
_CHANGED = sa.select(sa.func.count()).where(
    ~_COUNTER,
    _I.number > sa.bindparam("since"),
    _I.source.in_(sa.bindparam("sources", expanding=True)),
    _I.tenant_id.in_(["", sa.bindparam("tenant")]),
    _I.corpus_version.in_(["", sa.bindparam("corpus")]),
)


def begin_invalidations(connection: sa.Connection) -> None:
    """Add the row that counts; nobody could hold it if it were not there."""
    insert_ignore(
        connection,
        INVALIDATIONS,
        [{"source": "", "tenant_id": "", "corpus_version": "", "number": 0, "at_us": 0}],
    )


def invalidation_moment(connection: sa.Connection) -> int:
    """How many invalidations there were so far."""
    return connection.scalar(_MOMENT) or 0


def remember_invalidation(
    connection: sa.Connection, *, source: str | None, tenant_id: str | None, corpus_version: str | None, at_us: int
) -> None:
    """Note an invalidation of what meets all conditions; None is any."""
    raised = INVALIDATIONS.update().where(_COUNTER).values(number=_I.number + 1).returning(_I.number)
    number = connection.scalar(raised)
    what = {"source": source, "tenant_id": tenant_id, "corpus_version": corpus_version}
    row = {name: "" if value is None else exact_scope_json(value) for name, value in what.items()}
    connection.execute(INVALIDATIONS.delete().where(*(_I[name] == value for name, value in row.items())))
    connection.execute(INVALIDATIONS.insert(), {**row, "number": number, "at_us": at_us})


def invalidated_since(connection: sa.Connection, scope: Scope, sources: Iterable[str], *, since: int) -> bool:
    """Whether something that the answer rests on was invalidated; until the transaction ends nothing is."""
    connection.execute(_HELD_MOMENT)
    met = {"since": since, "sources": ["", *map(exact_scope_json, sources)]}
    met |= {"tenant": exact_scope_json(scope.tenant_id), "corpus": exact_scope_json(scope.corpus_version)}
    return bool(connection.scalar(_CHANGED, met))


def forget_invalidations(connection: sa.Connection, *, now_us: int) -> None:
    """Drop what is older than any call that may still be on its way."""
    connection.execute(INVALIDATIONS.delete().where(~_COUNTER, _I.at_us < now_us - CALL_US))
