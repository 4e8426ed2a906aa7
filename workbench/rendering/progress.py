"""Progress inside a notebook cell: a bar in Jupyter, an event for the headless runner, one saved output.

No widget is needed: one display is updated in place, with a plain-text, an HTML and a machine-readable form. It appears
with the first step, and what stays in a saved notebook is the closing sentence: no bar of something that had no steps.
"""

import contextvars
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from workbench.config import Clock, SystemClock
from workbench.rendering.text import cell_html, escape, visible, visible_line

MIME_TYPE = "application/vnd.workbench.progress+json"
_MIN_INTERVAL_S = 0.2  # faster updates cannot be read, and each is a message through the kernel
LONG_S = 5.0  # work that takes longer says its rate and the time that is left
_LOOK_S = 0.5  # between two looks at work that does not tell how far it is
LINE_S = 10.0  # between two lines where nothing can be drawn again in its place


class Progress:
    """A bar of ``total`` steps; from 5 seconds on it says how many are done a second, and how long the rest takes.

    Outside of IPython nothing can be drawn in place: there work that takes longer writes a line every 10 seconds to
    the error stream.

    Parameters
    ----------
    label : str
        What is counted, for example ``"questions"``.
    total : int
        How many steps there are; 0 where nobody knows, and only the time that it took so far is said.
    clock : Clock, optional
        Source of time for the throttle of five updates a second.

    Examples
    --------
    >>> bar = Progress("questions", 40)
    >>> bar.update(12)
    >>> bar
    questions 12/40
    >>> bar.done("40 questions, 3 errors, 41 s")
    >>> bar
    40 questions, 3 errors, 41 s
    """

    def __init__(self, label: str, total: int, *, clock: Clock | None = None) -> None:
        self.label, self.total = label, total
        self.count, self.sentence = 0, ""
        self._clock = clock or SystemClock()
        self._shown_at = float("-inf")
        self._handle: Any = None
        self._begun = self._line_at = self._clock.monotonic()

    def update(self, n: int) -> None:
        """Say that ``n`` steps are done by now."""
        self.count = n
        if self._clock.monotonic() - self._shown_at >= _MIN_INTERVAL_S:
            self._show()

    def wait(self) -> None:
        """Say how long it takes by now, if that is long."""
        if self._took_s >= LONG_S:
            self._show()

    def finish(self) -> None:
        """Close work that was long enough to be shown by its steps, if they are known, and by the time that it took."""
        if self._handle is not None:
            what = f"{self.total:,} {self.label}" if self.total else self.label
            self.done(f"{what}, {duration(self._took_s)}")

    @property
    def _took_s(self) -> float:
        return self._clock.monotonic() - self._begun

    def done(self, sentence: str) -> None:
        """Close with a sentence, which stays in the saved notebook in the place of the bar."""
        self.sentence = sentence
        self._show()

    def _show(self) -> None:
        self._shown_at = self._clock.monotonic()
        if self._handle is not None:
            self._handle.update(self)
            return
        self._handle = _display(self)
        if self._handle is None and not self.sentence and self._shown_at - self._line_at >= LINE_S:
            self._line_at = self._shown_at
            sys.stderr.write(f"{visible_line(self.told)}\n")

    @property
    def told(self) -> str:
        """Closing sentence, or how far the work is: steps, and of long work the rate and the time left."""
        if self.sentence:
            return self.sentence
        took = self._took_s
        if not self.total:
            return self.label if took < LONG_S else f"{self.label}, {duration(took)} so far"
        far = f"{self.label} {self.count:,}/{self.total:,}"
        if took < LONG_S or not 0 < self.count < self.total:
            return far
        rate = self.count / took
        return f"{far}, {_figure(rate)} a second, {duration((self.total - self.count) / rate)} left"

    def __repr__(self) -> str:
        return visible(self.told)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        far = f' max="{self.total}" value="{self.count}"' if self.total else ""
        bar = "" if self.sentence else f" <progress{far}></progress>"
        return {
            "text/plain": repr(self),
            "text/html": cell_html(f"<label>{escape(repr(self))}{bar}</label>"),
            MIME_TYPE: {
                "label": self.label,
                "done": self.count,
                "total": self.total,
                "sentence": self.sentence,
                "told": self.told,
            },
        }


def advance(bar: Progress, done: int, total: int) -> None:
    """Say that ``done`` of ``total`` steps are done, of work that learns its number of steps when it begins."""
    bar.total = total
    bar.update(done)


_OUTER: contextvars.ContextVar[Progress | None] = contextvars.ContextVar("outer", default=None)


@contextmanager
def waiting(label: str, *, clock: Clock | None = None) -> Iterator[None]:
    """Say how long work takes that cannot tell how far it is: from 5 seconds on, and without IPython every 10 seconds.

    Work inside such work is told in its place, by its own label, while it lasts.

    >>> with waiting("index of 1,000,000 rows"):
    ...     build()  # doctest: +SKIP
    """
    if outer := _OUTER.get():
        before, outer.label = outer.label, label
        try:
            yield
        finally:
            outer.label = before
        return
    bar, over = Progress(label, 0, clock=clock), threading.Event()

    def look() -> None:
        bar.wait()
        while not over.wait(_LOOK_S):
            bar.wait()

    # In this context, because what a kernel shows belongs to the cell that is in it.
    looking = threading.Thread(target=contextvars.copy_context().run, args=(look,), name="waiting", daemon=True)
    looking.start()
    told = _OUTER.set(bar)
    try:
        yield
    finally:
        _OUTER.reset(told)
        over.set()
        looking.join()
        bar.finish()


def _figure(rate: float) -> str:
    """Rate to two digits.

    >>> _figure(1234.5), _figure(21.4), _figure(0.0123)
    ('1,234', '21', '0.012')
    """
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(42.4), duration(150), duration(7_500)
    ('42 s', '2 min 30 s', '2 h 5 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _display(progress: Progress) -> Any:
    """Handle of a display that can be updated, or None where nobody looks."""
    if "IPython" not in sys.modules or sys.modules["IPython"].get_ipython() is None:
        return None
    from IPython.display import display

    return display(progress, display_id=True)
