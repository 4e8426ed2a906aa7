"""Progress inside a notebook cell: a bar in Jupyter, an event for the headless runner, one saved output.

No widget is needed: one display is updated in place, with a plain-text, an HTML and a machine-readable form. It appears
with the first step, and what stays in a saved notebook is the closing sentence: no bar of something that had no steps.
"""

import sys
from typing import Any

from workbench.config import Clock, SystemClock
from workbench.rendering.text import escape, visible

MIME_TYPE = "application/vnd.workbench.progress+json"
_MIN_INTERVAL_S = 0.2  # faster updates cannot be read, and each is a message through the kernel


class Progress:
    """A bar of ``total`` steps; silent outside of IPython.

    Parameters
    ----------
    label : str
        What is counted, for example ``"questions"``.
    total : int
        How many steps there are.
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

    def update(self, n: int) -> None:
        """Say that ``n`` steps are done by now."""
        self.count = n
        if self._clock.monotonic() - self._shown_at >= _MIN_INTERVAL_S:
            self._show()

    def done(self, sentence: str) -> None:
        """Close with a sentence, which stays in the saved notebook in the place of the bar."""
        self.sentence = sentence
        self._show()

    def _show(self) -> None:
        self._shown_at = self._clock.monotonic()
        if self._handle is None:
            self._handle = _display(self)
        else:
            self._handle.update(self)

    def __repr__(self) -> str:
        return visible(self.sentence or f"{self.label} {self.count}/{self.total}")

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        bar = "" if self.sentence else f' <progress max="{self.total}" value="{self.count}"></progress>'
        return {
            "text/plain": repr(self),
            "text/html": f"<label>{escape(repr(self))}{bar}</label>",
            MIME_TYPE: {
                "label": self.label,
                "done": self.count,
                "total": self.total,
                "sentence": self.sentence,
            },
        }


def _display(progress: Progress) -> Any:
    """Handle of a display that can be updated, or None where nobody looks."""
    if "IPython" not in sys.modules or sys.modules["IPython"].get_ipython() is None:
        return None
    from IPython.display import display

    return display(progress, display_id=True)
