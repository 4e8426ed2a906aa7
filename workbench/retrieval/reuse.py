"""Searches that several arms of one experiment share are made once; apart from `tenant`, which serves users too."""

import time
from array import array
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Self, TypeVar

from workbench.errors import WorkbenchError
from workbench.retrieval.tenant import ChunkHit, Together

Asked = TypeVar("Asked")


class NotSearched(LookupError):
    """What is asked for inside `FoundBefore.without_searching` was not found before, or is searched for with others."""


@dataclass(slots=True)
class FoundBefore:
    """What was found by searches that several arms share, with the time that each took when it was made.

    It is kept inside ``with found.shared():`` alone, or from ``with found.ahead():`` until then; elsewhere every
    search is made, so that what serves users neither grows nor answers from before a change. ``saved_ms`` adds up the
    time of those that were not made again: an arm's latency is that of all its searches.
    """

    saved_ms: float = 0.0
    _kept: bool = False
    _ahead: bool = False
    _only_known: bool = False
    _found: dict[Hashable, tuple[list[ChunkHit], float]] = field(default_factory=dict)
    _packed: dict[Hashable, tuple["_Packed", float]] = field(default_factory=dict)
    _wanted: dict[Hashable, dict[Hashable, Together]] | None = None

    @property
    def is_shared(self) -> bool:
        """Whether searches are made once for all arms."""
        return self._kept

    def once(
        self, key: Hashable, search: Callable[[], list[ChunkHit]], together: Together | None = None
    ) -> list[ChunkHit]:
        """Hits of a search, made if it is the first of its key; ``together`` if it can be made with others at once."""
        if not (self._kept or self._ahead):
            return search()
        if (known := self._known(key)) is not None:
            self.saved_ms += known[1]
            return known[0]
        if self._only_known:
            raise NotSearched
        if self._wanted is not None and together is not None:
            self._wanted.setdefault(together.kind, {})[key] = together
            raise NotSearched
        started, saved = time.perf_counter(), self.saved_ms
        hits = search()  # which may begin with another search
        self._keep(key, hits, (time.perf_counter() - started) * 1000 + self.saved_ms - saved)
        return hits

    def _known(self, key: Hashable) -> tuple[list[ChunkHit], float] | None:
        if self._ahead:
            packed = self._packed.get(key)
            return None if packed is None else (packed[0].hits(), packed[1])
        if (packed := self._packed.pop(key, None)) is not None:
            self._found[key] = packed[0].hits(), packed[1]
        return self._found.get(key)

    def _keep(self, key: Hashable, hits: list[ChunkHit], took_ms: float) -> None:
        if self._ahead:
            self._packed[key] = _Packed.of(hits), took_ms
        else:
            self._found[key] = hits, took_ms

    def search_together(self, search: Callable[[Asked], object], asked: Iterable[Asked]) -> None:
        """Make the searches for vectors that ``search`` begins with for each of what is asked, many in one go.

        Only inside ``shared`` or ``ahead``, where they are found again; a search that fails is left to whoever asks.
        The time of each is its share, which says nothing of a search that is made alone.
        """
        self._wanted = {}
        try:
            for each in asked:
                with suppress(NotSearched, WorkbenchError):
                    search(each)
        finally:
            wanted, self._wanted = self._wanted, None
        for searches in wanted.values():
            started, (first, *_) = time.perf_counter(), searches.values()
            with suppress(WorkbenchError):
                found = first.search([one.point for one in searches.values()])
                took_ms = (time.perf_counter() - started) * 1000 / len(searches)
                for key, hits in zip(searches, found, strict=True):
                    self._keep(key, hits, took_ms)

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Make every search once until the end of the block, and let go of all hits there."""
        self._kept = True
        try:
            yield
        finally:
            self._kept = False
            self.release()

    @contextmanager
    def ahead(self) -> Iterator[None]:
        """Keep what is found until a `shared` block asks for it, or until all is forgotten, in little memory."""
        self._ahead = True
        try:
            yield
        finally:
            self._ahead = False

    @contextmanager
    def without_searching(self) -> Iterator[None]:
        """Until the end of the block, raise `NotSearched` where a search would have to be made."""
        self._only_known = True
        try:
            yield
        finally:
            self._only_known = False

    def release(self) -> None:
        """Let go of what a block shared."""
        self._found.clear()

    def forget(self) -> None:
        """Let all of it go: an index was built again, or nobody will ask."""
        self.release()
        self._packed.clear()


@dataclass(frozen=True, slots=True, eq=False)
class _Packed:
    """Hits column by column: a third of the memory of as many objects."""

    chunk_ids: tuple[str, ...]
    doc_ids: tuple[str, ...]
    positions: "array[int]"
    scores: "array[float]"

    @classmethod
    def of(cls, hits: Sequence[ChunkHit]) -> Self:
        chunk_ids, doc_ids = tuple(h.chunk_id for h in hits), tuple(h.doc_id for h in hits)
        return cls(chunk_ids, doc_ids, array("i", [h.position for h in hits]), array("d", [h.score for h in hits]))

    def hits(self) -> list[ChunkHit]:
        columns = self.chunk_ids, self.doc_ids, self.positions, self.scores
        return [ChunkHit(*row) for row in zip(*columns, strict=True)]
