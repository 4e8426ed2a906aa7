"""What a run leaves for its report beside the decision: plain values, stored as ``summary.json``.

A report is drawn from stored results alone, so it can be made again without running anything.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl

from workbench.evalset.gates import ASSUMED_REQUESTS, GatePolicy
from workbench.evaluation.compare import MIN_CLUSTERS, compare, item_clusters, item_values, mean_interval
from workbench.evaluation.decision import ArmFacts
from workbench.evaluation.gate import changed_items
from workbench.records import Claim, Decision, Query, Rule
from workbench.rendering.table import Table

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


MAX_CASES = 12


def frontier_points(scores: pl.DataFrame, facts: Sequence[ArmFacts], *, split: str) -> list[FrontierPoint]:
    """Every arm in the plane of cost and quality; ``scores`` holds one metric of one split.

    An arm is on the frontier when none is both cheaper and better, and tied when the simultaneous two-sided 95 %
    bounds of its difference from the one with the best mean include 0.
    """
    items, codes = item_clusters(scores)
    names = [f.name for f in facts]
    quality = {n: mean_interval(item_values(scores, n, items, missing=0.0), codes) for n in names}
    top = max(names, key=lambda n: quality[n][0])
    differences = {d.arm: d for d in compare(scores, names, reference=top, margin=1.0, confidence=0.975)}
    out = []
    for f in facts:
        mean, low, high = quality[f.name]
        beaten = any(
            other.cost_usd_per_1k <= f.cost_usd_per_1k
            and quality[other.name][0] >= mean
            and (other.cost_usd_per_1k, -quality[other.name][0]) != (f.cost_usd_per_1k, -mean)
            for other in facts
        )
        d = differences.get(f.name)
        tied = d is None or d.low <= 0 <= d.high
        latency, cost = f.latency_p95_ms, f.cost_usd_per_1k
        out.append(FrontierPoint(f.name, mean, low, high, cost, latency, not beaten, tied, split))
    return out


def slice_rows(scores: pl.DataFrame, arms: Sequence[str]) -> list[SliceRow]:
    """Mean of each arm inside each value of each ``slice_*`` column; no interval under 30 clusters."""
    out = []
    for column in [c for c in scores.columns if c.startswith("slice_")]:
        present = sorted(v for v in scores[column].unique().to_list() if v)
        for value in present if len(present) > 1 else ():  # one slice would be everything again
            part = scores.filter(pl.col(column) == value)
            items, codes = item_clusters(part)
            enough = codes.max() + 1 >= MIN_CLUSTERS
            for arm in arms:
                values = item_values(part, arm, items, missing=0.0)
                mean, *ends = mean_interval(values, codes)
                low, high = ends if enough else (None, None)
                out.append(SliceRow(column.removeprefix("slice_"), value, arm, len(items), mean, low, high))
    return out


def changed_cases(
    before: pl.DataFrame | None, scores: pl.DataFrame, arms: Sequence[str], cases: Mapping[str, ItemCase]
) -> tuple[ItemCase, ...]:
    """Items whose score is another than that of the accepted run."""
    if before is None:
        return ()
    known = set(before["arm"].unique())
    moved = sorted({item for arm in arms if arm in known for item in changed_items(before, scores, arm)})
    return tuple(cases[item] for item in moved[:MAX_CASES] if item in cases)


def item_cases(
    scores: pl.DataFrame,
    queries: Sequence[Query],
    *,
    expected: Mapping[str, Sequence[str]],
    returned: Mapping[str, Mapping[str, Sequence[str]]],
) -> dict[str, ItemCase]:
    """One case an item: the question, what was expected, and what each arm returned, by item id."""
    values: dict[str, dict[str, float | None]] = {}
    for arm, item, value in scores.select("arm", "item_id", "value").iter_rows():
        values.setdefault(item, {})[arm] = value
    return {
        q.query_id: ItemCase(
            item_id=q.query_id,
            question=q.text,
            expected=tuple(expected[q.query_id]),
            returned={arm: tuple(hits.get(q.query_id, ())) for arm, hits in returned.items()},
            values=values.get(q.query_id, {}),
        )
        for q in queries
    }


def worst_regressions(cases: Mapping[str, ItemCase], *, reference: str, arm: str) -> tuple[ItemCase, ...]:
    """Items on which an arm loses most against the reference; of equals the first by id."""

    def loss(case: ItemCase) -> float:
        return (case.values.get(reference) or 0.0) - (case.values.get(arm) or 0.0)

    losing = [c for c in cases.values() if loss(c) > 0]
    return tuple(sorted(losing, key=lambda c: (-loss(c), c.item_id))[:MAX_CASES])


def mean_by_arm(scores: pl.DataFrame, metric: str) -> dict[str, float]:
    """Mean of one metric for each arm over the items that were measured."""
    rows = scores.filter(pl.col("metric") == metric).group_by("arm").agg(pl.col("value").mean())
    return {arm: float(value) if value is not None else float(np.nan) for arm, value in rows.iter_rows()}


def would_change(decision: Decision) -> tuple[str, ...]:
    """Sentences on the margin, the questions or the floor at which the decision would be another."""
    rule = decision.rule
    out = [told for claim in decision.claims if (told := _would_change(claim, rule, decided=claim.arm == decision.arm))]
    if rule.floor is None:
        out.append("No floor is set in gates.toml: a quality that is too low for the product would not be noticed.")
    return tuple(out)


def _would_change(claim: Claim, rule: Rule, *, decided: bool) -> str:
    if claim.status in ("holds", "identical"):
        below = f"{-claim.low:.3f} {rule.metric}"
        return (
            f"{claim.arm}: under a margin of {below} it is no longer good enough." if decided and claim.low < 0 else ""
        )
    if claim.items_needed is not None:
        return ""  # the report has a table of these
    return f"{claim.arm}: a margin above {-claim.low:.3f} {rule.metric} would be needed."


def assumed_money(policy: GatePolicy) -> dict[str, str]:
    """A sentence for each figure of money that nobody has set, by the name of its setting."""
    if policy.requests_per_month is not None:
        return {}
    told = f"{ASSUMED_REQUESTS:,} requests a month are assumed: set requests_per_month in gates.toml to your own."
    return {"requests_per_month": told}


def is_default(parameters: Any, name: str) -> bool:
    """Whether a parameter has the value that it has when nobody asks for another."""
    (found,) = (f for f in fields(parameters) if f.name == name)
    return found.default is not MISSING and getattr(parameters, name) == found.default


def section_of(table: Table, note: str, *, title: str = "") -> Section:
    """Table of the notebook as a section of the report; its caption is the title where none is given."""
    as_text = [c.kind in ("interval", "share") for c in table.columns]
    rows: list[tuple[Any, ...]] = [
        tuple(text if shown else value for value, text, shown in zip(row, texts, as_text, strict=True))
        for row, texts in zip(table.rows, table.cells(), strict=True)
    ]
    return Section(title or table.caption, note, tuple(c.name for c in table.columns), tuple(rows))


def compared(decision: Decision, asked: Collection[str]) -> tuple[str, str] | None:
    """The decided arm, and the other one whose losses against are worth reading: what is in use, or the best other.

    None where the run has asked no such pair.
    """
    claim = next((c for c in decision.claims if c.arm == decision.arm), None)
    others = [decision.rule.reference, claim.best if claim else ""]
    other = next((o for o in others if o and o != decision.arm and o in asked), None)
    return (decision.arm, other) if other is not None and decision.arm in asked else None


def losses(cases: Mapping[str, ItemCase], pair: tuple[str, str] | None) -> tuple[ItemCase, ...]:
    """Questions on which the first arm of a pair loses most against the second, with what these two returned."""
    if pair is None:
        return ()
    found = worst_regressions(cases, reference=pair[1], arm=pair[0])
    return tuple(replace(c, returned={arm: hits for arm, hits in c.returned.items() if arm in pair}) for c in found)


def losses_title(pair: tuple[str, str] | None, *, any_found: bool) -> str:
    """Heading of the questions on which an arm loses against another.

    >>> losses_title(("text", "vector"), any_found=True)
    'Where text loses most against vector'
    """
    if pair is None:
        return ""
    arm, other = pair
    return f"Where {arm} loses most against {other}" if any_found else f"{arm} loses on no question against {other}"
