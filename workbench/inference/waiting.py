"""A limit of time that holds for any library: the work is done in another thread, which is left behind when late."""

import contextvars
import queue
import threading
import time
from collections.abc import Callable, Generator
from typing import TypeVar

from workbench.errors import AttemptTimeout

_T = TypeVar("_T")


def in_time(
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
