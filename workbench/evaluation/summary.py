"""What a run leaves for its report beside the decision: plain values, stored as ``summary.json``.

A report is drawn from stored results alone, so it can be made again without running anything.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

Cell = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """One arm in the plane of cost and quality; ``tied`` = not shown to differ from the one with the best mean."""

    arm: str
    quality: float
    low: float
    high: float
    cost_usd_per_1k: float
    latency_p95_ms: float | None
    on_frontier: bool
    tied: bool
    split: str


@dataclass(frozen=True, slots=True)
class SliceRow:
    """Mean of one arm inside one slice, with a cluster-robust interval (None where there are too few)."""

    slice: str
    value: str
    arm: str
    n_items: int
    mean: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class ItemCase:
    """One question worth reading: what was expected and what each arm returned."""

    item_id: str
    question: str
    expected: tuple[str, ...]
    returned: dict[str, tuple[str, ...]]
    values: dict[str, float | None]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A further table of the notebook: a sentence, named columns, rows of plain values."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """Everything the report shows beyond decision, gate and run record.

    ``warnings`` stand below the verdict: what makes a pass mean less (missing items, low power, simulated data).
    ``metric`` names the unit of quality; ``would_change`` are sentences. ``assumed`` has a sentence for each figure of
    money that nobody has set, by the name of its setting.
    """

    title: str
    metric: str
    warnings: tuple[str, ...] = ()
    frontier: tuple[FrontierPoint, ...] = ()
    slices: tuple[SliceRow, ...] = ()
    changed: tuple[ItemCase, ...] = ()
    regressions: tuple[ItemCase, ...] = ()
    regressions_title: str = "Worst regressions"
    would_change: tuple[str, ...] = ()
    sections: tuple[Section, ...] = ()
    cost_note: str = ""
    assumed: dict[str, str] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Pretty JSON."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read ``summary.json``."""
        raw = _tuples(json.loads(path.read_text(encoding="utf-8")))
        rows = {"frontier": FrontierPoint, "slices": SliceRow, "changed": ItemCase, "regressions": ItemCase}
        for name, kind in {**rows, "sections": Section}.items():
            raw[name] = tuple(kind(**row) for row in raw[name])
        return cls(**raw)


def _tuples(value: Any) -> Any:
    """JSON with its lists as tuples, as frozen values hold them."""
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
