"""Answers to questions that mean the same, inside one scope and only as a decision allows it."""

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from typing import Self

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from workbench.caching.cache_entries import Entries, Entry, Promotion, is_stored_unit_vector
from workbench.caching.guard import Guard, rules_sha256
from workbench.caching.scope import Scope, exact_scope_json, intent_lacks_turns, scope_intent, scope_text
from workbench.caching.scope_index import ScopeIndex
from workbench.caching.verifiers import FAILED, MOST_WAITING, Later, PutOffCheck, Verdict, Verifier, WaitingChecks
from workbench.config import Clock, Settings, SystemClock
from workbench.errors import ConfigError, ProviderError, WorkbenchError
from workbench.inference.embedding import Embedder, unread_by_embedder, unread_share_of_embedder
from workbench.inference.messages import CacheHit, CacheUse, Request, Response
from workbench.records import content_hash
from workbench.rendering.numbers import percent
from workbench.state import open_engine
from workbench.telemetry.attribution import Attribution

# Within this time an entry of another process may be missed; one that was removed there is never served.
POLL_S = 0.5
# How long the database may not know what was used last; it is told with every new entry too.
_TELL_S = 5.0
_SCOPES_IN_MEMORY = 1_000
_END_S = 5.0  # that a check under way is waited for
WEEK_S = 7 * 86_400.0
UNREAD = "text that the encoder does not read"

OwnVerifier = Callable[[str, str, Response], bool]
Vector = npt.NDArray[np.float32]


class _KeptCache:
    """What every cache lets its owner do with the entries that it keeps."""

    _entries: Entries

    def invalidate(
        self, *, source: str | None = None, tenant_id: str | None = None, corpus_version: str | None = None
    ) -> int:
        """Drop the entries that meet all conditions given, in every process; returns how many there were.

        Answers that were asked for before and come afterwards are not kept.

        Parameters
        ----------
        source : str, optional
            Document that the answers rest on, as `CacheUse.sources` named it.
        tenant_id : str, optional
            Tenant whose answers go.
        corpus_version : str, optional
            Version of the documents that the answers rest on.

        Raises
        ------
        ConfigError
            If no condition is given.
        """
        return self._entries.invalidate(source=source, tenant_id=tenant_id, corpus_version=corpus_version)

    def purge(self) -> int:
        """Drop every entry that is too old to be served, and scopes that are empty; returns how many entries went."""
        return self._entries.purge()

    def moment(self) -> int:
        """Count of the invalidations so far; `keep` takes it, so that an answer from before one is not kept."""
        return self._entries.moment()

    @property
    def problems(self) -> Counter[str]:
        """How many entries were dropped and answers refused, by reason."""
        return Counter(self._entries.problems)


class SemanticCache(_KeptCache):
    """Serves the answer to the nearest earlier question of the scope; nothing is served where anything is doubtful.

    As in `workbench.caching.stream_replay.replay_stream`: the same text is served; otherwise the nearest question,
    where its cosine is at least ``threshold`` and neither guard nor verifier objects. Another case or other blanks can
    change a meaning (``%M`` and ``%m``) and are another text. A hit inserts nothing, and `keep` inserts after a miss.
    A text of which the encoder cannot read a piece, or a third (`workbench.inference.embedding.unread_by_embedder`), is
    near no other: of such texts repeats alone are served. A follow-up ("and in pyarrow?") is served after the same
    turns alone.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        The state database, which holds the entries.
    threshold : float
        Least cosine, in (0, 1]. None fits all traffic: take that of a decision, see `load_semantic`.
    verifier : Verifier or callable, optional
        One of `workbench.caching.verifiers`, or ``verifier(asked, cached, answer)``, asked last. Whatever it does but
        agree, or return True, is a miss, an error too; `miss_reason` tells which.
    later : Later, optional
        What the verifier is asked off the path, by `verify_pending` or meanwhile by `verifying`; ``guard`` alone
        decides then what is served at once. Where it agrees, the text that was asked is *promoted*: it, and what is
        near to it, is answered by the earlier answer from then on, in all processes. At most 1,000 pairs wait.
    ttl_s : float
        Age in seconds from which an entry is no longer served; infinity for none.
    max_entries : int
        Entries a scope holds at most; then its least recently used ones go.

    Raises
    ------
    ConfigError
        If threshold, age or number cannot be used, or there is no verifier to be asked later.
    """

    def __init__(
        self,
        engine: sa.Engine,
        *,
        embedder: Embedder,
        threshold: float,
        guard: Guard | None = None,
        verifier: Verifier | OwnVerifier | None = None,
        later: Later | None = None,
        clock: Clock | None = None,
        ttl_s: float = WEEK_S,
        max_entries: int = 10_000,
    ) -> None:
        if not 0 < threshold <= 1:
            raise ConfigError(f"the least cosine of a hit must lie in (0, 1], found {threshold}")
        if later and (verifier is None or not 0 < later.floor <= 1):
            raise ConfigError(
                f"what is asked later needs a verifier, and a least cosine in (0, 1], found {later.floor}"
            )
        self.threshold, self.guard, self._verifier, self._later = threshold, guard, verifier, later
        self._by = _promoter_identity(verifier, later) if later else ""
        self._told = threading.local()
        self._clock, self._embedder = clock or SystemClock(), embedder
        self._entries = Entries(engine, clock=self._clock, ttl_s=ttl_s, max_entries=max_entries)
        self._indices, self._lock = OrderedDict[str, ScopeIndex](), threading.Lock()
        self._waiting = WaitingChecks(self._entries, self._verdict)
        self._embed = lru_cache(maxsize=1024)(self._embed_anew)  # a miss is looked up and then kept

    def find(self, request: Request, who: Attribution, use: CacheUse) -> CacheHit | None:
        """Cached answer for this request of this caller, None where anything is doubtful."""
        scope, intent = self._asked(request, who, use)
        self._told.reason = ""
        if scope is None or intent is None:
            return None
        key = scope.key
        index = self._index(key)
        self._refresh(key, index)
        same = index.version_of(_semantic_question(intent))
        if same is not None and (entry := self._read(key, index, same)):
            kind, similarity = ("promoted", entry.promoted.cosine) if entry.promoted else ("exact", 1.0)
            return self._hit(key, index, entry, similarity, kind)
        if not len(index) or (vector := self._vector(intent)) is None:
            return None
        least = min(self.threshold, self._later.floor) if self._later else self.threshold
        while (near := index.nearest(vector)) and near[1] >= least:
            if entry := self._read(key, index, near[0]):
                if near[1] >= self.threshold and self._agreed(intent, entry):
                    return self._hit(key, index, entry, min(float(near[1]), 1.0), "semantic")
                if self._later and near[1] >= self._later.floor:
                    self._put_off(key, intent, vector, entry, min(float(near[1]), 1.0), who)
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
            question=_semantic_question(intent),
            vector=vector.astype("<f4").tobytes(),
            cost_nanos=cost_nanos,
            since=since,
            sources=use.sources,
            used=index.take_used(),
        )
        self._refresh(scope.key, index, now=True)

    def why_missed(self, request: Request, use: CacheUse) -> str:
        """Whether the question needs turns that are not part of the key, or says too little to the encoder."""
        intent = scope_intent(request, replace(use, turns=(*use.turns, "any")), self._embedder)
        if intent is None:
            return ""
        if intent_lacks_turns(request, use, intent):
            return "a question that needs earlier turns, which are not part of the key"
        if unread_by_embedder(self._embedder, [intent], strict=True)[0]:
            share = unread_share_of_embedder(self._embedder, [intent])[0]
            return f"{UNREAD}: {percent(share)} of its characters"
        return ""

    def _asked(self, request: Request, who: Attribution, use: CacheUse) -> tuple[Scope | None, str | None]:
        intent = scope_intent(request, use, self._embedder)
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
        if entry and entry.promoted and entry.promoted.by != self._by:
            self._entries.discard(scope, [version], "promotion under another setting")
            entry = None
        if entry is None:  # gone, and others may be: learn of all at once instead of reading one by one
            index.forget(version)
            self._refresh(scope, index, now=True)
        return entry

    @property
    def miss_reason(self) -> str:
        """Why the last question of this thread was no hit although one was near enough, "" for nothing near."""
        return getattr(self._told, "reason", "")

    def verify_pending(self, most: int = 100) -> int:
        """Ask the verifier about pairs that were put off, oldest first; returns how many texts were promoted."""
        return self._verify(most)

    @contextmanager
    def verifying(self, every_s: float = 1.0) -> Iterator[None]:
        """Ask it in a thread of its own meanwhile; what still waits in the end is not asked."""
        ended = threading.Event()

        def work() -> None:
            while not ended.wait(every_s):
                with suppress(sa.exc.SQLAlchemyError):  # the rest waits for the next time
                    self._verify(MOST_WAITING, ended)

        thread = threading.Thread(target=work, name="cache verifier", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(_END_S)

    def _verify(self, most: int, ended: threading.Event | None = None) -> int:
        promoted = 0
        for scope in self._waiting.settle(most, ended):
            promoted += 1
            self._refresh(scope, self._index(scope), now=True)
        return promoted

    def _agreed(self, asked: str, entry: Entry) -> bool:
        """Whether it may be served at once."""
        allowed = self.guard is None or self.guard.allows(asked, entry.intent)
        if not allowed or (self._later and entry.promoted and not self._later.allows(asked, entry.answers)):
            self._told.reason = "guard"
            return False
        if self._verifier is None or self._later:
            return True
        verdict = self._verdict(asked, entry)
        self._told.reason = verdict.reason
        return verdict.agrees

    def _put_off(self, scope: str, asked: str, vector: Vector, entry: Entry, cosine: float, who: Attribution) -> None:
        """Leave it to the verifier whether the text shall have the entry's answer from then on."""
        if self._later is None or not self._later.allows(asked, entry.answers):
            self._told.reason = "guard"
            return
        why = Promotion(entry.answers, entry.root, cosine, self._by)
        blob = vector.astype("<f4").tobytes()
        self._told.reason = self._waiting.put(PutOffCheck(scope, asked, _semantic_question(asked), blob, why, who))

    def _verdict(self, asked: str, entry: Entry) -> Verdict:
        verifier = self._verifier
        try:
            if callable(verifier):
                said: object = verifier(asked, entry.intent, entry.response)
                agrees = isinstance(said, bool | np.bool_) and bool(said)
                return Verdict(agrees, None, "" if agrees else "verifier did not agree")
            assert verifier is not None
            found = verifier.check([(asked, entry.intent)])[0]
            if not isinstance(found, Verdict):
                raise TypeError(f"a verifier says a Verdict, not {found!r}")
        except Exception as error:  # noqa: BLE001  # the user's own code: whatever goes wrong there, nothing is served
            found = Verdict(False, None, f"{FAILED}: {type(error).__name__}")
        if found.reason.startswith(FAILED):
            self._entries.problems["verifier that failed"] += 1
        return found

    def _vector(self, intent: str) -> Vector | None:
        try:
            vector = self._embed(intent)
        except WorkbenchError:  # a provider, or a budget that is spent
            self._entries.problems["embedding that failed"] += 1
            return None
        if not vector.any():
            self._entries.problems[UNREAD] += 1
        return vector

    def _embed_anew(self, intent: str) -> Vector:
        if unread_by_embedder(self._embedder, [intent], strict=True)[0]:
            return np.zeros(self._embedder.dimension, np.float32)
        vector: Vector = self._embedder.embed([intent])[0].astype(np.float32)
        if not is_stored_unit_vector(vector.tobytes(), self._embedder.dimension):
            raise ProviderError(f"{self._embedder.encoder_id!r} made no unit vector of {self._embedder.dimension}")
        return vector

    def _hit(self, scope: str, index: ScopeIndex, entry: Entry, similarity: float, kind: str) -> CacheHit:
        for version in {entry.root, entry.version}:
            index.note_used(version, self._entries.now_us())
        return CacheHit(
            response=entry.response,
            kind=kind,
            similarity=similarity,
            threshold=self.threshold,
            entry_id=f"{scope[:16]}.{entry.version}",
            scope=scope,
            saved_nanos=entry.cost_nanos,
        )


def _semantic_question(intent: str) -> str:
    return content_hash(exact_scope_json(intent))


def _promoter_identity(verifier: Verifier | OwnVerifier | None, later: Later) -> str:
    """Hash of what promotes: what another verifier, or another guard before it, let through is not served."""
    if verifier is None or callable(verifier):
        told = [getattr(verifier, "__module__", ""), getattr(verifier, "__qualname__", "")]
    else:
        told = [verifier.used.name, str(verifier.used.least), verifier.used.sha256]
    return content_hash(*told, repr(later), rules_sha256() if later.guard else "")


class ResponseCache(_KeptCache):
    """``Client.open(settings, cache=ResponseCache.open(settings))``: the same answer to exactly the same request.

    It needs no decision, encoder or threshold. The request must be the same to the last character, of the same tenant
    and scope, and say ``use=CacheUse(...)``; sampled answers (a temperature above 0) are never kept.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        The state database, which holds the entries.
    ttl_s : float
        Age in seconds from which an entry is no longer served; infinity for none.
    max_entries : int
        Entries a scope holds at most; then the oldest ones go, as nothing is written when one is served.
    """

    def __init__(
        self, engine: sa.Engine, *, clock: Clock | None = None, ttl_s: float = WEEK_S, max_entries: int = 10_000
    ) -> None:
        self._entries = Entries(engine, clock=clock or SystemClock(), ttl_s=ttl_s, max_entries=max_entries)

    @classmethod
    def open(cls, settings: Settings, *, ttl_s: float = WEEK_S, max_entries: int = 10_000) -> Self:
        """Cache in the project's state database, which all its processes share."""
        return cls(open_engine(settings.state_url), ttl_s=ttl_s, max_entries=max_entries)

    def find(self, request: Request, who: Attribution, use: CacheUse) -> CacheHit | None:
        """Cached answer for this request of this caller, None where anything is doubtful."""
        scope = _response_scope(request, who, use)
        if scope is None:
            return None
        key = scope.key
        entry = self._entries.read(key, question=_response_question(request))
        if entry is None:
            return None
        return CacheHit(entry.response, "exact", 1.0, 1.0, f"{key[:16]}.{entry.version}", key, entry.cost_nanos)

    def keep(
        self, request: Request, response: Response, who: Attribution, use: CacheUse, *, cost_nanos: int, since: int
    ) -> None:
        """Keep an answer that was paid for; one that was cut off or is empty is not kept."""
        scope = _response_scope(request, who, use)
        whole = response.finish_reason in ("stop", "tool_calls") and (response.text.strip() or response.tool_calls)
        if scope is None or not whole:
            return
        self._entries.add(
            scope,
            scope_text(request.messages[-1]) or "",
            response,
            question=_response_question(request),
            cost_nanos=cost_nanos,
            since=since,
            sources=use.sources,
        )


def _response_scope(request: Request, who: Attribution, use: CacheUse) -> Scope | None:
    return None if request.temperature > 0 else Scope.of(request, who, use, encoder="exact")


def _response_question(request: Request) -> str:
    return content_hash(exact_scope_json(request.messages))
