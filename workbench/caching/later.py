"""Pairs that wait for a verifier off the path, and what comes of them: a promotion, or nothing.

It fails closed. What finds no place, fails, or still waits when the process ends is not promoted; nor is anything from
an entry that was replaced, has expired or was dropped since.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from workbench.caching.cache_entries import Entries, Entry, Promotion
from workbench.caching.verifiers import FAILED, Verdict
from workbench.errors import WorkbenchError
from workbench.telemetry.attribution import Attribution, attributed

MOST_WAITING, MOST_REFUSED = 1_000, 10_000
NOT_YET, NO_PLACE, REFUSED = "verifier not asked yet", "verifier not asked: too many wait", "verifier did not agree"


@dataclass(frozen=True, slots=True)
class PutOff:
    """A question that was a miss, and the entry whose answer it may get; ``who`` asked pays for the check."""

    scope: str
    asked: str
    question: str
    vector: bytes
    why: Promotion
    who: Attribution


class WaitingChecks:
    """Checks in the order in which they were put off, each once; thread-safe.

    Parameters
    ----------
    entries : Entries
        Where texts are promoted, and what was lost is counted.
    judge : callable
        What the verifier says of a question and an entry.
    """

    def __init__(self, entries: Entries, judge: Callable[[str, Entry], Verdict], most: int = MOST_WAITING) -> None:
        self._entries, self._judge, self._most = entries, judge, most
        self._lock = threading.Lock()
        self._waiting = OrderedDict[tuple[str, str, int], PutOff]()
        self._refused = OrderedDict[tuple[str, str, int], None]()

    def put(self, pair: PutOff) -> str:
        """Take a pair, or leave it; returns why the request is a miss, in words."""
        key = pair.scope, pair.question, pair.why.root
        with self._lock:
            if key in self._refused:
                return REFUSED
            if key not in self._waiting and len(self._waiting) >= self._most:
                self._entries.problems["check that found no place"] += 1
                return NO_PLACE
            self._waiting.setdefault(key, pair)
        return NOT_YET

    def settle(self, most: int, ended: threading.Event | None = None) -> Iterator[str]:
        """Ask about the oldest; yields the scope of each promotion."""
        for _ in range(most):
            with self._lock:
                if not self._waiting or (ended and ended.is_set()):
                    return
                key, pair = self._waiting.popitem(last=False)
            try:
                promoted, failed = self._settle(pair)
            except (WorkbenchError, SQLAlchemyError):
                promoted, failed = False, True
                self._entries.problems["check that was lost"] += 1
            if promoted:
                yield pair.scope
            elif not failed:
                with self._lock:
                    self._refused[key] = None
                    if len(self._refused) > MOST_REFUSED:
                        self._refused.popitem(last=False)

    def _settle(self, pair: PutOff) -> tuple[bool, bool]:
        """Whether it is promoted, and whether that may be tried again."""
        root = self._entries.read(pair.scope, version=pair.why.root)
        if root is None:
            return False, False
        with attributed(tenant_id=pair.who.tenant_id, user_id=pair.who.user_id, feature=pair.who.feature):
            verdict = self._judge(pair.asked, root)
        if not verdict.agrees:
            return False, verdict.reason.startswith(FAILED)
        kept = self._entries.promote(pair.scope, pair.asked, question=pair.question, vector=pair.vector, why=pair.why)
        return kept, False
