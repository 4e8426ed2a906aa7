"""Answers to questions that mean the same, inside one scope and only as a decision allows it."""

import hashlib
import json
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from workbench.caching.entries import Entries, Entry, unit_vector
from workbench.caching.fitted import FittedVerifier
from workbench.caching.guard import Guard
from workbench.caching.index import ScopeIndex
from workbench.caching.scope import Scope, exact, intent_of, lacks_turns, text_of
from workbench.caching.verifiers import FITTED, MODEL, FittedCheck, ModelVerifier, Verdict, Verifier, load_callable
from workbench.config import Clock, Settings, SystemClock
from workbench.errors import ConfigError, ProviderError, WorkbenchError
from workbench.inference.client import Client
from workbench.inference.embedding import Embedder, load_embedder, unread, unread_share
from workbench.inference.messages import CacheHit, CacheUse, Request, Response
from workbench.inference.prices import project_prices
from workbench.records import Decision, content_hash
from workbench.state import open_engine
from workbench.telemetry.context import Attribution

# Within this time an entry of another process may be missed; one that was removed there is never served.
POLL_S = 0.5
# How long the database may not know what was used last; it is told with every new entry too.
_TELL_S = 5.0
_SCOPES_IN_MEMORY = 1_000
_MOST_PENDING = 1_000
_Pair = tuple[str, str, int]  # scope, what was asked, version of the entry
WEEK_S = 7 * 86_400.0
UNREAD = "text that the encoder does not read"

OwnVerifier = Callable[[str, str, Response], bool]
Vector = npt.NDArray[np.float32]


class _Kept:
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


class SemanticCache(_Kept):
    """Serves the answer to the nearest earlier question of the scope; nothing is served where anything is doubtful.

    As in `workbench.caching.replay.replay`: the same text is served; otherwise the nearest question, where
    its cosine is at least ``threshold`` and neither guard nor verifier objects. Another case or other blanks can change
    a meaning (``%M`` and ``%m``) and are another text. A hit inserts nothing, and `keep` inserts after a miss.
    A text of which the encoder cannot read a piece, or a third (`workbench.inference.embedding.unread`), is near no
    other: of such texts repeats alone are served. A follow-up ("and in pyarrow?") is served after the same turns alone.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        The state database, which holds the entries.
    threshold : float
        Least cosine, in (0, 1]. None fits all traffic: take that of a decision, see `load_semantic`.
    verifier : Verifier or callable, optional
        One of `workbench.caching.verifiers`, or ``verifier(asked, cached, answer)``, asked last. Whatever it does but
        agree, or return True, is a miss, an error too; `miss_reason` tells which.
    later : bool
        Whether the verifier is kept off the path: what it would be asked is a miss now, and `verify_pending` asks it
        afterwards. A pair that it agrees to is served from then on.
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
        verifier: Verifier | OwnVerifier | None = None,
        later: bool = False,
        clock: Clock | None = None,
        ttl_s: float = WEEK_S,
        max_entries: int = 10_000,
    ) -> None:
        if not 0 < threshold <= 1:
            raise ConfigError(f"the least cosine of a hit must lie in (0, 1], found {threshold}")
        self.threshold, self.guard, self._verifier, self._later = threshold, guard, verifier, later
        self._pending, self._agreed_to = OrderedDict[_Pair, Entry](), set[_Pair]()
        self._told = threading.local()
        self._clock, self._embedder = clock or SystemClock(), embedder
        self._entries = Entries(engine, clock=self._clock, ttl_s=ttl_s, max_entries=max_entries)
        self._indices, self._lock = OrderedDict[str, ScopeIndex](), threading.Lock()
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
        same = index.version_of(_question(intent))
        if same is not None and (entry := self._read(key, index, same)):
            return self._hit(key, index, entry, 1.0, "exact")
        if not len(index) or (vector := self._vector(intent)) is None:
            return None
        while (near := index.nearest(vector)) and near[1] >= self.threshold:
            if entry := self._read(key, index, near[0]):
                if self._agreed(key, intent, entry):
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

    def why_missed(self, request: Request, use: CacheUse) -> str:
        """Whether the question needs turns that are not part of the key, or says too little to the encoder."""
        intent = intent_of(request, replace(use, turns=(*use.turns, "any")), self._embedder)
        if intent is None:
            return ""
        if lacks_turns(request, use, intent):
            return "a question that needs earlier turns, which are not part of the key"
        if unread(self._embedder, [intent], strict=True)[0]:
            share = unread_share(self._embedder, [intent])[0]
            return f"{UNREAD}: {share:.0%} of its characters"
        return ""

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

    @property
    def miss_reason(self) -> str:
        """Why the last question of this thread was no hit although one was near enough, "" for nothing near."""
        return getattr(self._told, "reason", "")

    def verify_pending(self, most: int = 100) -> int:
        """Ask the verifier about pairs that were put off, oldest first; returns how many it agreed to."""
        agreed = 0
        for _ in range(most):
            try:
                pair, entry = self._pending.popitem(last=False)
            except KeyError:
                break
            if self._verdict(pair[1], entry).agrees:
                self._agreed_to.add(pair)
                agreed += 1
        return agreed

    def _agreed(self, scope: str, asked: str, entry: Entry) -> bool:
        if self.guard is not None and not self.guard.allows(asked, entry.intent):
            self._told.reason = "guard"
            return False
        pair = (scope, asked, entry.version)
        if self._verifier is None or pair in self._agreed_to:
            return True
        if self._later:
            self._pending[pair] = entry
            while len(self._pending) > _MOST_PENDING:
                self._pending.popitem(last=False)
            self._told.reason = "verifier not asked yet"
            return False
        verdict = self._verdict(asked, entry)
        self._told.reason = verdict.reason
        return verdict.agrees

    def _verdict(self, asked: str, entry: Entry) -> Verdict:
        verifier = self._verifier
        try:
            if callable(verifier):
                said: object = verifier(asked, entry.intent, entry.response)
                agrees = isinstance(said, bool | np.bool_) and bool(said)
                return Verdict(agrees, None, "" if agrees else "verifier did not agree")
            assert verifier is not None
            found = verifier.check([(asked, entry.intent)])[0]
        except Exception as error:  # noqa: BLE001  # the user's own code: whatever goes wrong there, nothing is served
            found = Verdict(False, None, f"verifier failed: {type(error).__name__}")
        if found.reason.startswith("verifier failed"):
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
        if unread(self._embedder, [intent], strict=True)[0]:
            return np.zeros(self._embedder.dimension, np.float32)
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


class ResponseCache(_Kept):
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
        scope = _scope(request, who, use)
        if scope is None:
            return None
        key = scope.key
        entry = self._entries.read(key, question=_question_of(request))
        if entry is None:
            return None
        return CacheHit(entry.response, "exact", 1.0, 1.0, f"{key[:16]}.{entry.version}", key, entry.cost_nanos)

    def keep(
        self, request: Request, response: Response, who: Attribution, use: CacheUse, *, cost_nanos: int, since: int
    ) -> None:
        """Keep an answer that was paid for; one that was cut off or is empty is not kept."""
        scope = _scope(request, who, use)
        whole = response.finish_reason in ("stop", "tool_calls") and (response.text.strip() or response.tool_calls)
        if scope is None or not whole:
            return
        self._entries.add(
            scope,
            text_of(request.messages[-1]) or "",
            response,
            question=_question_of(request),
            cost_nanos=cost_nanos,
            since=since,
            sources=use.sources,
        )


def _scope(request: Request, who: Attribution, use: CacheUse) -> Scope | None:
    return None if request.temperature > 0 else Scope.of(request, who, use, encoder="exact")


def _question_of(request: Request) -> str:
    return content_hash(exact(request.messages))


def load_semantic(
    settings: Settings,
    evalset: str,
    *,
    engine: sa.Engine | None = None,
    embedder: Embedder | None = None,
    accept_provisional: bool = False,
    client: Client | None = None,
    **options: Any,
) -> SemanticCache:
    """Cache with threshold, guard and verifier of an evalset's accepted caching decision.

    Parameters
    ----------
    engine, embedder : optional
        By default the project's state database, and the encoder that the decision names.
    accept_provisional : bool
        Whether a decision may be used that rests on synthetic traffic or pairs.
    client : Client, optional
        Asks a verifier that is a model; it needs no cache of its own.
    **options
        Those of `SemanticCache`.

    Raises
    ------
    ConfigError
        If there is no such decision, it turns no semantic cache on, or it no longer fits: another encoder, other
        prices, pairs or words of the guard than those it was tested with, or a guard that judges these pairs otherwise.
    """
    folder = settings.evalsets / evalset
    decision = Decision.accepted(folder, "caching")
    if why := _refusal(decision, accept_provisional):
        raise ConfigError(f"the caching decision of {evalset!r} does not turn a semantic cache on: {why}")
    chosen = decision.parameters
    guard = None if chosen["guard"] is None else _guard(**chosen["guard"])
    embedder = embedder or load_embedder(decision.settings["embedder"], settings)
    now = {"weights": embedder.encoder_id, "prices": project_prices(settings.root).sha256}
    if changed := _changed(decision, now, folder / "pairs.jsonl", guard):
        raise ConfigError(
            f"the caching decision of {evalset!r} was tested with another {', '.join(changed)}; check it again with: "
            "workbench check caching"
        )
    engine = engine or open_engine(settings.state_url)
    if used := chosen.get("verifier"):
        options = {"verifier": load_verifier(used, settings, folder, embedder, client)} | options
    return SemanticCache(engine, embedder=embedder, threshold=chosen["threshold"], guard=guard, **options)


def load_verifier(
    used: Mapping[str, Any], settings: Settings, folder: Path, embedder: Embedder, client: Client | None
) -> Verifier:
    """Verifier of a decision.

    Raises
    ------
    ConfigError
        If it is not the one that was tested, or a model without a client to ask it with.
    """
    name = used["name"]
    found: Verifier | None = None
    if name == FITTED:
        path = folder / "decisions" / "caching.artefact"
        saved = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if FITTED in saved:
            found = FittedCheck(FittedVerifier.load(saved[FITTED]), embedder.embed)
    elif name.startswith(MODEL):
        if client is None:
            raise ConfigError(f"the caching decision goes with {name}: give load_semantic a client= to ask it with")
        found = ModelVerifier(client, name.removeprefix(MODEL), least=used["least"])
    else:
        found = load_callable(f"{name}@0", settings)
    if found is None or found.used.sha256 != used["sha256"]:
        raise ConfigError(
            f"the caching decision was tested with another verifier {name}; check it again: workbench check caching"
        )
    return found


def _guard(*, kind: str = "Guard", **checks: bool) -> Guard:
    try:
        if kind == "Guard" and checks:
            return Guard(**checks)
    except TypeError as error:
        raise ConfigError(f"the decision's guard is not one this version knows: {error}") from error
    raise ConfigError(f"the decision's guard is of kind {kind!r} with {len(checks)} checks; this version knows 'Guard'")


def _refusal(decision: Decision, accept_provisional: bool) -> str:
    if decision.verdict == "provisional" and not accept_provisional:
        return (
            f"its verdict on {decision.arm!r} is provisional, because it rests on synthetic traffic or pairs; "
            "decide again on your own, or pass accept_provisional=True"
        )
    if decision.verdict not in ("chosen", "provisional"):
        return f"its verdict is {decision.verdict!r} ({decision.sentence}); label more or lower the target, then decide"
    if decision.parameters.get("kind") != "semantic":
        return f"it chose {decision.arm!r}, which has no threshold; for exact repeats use workbench.ResponseCache"
    return ""


def _changed(decision: Decision, now: dict[str, str], file: Path, guard: Guard | None) -> list[str]:
    """Inputs of the decision that are no longer what they were, as far as a running system can know them."""
    written = file.read_bytes() if file.is_file() else b""
    now = now | {"pairs": hashlib.sha256(written).hexdigest() if written else ""}
    before = decision.fingerprint.inputs
    changed = [name for name, value in now.items() if before.get(name) != value]
    if guard and "pairs" not in changed:
        rows = [json.loads(line) for line in written.split(b"\n") if line.strip()]
        if guard.sha256((row["query_b"], row["query_a"]) for row in rows) != before.get("guard"):
            changed.append("guard")
    return changed
