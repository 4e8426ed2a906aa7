"""Production calls as a sheet to grade, and the graded calls that `05_quality` reads.

``SHEET.jsonl`` is what a rater sees: question, what was retrieved, answer. ``SHEET.weights.jsonl`` says apart from it
which call an item is, of which week, tenant and feature, why it was drawn and how many calls it stands for.
``SHEET.graded.jsonl`` joins the two once somebody has graded: a person, or a judge whose licence is an accepted
decision of `05_quality`. Each row says who; only people's grades tell whether a judge is right.

Weeks are drawn whole: of a week that goes on nobody knows yet which share a number of calls is.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import NamedTuple

import polars as pl
import sqlalchemy as sa

from workbench.codec import from_plain, write_whole
from workbench.errors import ConfigError, EvalsetError, unknown_name
from workbench.evalset.cells import shown_cell
from workbench.evalset.evalset import Evalset
from workbench.evalset.files import read_jsonl
from workbench.evalset.imports.judgement_sheets import nothing_filled_in_sheets, sheet_cohens_kappa
from workbench.evalset.imports.log_reader import TOOLS
from workbench.evalset.imports.logged_calls import LoggedCall, ToolLog, logged_cost_nanos
from workbench.inference.client import Client
from workbench.inference.prices import PriceTable, nanos
from workbench.quality.feedback import feedback_exchange, feedback_trace_scores
from workbench.quality.judges import Judge, Judged, JudgedAnswers, ask_judge, judges_of
from workbench.quality.labels import Label, label_sheet_rows, only_sheet_writer, read_label_sheet, write_label_sheet
from workbench.quality.licence import PARTS
from workbench.quality.sampling import (
    CALLS_SCHEMA,
    DRAWN,
    LEDGER_COLUMNS,
    SamplingPlan,
    ledger_calls,
    sample_calls,
    sampling_rates,
)
from workbench.records import Decision, content_hash
from workbench.rendering.numbers import counted
from workbench.rendering.text import visible
from workbench.state import reading_engine
from workbench.telemetry.ledger import Ledger
from workbench.telemetry.redaction import redact
from workbench.telemetry.traces import documents_of_span, stored_trace, trace_best_scores

METRIC = "good"
_OF_CALL = ("trace_id", "started", "tenant_id", "feature", "sample_reason", "sample_weight")
_LONGEST_ON_SHEET = 20_000  # characters of a text on the sheet
_SPANS_WEEKS = timedelta(days=2)  # no call takes longer: its attempts may lie on both sides of a Monday
_MAY_GRADE = ("chosen", "upgrade", "keep_reference")


class SheetExchange(NamedTuple):
    """What a call was asked, what it answered, and what it had retrieved; empty where nothing is kept."""

    question: str
    answer: str
    retrieved: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class ProductionCalls:
    """Calls of whole weeks, and how to read what one of them says.

    Attributes
    ----------
    frame : DataFrame
        Columns of `CALLS_SCHEMA`, one row a trace, and retrieval_score where it is known.
    read : callable
        `SheetExchange` of a trace.
    """

    frame: pl.DataFrame
    thumbs_down: frozenset[str]
    read: Callable[[str], SheetExchange]
    source: str


@dataclass(frozen=True, slots=True)
class DrawnCall:
    """One item that was drawn, as ``SHEET.weights.jsonl`` keeps it.

    Attributes
    ----------
    sample_weight : float
        Calls that this one stands for, from 1.
    per_week : int
        How many were asked for when its week was drawn.
    answered : bool
        Whether it stands on the sheet; a call that failed without an answer is 0, and nobody is asked.
    """

    item_id: str
    trace_id: str
    started: str
    tenant_id: str
    feature: str
    sample_reason: str
    sample_weight: float
    per_week: int
    answered: bool = True

    @property
    def week(self) -> date:
        """Its Monday."""
        return _sheet_monday(date.fromisoformat(self.started[:10]))


class DrawCounts(NamedTuple):
    """Calls of the weeks, items by reason, and of the items: new ones, graded ones, failures, those without a text."""

    calls: int
    reasons: Mapping[str, int]
    new: int
    graded: int
    failed: int
    lost: int


def sheet_weeks(since: date, until: date | None, now: datetime) -> tuple[date, date]:
    """Monday of the first week, and the Monday after the last one that is over.

    >>> sheet_weeks(date(2026, 11, 4), None, datetime(2026, 11, 26, tzinfo=UTC))
    (datetime.date(2026, 11, 2), datetime.date(2026, 11, 23))

    Raises
    ------
    ConfigError
        If no whole week lies between, or the last one is not over.
    """
    this = _sheet_monday(now.date())
    first, last = _sheet_monday(since), this if until is None else _sheet_monday(until)
    if last > this:
        raise ConfigError(f"--until {until} lies beyond the weeks that are over: they end before {this}")
    if first >= last:
        raise ConfigError(
            f"no whole week lies from {first} up to {last}; calls are drawn by whole weeks (UTC), and that of {this} "
            f"can be drawn from {this + timedelta(weeks=1)} on"
        )
    return first, last


def production_calls_of_ledger(engine: sa.Engine, since: date, until: date, *, scored: bool = False) -> ProductionCalls:
    """Product calls of the ledger that began in these weeks, with what their traces keep.

    ``scored`` looks up the best retrieval score of each trace, for `SamplingPlan.least_score`.
    """
    first, last = (_sheet_moment(day) for day in (since, until))
    of_time = {"since": (first - _SPANS_WEEKS).isoformat(), "until": (last + _SPANS_WEEKS).isoformat()}
    calls = _inside_sheet_weeks(ledger_calls(Ledger(engine).columns(LEDGER_COLUMNS, **of_time)), since, until)
    if scored:
        best = trace_best_scores(engine, first, last)
        calls = calls.with_columns(retrieval_score=pl.col("trace_id").replace_strict(best, default=None))
    with reading_engine(engine).begin() as connection:
        bad = frozenset(
            said.trace_id for said in connection.execute(feedback_trace_scores(engine)).all() if said.score < 0.5
        )

    def read(trace_id: str) -> SheetExchange:
        if (trace := stored_trace(engine, trace_id)) is None:
            return SheetExchange("", "")
        found = [document for row in trace.rows for document in documents_of_span(row.attributes)]
        texts = (f"{d.get('id', '')}\n{d.get('text') or d.get('content') or d.get('title') or ''}" for d in found)
        return SheetExchange(*feedback_exchange(trace)[:2], "\n\n".join(text.strip() for text in texts))

    return ProductionCalls(calls, bad, read, "the ledger")


def production_calls_of_log(log: ToolLog, prices: PriceTable, since: date, until: date) -> ProductionCalls:
    """Calls of another tool's log that began in these weeks, one row a trace.

    Raises
    ------
    ConfigError
        If the tool's calls were made to measure: nobody asked them.
    """
    if TOOLS[log.tool].purpose != "product":
        raise ConfigError(f"calls of {log.tool} were made to measure, and are no production; give a log of live calls")
    traces: dict[str, list[LoggedCall]] = {}
    for call in sorted(log.calls, key=lambda c: (c.started, c.file, c.line)):
        key = call.trace_id or call.call_id or content_hash(call.file, str(call.line))
        if call.started:
            traces.setdefault(key, []).append(call)
    searched = {search.query: search.hits for search in log.searches}
    said, rows = dict[str, SheetExchange](), []
    for key, calls in traces.items():
        asked = next((c for c in calls if c.prompt.strip()), calls[0])
        answer = next((c.output for c in reversed(calls) if c.output), "")
        hits = searched.get(asked.prompt, ())
        said[key] = SheetExchange(asked.prompt, answer, "\n".join(doc for doc, _ in hits))
        by_tokens = [(logged_cost_nanos(c, prices), c.usd or 0) for c in calls]
        cost = sum(nanos(usd) if found is None else found for found, usd in by_tokens)
        best = hits[0][1] if hits else None
        who = (asked.tenant_id, asked.feature, calls[0].started)
        rows.append((key, *who, bool(calls[-1].error), cost, None, None, best))
    frame = pl.DataFrame(rows, schema={**CALLS_SCHEMA, "retrieval_score": pl.Float64}, orient="row")
    scores = [s for c in log.calls for s in ((c.trace_id or c.call_id, s) for s in c.scores)] + log.scores
    bad = frozenset(key for key, s in scores if s.source == "human" and s.value is not None and s.value < 0.5)
    return ProductionCalls(_inside_sheet_weeks(frame, since, until), bad, lambda key: said[key], f"a log of {log.tool}")


def sheet_weights_path(sheet: Path) -> Path:
    """File beside a sheet that says which calls its items are."""
    return sheet.with_name(f"{sheet.stem}.weights.jsonl")


def graded_sheet_path(sheet: Path) -> Path:
    """File beside a sheet that `05_quality` reads."""
    return sheet.with_name(f"{sheet.stem}.graded.jsonl")


def read_sheet_weights(sheet: Path) -> dict[str, DrawnCall]:
    """Items of a sheet by their id.

    Raises
    ------
    EvalsetError
        If the file beside the sheet is not there, or a line is no item.
    """
    path = sheet_weights_path(sheet)
    if not path.is_file():
        raise EvalsetError(
            f"{path} is not there, without which nobody knows which calls {sheet} holds; put it back, or draw another "
            "sheet: workbench quality draw"
        )
    out = {}
    for number, row in read_jsonl(path):
        call = from_plain(DrawnCall, row, f"{path}:{number} is no drawn call", error=EvalsetError)
        out[call.item_id] = call
    return out


def draw_production_sheet(sheet: Path, calls: ProductionCalls, *, n: int, plan: SamplingPlan) -> DrawCounts:
    """Draw about ``n`` calls of each week beside those that are always kept, and add them to a sheet.

    The same calls give the same items. What stands on the sheet stays, with its grades; a week that was drawn with a
    larger number keeps that, so that no weight goes wrong.

    Raises
    ------
    EvalsetError
        If there is no call, or none that can be graded; if the sheet is no JSONL file or cannot be written.
    """
    if sheet.suffix != ".jsonl":
        raise EvalsetError(f"a sheet of production calls is a .jsonl file, found {sheet}")
    if calls.frame.is_empty():
        raise EvalsetError(f"{calls.source} has no product call with a trace in these weeks; look at another period")
    sheet.parent.mkdir(parents=True, exist_ok=True)
    with only_sheet_writer(sheet):
        rows = label_sheet_rows(sheet) if sheet.is_file() else []
        before = read_sheet_weights(sheet) if rows else {}
        drawn = _sheet_items_drawn(calls, before, n, plan)
        found, new = _sheet_items_with_texts(drawn, {str(row["item_id"]) for row in rows}, calls.read)
        items, lost = before | found, len(drawn) - len(found)
        if not (rows or new):
            raise EvalsetError(
                f"none of the {counted(len(drawn), 'call')} drawn can be graded: {lost:,} keep no answer, as "
                "traces that were "
                "forgotten or made with WORKBENCH_CAPTURE_CONTENT=0, and the others failed"
            )
        write_whole(sheet_weights_path(sheet), "".join(json.dumps(asdict(call)) + "\n" for call in items.values()))
        write_label_sheet(sheet, [*rows, *new])
    reasons = Counter(call.sample_reason for call in found.values())
    graded = sum(row.get("grade") is not None for row in rows)
    failed = sum(not call.answered for call in items.values())
    return DrawCounts(len(calls.frame), reasons, len(new), graded, failed, lost)


def _sheet_items_with_texts(
    drawn: Mapping[str, DrawnCall], on_sheet: Collection[str], read: Callable[[str], SheetExchange]
) -> tuple[dict[str, DrawnCall], list[dict[str, str]]]:
    """Items without those of which no answer is kept, and the rows of new ones; a failure needs neither."""
    items, rows = dict[str, DrawnCall](), list[dict[str, str]]()
    for item_id in sorted(drawn):
        call = drawn[item_id]
        if item_id not in on_sheet:
            said = SheetExchange(*(visible(redact(text), _LONGEST_ON_SHEET) for text in read(call.trace_id)))
            if said.answer.strip():
                rows.append({"item_id": item_id, **said._asdict()})
            elif call.sample_reason == "error":
                call = replace(call, answered=False)
            else:
                continue
        items[item_id] = call
    return items, rows


def _sheet_items_drawn(
    calls: ProductionCalls, before: Mapping[str, DrawnCall], n: int, plan: SamplingPlan
) -> dict[str, DrawnCall]:
    """Items of every week, by their id."""
    out = dict[str, DrawnCall]()
    weeks = calls.frame.with_columns(pl.col("tenant_id", "feature").fill_null(""))
    weeks = weeks.with_columns(week=pl.col("started").str.slice(0, 10).str.to_date().dt.truncate("1w"))
    for (week,), part in weeks.group_by("week"):
        there = set(part["trace_id"])
        mine = [call for call in before.values() if call.week == week and call.trace_id in there]
        most = max([n, *(call.per_week for call in mine)])
        kept = {call.trace_id: call.sample_reason for call in mine if call.sample_reason != DRAWN}
        rated = replace(plan, rates=sampling_rates(part, most))
        sample = sample_calls(part, rated, thumbs_down=calls.thumbs_down, kept=kept)
        for row in sample.iter_rows(named=True):
            item_id = content_hash("item", row["trace_id"])[:16]
            out[item_id] = DrawnCall(item_id, per_week=most, **{name: row[name] for name in _OF_CALL})
    return out


class GradeCounts(NamedTuple):
    """Rows of the graded file by who graded them, items that nobody graded, and where judge and people agree."""

    path: Path
    graders: Mapping[str, int]
    open: int
    agreement: str


def grade_production_sheet(
    sheet: Path, *, rater: str = "", rubric: str = "", at: str = "", verdicts: Sequence[Label] = (), alone: bool = False
) -> GradeCounts:
    """Write the graded calls of a sheet: what people filled in, and for the rest the verdicts of a judge.

    Parameters
    ----------
    rater, rubric, at : str
        Of rows that do not say it themselves.
    verdicts : sequence of Label
        Of a judge, from `judge_production_sheet`. A person's grade goes before it.
    alone : bool
        Take the judge's verdict also where a person graded: one series by one grader, which the notebook can test.

    Raises
    ------
    EvalsetError
        If nothing is graded, a row is of no item that was drawn, or a grade or its rater is missing or wrong.
    """
    items, said = read_sheet_weights(sheet), dict[str, Label]()
    people = {label.item_id: label for label in read_label_sheet(sheet, METRIC, rater=rater, rubric=rubric, at=at)}
    if foreign := sorted(people.keys() - items.keys()):
        told = (
            f"{counted(len(foreign), 'graded row')} of {sheet} without an item that was drawn, such as "
            f"{shown_cell(foreign[0])}"
        )
        raise EvalsetError(f"{told}; grade the sheet that workbench quality draw wrote")
    judged = {label.item_id: label for label in verdicts}
    said = judged if alone else judged | people
    if not said:
        raise EvalsetError(nothing_filled_in_sheets([sheet], "grade"))
    comments = {str(row["item_id"]): row.get("comment") or "" for row in label_sheet_rows(sheet)}
    rows = []
    for item_id, call in sorted(items.items(), key=lambda found: (found[1].started, found[0])):
        label = said.get(item_id)
        if not call.answered:
            label = Label(item_id, METRIC, 0.0, "no answer", "code", "a call that failed")
        if label:
            rows.append(_graded_sheet_row(call, label, comments.get(item_id, "") if label.source == "human" else ""))
    write_whole(graded_sheet_path(sheet), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    both = [(people[i].value >= 0.5, judged[i].value >= 0.5) for i in people if i in judged]
    graders = Counter(f"{row['grader']} ({row['source']})" for row in rows)
    return GradeCounts(graded_sheet_path(sheet), graders, len(items) - len(rows), _sheet_judge_agreement(both))


def _graded_sheet_row(call: DrawnCall, label: Label, comment: str) -> dict[str, object]:
    kept = {name: getattr(call, name) for name in _OF_CALL}
    grader = f"{label.rater}, {label.rubric}"
    return kept | {"week": call.week.isoformat(), "grade": label.value, "grader": grader, "source": label.source,
                   "rubric": label.rubric, "graded_at": label.at, "comment": comment}  # fmt: skip


def _sheet_judge_agreement(both: Sequence[tuple[bool, bool]]) -> str:
    if not both:
        return ""
    kappa = sheet_cohens_kappa(both)
    beyond = "not defined, as both say the same of all" if kappa is None else f"{kappa:.2f}"
    same = sum(person == judge for person, judge in both)
    return (
        f"judge and people say the same of {same:,} of the {counted(len(both), 'item')} that both graded "
        f"(kappa {beyond})"
    )


def licensed_judge(evalset: Evalset, name: str) -> tuple[Judge, Mapping[str, str]]:
    """A judge that may gate by the evalset's accepted decision, and what its licence rests on.

    Raises
    ------
    ConfigError
        If it is not known, not the one that was accepted, has changed since, or needs a reference, which no live call
        has.
    """
    known = {judge.name: judge for judge in judges_of(evalset, JudgedAnswers.load(evalset))}
    if name not in known:
        raise ConfigError(unknown_name("judge", name, sorted(known)))
    path, judge = evalset.path / "decisions" / "quality.json", known[name]
    if not path.is_file():
        raise ConfigError(
            f"no judge of {evalset.path.name} has a licence, as no decision is accepted: workbench run quality "
            f"--evalset {evalset.path.name}, then workbench accept quality; or let people grade"
        )
    decision = Decision.load(path)
    if decision.verdict not in _MAY_GRADE or decision.arm != name:
        raise ConfigError(f"judge {name!r} has no licence to grade; accepted is: {decision.sentence}")
    rests = {part: str(decision.parameters.get(part, "")) for part in PARTS}
    now = judge.rests_on(pl.DataFrame(schema={"model_served": pl.String}))
    _require_same_sheet(name, {**rests, "model": rests["model"].partition(" ")[0]}, now)
    if judge.pairwise or "{reference}" in judge.prompt:
        raise ConfigError(f"judge {name!r} is asked with a reference or a second answer, which no live call has")
    return judge, rests


def judge_production_sheet(
    sheet: Path,
    judge: Judge,
    rests: Mapping[str, str],
    client: Client,
    *,
    max_cost_usd: float | None,
    tell: Callable[[str], None],
    alone: bool = False,
) -> list[Label]:
    """Verdicts of a judge on the items of a sheet, by default on those that no person has graded; None are left out.

    Raises
    ------
    ConfigError
        If the money is missing or too low, or another model answers than the one that was measured.
    """
    items = read_sheet_weights(sheet)
    asked = [
        Judged(
            name, row["question"], row["answer"], context=row.get("retrieved") or "", tenant_id=items[name].tenant_id
        )
        for row in label_sheet_rows(sheet)
        if (alone or row.get("grade") is None) and (name := str(row["item_id"])) in items
    ]
    if not asked:
        return []
    said = ask_judge(judge, asked, client, max_cost_usd=max_cost_usd, tell=tell)
    _require_same_sheet(judge.name, rests, judge.rests_on(said, rests["anchors"]))
    means = said.drop_nulls("value").group_by("item_id").agg(pl.col("value").mean()).sort("item_id")
    if none := len(asked) - len(means):
        tell(f"{counted(none, 'answer')} of judge {judge.name} are no verdict; their items stay without a grade")
    at = client.books.clock.now().isoformat(timespec="seconds")
    return [Label(item, METRIC, value, judge.name, "model", judge.rubric, at) for item, value in means.iter_rows()]


def _require_same_sheet(name: str, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    if moved := [part for part in PARTS if before[part] != now[part]]:
        was = "; ".join(f"{part} was {shown_cell(before[part])}, is {shown_cell(now[part])}" for part in moved)
        raise ConfigError(f"judge {name!r} is not the judge that was measured ({was}); measure it anew in 05_quality")


def _inside_sheet_weeks(calls: pl.DataFrame, since: date, until: date) -> pl.DataFrame:
    day = pl.col("started").str.slice(0, 10).str.to_date()
    return calls.filter((day >= since) & (day < until))


def _sheet_monday(day: date) -> date:
    return day - timedelta(days=day.weekday())


def _sheet_moment(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
