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
    """One arm in the plane of cost and quality; ``tied`` = not shown to differ from the reference."""

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

    ``warnings`` stand above the verdict: what makes a pass mean less (missing items, low power, simulated data).
    ``metric`` names the unit of quality; ``would_change`` are sentences.
    """

    title: str
    metric: str
    warnings: tuple[str, ...] = ()
    frontier: tuple[FrontierPoint, ...] = ()
    slices: tuple[SliceRow, ...] = ()
    changed: tuple[ItemCase, ...] = ()
    regressions: tuple[ItemCase, ...] = ()
    would_change: tuple[str, ...] = ()
    sections: tuple[Section, ...] = ()
    cost_note: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Pretty JSON."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read ``summary.json``."""
        raw = json.loads(path.read_text(encoding="utf-8"))
        tables = {"frontier": FrontierPoint, "slices": SliceRow}
        for name, row in tables.items():
            raw[name] = tuple(row(**r) for r in raw[name])
        for name in ("changed", "regressions"):
            raw[name] = tuple(_case(r) for r in raw[name])
        raw["sections"] = tuple(_section(r) for r in raw["sections"])
        raw["warnings"], raw["would_change"] = tuple(raw["warnings"]), tuple(raw["would_change"])
        return cls(**raw)


def _case(raw: dict[str, Any]) -> ItemCase:
    returned = {arm: tuple(hits) for arm, hits in raw.pop("returned").items()}
    return ItemCase(**{**raw, "expected": tuple(raw["expected"])}, returned=returned)


def _section(raw: dict[str, Any]) -> Section:
    return Section(raw["title"], raw["note"], tuple(raw["columns"]), tuple(tuple(r) for r in raw["rows"]))
