"""Answers to questions that mean the same, inside one scope and only as a decision allows it."""

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from workbench.caching.entries import Entries
from workbench.caching.guards import Guard
from workbench.caching.index import ScopeIndex
from workbench.caching.rows import Entry, unit_vector
from workbench.caching.scope import Scope, exact, intent_of
from workbench.clock import Clock, SystemClock
from workbench.errors import ConfigError, ProviderError, WorkbenchError
from workbench.inference.cache_protocol import CacheHit, CacheUse
from workbench.inference.embedding import Embedder
from workbench.inference.messages import Request, Response
from workbench.records import content_hash
from workbench.telemetry.context import Attribution

# Within this time an entry of another process may be missed; one that was removed there is never served.
POLL_S = 0.5
# How long the database may not know what was used last; it is told with every new entry too.
_TELL_S = 5.0
_SCOPES_IN_MEMORY = 1_000
WEEK_S = 7 * 86_400.0

Verifier = Callable[[str, str, Response], bool]
Vector = npt.NDArray[np.float32]


class SemanticCache:
    """Serves the answer to the nearest earlier question of the scope; nothing is served where anything is doubtful.

    As in `workbench.caching.replay.replay`: the same text is served; otherwise the nearest question, where
    its cosine is at least ``threshold`` and neither guard nor verifier objects. Another case or other blanks can change
    a meaning (``%M`` and ``%m``) and are another text. A hit inserts nothing, and `keep` inserts after a miss.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        The state database, which holds the entries.
    threshold : float
        Least cosine, in (0, 1]. None fits all traffic: take that of a decision, see `load_semantic`.
    verifier : callable, optional
        ``verifier(asked, cached, answer)``, asked last. Whatever it does but return True is a miss, an error too.
    ttl_s : float
        Age in seconds from which an entry is no longer served; infinity for none.
    max_entries : int
        Entries a scope holds at most; then its least recently used ones go.

    Raises
    ------
    ConfigError
        If threshold, age or number cannot be used.
    """

    def __init__(
        self,
        engine: sa.Engine,
        *,
        embedder: Embedder,
        threshold: float,
        guard: Guard | None = None,
        verifier: Verifier | None = None,
        clock: Clock | None = None,
        ttl_s: float = WEEK_S,
        max_entries: int = 10_000,
    ) -> None:
        if not 0 < threshold <= 1:
            raise ConfigError(f"the least cosine of a hit must lie in (0, 1], found {threshold}")
        self.threshold, self.guard, self._verifier = threshold, guard, verifier
        self._clock, self._embedder = clock or SystemClock(), embedder
        self._entries = Entries(engine, clock=self._clock, ttl_s=ttl_s, max_entries=max_entries)
        self._indices, self._lock = OrderedDict[str, ScopeIndex](), threading.Lock()
        self._embed = lru_cache(maxsize=1024)(self._embed_anew)  # a miss is looked up and then kept
        self.invalidate, self.purge = self._entries.invalidate, self._entries.purge
        self.moment = self._entries.moment

    @property
    def problems(self) -> Counter[str]:
        """How many entries were dropped and answers refused, by reason."""
        return Counter(self._entries.problems)

    def find(self, request: Request, who: Attribution, use: CacheUse) -> CacheHit | None:
        """Cached answer for this request of this caller, None where anything is doubtful."""
        scope, intent = self._asked(request, who, use)
        if scope is None or intent is None:
            return None
        key = scope.key
        index = self._index(key)
        self._refresh(key, index)
        same = index.version_of(_question(intent))
        if same is not None and (entry := self._read(key, index, same)):
            return self._hit(key, index, entry, 1.0, "exact")
        if not len(index) or (vector := self._vector(intent)) is None:
            return None
        while (near := index.nearest(vector)) and near[1] >= self.threshold:
            if entry := self._read(key, index, near[0]):
                if self._agreed(intent, entry):
                    return self._hit(key, index, entry, min(float(near[1]), 1.0), "semantic")
                return None  # as in the replay, the second nearest is not asked
        return None

    def keep(
        self, request: Request, response: Response, who: Attribution, use: CacheUse, *, cost_nanos: int, since: int
    ) -> None:
        """Keep an answer that was paid for; one that was cut off, is empty or calls tools is not kept."""
        scope, intent = self._asked(request, who, use)
        whole = response.finish_reason == "stop" and response.text.strip() and not response.tool_calls
        if scope is None or intent is None or not whole or (vector := self._vector(intent)) is None:
            return
        index = self._index(scope.key)
        self._entries.add(
            scope,
            intent,
            response,
            question=_question(intent),
            vector=vector.astype("<f4").tobytes(),
            cost_nanos=cost_nanos,
            since=since,
            sources=use.sources,
            used=index.take_used(),
        )
        self._refresh(scope.key, index, now=True)

    def _asked(self, request: Request, who: Attribution, use: CacheUse) -> tuple[Scope | None, str | None]:
        intent = intent_of(request, use, self._embedder)
        return (None if intent is None else Scope.of(request, who, use, encoder=self._embedder.encoder_id)), intent

    def _index(self, scope: str) -> ScopeIndex:
        with self._lock:
            index = self._indices.pop(scope, None) or ScopeIndex(self._embedder.dimension)
            self._indices[scope] = index
            if len(self._indices) > _SCOPES_IN_MEMORY:
                self._indices.popitem(last=False)
            return index

    def _refresh(self, scope: str, index: ScopeIndex, *, now: bool = False) -> None:
        """Learn what this and other processes wrote, at most every `POLL_S` seconds."""
        at_s = self._clock.monotonic()
        if not now and at_s - index.polled_s < POLL_S:
            return
        with index.lock:
            if not now and at_s - index.polled_s < POLL_S:
                return
            news = self._entries.news(scope, index.version, index.removed)
            bad = index.take(news, oldest_us=self._entries.oldest_us)
            index.polled_s = at_s
        if bad:
            self._entries.discard(scope, bad, "vector that cannot be used")
        if index.used and at_s - index.told_s >= _TELL_S:
            index.told_s = at_s
            self._entries.use(scope, index.take_used())

    def _read(self, scope: str, index: ScopeIndex, version: int) -> Entry | None:
        entry = self._entries.read(scope, version=version)
        if entry is None:  # gone, and others may be: learn of all at once instead of reading one by one
            index.forget(version)
            self._refresh(scope, index, now=True)
        return entry

    def _agreed(self, asked: str, entry: Entry) -> bool:
        if self.guard is not None and not self.guard.allows(asked, entry.intent):
            return False
        if self._verifier is None:
            return True
        try:
            verdict: object = self._verifier(asked, entry.intent, entry.response)
        except Exception:  # noqa: BLE001  # the user's own code: whatever goes wrong there, nothing is served
            self._entries.problems["verifier that failed"] += 1
            return False
        return isinstance(verdict, bool | np.bool_) and bool(verdict)

    def _vector(self, intent: str) -> Vector | None:
        try:
            return self._embed(intent)
        except WorkbenchError:  # a provider, or a budget that is spent
            self._entries.problems["embedding that failed"] += 1
            return None

    def _embed_anew(self, intent: str) -> Vector:
        vector: Vector = self._embedder.embed([intent])[0].astype(np.float32)
        if not unit_vector(vector.tobytes(), self._embedder.dimension):
            raise ProviderError(f"{self._embedder.encoder_id!r} made no unit vector of {self._embedder.dimension}")
        return vector

    def _hit(self, scope: str, index: ScopeIndex, entry: Entry, similarity: float, kind: str) -> CacheHit:
        index.note_used(entry.version, self._entries.now_us())
        return CacheHit(
            response=entry.response,
            kind=kind,
            similarity=similarity,
            threshold=self.threshold,
            entry_id=f"{scope[:16]}.{entry.version}",
            scope=scope,
            saved_nanos=entry.cost_nanos,
        )


def _question(intent: str) -> str:
    return content_hash(exact(intent))
