"""What a run tells while it goes: a value that needs no kernel, so that runs are listed and shown without Jupyter."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

EventKind = Literal["start", "cell", "progress", "end"]


@dataclass(frozen=True, slots=True)
class Event:
    """One moment of one run.

    Attributes
    ----------
    kind : str
        ``start``; ``cell`` when a cell begins; ``progress`` from inside a cell; ``end``.
    cell, cells : int
        Number of the code cell as Jupyter shows it (``In [3]``), 0 before the first, and how many there are;
        at the ``end``, how many were completed.
    data : dict
        Of ``progress``: label, done, total, sentence. Of ``end``: status, error, gate.
    """

    kind: EventKind
    notebook: str
    run_dir: Path
    cell: int = 0
    cells: int = 0
    data: dict[str, Any] = field(default_factory=dict)


Listener = Callable[[Event], None]
