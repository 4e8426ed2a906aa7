"""Graded production calls week by week: what share was good, and whether it has dropped, for all and for each group.

Calls are those that `workbench.quality.sampling` drew, with its weights, once somebody has graded them; or those
on which users said something. A week is told where 30 calls of it are graded. The first four such weeks are the
baseline of `workbench.quality.monitoring`'s watch, which is asked once a week; after its last look it begins anew, with
what it saw last as the baseline. A drop is told falsely in 5 % of half years for all groups together: each group has
its part of that.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from math import sqrt
from pathlib import Path
from typing import Any

import polars as pl
import sqlalchemy as sa
from scipy.special import stdtrit

from workbench.errors import ConfigError, Defect
from workbench.evalset.cells import Unusable, id_cell, name_cell, number_cell, share_cell, times_of_cells
from workbench.evalset.files import Names, named_table_rows, read_table, refuse_file
from workbench.evaluation.run_summary import PRODUCTION, WeekRow
from workbench.quality.feedback import feedback_trace_scores
from workbench.quality.monitoring import QualityWatch, Week
from workbench.quality.sampling import ledger_calls
from workbench.rendering.numbers import counted
from workbench.rendering.table import Column, Interval, Table
from workbench.state import reading_engine
from workbench.telemetry.ledger import Ledger

MIN_GRADED = 30  # calls of a week, below which nothing is said of it
BASELINE_WEEKS = 4
EVERYTHING = "all"
_NAMES: Names = {
    "trace_id": ("trace_id",),
    "tenant": ("tenant_id", "tenant"),
    "feature": ("feature",),
    "started": ("started", "at", "timestamp"),
    "sample_weight": ("sample_weight", "weight"),
    "grade": ("grade", "score", "good"),
    "grader": ("grader", "judge", "rater"),
    "source": ("source",),
}
_NEEDED = ("trace_id", "started", "grade")
_SCHEMA: dict[str, type[pl.DataType]] = {
    "trace_id": pl.String, "tenant": pl.String, "feature": pl.String, "sample_weight": pl.Float64,
    "grade": pl.Float64, "grader": pl.String, "week": pl.Date,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GroupWeeks:
    """One group: its weeks, and what the watch says of them.

    Attributes
    ----------
    by, group : str
        Column and value; ``all`` of everything.
    weeks : tuple of WeekRow
        Every week in which a call was graded, oldest first.
    baseline : Interval or None
        Share that was good in the first weeks of which something is said.
    status : str
        ``dropped``, ``no drop seen`` (which shows no constancy), ``too few``, ``several graders``, or ``not tested``
        where every call of the baseline was good.
    since, told : str
        Mondays of the week in which the drop most likely began, and of that in which it was told.
    change : float or None
        By how much the share changed then.
    """

    by: str
    group: str
    weeks: tuple[WeekRow, ...]
    baseline: Interval | None
    status: str = "too few"
    since: str = ""
    told: str = ""
    change: float | None = None

    @property
    def name(self) -> str:
        """Name in sentences and figures."""
        return EVERYTHING if self.by == EVERYTHING else f"{self.by} {self.group}"

    @property
    def enough(self) -> list[WeekRow]:
        """Weeks of which something is said."""
        return [w for w in self.weeks if w.mean is not None]


def read_graded_production(path: Path) -> pl.DataFrame:
    """Graded calls of a JSONL, CSV, TSV or Parquet file, one row a trace; those without a grade are left out.

    Returns
    -------
    DataFrame
        Columns trace_id, tenant, feature, sample_weight (from 1; 1 where the file has no such column), grade in
        [0, 1], grader (null where ``source`` is "code": that a call failed needs no grader), week (its Monday, UTC).

    Raises
    ------
    EvalsetError
        With the line of everything that is wrong: a column, grade, time or weight, or a trace that stands twice.
    """
    rows, _ = named_table_rows(read_table(path), _NAMES, _NEEDED)
    weighted = any(row["sample_weight"] is not None for _, row in rows)
    found: list[tuple[Any, ...]] = []
    times: list[tuple[int, Any]] = []
    defects: list[Defect] = []
    seen: dict[str, int] = {}
    for line, row in rows:
        try:
            cells = _graded_production_call(row, weighted)
            if cells and (first := seen.setdefault(cells[0], line)) != line:
                raise Unusable(f"trace {cells[0]!r} stands twice, first on line {first}; give each call one grade")
        except Unusable as error:
            defects.append(Defect(str(path), line, str(error)))
            continue
        if cells:
            found.append(cells)
            times.append((line, row["started"]))
    placed, wrong = times_of_cells("started", times)
    if any(len(at) < len("2026-01-31T00:00") for _, at in placed):
        wrong = [(times[0][0], '"started" counts from no date; write 2026-01-31T12:00:00Z')]
    refuse_file(path, [*defects, *(Defect(str(path), line, told) for line, told in wrong)])
    if not found:
        refuse_file(path, [Defect(str(path), 0, "has no call with a grade; write a number in [0, 1] as grade")])
    days = [date.fromisoformat(at[:10]) for _, at in placed]
    out = [(*cells, day - timedelta(days=day.weekday())) for cells, day in zip(found, days, strict=True)]
    return pl.DataFrame(out, schema=_SCHEMA, orient="row")


def rated_production_calls(engine: sa.Engine) -> pl.DataFrame:
    """Product calls of the ledger on which users said something, as `read_graded_production` has them: no random draw.

    Raises
    ------
    ConfigError
        If users said nothing of any call.
    """
    with reading_engine(engine).begin() as connection:
        said = connection.execute(feedback_trace_scores(engine)).all()
    scores = pl.DataFrame(said, schema={"trace_id": pl.String, "grade": pl.Float64}, orient="row")
    calls = ledger_calls(Ledger(engine).frame()).join(scores, on="trace_id")
    if calls.is_empty():
        raise ConfigError(
            f"{counted(len(scores), 'trace has', 'traces have')} feedback, none is of a product call of the "
            "ledger; keep what users say with "
            "workbench feedback record, or give a file of graded calls"
        )
    day = pl.col("started").str.slice(0, 10).str.to_date()
    told = {"tenant": pl.col("tenant_id"), "sample_weight": pl.lit(1.0), "grader": pl.lit("users")}
    return calls.with_columns(**told, week=day.dt.truncate("1w")).select(*_SCHEMA)


def production_by_group(graded: pl.DataFrame) -> list[GroupWeeks]:
    """Everything, then each feature and tenant where there are several: weeks, and what the watch says.

    Parameters
    ----------
    graded : DataFrame
        As `read_graded_production` returns it.
    """
    parts = [(EVERYTHING, EVERYTHING, graded)]
    for column in ("feature", "tenant"):
        of = {str(value): part for (value,), part in graded.group_by(column)}
        parts += [(column, value, of[value]) for value in sorted(of)] if len(of) > 1 else []
    groups = [(_graded_production_group(by, value, part), part) for by, value, part in parts]
    testable = sum(len(group.enough) > BASELINE_WEEKS for group, _ in groups)
    watch = QualityWatch(QualityWatch().alpha / max(testable, 1))
    return [_watched_production(group, part, watch) for group, part in groups]


def production_groups_table(groups: Sequence[GroupWeeks], source: str) -> Table:
    """One row a group: its first weeks, its latest, and whether a drop was told; ``source`` ends the caption."""
    columns = (
        Column("group", limit=80), Column("status", "status"), Column("since"), Column("latest week", "interval"),
        Column("first weeks", "interval"), Column("change", "number", signed=True), Column("told"),
        Column("graded", "count"), Column("weeks", "count"),
    )  # fmt: skip
    rows = []
    for g in groups:
        last = g.enough[-1] if g.enough else None
        latest = Interval(last.mean, last.low, last.high) if last and last.mean is not None else None
        seen = (g.name, g.status, g.since or None, latest, g.baseline, g.change, g.told or None)
        rows.append((*seen, sum(w.n for w in g.weeks), len(g.enough)))
    return Table(columns, tuple(rows), f"{PRODUCTION}. {production_sentence(groups)}. {source}")


def production_sentence(groups: Sequence[GroupWeeks]) -> str:
    """What the watch says of all groups, in words."""
    named = {s: [g for g in groups if g.status == s] for s in ("dropped", "no drop seen", "too few", "several graders")}
    dropped = ", ".join(f"{g.name} since the week of {g.since}" for g in named["dropped"])
    parts = [f"dropped: {dropped}"] if dropped else []
    if n := len(named["no drop seen"]):
        parts.append(f"no drop is seen in {n} of {counted(len(groups), 'group')}")
    if few := ", ".join(g.name for g in named["too few"]):
        parts.append(
            f"too few graded calls of {few}: {MIN_GRADED} a week in {BASELINE_WEEKS + 1} weeks are needed, by a higher "
            "rate of the sampling plan"
        )
    if mixed := ", ".join(g.name for g in named["several graders"]):
        parts.append(f"several graders of {mixed}: grade some of the old calls with the new one and begin there")
    told = "; ".join(parts) or "Nothing can be tested: every call of the first weeks was good"
    return told[0].upper() + told[1:]


def production_share_good(part: pl.DataFrame) -> tuple[Week, Interval]:
    """Weighted share of good calls, as the watch takes it, and its two-sided 95 % interval.

    It speaks of what calls are like, not of those of the week alone, so that calls that are always kept add to the
    error too. The interval is Wilson's at the number of plain calls that would tell as much, with Student's quantile
    (Dean and Pagano, "Evaluating confidence interval methods for binomial proportions in clustered surveys", 2015).
    """
    grades, weights = part["grade"].to_numpy(), part["sample_weight"].to_numpy()
    n, total = len(part), float(weights.sum())
    mean, se = float(grades[0]), 0.0
    if (grades != grades[0]).any():
        mean = float(grades @ weights) / total
        se = sqrt(float((weights**2) @ (grades - mean) ** 2) * n / (n - 1)) / total
    week = Week(mean, se, n)
    plain = week.information if se else total**2 / float((weights**2).sum())
    q2 = float(stdtrit(n - 1, 0.975)) ** 2 / plain
    middle = (mean + q2 / 2) / (1 + q2)
    reach = sqrt(mean * (1 - mean) * q2 + q2**2 / 4) / (1 + q2)
    return week, Interval(mean, max(middle - reach, 0.0), min(middle + reach, 1.0))


def _graded_production_call(row: dict[str, Any], weighted: bool) -> tuple[Any, ...] | None:
    """Cells of `_SCHEMA` without the week; None where nobody has graded the call."""
    if (grade := share_cell("grade", row["grade"])) is None:
        return None
    if not (trace_id := id_cell("trace_id", row["trace_id"])):
        raise Unusable('"trace_id" is missing; say which call was graded')
    weight = number_cell("sample_weight", row["sample_weight"]) if weighted else 1.0
    if weight is None or weight < 1:
        raise Unusable(f"sample_weight is how many calls this one stands for, from 1, found {row['sample_weight']!r}")
    names = [name_cell(name, row[name]) for name in ("tenant", "feature", "grader")]
    grader = None if row["source"] == "code" else names[2]
    return trace_id, names[0] or "default", names[1] or "default", weight, grade, grader


def _graded_production_group(by: str, value: str, part: pl.DataFrame) -> GroupWeeks:
    weeks = []
    for monday in sorted(part["week"].unique()):
        of = part.filter(pl.col("week") == monday)
        found = production_share_good(of)[1] if len(of) >= MIN_GRADED else Interval(0.0, None, None)
        mean = found.estimate if found.low is not None else None
        weeks.append(WeekRow("", str(monday), len(of), float(of["sample_weight"].sum()), mean, found.low, found.high))
    group = GroupWeeks(by, value, tuple(weeks), None)
    first = group.enough[:BASELINE_WEEKS]
    named = replace(group, weeks=tuple(replace(w, group=group.name) for w in weeks))
    return replace(named, baseline=production_share_good(_production_of_group(part, first))[1] if first else None)


def _production_of_group(part: pl.DataFrame, weeks: Sequence[WeekRow]) -> pl.DataFrame:
    return part.filter(pl.col("week").is_in([date.fromisoformat(w.week) for w in weeks]))


def _watched_production(group: GroupWeeks, part: pl.DataFrame, watch: QualityWatch) -> GroupWeeks:
    """The group with what is said of it; each watch has the weeks before it, from the last drop on, as its baseline."""
    weeks, start, ends = group.enough, 0, BASELINE_WEEKS
    if len(weeks) <= BASELINE_WEEKS:
        return group
    if _production_of_group(part, weeks)["grader"].drop_nulls().n_unique() > 1:
        return replace(group, status="several graders")
    group = replace(group, status="not tested")
    while ends < len(weeks):
        baseline = production_share_good(_production_of_group(part, weeks[start:ends]))[0]
        if not 0 < baseline.mean < 1:  # it has no spread to tell a drop by: a longer one
            ends += 1
            continue
        looked = weeks[ends : ends + watch.looks]
        alarm = watch.alarm(baseline, [production_share_good(_production_of_group(part, [week]))[0] for week in looked])
        start, ends = ends, ends + len(looked)
        if alarm:
            since, told = looked[alarm.since - 1].week, looked[alarm.seen - 1].week
            change = alarm.after - alarm.before
            marked = tuple(replace(w, drop=w.drop or w.week == since) for w in group.weeks)
            group = replace(group, weeks=marked, since=since, told=told, change=change)
            start += alarm.since - 1
        group = replace(group, status="dropped" if group.since else "no drop seen")
    return group
