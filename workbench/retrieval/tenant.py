"""The one way to search a table: a handle that is bound to its tenant when it is made.

Every query goes through `TenantHandle._scope`, which puts the tenant's condition before everything else, and
only results leave the handle: with a query builder a caller could turn the condition into a postfilter.

What a handle cannot hide: BM25 counts terms over the whole table, so scores of one tenant move when another
tenant adds documents. Where that matters, give each tenant its own table.

Only columns that describe a document can be filtered. The tenant cannot: it is the handle's own.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from workbench.errors import StoreError, TenantError, unknown_name
from workbench.retrieval.indexing import TEXT_INDEX, VECTOR_INDEX
from workbench.retrieval.metrics import best_first

if TYPE_CHECKING:
    from lancedb.expr import Expr


_NOISE = re.compile(r",? ?\S*\.cargo/\S+| Detail: Python exception.*|\n.*", re.DOTALL)

_RETRYABLE, _ATTEMPTS, _PAUSE_S = "Retryable commit conflict", 8, 0.1


def committed(write: Callable[[], None]) -> None:
    """Do a write again where another process's commit came first: LanceDB says which may simply be repeated."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return write()
        except (OSError, RuntimeError) as error:
            if _RETRYABLE not in str(error) or attempt == _ATTEMPTS:
                raise
        time.sleep(_PAUSE_S * attempt)


@contextmanager
def reported(asked: str) -> Iterator[None]:
    """Raise what LanceDB raises as a StoreError that says what was asked for.

    A write that failed has changed nothing that readers see: LanceDB commits a new version last.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError, OverflowError) as error:
        reason = _NOISE.sub("", str(error)).strip() or type(error).__name__
        raise StoreError(f"cannot {asked}: {reason}") from error


Value = str | date
FIELDS: dict[str, type] = {"document_type": str, "date": date, "doc_id": str}


class Filter:
    """A condition on the documents searched; conditions are joined with ``&``.

    >>> Equals("document_type", "method") & OneOf("doc_id", ["a", "b"])
    AllOf(Equals(field='document_type', value='method'), OneOf(field='doc_id', values=('a', 'b')))
    """

    __slots__ = ()

    def __and__(self, other: "Filter") -> "AllOf":
        return AllOf(self, other)

    def expression(self) -> "Expr":
        """Compile to LanceDB's typed expression."""
        from lancedb.expr import col

        match self:
            case Equals(field, value):
                return col(field) == value
            case OneOf(field, values):
                return col(field).isin(values)
            case Between(field, None, high):
                return col(field) <= high
            case Between(field, low, None):
                return col(field) >= low
            case Between(field, low, high):
                return (col(field) >= low) & (col(field) <= high)
            case AllOf(parts):
                return reduce(and_, (part.expression() for part in parts))
        raise NotImplementedError(type(self).__name__)


@dataclass(frozen=True, slots=True)
class Equals(Filter):
    """The field has this value."""

    field: str
    value: Value

    def __post_init__(self) -> None:
        _check(self.field, self.value)


@dataclass(frozen=True, slots=True)
class OneOf(Filter):
    """The field has one of these values, of which there must be one."""

    field: str
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        given: object = self.values
        if isinstance(given, str):
            raise StoreError(f"OneOf({self.field!r}, {self.values!r}) needs several values; for one use Equals")
        object.__setattr__(self, "values", tuple(self.values))
        if not self.values:
            raise StoreError(f"OneOf({self.field!r}, ...) has no values: it would find nothing")
        _check(self.field, *self.values)


@dataclass(frozen=True, slots=True)
class Between(Filter):
    """The field lies in the closed range; None leaves an end open. Without the field it is outside."""

    field: str
    low: Value | None
    high: Value | None

    def __post_init__(self) -> None:
        ends = [end for end in (self.low, self.high) if end is not None]
        if not ends:
            raise StoreError(f"{self!r} has no end: give low, high or both, or no filter")
        _check(self.field, *ends)


@dataclass(frozen=True, slots=True, init=False, repr=False)
class AllOf(Filter):
    """Every part holds; parts that are themselves ``AllOf`` are taken apart."""

    parts: tuple[Filter, ...]

    def __init__(self, *parts: Filter) -> None:
        flat: list[Filter] = []
        for part in parts:
            if not isinstance(part, Filter):
                raise StoreError(f"a filter is made of Equals, OneOf, Between and AllOf, not of {part!r}")
            flat.extend(part.parts if isinstance(part, AllOf) else [part])
        if not flat:
            raise StoreError("AllOf() has no parts: give at least one filter, or none at all")
        object.__setattr__(self, "parts", tuple(flat))

    def __repr__(self) -> str:
        return f"AllOf({', '.join(map(repr, self.parts))})"


def _check(field: str, *values: Any) -> None:
    if field == "tenant_id":
        raise StoreError("a filter on tenant_id is refused: the handle of a tenant sees that tenant alone")
    if field not in FIELDS:
        raise StoreError(unknown_name("filter field", field, list(FIELDS)))
    for value in values:
        if not isinstance(value, FIELDS[field]) or isinstance(value, datetime):
            raise StoreError(f"filter field {field!r} is compared with a {FIELDS[field].__name__}, not {value!r}")


Vector = npt.NDArray[np.floating[Any]] | Sequence[float]
_HIT_COLUMNS = ["chunk_id", "doc_id", "position"]


@dataclass(frozen=True, slots=True)
class ChunkHit:
    """One chunk found; ``score`` is cosine in [-1, 1] for vectors and BM25 for words, free of float32 noise."""

    chunk_id: str
    doc_id: str
    position: int
    score: float


class TenantHandle:
    """Searches over the rows of one tenant; made by `Store.for_tenant`.

    Hits stand by `workbench.retrieval.metrics.best_first`, chunks of one document by ``position``. The rule also
    decides what is left out: as long as the last hit is tied with the next one, more are fetched.

    LanceDB computes in float32, so scores are rounded before they leave to what that carries, about 7 significant
    digits: see `bm25_of` and `cosine_of`.
    """

    def __init__(self, table: Any, tenant_id: str, dimension: int) -> None:
        self.tenant_id = tenant_id
        self._table = table
        self._dimension = dimension
        self._own = rows_of(tenant_id)
        self._has_text_index = False

    def vector(
        self,
        vector: Vector,
        k: int,
        *,
        where: Filter | None = None,
        nprobes: int | None = None,
        refine_factor: int | None = None,
        ef: int | None = None,
        exact: bool = False,
    ) -> list[ChunkHit]:
        """Return the ``k`` chunks whose vectors are nearest by cosine.

        Where the index finds fewer, all vectors of the tenant are compared: never too few, at times slow.

        Parameters
        ----------
        vector : array of float, shape (dimension,)
            Need not be normalised, must not be zero.
        k : int
            Hits wanted; fewer come back only if the tenant has fewer that match.
        where : Filter, optional
            Narrows the search before neighbours are counted, so it never starves the result.
        nprobes : int, optional
            IVF: lists that are searched at least. More are searched as long as hits are missing: LanceDB's
            own default stops early, and a small tenant would get too few.
        refine_factor : int, optional
            Quantised indices: this many times ``k`` candidates are compared by their full vectors.
        ef : int, optional
            HNSW: candidates kept while walking the graph, at least ``k``.
        exact : bool
            Pass over the vector index, if there is one.

        Raises
        ------
        StoreError
            If the vector has another dimension, is zero or not finite, or a number is out of range.
        """
        knobs = _knobs(k, nprobes=nprobes, refine_factor=refine_factor, ef=ef)
        hits = self._best(k, "_distance", lambda asked: self._vector_query(vector, asked, where, exact, knobs))
        if len(hits) < k and not exact and self._has_index(VECTOR_INDEX):
            # A graph whose walk ends among rows of other tenants comes back short, even empty.
            return self.vector(vector, k, where=where, exact=True)
        return hits

    def full_text(self, words: str, k: int, *, where: Filter | None = None) -> list[ChunkHit]:
        """Return the ``k`` best chunks that hold any of the words, by BM25; none for stop words alone.

        Punctuation means nothing: quotes make no phrase and ``AND`` is a word.

        Raises
        ------
        StoreError
            If there is no full-text index yet.
        """
        _knobs(k)
        return self._best(k, "_score", lambda asked: self._text_query(words, asked, where))

    def plan(
        self,
        *,
        vector: Vector | None = None,
        words: str | None = None,
        k: int = 10,
        where: Filter | None = None,
        exact: bool = False,
        **knobs: int | None,
    ) -> dict[str, str]:
        """LanceDB's own account of each leg, ``vector`` and ``full_text``: filter, index, knobs in effect."""
        legs: dict[str, Any] = {}
        if vector is not None:
            legs["vector"] = self._vector_query(vector, k, where, exact, _knobs(k, **knobs))
        if words is not None:
            legs["full_text"] = self._text_query(words, k, where)
        with reported(f"explain a search of tenant {self._shown}"):
            return {leg: query.explain_plan(True) for leg, query in legs.items()}

    def documents(self, doc_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Texts of the chunks of each document, in order; ids that are not the tenant's are left out."""
        from lancedb.expr import col

        if not doc_ids:
            return {}
        with reported(f"read texts of tenant {self._shown}"):
            query = self._table.search().where(self._scope(None) & col("doc_id").isin(list(doc_ids)))
            rows = pl.DataFrame(query.select(["doc_id", "position", "text"]).to_arrow())
        texts = rows.sort("position").group_by("doc_id", maintain_order=True).agg("text")
        return {doc_id: tuple(parts) for doc_id, parts in texts.iter_rows()}

    def document_hashes(self) -> dict[str, str | None]:
        """Content hash of each document that is wholly there; None where chunks are missing or old."""
        with reported(f"read the documents of tenant {self._shown}"):
            query = self._table.search().where(self._scope(None))
            rows = pl.DataFrame(query.select(["doc_id", "position", "n_chunks", "content_hash"]).to_arrow())
        states = rows.group_by("doc_id").agg(
            pl.col("content_hash").first(),
            whole=(pl.col("content_hash").n_unique() == 1)
            & (pl.col("n_chunks").n_unique() == 1)
            & (pl.col("position").n_unique() == pl.col("n_chunks").first())
            & (pl.col("position").max() == pl.col("n_chunks").first() - 1)
            & (pl.len() == pl.col("n_chunks").first()),
        )
        return {doc_id: digest if whole else None for doc_id, digest, whole in states.iter_rows()}

    def count(self, where: Filter | None = None) -> int:
        """Chunks of the tenant, or those of them that match."""
        with reported(f"count the chunks of tenant {self._shown}"):
            # `count_rows` takes SQL text alone, in which a name of quotes or backslashes means another one.
            query = self._table.search().where(self._scope(where))
            return int(query.select(["position"]).to_arrow().num_rows)

    def _scope(self, where: Filter | None) -> "Expr":
        """Condition of every query: the tenant, and what the caller narrows it to."""
        if where is None:
            return self._own
        if not isinstance(where, Filter):
            raise StoreError(f"where takes Equals, OneOf, Between or AllOf, not {where!r}")
        return self._own & where.expression()

    def _vector_query(
        self, vector: Vector, limit: int, where: Filter | None, exact: bool, knobs: dict[str, int]
    ) -> Any:
        point = np.asarray(vector, dtype=np.float32)
        if point.shape != (self._dimension,) or not np.isfinite(point).all() or not point.any():
            raise StoreError(f"a search needs a finite, non-zero vector of {self._dimension}, got shape {point.shape}")
        query = self._table.search(point, vector_column_name="vector", query_type="vector")
        query = query.distance_type("cosine").where(self._scope(where)).limit(limit).maximum_nprobes(0)
        if "nprobes" in knobs:
            query.minimum_nprobes(knobs["nprobes"])
        if "refine_factor" in knobs:
            query.refine_factor(knobs["refine_factor"])
        if "ef" in knobs:  # LanceDB refuses to walk the graph with fewer candidates than it must return
            query.ef(max(knobs["ef"], limit * knobs.get("refine_factor", 1)))
        if exact:
            query.bypass_vector_index()
        return query.select([*_HIT_COLUMNS, "_distance"])

    def _text_query(self, words: str, limit: int, where: Filter | None) -> Any:
        from lancedb.query import MatchQuery

        # Without its index LanceDB would scan, with another tokenizer and other scores.
        self._has_text_index = self._has_text_index or self._has_index(TEXT_INDEX)
        if not self._has_text_index:
            raise StoreError("a full-text search needs its index and the table has none; call Store.index() first")
        query = self._table.search(MatchQuery(words, "text"), query_type="fts").where(self._scope(where))
        return query.limit(limit).select([*_HIT_COLUMNS, "_score"])

    def _has_index(self, name: str) -> bool:
        with reported("list the indices"):
            return any(index.name == name for index in self._table.list_indices())

    def _best(self, k: int, score: str, query: Callable[[int], Any]) -> list[ChunkHit]:
        """Best ``k`` by the tie rule; asks for more as long as a tie reaches over the end of what came."""
        asked = k + 1
        while True:
            with reported(f"search tenant {self._shown}"):
                found = query(asked).to_arrow()
            scores = map(cosine_of if score == "_distance" else bm25_of, found[score].to_pylist())
            hits = [
                ChunkHit(*row) for row in zip(*(found[name].to_pylist() for name in _HIT_COLUMNS), scores, strict=True)
            ]
            hits.sort(key=lambda hit: (*best_first(hit.score, hit.doc_id), hit.position))
            if len(hits) < asked or hits[k - 1].score > hits[-1].score:
                return hits[:k]
            asked *= 4

    @property
    def _shown(self) -> str:
        return repr(self.tenant_id if len(self.tenant_id) <= 40 else self.tenant_id[:40] + "…")

    def __repr__(self) -> str:
        return f"TenantHandle({self._shown})"


def cosine_of(distance: float) -> float:
    """Cosine in [-1, 1] of a cosine distance, without noise: the distance is of size 1, so that of 1e-7 is cut off.

    Quantised distances can lie a little outside the range of a cosine.
    """
    return max(-1.0, min(1.0, round(1.0 - distance, 6))) + 0.0  # no -0.0


def bm25_of(score: float) -> float:
    """BM25 without noise: a sum of positive float32 terms is off in proportion to its size, so 7 digits stay."""
    return float(f"{score:.7g}")


def rows_of(tenant_id: str) -> "Expr":
    """Return the condition that holds for the rows of one tenant, as a value: never SQL text with a name in it.

    Raises
    ------
    TenantError
        If ``tenant_id`` is no string or blank.
    """
    from lancedb.expr import col, lit

    return col("tenant_id") == lit(checked_tenant(tenant_id))


def checked_tenant(tenant_id: object) -> str:
    """Return the tenant if it can be one.

    Raises
    ------
    TenantError
        If it is no string, is blank, or is not text that can be stored.
    """
    if not isinstance(tenant_id, str) or not tenant_id.strip():
        raise TenantError(f"a tenant is a non-empty string, got {tenant_id!r}; there is no search without one")
    try:
        tenant_id.encode()
    except UnicodeEncodeError as error:
        raise TenantError(f"tenant {tenant_id!r} is not valid Unicode: {error}") from error
    return tenant_id


def _knobs(k: int, **knobs: int | None) -> dict[str, int]:
    """Return the knobs that are set; every number must be at least 1, and ``ef`` at least ``k``."""
    found = {name: value for name, value in knobs.items() if value is not None}
    for name, value in {"k": k, **found}.items():
        if value < 1:
            raise StoreError(f"{name} must be at least 1, got {value!r}")
    if found.get("ef", k) < k:
        raise StoreError(f"ef={found['ef']} is below k={k}: a graph search keeps at least what it returns")
    return found
