"""Scored arms, and what a run leaves for its report beside the decision: plain values, stored as ``summary.json``.

A report is drawn from stored results alone, so it can be made again without running anything.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import polars as pl

from workbench.codec import from_json, to_json
from workbench.evalset.gates import ASSUMED_REQUESTS, GatePolicy
from workbench.evaluation.compare import MIN_CLUSTERS, compare, item_clusters, item_values, mean_interval
from workbench.evaluation.decision import ArmFacts
from workbench.evaluation.gate import changed_items
from workbench.records import Claim, Decision, Query, Rule
from workbench.rendering.table import Shown, Table

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


PRODUCTION = "Production week by week"  # title of the section beside which the weeks are drawn


@dataclass(frozen=True, slots=True)
class WeekRow:
    """Share of a group's production calls that was good, of the week from this Monday on.

    ``n`` calls were graded, which stand for so many; mean and interval are None where they are too few. ``drop``:
    whether a drop that was told most likely began in this week.
    """

    group: str
    week: str
    n: int
    stands_for: float
    mean: float | None
    low: float | None
    high: float | None
    drop: bool = False


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
    money that nobody has set, by the name of its setting. ``weeks`` are those of production, where calls are graded.
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
    weeks: tuple[WeekRow, ...] = ()

    def to_json(self) -> str:
        """Pretty JSON."""
        return to_json(self)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read ``summary.json``.

        Raises
        ------
        ConfigError
            If it is no summary: it names everything that is wrong.
        """
        return from_json(cls, path.read_bytes(), f"{path} is not a summary this version reads")


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
    """One case per item: the question, what was expected, and what each arm returned, by item id."""
    values: dict[str, dict[str, float | None]] = {}
    for arm, item, value in (
        scores.group_by("arm", "item_id", maintain_order=True).agg(pl.col("value").mean()).iter_rows()
    ):
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
    """Mean of one metric for each arm over all items; one that failed counts 0, as it does in the decision.

    A share of judged hits is no quality: it is that of the items that were answered, 0 where none was.
    """
    value = pl.col("value") if metric.startswith("judged@") else pl.col("value").fill_null(0.0)
    rows = scores.filter(pl.col("metric") == metric).group_by("arm").agg(value.mean().fill_null(0.0))
    return dict(rows.iter_rows())


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


def summary_section(table: Table, note: str, *, title: str = "") -> Section:
    """Table of the notebook as a section of the report; its caption is the title where none is given."""
    # values whose form only the column knows, such as its digits, which a section does not keep
    as_text = [c.kind in ("interval", "share", "ms") or c.digits is not None or c.signed for c in table.columns]
    rows: list[tuple[Any, ...]] = [
        tuple(text if shown else value for value, text, shown in zip(row, texts, as_text, strict=True))
        for row, texts in zip(table.rows, table.cells(), strict=True)
    ]
    return Section(title or table.caption, note, tuple(c.name for c in table.columns), tuple(rows))


def captioned_section(table: Table) -> Section:
    """Table of the notebook as a section whose title is the first sentence of its caption, and its note the rest.

    >>> captioned_section(Table.of(("who",), [("all",)], "Who pays? All do."))
    Section(title='Who pays?', note='All do.', columns=('who',), rows=(('all',),))
    """
    title, _, note = re.sub(r"(?<=\?) |(?<=\.) ", "\n", table.caption, count=1).partition("\n")
    return summary_section(table, note, title=title.removesuffix("."))


@dataclass(frozen=True, slots=True)
class Regressions:
    """Items on which one arm loses most against another, under a heading.

    ``arms`` are those whose results are read, in the order of their columns; none where there is nothing to read.
    """

    title: str = ""
    arms: tuple[str, ...] = ()
    cases: tuple[ItemCase, ...] = ()

    @classmethod
    def of(cls, decision: Decision, asked: Collection[str], cases: Mapping[str, ItemCase]) -> Self:
        """Of the decided arm against what is in use, or the best other; empty where this run asked no such pair.

        Parameters
        ----------
        asked : collection of str
            Arms that this run has asked.
        cases : mapping of str to ItemCase
            Every item by its id, with what each of them did.
        """
        arm = decision.arm
        best = next((c.best for c in decision.claims if c.arm == arm), "")
        other = next((o for o in (decision.rule.reference, best) if o and o != arm and o in asked), None)
        if other is None or arm not in asked or not cases:
            return cls()
        found = [
            replace(case, returned={name: hits for name, hits in case.returned.items() if name in (arm, other)})
            for case in worst_regressions(cases, reference=other, arm=arm)
        ]
        title = f"Where {arm} loses most against {other}" if found else f"{arm} loses on no question against {other}"
        return cls(title, (other, arm), tuple(found))

    def table(self, words: tuple[str, str, str]) -> Table | None:
        """Item, what was expected, and what each arm did, under these words; None where there is nothing to read."""
        if not self.arms:
            return None
        item, expected, did = words
        rows = [
            (c.question, ", ".join(c.expected[:2]), *(", ".join(c.returned[arm][:2]) for arm in self.arms))
            for c in self.cases
        ]
        return Table.of((item, expected, *(f"{arm} {did}" for arm in self.arms)), rows, self.title)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ScoredArms(Shown):
    """Arms that were scored on one split: what finalists, decision, report and gate are made from.

    A notebook of its own adds fields, its ``table``, and ``cases``, from which regressions and changes are read.

    Attributes
    ----------
    split : str
        ``dev`` or ``test``.
    arms : tuple
        What was scored, in the order of ``facts``.
    scores : DataFrame
        One row per arm, item, repeat and metric, columns as `workbench.evaluation.compare.SCORES_SCHEMA`.
    """

    words: ClassVar[tuple[str, str, str]] = ("question", "expected", "returned")
    split: str
    arms: tuple[Any, ...]
    scores: pl.DataFrame
    facts: tuple[ArmFacts, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arms."""
        return tuple(f.name for f in self.facts)

    @property
    def rows(self) -> pl.DataFrame:
        """Rows that have every item for every arm: with them it is told that none was lost."""
        return self.scores

    @property
    def invariants(self) -> Mapping[str, int]:
        """Counts that must be 0, by name."""
        return {}

    def of(self, metric: str) -> pl.DataFrame:
        """Rows of one metric."""
        return self.scores.filter(pl.col("metric") == metric)

    def only(self, names: Collection[str]) -> Self:
        """The arms of these names alone."""
        kept = [(arm, f) for arm, f in zip(self.arms, self.facts, strict=True) if f.name in names]
        scores = self.scores.filter(pl.col("arm").is_in(list(names)))
        return replace(self, arms=tuple(a for a, _ in kept), facts=tuple(f for _, f in kept), scores=scores)

    def against(self, metric: str) -> pl.DataFrame:
        """Scores of one metric as they count against other arms: a value that is only bounded is as good as may be."""
        return self.of(metric)

    def scores_with_bounds(self, metric: str) -> pl.DataFrame:
        """All scores, with a column ``against`` if values are only bounded: what they count against other arms."""
        keys = ["arm", "item_id", "repeat", "metric"]
        may_be = self.against(metric).select(*keys, against="value").unique(keys)
        found = self.scores.join(may_be, on=keys, how="left", maintain_order="left")
        return found if found.filter(pl.col("against") > pl.col("value")).height else self.scores

    def slice_rows(self, metric: str) -> list[SliceRow]:
        """Mean of each arm inside each slice."""
        return slice_rows(self.of(metric), self.names)

    def cases(self, metric: str) -> Mapping[str, ItemCase]:
        """Items worth reading, by their ids: what was expected and what each arm did."""
        return {}

    def regressions(self, decision: Decision, cases: Mapping[str, ItemCase]) -> Regressions:
        """Of these cases those in which the decided arm loses most against what is in use, or the best other."""
        return Regressions.of(decision, self.names, cases)
