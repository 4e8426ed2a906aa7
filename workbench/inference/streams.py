"""Answers piece by piece, and a limit of time that holds for any library: late work is left behind in its thread."""

import contextvars
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextvars import ContextVar
from typing import Generic, TypeVar

from workbench.config import Clock
from workbench.errors import AttemptTimeout
from workbench.telemetry.attribution import carry_attribution

_T = TypeVar("_T")


def stream_in_time(
    work: Callable[[Callable[[_T], bool]], object], *, timeout_s: float, asked: str
) -> Generator[_T, None, None]:
    """Yield what ``work`` gives to its callback, in a thread of its own and in this context.

    Time-outs of HTTP libraries begin anew with each byte, looking up a name has none, and an engine tells nothing while
    it reads a prompt. Here the caller goes on at the limit; the callback then returns True, which asks ``work`` to end.
    Close the iterator to end it before.

    Raises
    ------
    AttemptTimeout
        If ``work`` has not ended within ``timeout_s``; ``asked`` is named in the message.
    """
    ready: queue.SimpleQueue[tuple[str, _T | BaseException | None]] = queue.SimpleQueue()
    left, deadline = threading.Event(), time.monotonic() + timeout_s

    def give(item: _T) -> bool:
        ready.put(("item", item))
        return left.is_set()

    def run() -> None:
        try:
            work(give)
            ready.put(("end", None))
        except BaseException as error:  # noqa: BLE001  raised again where the items are used
            ready.put(("error", error))

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(run,), name=f"in_time: {asked}", daemon=True).start()
    try:
        while True:
            try:
                kind, item = ready.get(timeout=max(deadline - time.monotonic(), 0))
            except queue.Empty:
                raise AttemptTimeout(f"{asked}: no whole answer within {timeout_s:g} s", billed="unknown") from None
            if kind == "end":
                return
            if kind == "error" and isinstance(item, BaseException):
                raise item
            yield item  # type: ignore[misc]
    finally:
        left.set()


LEAVE_S = 1.0  # most calls end with their next piece of text; the others are not waited for
_Item = TypeVar("_Item")
_ABANDONED: ContextVar[threading.Event | None] = ContextVar("wb_abandoned", default=None)


class Abandoned(BaseException):
    """Raised inside the call when nobody reads its text any more."""


def stream_still_read() -> None:
    """Do nothing, unless this call is that of a stream that nobody reads any more.

    Raises
    ------
    Abandoned
        If it is.
    """
    if (abandoned := _ABANDONED.get()) is not None and abandoned.is_set():
        raise Abandoned


def pause(clock: Clock, seconds: float) -> None:
    """Sleep; in the call of a stream no longer than somebody reads it, to the second.

    Raises
    ------
    Abandoned
        When nobody does.
    """
    stream_still_read()
    if _ABANDONED.get() is not None:
        while seconds > 1:
            clock.sleep(1)
            seconds -= 1
            stream_still_read()
    clock.sleep(seconds)
    stream_still_read()


class Stream(Generic[_Item]):
    """Pieces of text as they come; ``result`` holds what the call returned once all were read.

    A reader that stops before the end leaves within a second. The call then asks nothing more, and an attempt that
    is under way is settled by its own thread when it ends.

    >>> stream = Stream(lambda show: [show("a"), show("b")] and "done")
    >>> list(stream), stream.result
    (['a', 'b'], 'done')
    """

    def __init__(self, call: Callable[[Callable[[str], None]], _Item]) -> None:
        def begin(show: Callable[[str], None], abandoned: threading.Event) -> _Item:
            _ABANDONED.set(abandoned)
            return call(show)

        self._call = carry_attribution(begin)  # a stream is of who asked for it, whoever reads it
        self._result: list[_Item] = []
        self._begun = False

    @property
    def result(self) -> _Item:
        """What the call returned.

        Raises
        ------
        ValueError
            If the stream was not read to its end.
        """
        if not self._result:
            raise ValueError("read the stream to its end first: for piece in stream: ...")
        return self._result[0]

    def __iter__(self) -> Iterator[str]:
        if self._begun:
            raise ValueError("a stream is read once; take result for the whole answer")
        self._begun = True
        return self._pieces()

    def _pieces(self) -> Iterator[str]:
        pieces: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
        abandoned, ended = threading.Event(), threading.Event()

        def show(text: str) -> None:
            if abandoned.is_set():
                raise Abandoned
            pieces.put(text)

        def work() -> None:
            try:
                self._result.append(self._call(show, abandoned))
                pieces.put(None)
            except BaseException as error:  # noqa: BLE001  the reader's thread raises it again
                pieces.put(error)
            finally:
                ended.set()

        try:
            threading.Thread(target=work, name="stream", daemon=True).start()
            while (piece := pieces.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            abandoned.set()
            ended.wait(LEAVE_S)
