"""Rows of both caches in the state database: the truth that every process reads again before it serves one.

Each scope has a row of its own with a version. Whatever writes into a scope raises the version first and so holds the
scope's lock until it commits: versions become visible in their order, and a reader that remembers the last one it saw
misses nothing. The same row remembers the version at which something was last removed.

A scope that is empty loses its row when the cache is purged. Versions are never used twice all the same, or the index
of another process would take a new entry for an old one: the row `HIGHEST` keeps the highest version of all scopes
that are gone, and a scope that comes back goes on from there.

An entry that was promoted holds a copy of the answer to another question, its *root*; whatever drops the root drops it
too, under the same lock. `workbench.caching.invalidations` keeps out answers that come after what they rest on changed.
"""

import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa

from workbench.caching.invalidations import (
    METADATA,
    begin_invalidations,
    forget_invalidations,
    invalidated_since,
    invalidation_moment,
    remember_invalidation,
)
from workbench.caching.scope import Scope, exact_scope_json
from workbench.codec import from_json, from_plain
from workbench.config import Clock
from workbench.errors import ConfigError
from workbench.inference.messages import Response
from workbench.records import content_hash
from workbench.state import insert_ignore, reading_engine
from workbench.telemetry.redaction import redact

SCOPES = sa.Table(
    "wb_cache_scope",
    METADATA,
    sa.Column("scope", sa.String(64), primary_key=True),
    sa.Column("tenant_id", sa.Text, nullable=False, index=True),
    sa.Column("corpus_version", sa.Text, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("removed", sa.BigInteger, nullable=False),
    sa.Column("entries", sa.BigInteger, nullable=False),
)
ENTRIES = sa.Table(
    "wb_cache",
    METADATA,
    sa.Column("scope", sa.String(64), primary_key=True),
    sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("question", sa.String(64), nullable=False),
    sa.Column("vector", sa.LargeBinary, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("created_us", sa.BigInteger, nullable=False, index=True),
    sa.Column("used_us", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.UniqueConstraint("scope", "question"),
    sa.Index("wb_cache_used", "scope", "used_us"),
)
SOURCES = sa.Table(
    "wb_cache_source",
    METADATA,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("scope", sa.String(64), primary_key=True),
    sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Index("wb_cache_source_entry", "scope", "version"),
)


@dataclass(frozen=True, slots=True)
class Promotion:
    """Why an entry holds the answer to another question: that one, its entry, their cosine, and what agreed to it."""

    question: str
    root: int
    cosine: float
    by: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One cached answer; ``intent`` is the question it is found by, times are microseconds since 1970."""

    version: int
    intent: str
    response: Response
    cost_nanos: int
    created_us: int
    promoted: Promotion | None = None

    @property
    def answers(self) -> str:
        """Question that the answer was given to."""
        return self.promoted.question if self.promoted else self.intent

    @property
    def root(self) -> int:
        """Version of the entry that the answer was given in."""
        return self.promoted.root if self.promoted else self.version


class CorruptError(Exception):
    """A row that is not as it was written."""


def entry_checksum(scope: str, question: str, vector: bytes, payload: str, created_us: int) -> str:
    """Hash of all of a row that is ever served or decides whether it is."""
    return content_hash(scope, question, vector, payload, str(created_us))


def entry_of_row(row: Any) -> Entry:
    """Entry of a row.

    Raises
    ------
    CorruptError
        If the row cannot be read, or is not as it was written.
    """
    try:
        kept = from_json(dict[str, Any], row.payload, "payload")
        entry = from_plain(Entry, kept | {"version": row.version, "created_us": row.created_us}, "payload")
    except ConfigError as error:
        raise CorruptError("answer that cannot be read") from error
    if row.sha256 != entry_checksum(row.scope, row.question, row.vector, row.payload, row.created_us):
        raise CorruptError("hash that does not fit")
    return entry


def is_stored_unit_vector(blob: bytes, dimension: int) -> bool:
    """Whether the bytes are a float32 vector of that dimension and of length 1."""
    if len(blob) != 4 * dimension:
        return False
    vector = np.frombuffer(blob, "<f4")
    return bool(abs(vector @ vector - 1) <= 2e-3)  # False for NaN too


def is_stored_unread_vector(blob: bytes, dimension: int) -> bool:
    """Whether the bytes are the vector of a text that the encoder cannot read: all zero, so that nothing is near it."""
    return len(blob) == 4 * dimension and not any(blob)


_TABLES_LOCK = 0x77625F6361636865  # "wb_cache"
_PART = 500
# At the limit this share of a scope goes at once, so that removals, which other processes must follow, are rare.
_EVICTED_SHARE = 64
_PURGED_US = 3600e6
HIGHEST = ""  # in place of a scope's key
_C, _S = ENTRIES.c, SCOPES.c
_OF_SCOPE, _IS_SCOPE = _C.scope == sa.bindparam("key"), _S.scope == sa.bindparam("key")
_AT = sa.select(_S.version, _S.removed).where(_IS_SCOPE)
_NEWER = (
    sa.select(_C.version, _C.question, _C.vector, _C.created_us)
    .where(_OF_SCOPE, _C.version > sa.bindparam("after"), _C.version <= sa.bindparam("last"))
    .order_by(_C.version)
)
_ALIVE = sa.select(_C.version).where(_OF_SCOPE)
_BY_VERSION = sa.select(ENTRIES).where(_OF_SCOPE, _C.version == sa.bindparam("which"))
_BY_QUESTION = sa.select(ENTRIES).where(_OF_SCOPE, _C.question == sa.bindparam("which"))
_SAME = sa.select(_C.version, _C.created_us).where(_OF_SCOPE, _C.question == sa.bindparam("which"))
_INSERT = ENTRIES.insert()
_CITED = sa.select(SOURCES.c.source).where(
    SOURCES.c.scope == sa.bindparam("key"), SOURCES.c.version == sa.bindparam("which")
)
_COPIES = sa.select(SOURCES.c.version).where(
    SOURCES.c.scope == sa.bindparam("key"), SOURCES.c.source.in_(sa.bindparam("roots", expanding=True))
)
_ONE_MORE = SCOPES.update().where(_IS_SCOPE).values(entries=_S.entries + 1)
_BUMP = SCOPES.update().where(_IS_SCOPE).values(version=_S.version + 1).returning(_S.version, _S.entries)
_HIGHEST_VERSION = sa.select(_S.version).where(_S.scope == HIGHEST)
_BEGIN = (
    SCOPES.update()
    .where(_IS_SCOPE, _S.version == 0)
    .values(version=sa.bindparam("start"), removed=sa.bindparam("start"))
)


@dataclass(frozen=True, slots=True)
class EntryNews:
    """What happened in a scope since a version; ``alive`` are all versions there, None where none was removed."""

    version: int
    rows: Sequence[Any]
    removed: int
    alive: frozenset[int] | None


class Entries:
    """Cached answers of any number of scopes, threads and processes.

    Parameters
    ----------
    ttl_s : float
        Age in seconds from which an entry is no longer served. Give all caches on one database the same: each purges
        what is too old for itself, of all scopes.
    max_entries : int
        Entries a scope holds at most; then its least recently used ones go.

    Attributes
    ----------
    problems : Counter
        How many entries or answers were refused, by reason; a row that was refused has been dropped.
    """

    def __init__(self, engine: sa.Engine, *, clock: Clock, ttl_s: float, max_entries: int) -> None:
        if not ttl_s > 0 or max_entries < 1:
            raise ConfigError(f"a cache needs ttl_s > 0 and max_entries >= 1, found {ttl_s} and {max_entries}")
        self._engine, self._clock, self._ttl_us, self._max = engine, clock, ttl_s * 1e6, max_entries
        self._purged_us = self.now_us()
        self._writing = threading.Lock()  # SQLite's own queue is unfair: threads of a process wait here instead
        self.problems = Counter[str]()
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":  # its "if not exists" fails where two processes start at once
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_TABLES_LOCK)))
            METADATA.create_all(connection)
            begin_invalidations(connection)

    def now_us(self) -> int:
        """Microseconds since 1970 by the cache's clock."""
        return int(self._clock.now().timestamp() * 1e6)

    @property
    def oldest_us(self) -> float:
        """What was created then or before is no longer served."""
        return self.now_us() - self._ttl_us

    def moment(self) -> int:
        """Count of the invalidations so far, of all scopes."""
        with reading_engine(self._engine).begin() as connection:
            return invalidation_moment(connection)

    def news(self, scope: str, version: int, removed: int) -> EntryNews:
        """Rows of a scope that are newer than ``version``, and which are left if any went after ``removed``."""
        with reading_engine(self._engine).begin() as connection:
            at = connection.execute(_AT, {"key": scope}).first()
            if at is None:  # never written to, or purged: nothing is there
                return EntryNews(version, (), removed, frozenset())
            if at.version == version:
                return EntryNews(version, (), removed, None)
            rows = connection.execute(_NEWER, {"key": scope, "after": version, "last": at.version}).all()
            if at.removed <= removed:
                return EntryNews(at.version, rows, removed, None)
            alive = frozenset(connection.scalars(_ALIVE, {"key": scope}))
        return EntryNews(at.version, rows, at.removed, alive)

    def read(self, scope: str, *, version: int | None = None, question: str | None = None) -> Entry | None:
        """Entry by version or by question, as the database has it now; None where it is gone, too old or corrupt."""
        by, which = (_BY_VERSION, version) if question is None else (_BY_QUESTION, question)
        with reading_engine(self._engine).begin() as connection:
            row = connection.execute(by, {"key": scope, "which": which}).first()
        if row is None or self._expired(row.created_us):
            return None
        try:
            return entry_of_row(row)
        except CorruptError as error:
            self.discard(scope, [row.version], str(error))
            return None

    def add(
        self,
        scope: Scope,
        intent: str,
        response: Response,
        *,
        question: str,
        vector: bytes = b"",
        cost_nanos: int,
        since: int,
        sources: Iterable[str] = (),
        used: Mapping[int, int] | None = None,
    ) -> bool:
        """Add an entry and note when others were ``used``; False where the question has a live entry already.

        Nothing is added either where a secret is found in it, or a source was invalidated ``since`` that moment.
        Once an hour this drops what is too old, of all scopes: nobody else would in a scope that is not asked any more.
        """
        key, now = scope.key, self.now_us()
        if now - self._purged_us >= _PURGED_US:
            self._purged_us = now
            self.purge()
        cited = sorted(set(sources))
        if _entry_holds_secret(intent, response):
            self.problems["answer or question with a secret"] += 1
            return False
        payload = exact_scope_json({"intent": intent, "response": asdict(response), "cost_nanos": cost_nanos})
        with self._writing, self._engine.begin() as connection:
            if invalidated_since(connection, scope, cited, since=since):
                self.problems["answer that rests on what was invalidated meanwhile"] += 1
                return False
            version, held = self._advance(connection, key, scope)
            self._note_used(connection, key, used or {})
            old = connection.execute(_SAME, {"key": key, "which": question}).first()
            if old is not None and not self._expired(old.created_us):
                return False
            gone = [] if old is None else [old.version]
            self._delete(connection, key, version, [*gone, *self._surplus(connection, key, gone, held - len(gone) + 1)])
            row = {"scope": key, "version": version, "question": question, "vector": vector, "payload": payload}
            self._insert(connection, row, [exact_scope_json(source) for source in cited], created_us=now)
        return True

    def promote(self, scope: str, intent: str, *, question: str, vector: bytes, why: Promotion) -> bool:
        """Answer a question with what its root holds from now on, in place of an answer of its own, if any.

        False where the root is gone, too old, corrupt or promoted itself, or would have to go for it, where a secret is
        found in the question, and where it is promoted already: nothing changes then.
        """
        with self._writing, self._engine.begin() as connection:
            version, held = self._advance(connection, scope)
            row = connection.execute(_BY_VERSION, {"key": scope, "which": why.root}).first()
            root = None if row is None or self._expired(row.created_us) else _entry_or_none(row)
            if row is None or root is None or root.promoted or _entry_holds_secret(intent, root.response):
                return False
            old = connection.execute(_BY_QUESTION, {"key": scope, "which": question}).first()
            mine = None if old is None else _entry_or_none(old)
            if mine and mine.promoted and mine.promoted.by == why.by:
                return False
            gone = [] if old is None else [old.version]
            gone += self._surplus(connection, scope, gone, held - len(gone) + 1)
            if why.root in gone:
                return False
            self._delete(connection, scope, version, gone)
            kept = {"intent": intent, "response": asdict(root.response), "cost_nanos": root.cost_nanos}
            payload = exact_scope_json(kept | {"promoted": asdict(why)})
            cited = connection.scalars(_CITED, {"key": scope, "which": why.root}).all()
            new = {"scope": scope, "version": version, "question": question, "vector": vector, "payload": payload}
            self._insert(connection, new, [*cited, _copied_entry_key(why.root)], created_us=row.created_us)
        return True

    def _insert(
        self, connection: sa.Connection, row: Mapping[str, Any], cited: Sequence[str], *, created_us: int
    ) -> None:
        """Insert an entry, by keys of `SOURCES` that it goes with, as part of the change to its version."""
        key, version = row["scope"], row["version"]
        sha256 = entry_checksum(key, row["question"], row["vector"], row["payload"], created_us)
        times = {"created_us": created_us, "used_us": self.now_us()}
        connection.execute(_INSERT, {**row, **times, "sha256": sha256})
        if cited:
            keys = [{"source": source, "scope": key, "version": version} for source in cited]
            connection.execute(SOURCES.insert(), keys)
        connection.execute(_ONE_MORE, {"key": key})

    def use(self, scope: str, used: Mapping[int, int]) -> None:
        """Note when entries were used last, microseconds by version."""
        with self._writing, self._engine.begin() as connection:
            self._advance(connection, scope)
            self._note_used(connection, scope, used)

    def discard(self, scope: str, versions: Sequence[int], reason: str) -> None:
        """Drop entries that cannot be used, and count them."""
        with self._writing, self._engine.begin() as connection:
            self.problems[reason] += self._delete(connection, scope, self._advance(connection, scope)[0], versions)

    def invalidate(
        self, *, source: str | None = None, tenant_id: str | None = None, corpus_version: str | None = None
    ) -> int:
        """Drop the entries that meet all conditions given; returns how many there were.

        Answers that were asked for before and come afterwards are not kept, in any process.

        Raises
        ------
        ConfigError
            If no condition is given.
        """
        where = [SOURCES.c.source == exact_scope_json(source)] if source is not None else []
        where += [SCOPES.c.tenant_id == exact_scope_json(tenant_id)] if tenant_id is not None else []
        where += [SCOPES.c.corpus_version == exact_scope_json(corpus_version)] if corpus_version is not None else []
        if not where:
            raise ConfigError("invalidate() was asked without a source, tenant_id or corpus_version; name one")
        what = {"source": source, "tenant_id": tenant_id, "corpus_version": corpus_version}
        with self._writing, self._engine.begin() as connection:  # committed first: who keeps next must see it
            remember_invalidation(connection, **what, at_us=self.now_us())
        return self._drop_where(sa.and_(*where))

    def purge(self) -> int:
        """Drop every entry that is too old to be served, and scopes that are empty; returns how many entries went."""
        gone = self._drop_where(ENTRIES.c.created_us <= self.oldest_us)
        s = SCOPES.c
        with self._writing, self._engine.begin() as connection:
            forget_invalidations(connection, now_us=self.now_us())
            empty = sa.select(s.scope, s.version).where(s.entries == 0, s.scope != HIGHEST)
            # a locked one is being written to; and to wait for it, with others in hand, could end in a deadlock
            found = connection.execute(empty.with_for_update(skip_locked=True)).all()
            for start in range(0, len(found), _PART):
                part = [row.scope for row in found[start : start + _PART]]
                connection.execute(SCOPES.delete().where(s.scope.in_(part)))
            if found:
                highest = max(row.version for row in found)
                self._insert_scope(connection, HIGHEST)
                higher = sa.and_(s.scope == HIGHEST, s.version < highest)
                connection.execute(SCOPES.update().where(higher).values(version=highest))
        return gone

    def _drop_where(self, condition: sa.ColumnElement[bool]) -> int:
        c, s = ENTRIES.c, SOURCES.c
        cited = ENTRIES.join(SCOPES, SCOPES.c.scope == c.scope).outerjoin(
            SOURCES, sa.and_(s.scope == c.scope, s.version == c.version)
        )
        found: dict[str, list[int]] = {}
        with self._writing, self._engine.begin() as connection:
            for scope, version in connection.execute(
                sa.select(c.scope, c.version).distinct().select_from(cited).where(condition)
            ):
                found.setdefault(scope, []).append(version)
            return sum(  # in one order everywhere: no deadlock
                self._delete(connection, scope, self._advance(connection, scope)[0], found[scope])
                for scope in sorted(found)
            )

    def _expired(self, created_us: int) -> bool:
        return created_us <= self.oldest_us

    def _advance(self, connection: sa.Connection, key: str, scope: Scope | None = None) -> tuple[int, int]:
        """Raise the scope's version and so hold its lock; the new version, and how many entries there are."""
        row = connection.execute(_BUMP, {"key": key}).first()
        while row is None and scope is not None:  # also where another process drops it in between
            self._insert_scope(
                connection, key, exact_scope_json(scope.tenant_id), exact_scope_json(scope.corpus_version)
            )
            # read after the insert, which has waited for whoever was dropping this scope
            start = connection.scalar(_HIGHEST_VERSION) or 0
            connection.execute(_BEGIN, {"key": key, "start": start})
            row = connection.execute(_BUMP, {"key": key}).first()
        return (0, 0) if row is None else (row.version, row.entries)

    def _insert_scope(self, connection: sa.Connection, key: str, tenant_id: str = "", corpus_version: str = "") -> None:
        row = {"scope": key, "tenant_id": tenant_id, "corpus_version": corpus_version}
        insert_ignore(connection, SCOPES, [{**row, "version": 0, "removed": 0, "entries": 0}])

    def _delete(self, connection: sa.Connection, scope: str, version: int, versions: Sequence[int]) -> int:
        """Delete entries and what was promoted from them, as part of the change to ``version``; returns how many."""
        gone = 0
        whole = {*versions}
        for start in range(0, len(versions), _PART):
            roots = [_copied_entry_key(each) for each in versions[start : start + _PART]]
            whole |= {*connection.scalars(_COPIES, {"key": scope, "roots": roots})}
        versions = sorted(whole)
        for start in range(0, len(versions), _PART):
            part = versions[start : start + _PART]
            connection.execute(SOURCES.delete().where(SOURCES.c.scope == scope, SOURCES.c.version.in_(part)))
            found = ENTRIES.delete().where(ENTRIES.c.scope == scope, ENTRIES.c.version.in_(part))
            gone += connection.execute(found).rowcount
        if gone:
            less = {"removed": version, "entries": SCOPES.c.entries - gone}
            connection.execute(SCOPES.update().where(SCOPES.c.scope == scope).values(less))
        return gone

    def _surplus(self, connection: sa.Connection, scope: str, gone: Sequence[int], held: int) -> Sequence[int]:
        """Versions of the least recently used entries that must go for ``held`` ones to keep the limit."""
        c, over = ENTRIES.c, held - self._max
        if over <= 0:
            return ()
        least = sa.select(c.version).where(c.scope == scope, c.version.not_in(gone)).order_by(c.used_us, c.version)
        return connection.scalars(least.limit(max(over, self._max // _EVICTED_SHARE))).all()

    def _note_used(self, connection: sa.Connection, scope: str, used: Mapping[int, int]) -> None:
        c = ENTRIES.c
        if used:
            newer = c.used_us < sa.bindparam("at")
            later = ENTRIES.update().where(c.scope == scope, c.version == sa.bindparam("which"), newer)
            rows = [{"at": used[version], "which": version} for version in sorted(used)]
            connection.execute(later.values(used_us=sa.bindparam("at")), rows)


def _copied_entry_key(root: int) -> str:
    """Key in `SOURCES` of what was promoted from an entry; those of documents are JSON, in quotes."""
    return f"promoted from {root}"


def _entry_or_none(row: Any) -> Entry | None:
    try:
        return entry_of_row(row)
    except CorruptError:
        return None


def _entry_holds_secret(intent: str, response: Response) -> bool:
    said = (intent, response.text, *(call.arguments for call in response.tool_calls))
    return any(redact(text) != text for text in said)
