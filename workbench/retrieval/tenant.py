"""The one way to search a table: a handle bound to its tenant when it is made, and its filters.

The handle checks what is asked, orders what is found and never lets an index starve it; the rows of its tenant it
reaches through `TenantRows`, which each store makes for one tenant and which puts the tenant's condition before
everything else. Only results leave the handle: with a query builder a caller could make the condition a postfilter.

Only columns that describe a document can be filtered. The tenant cannot: it is the handle's own.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from workbench.errors import StoreError, TenantError
from workbench.records import Hit
from workbench.retrieval.filters import Filter, checked_filter
from workbench.retrieval.metrics import best_first

if TYPE_CHECKING:
    from workbench.retrieval.reuse import FoundBefore

Vector = npt.NDArray[np.floating[Any]] | Sequence[float]
Point = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ChunkHit:
    """One chunk found; ``score`` is cosine in [-1, 1] for vectors and BM25 for words, free of float32 noise."""

    chunk_id: str
    doc_id: str
    position: int
    score: float


class Together(NamedTuple):
    """How a search is made in one go with others of the same ``kind``, which differ in their points alone."""

    kind: Hashable
    point: Point
    search: Callable[[Sequence[Point]], list[list[ChunkHit]]]


@dataclass(frozen=True, slots=True)
class Fusion:
    """How both legs of a hybrid search become one list, for a store that does it all in one statement.

    ``chunks`` are fetched by each leg, of which ``depth`` documents go into the fusion, without the document
    ``itself`` that the question is ("" for none). Either ``rank_constant`` is set, for reciprocal ranks, or ``weight``,
    that of the vectors, for scaled scores.
    """

    chunks: int
    depth: int
    itself: str = ""
    rank_constant: int | None = None
    weight: float | None = None

    @property
    def values(self) -> dict[str, Any]:
        """What is set, by name."""
        return {name: value for name in self.__slots__ if (value := getattr(self, name)) is not None}


class TenantRows(Protocol):
    """Rows of one tenant as a store reaches them: every method puts the tenant's condition first.

    Scores come as `cosine_of` and `bm25_of` make them; hits may come in any order.
    """

    @property
    def tenant_id(self) -> str:
        """Tenant to whom all that is found belongs."""

    @property
    def dimension(self) -> int:
        """Length of every vector."""

    def nearest(
        self, point: Point, limit: int, where: Filter | None, *, exact: bool, knobs: Mapping[str, int]
    ) -> list[ChunkHit]:
        """Up to ``limit`` chunks nearest by cosine; unless ``exact``, by the vector index if there is one."""

    def nearest_to_each(
        self, points: Sequence[Point], limit: int, where: Filter | None, *, exact: bool, knobs: Mapping[str, int]
    ) -> list[list[ChunkHit]]:
        """What `nearest` finds for each of the points, in fewer searches if the store can."""

    def matching(self, words: str, limit: int, where: Filter | None) -> list[ChunkHit]:
        """Up to ``limit`` chunks that hold any of the words, best by BM25."""

    def fused(self, point: Point, words: str, k: int, fusion: Fusion) -> list[Hit] | None:
        """Best ``k`` documents of exact vectors and words in one statement; None if the store has none."""

    def may_fall_short(self) -> bool:
        """Whether there is a vector index, whose walk can end before enough rows of the tenant are found."""

    def explain(
        self,
        point: Point | None,
        words: str | None,
        limit: int,
        where: Filter | None,
        *,
        exact: bool,
        knobs: Mapping[str, int],
    ) -> dict[str, str]:
        """The store's own account of each leg that is asked for, ``vector`` and ``full_text``."""

    def texts(self, doc_ids: Sequence[str]) -> pl.DataFrame:
        """Chunks of the documents: doc_id, position, text."""

    def states(self) -> pl.DataFrame:
        """Every chunk of the tenant: doc_id, position, n_chunks, content_hash."""

    def count(self, where: Filter | None) -> int:
        """Chunks that match."""


class TenantHandle:
    """Searches over the rows of one tenant; made by `Store.for_tenant`.

    Hits stand by `workbench.retrieval.metrics.best_first`, chunks of one document by ``position``. The rule also
    decides what is left out: as long as the last hit is tied with the next one, more are fetched.

    Stores compute in float32, so scores are rounded before they leave to what that carries, about 7 significant
    digits: see `bm25_of` and `cosine_of`.
    """

    def __init__(self, rows: TenantRows) -> None:
        self._rows = rows

    @property
    def tenant_id(self) -> str:
        """Tenant to whom all that is found belongs."""
        return self._rows.tenant_id

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
            IVF: lists that are searched at least; more are, as long as hits are missing.
        refine_factor : int, optional
            Quantised indices: this many times ``k`` candidates are compared by their full vectors.
        ef : int, optional
            HNSW: candidates kept while walking the graph, at least ``k``.
        exact : bool
            Pass over the vector index, if there is one.

        Raises
        ------
        StoreError
            If the vector has another dimension, is zero or not finite, a number is out of range, or the store has no
            such knob.
        """
        knobs = _tenant_search_knobs(k, nprobes=nprobes, refine_factor=refine_factor, ef=ef)
        point, where = self._point(vector), checked_filter(where)
        return self._nearest(point, k, where, exact, knobs)

    def vectors(
        self,
        vectors: Sequence[Vector],
        k: int,
        *,
        where: Filter | None = None,
        exact: bool = False,
        **knobs: int | None,
    ) -> list[list[ChunkHit]]:
        """Return what `vector` returns for each of several vectors, in fewer searches if the store can.

        Raises
        ------
        StoreError
            As `vector` does.
        """
        found, where = _tenant_search_knobs(k, **knobs), checked_filter(where)
        points = [self._point(vector) for vector in vectors]
        first = self._rows.nearest_to_each(points, k + 1, where, exact=exact, knobs=found)
        return [self._nearest(point, k, where, exact, found, hits) for point, hits in zip(points, first, strict=True)]

    def _nearest(
        self,
        point: Point,
        k: int,
        where: Filter | None,
        exact: bool,
        knobs: Mapping[str, int],
        first: list[ChunkHit] | None = None,
    ) -> list[ChunkHit]:
        """Best ``k`` chunks; ``first`` are the ``k + 1`` that were found already."""

        def search(asked: int) -> list[ChunkHit]:
            if first is not None and asked == k + 1:
                return first
            return self._rows.nearest(point, asked, where, exact=exact, knobs=knobs)

        hits = best_tenant_hits(k, search)
        if len(hits) < k and not exact and self._rows.may_fall_short():
            # A graph whose walk ends among rows of other tenants comes back short, even empty.
            return self.vector(point, k, where=where, exact=True)
        return hits

    def full_text(self, words: str, k: int, *, where: Filter | None = None) -> list[ChunkHit]:
        """Return the ``k`` best chunks that hold any of the words, by BM25; none for stop words alone.

        Punctuation means nothing: quotes make no phrase and ``AND`` is a word.

        Raises
        ------
        StoreError
            If there is no full-text index yet.
        """
        _tenant_search_knobs(k)
        where = checked_filter(where)
        return best_tenant_hits(k, lambda asked: self._rows.matching(words, asked, where))

    def fused(self, vector: Vector, words: str, k: int, fusion: Fusion) -> list[Hit] | None:
        """Best ``k`` documents of exact vectors and words, fused by the store; None where both have to be searched.

        The ranking is that of `vector` and `full_text`, fused by `workbench.retrieval.strategies.Hybrid`.

        Raises
        ------
        StoreError
            As `vector` and `full_text` do.
        """
        _tenant_search_knobs(k)
        return self._rows.fused(self._point(vector), words, k, fusion)

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
        """The store's own account of each leg, ``vector`` and ``full_text``: filter, index, knobs in effect."""
        point = None if vector is None else self._point(vector)
        return self._rows.explain(
            point, words, k, checked_filter(where), exact=exact, knobs=_tenant_search_knobs(k, **knobs)
        )

    def documents(self, doc_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Texts of the chunks of each document, in order; ids that are not the tenant's are left out."""
        if not doc_ids:
            return {}
        rows = self._rows.texts(doc_ids)
        texts = rows.sort("position").group_by("doc_id", maintain_order=True).agg("text")
        return {doc_id: tuple(parts) for doc_id, parts in texts.iter_rows()}

    def document_hashes(self) -> dict[str, str | None]:
        """Content hash of each document that is wholly there; None where chunks are missing or old."""
        states = (
            self._rows.states()
            .group_by("doc_id")
            .agg(
                pl.col("content_hash").first(),
                whole=(pl.col("content_hash").n_unique() == 1)
                & (pl.col("n_chunks").n_unique() == 1)
                & (pl.col("position").n_unique() == pl.col("n_chunks").first())
                & (pl.col("position").max() == pl.col("n_chunks").first() - 1)
                & (pl.len() == pl.col("n_chunks").first()),
            )
        )
        return {doc_id: digest if whole else None for doc_id, digest, whole in states.iter_rows()}

    def count(self, where: Filter | None = None) -> int:
        """Chunks of the tenant, or those of them that match."""
        return self._rows.count(checked_filter(where))

    def remembering(self, found: "FoundBefore") -> "TenantHandle":
        """Return this handle as one that searches once for what it is asked again."""
        return _RememberingHandle(self._rows, found)

    def _point(self, vector: Vector) -> Point:
        point, dimension = np.asarray(vector, dtype=np.float32), self._rows.dimension
        if point.shape != (dimension,) or not np.isfinite(point).all() or not point.any():
            raise StoreError(f"a search needs a finite, non-zero vector of {dimension}, got shape {point.shape}")
        return point

    def __repr__(self) -> str:
        return f"TenantHandle({shown_tenant(self.tenant_id)})"


class _RememberingHandle(TenantHandle):
    """A handle that does not search again for what it found before."""

    def __init__(self, rows: TenantRows, found: "FoundBefore") -> None:
        super().__init__(rows)
        self._before = found

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
        point, ask = self._point(vector), super().vector
        knobs = {"nprobes": nprobes, "refine_factor": refine_factor, "ef": ef}
        kind = (id(self), k, where, exact, *knobs.values())
        return self._before.once(
            (*kind, point.tobytes()),
            lambda: ask(point, k, where=where, exact=exact, **knobs),
            Together(kind, point, lambda points: self.vectors(points, k, where=where, exact=exact, **knobs)),
        )

    def fused(self, vector: Vector, words: str, k: int, fusion: Fusion) -> list[Hit] | None:
        """Leave it to both searches while they are shared: other arms ask for the same."""
        return None if self._before.is_shared else super().fused(vector, words, k, fusion)

    def full_text(self, words: str, k: int, *, where: Filter | None = None) -> list[ChunkHit]:
        ask = super().full_text
        return self._before.once((id(self), words, k, where), lambda: ask(words, k, where=where))


def best_tenant_hits(k: int, search: Callable[[int], list[ChunkHit]]) -> list[ChunkHit]:
    """Best ``k`` by the tie rule; asks for more as long as a tie reaches over the end of what came."""
    asked = k + 1
    while True:
        hits = search(asked)
        hits.sort(key=lambda hit: (*best_first(hit.score, hit.doc_id), hit.position))
        if len(hits) < asked or hits[k - 1].score > hits[-1].score:
            return hits[:k]
        asked *= 4


def shown_tenant(tenant_id: str) -> str:
    """Return the tenant as messages name it, cut where it is long."""
    return repr(tenant_id if len(tenant_id) <= 40 else tenant_id[:40] + "…")


def cosine_of(distance: float) -> float:
    """Cosine in [-1, 1] of a cosine distance, without noise: the distance is of size 1, so that of 1e-7 is cut off.

    Quantised distances can lie a little outside the range of a cosine.
    """
    return max(-1.0, min(1.0, round(1.0 - distance, 6))) + 0.0  # no -0.0


def bm25_of(score: float) -> float:
    """BM25 without noise: a sum of positive float32 terms is off in proportion to its size, so 7 digits stay."""
    return float(f"{score:.7g}")


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


def _tenant_search_knobs(k: int, **knobs: int | None) -> dict[str, int]:
    """Return the knobs that are set; every number must be at least 1, and ``ef`` at least ``k``."""
    found = {name: value for name, value in knobs.items() if value is not None}
    for name, value in {"k": k, **found}.items():
        if value < 1:
            raise StoreError(f"{name} must be at least 1, got {value!r}")
    if found.get("ef", k) < k:
        raise StoreError(f"ef={found['ef']} is below k={k}: a graph search keeps at least what it returns")
    return found
