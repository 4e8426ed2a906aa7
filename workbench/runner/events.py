"""What a run tells while it goes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Event:
    """One moment of one run.

    Attributes
    ----------
    kind : str
        ``start``; ``cell`` when a cell begins; ``progress`` from inside a cell; ``end``.
    cell, cells : int
        Number of the code cell as Jupyter shows it (``In [3]``), and how many there are; 0 before the first.
    data : dict
        Of ``progress``: label, done, total, sentence. Of ``end``: status, error.
    """

    kind: Literal["start", "cell", "progress", "end"]
    notebook: str
    run_dir: Path
    cell: int = 0
    cells: int = 0
    data: dict[str, Any] = field(default_factory=dict)


Listener = Callable[[Event], None]
