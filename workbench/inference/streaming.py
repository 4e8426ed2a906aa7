"""An answer piece by piece: a call that hands its text on while it runs in a thread of its own."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from workbench.telemetry.context import carried

_T = TypeVar("_T")


class Abandoned(BaseException):
    """Raised inside the call when nobody reads its text any more."""


class Stream(Generic[_T]):
    """Pieces of text as they come; ``result`` holds what the call returned once all were read.

    >>> stream = Stream(lambda show: [show("a"), show("b")] and "done")
    >>> list(stream), stream.result
    (['a', 'b'], 'done')
    """

    def __init__(self, call: Callable[[Callable[[str], None]], _T]) -> None:
        self._call = carried(call)  # a stream is of who asked for it, whoever reads it
        self._result: list[_T] = []
        self._begun = False

    @property
    def result(self) -> _T:
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
        abandoned = threading.Event()

        def show(text: str) -> None:
            if abandoned.is_set():
                raise Abandoned
            pieces.put(text)

        def work() -> None:
            try:
                self._result.append(self._call(show))
                pieces.put(None)
            except BaseException as error:  # noqa: BLE001  the reader's thread raises it again
                pieces.put(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            while (piece := pieces.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            abandoned.set()
            thread.join()
