"""Answers to requests that are the same to the last character."""

from collections import Counter

import sqlalchemy as sa

from workbench.caching.entries import Entries
from workbench.caching.scope import Scope, exact, text_of
from workbench.caching.semantic import WEEK_S
from workbench.clock import Clock, SystemClock
from workbench.inference.cache_protocol import CacheHit, CacheUse
from workbench.inference.messages import Request, Response
from workbench.records import content_hash
from workbench.telemetry.context import Attribution


class ResponseCache:
    """Serves an answer again to exactly the same request of the same scope; sampled answers are never kept.

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
        self.invalidate, self.purge = self._entries.invalidate, self._entries.purge
        self.moment = self._entries.moment

    @property
    def problems(self) -> Counter[str]:
        """How many entries were dropped, by reason."""
        return Counter(self._entries.problems)

    def find(self, request: Request, who: Attribution, use: CacheUse) -> CacheHit | None:
        """Cached answer for this request of this caller, None where anything is doubtful."""
        scope = _scope(request, who, use)
        if scope is None:
            return None
        key = scope.key
        entry = self._entries.read(key, question=_question(request))
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
            question=_question(request),
            cost_nanos=cost_nanos,
            since=since,
            sources=use.sources,
        )


def _scope(request: Request, who: Attribution, use: CacheUse) -> Scope | None:
    return None if request.temperature > 0 else Scope.of(request, who, use, encoder="exact")


def _question(request: Request) -> str:
    return content_hash(exact(request.messages))
