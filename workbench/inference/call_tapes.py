"""What models answered while one piece of work was done, so that it can be done again without them.

A tape is set around the work. The client asks it first: it hands out an answer that is on it, or lets the client ask
and keeps what came.
"""

import contextvars
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol

from workbench.errors import OfflineError
from workbench.inference.messages import Completion


class Tape(Protocol):
    """Answers of one piece of work."""

    def answer(self, request: Callable[[str], str], ask: Callable[[], Completion]) -> Completion:
        """Answer that is on the tape, or that of ``ask``, which is then on it.

        Parameters
        ----------
        request : callable
            Hash of what is asked, given the configuration of the prompt that a router chose ("" without one).
        ask : callable
            Asks the models.
        """


_TAPE: contextvars.ContextVar[Tape | None] = contextvars.ContextVar("wb_tape", default=None)


def current_tape() -> Tape | None:
    """Tape of the calling code, None where nothing is taped."""
    return _TAPE.get()


@contextmanager
def taped_calls(tape: Tape) -> Iterator[None]:
    """Answer every call of a client inside from the tape, or onto it; also in threads that `carried` starts."""
    token = _TAPE.set(tape)
    try:
        yield
    finally:
        _TAPE.reset(token)


_AGAIN: contextvars.ContextVar[bool] = contextvars.ContextVar("wb_asked_again", default=False)
ASKED_AGAIN = "asked again: the process that asked first was ended before it had the answer"


@contextmanager
def asked_again(again: bool) -> Iterator[None]:
    """Mark the calls inside in the ledger as repetitions of one that was cut off, which may be paid as well."""
    token = _AGAIN.set(again)
    try:
        yield
    finally:
        _AGAIN.reset(token)


def why_again() -> str:
    """What the ledger says of a call that is repeated; empty for any other."""
    return ASKED_AGAIN if _AGAIN.get() else ""


_OFFLINE: dict[int, frozenset[int]] = {}  # thread that works offline: threads that were there before


@contextmanager
def offline() -> Iterator[None]:
    """Refuse models and network to what is done inside, in this thread and in those that it starts.

    Connections within the process and by Unix sockets stay open.
    """
    _hook()
    me = threading.get_ident()
    before = _OFFLINE.get(me)
    _OFFLINE[me] = frozenset(t.ident or 0 for t in threading.enumerate()) - {me}
    try:
        yield
    finally:
        if before is None:
            del _OFFLINE[me]
        else:
            _OFFLINE[me] = before


def refuse_offline(what: str) -> None:
    """Raise where the calling thread works offline.

    Raises
    ------
    OfflineError
        Saying what was asked for.
    """
    if _OFFLINE:
        me = threading.get_ident()
        if any(me == thread or me not in others for thread, others in list(_OFFLINE.items())):
            raise OfflineError(f"{what} is refused: what runs here must do without the network and without models")


@cache
def _hook() -> None:
    """Listen to the interpreter's own events, once: no library gets round it, and it costs nothing while unused."""
    sys.addaudithook(_refuse_connection)


def _refuse_connection(event: str, arguments: tuple[Any, ...]) -> None:
    if not _OFFLINE:
        return
    if event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        refuse_offline(f"a connection to {arguments[1][0]}:{arguments[1][1]}")
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        refuse_offline(f"a look-up of {arguments[0]}")
