"""Tables of the caches, and the check that a row is still what was written."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa

from workbench.inference.messages import Response, ToolCall, Usage
from workbench.records import content_hash

METADATA = sa.MetaData()
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


@dataclass(frozen=True, slots=True)
class Entry:
    """One cached answer; ``intent`` is the question it was given to, times are microseconds since 1970."""

    version: int
    intent: str
    response: Response
    cost_nanos: int
    created_us: int


class CorruptError(Exception):
    """A row that is not as it was written."""


def checksum(scope: str, question: str, vector: bytes, payload: str, created_us: int) -> str:
    """Hash of all of a row that is ever served or decides whether it is."""
    return content_hash(scope, question, vector, payload, str(created_us))


def entry_of(row: Any) -> Entry:
    """Entry of a row.

    Raises
    ------
    CorruptError
        If the row cannot be read, or is not as it was written.
    """
    try:
        raw = json.loads(row.payload)
        answer = raw["response"]
        usage = answer.pop("usage")
        calls = tuple(ToolCall(**call) for call in answer.pop("tool_calls"))
        response = Response(usage=None if usage is None else Usage(**usage), tool_calls=calls, **answer)
        entry = Entry(row.version, raw["intent"], response, raw["cost_nanos"], row.created_us)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError("answer that cannot be read") from error
    if row.sha256 != checksum(row.scope, row.question, row.vector, row.payload, row.created_us):
        raise CorruptError("hash that does not fit")
    return entry


def unit_vector(blob: bytes, dimension: int) -> bool:
    """Whether the bytes are a float32 vector of that dimension and of length 1."""
    if len(blob) != 4 * dimension:
        return False
    vector = np.frombuffer(blob, "<f4")
    return bool(abs(vector @ vector - 1) <= 2e-3)  # False for NaN too
