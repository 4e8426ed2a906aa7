"""Production calls as a blind sheet: the same items each time, what is graded stays, and no weight goes wrong."""

import json
from dataclasses import fields, replace
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from tests.quality.test_notebook import MODEL, judged_project, start, steps
from tests.reports.hostile import evil
from workbench.cli import app
from workbench.config import SystemClock, load_settings
from workbench.errors import ConfigError, EvalsetError
from workbench.evalset.evalset import load_evalset
from workbench.evalset.imports.log_reader import read_log
from workbench.inference.budgets import DEFAULT_BUDGETS, Budgets
from workbench.inference.call_attempt import Books
from workbench.inference.client import Client
from workbench.inference.messages import Response, Usage
from workbench.inference.prices import load_prices
from workbench.inference.recordings import Recordings
from workbench.quality import feedback
from workbench.quality.production import production_by_group, read_graded_production
from workbench.quality.production_sheet import (
    draw_production_sheet,
    grade_production_sheet,
    graded_sheet_path,
    judge_production_sheet,
    licensed_judge,
    production_calls_of_ledger,
    production_calls_of_log,
    read_sheet_weights,
    sheet_weeks,
    sheet_weights_path,
)
from workbench.quality.sampling import SamplingPlan, sampling_rates
from workbench.runner import accept_decision
from workbench.state import create_tables, open_engine
from workbench.telemetry.ledger import Ledger, LedgerRow
from workbench.telemetry.span_tree import SPANS
from workbench.testing import FakeClock, ScriptedModel

START, WEEKS = datetime(2026, 6, 1, tzinfo=UTC), 3
PERIOD = (date(2026, 6, 1), date(2026, 6, 22))
SERVED = "openai/very-secret-model"
TENANTS = {"acme": 0.8, "globex": 0.18, "tiny": 0.02}
LOGS = Path(__file__).parents[1] / "evalset" / "logs"
NO_TOP = SamplingPlan(top_cost=0.0)
_NAMES = [f.name for f in fields(LedgerRow)]
_PLAIN = {n: "" for n in _NAMES} | {n: 0 for n in _NAMES if n.endswith(("tokens", "nanos", "ms", "attempt"))}


def row(trace, at, **given):
    known = {"call_id": trace, "trace_id": trace, "started": at.isoformat(), "tenant_id": "acme", "feature": "answer"}
    told = {"purpose": "product", "status": "ok", "model_asked": SERVED, "model_served": SERVED, "cost_nanos": 5}
    return LedgerRow(**_PLAIN | known | told | given)


def spans(trace, at, question, answer, documents=()):
    """A search and an answer, as a traced call keeps them."""
    asked = {"gen_ai.input.messages": json.dumps([{"role": "user", "content": question}]),
             "gen_ai.response.model": SERVED, "wb.route": "arm of the router"}  # fmt: skip
    if answer:
        asked["gen_ai.output.messages"] = json.dumps([{"role": "assistant", "content": answer}])
    kept = ({"gen_ai.retrieval.documents": json.dumps(documents)}, asked)
    ns = int(at.timestamp()) * 10**9
    plain = {"trace_id": trace, "parent_id": "", "operation": "", "status": "ok", "message": "", "events": "[]"}
    return [
        plain | {"span_id": f"{i:016x}", "top": not i, "name": f"chat {SERVED}", "started_ns": ns + i,
                 "ended_ns": ns + 9, "attributes": json.dumps(attributes)}
        for i, attributes in enumerate(kept)
    ]  # fmt: skip


def trace_of(i):
    return f"{i:032x}"


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))
    monkeypatch.setenv("WORKBENCH_STATE_URL", f"sqlite:///{tmp_path / 'state.sqlite'}")
    for name in ("WORKBENCH_CACHE", "WORKBENCH_RUNS", "WORKBENCH_RUN_DIR"):
        monkeypatch.delenv(name, raising=False)
    return load_settings(start=tmp_path)


@pytest.fixture
def engine(settings):
    """State database with 900 calls in three weeks: one in 30 failed, the others have a trace, good in 80 %."""
    engine, rng = open_engine(settings.state_url), np.random.default_rng(0)
    rows, kept = [], []
    for i in range(900):
        at = START + timedelta(weeks=WEEKS) * (i / 900)
        who = {"tenant_id": str(rng.choice(list(TENANTS), p=list(TENANTS.values()))),
               "feature": "find" if i % 3 else "answer"}  # fmt: skip
        failed = i % 30 == 7
        rows.append(row(trace_of(i), at, status="error" if failed else "ok", **who))
        good = not failed and rng.random() < 0.8
        found = [{"id": f"doc{i}", "text": f"passage {i}", "score": 0.1 if i % 100 == 3 else 0.9}]
        kept += spans(trace_of(i), at, f"question {i}", "" if failed else f"{'right' if good else 'wrong'} {i}", found)
    Ledger(engine).add(rows)
    create_tables(engine, SPANS)
    with engine.begin() as connection:
        connection.execute(SPANS.insert(), kept)
    yield engine
    engine.dispose()


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def filled(sheet, value=lambda found: float(found["answer"].startswith("right")), **more):
    """Fill every row as a person would who knows what is right."""
    found = [found | {"grade": value(found)} | more for found in lines(sheet)]
    sheet.write_text("".join(json.dumps(found_) + "\n" for found_ in found), encoding="utf-8")
    return found


def drawn(engine, sheet, n=40, plan=NO_TOP, **given):
    return draw_production_sheet(sheet, production_calls_of_ledger(engine, *PERIOD, **given), n=n, plan=plan)


def test_a_sheet_is_blind_and_the_same_weeks_give_the_same_items(engine, tmp_path):
    sheet = tmp_path / "production.jsonl"
    found = drawn(engine, sheet)
    assert (found.calls, found.failed, found.graded, found.lost) == (900, 30, 0, 0)
    rows, items = lines(sheet), read_sheet_weights(sheet)
    assert found.new == len(rows) == len(items) - 30
    assert {tuple(r) for r in rows} == {("item_id", "question", "retrieved", "answer", "grade", "comment")}
    assert {(r["grade"], r["comment"]) for r in rows} == {(None, "")}
    text = sheet.read_text(encoding="utf-8")
    for secret in (SERVED, "arm of the router", "acme", "weight", "drawn"):
        assert secret not in text
    for r in rows:
        assert r["question"].removeprefix("question ") == r["answer"].split()[1]
        assert r["retrieved"].split() == [f"doc{r['answer'].split()[1]}", "passage", r["answer"].split()[1]]
    before = sheet.read_bytes(), sheet_weights_path(sheet).read_bytes()
    assert drawn(engine, sheet).new == 0
    assert (sheet.read_bytes(), sheet_weights_path(sheet).read_bytes()) == before
    drawn(engine, tmp_path / "other.jsonl")
    assert (tmp_path / "other.jsonl").read_bytes() == before[0]


def test_every_week_and_stratum_is_drawn_and_the_weights_stand_for_all_calls(engine, tmp_path):
    sheet = tmp_path / "production.jsonl"
    drawn(engine, sheet, n=90)
    items = list(read_sheet_weights(sheet).values())
    calls = production_calls_of_ledger(engine, *PERIOD).frame
    for week in {i.week for i in items}:
        mine = [i for i in items if i.week == week]
        assert sum(i.sample_weight for i in mine) == pytest.approx(300, rel=0.15)
        assert len([i for i in mine if i.sample_reason == "drawn"]) == pytest.approx(90, abs=25)
    assert {i.week for i in items} == {date(2026, 6, d) for d in (1, 8, 15)}
    assert {(i.tenant_id, i.feature) for i in items} == set(calls.select("tenant_id", "feature").unique().rows())
    shares = {t: len([i for i in items if i.tenant_id == t]) / len(items) for t in TENANTS}
    assert shares["tiny"] > 2 * TENANTS["tiny"]


def test_what_is_likely_bad_is_always_kept_and_stays_so(engine, settings, tmp_path):
    sheet = tmp_path / "production.jsonl"
    hit = json.dumps({"similarity": 0.93, "threshold": 0.92})
    at = START + timedelta(days=1)
    Ledger(engine).add([row("f" * 32, at, status="cached", cache=hit), row("e" * 32, at, cost_nanos=10**9)])
    with engine.begin() as connection:
        connection.execute(SPANS.insert(), [s for t in "fe" for s in spans(t * 32, at, "q", f"right {t}")])
    feedback.record(trace_of(5), 0, settings=settings)
    plan = SamplingPlan(top_cost=0.004, least_score=0.5)
    found = drawn(engine, sheet, n=10, plan=plan, scored=True)
    assert found.reasons["error"] == 30
    assert found.reasons["low retrieval score"] == 9
    reasons = {i.trace_id: i.sample_reason for i in read_sheet_weights(sheet).values()}
    assert (reasons["f" * 32], reasons["e" * 32], reasons[trace_of(5)]) == (
        "hit near the threshold", "top cost", "thumbs down",
    )  # fmt: skip
    feedback.record(trace_of(5), 1, settings=settings)  # the same user thinks again
    drawn(engine, sheet, n=10, plan=plan, scored=True)
    item = next(i for i in read_sheet_weights(sheet).values() if i.trace_id == trace_of(5))
    assert (item.sample_reason, item.sample_weight) == ("thumbs down", 1)


def test_what_is_graded_stays_when_more_is_drawn_and_a_smaller_number_takes_nothing_away(engine, tmp_path):
    sheet = tmp_path / "production.jsonl"
    drawn(engine, sheet, n=20)
    done = filled(sheet, comment="seen")
    few = read_sheet_weights(sheet)
    more = drawn(engine, sheet, n=60)
    assert more.graded == len(done)
    assert lines(sheet)[: len(done)] == done
    many = read_sheet_weights(sheet)
    assert few.keys() < many.keys()
    weights = {i: (few[i].sample_weight, many[i].sample_weight) for i in few if few[i].sample_reason == "drawn"}
    assert all(before > after for before, after in weights.values())
    assert sum(i.sample_weight for i in many.values()) == pytest.approx(900, rel=0.15)
    assert drawn(engine, sheet, n=5).new == 0
    assert read_sheet_weights(sheet) == many


def test_a_call_over_a_monday_is_of_the_week_in_which_it_began(engine, tmp_path):
    monday = START + timedelta(weeks=1)
    Ledger(engine).add([
        row("d" * 32, monday - timedelta(seconds=5), status="error"),
        row("d" * 32, monday + timedelta(seconds=5), attempt=1, call_id="second"),
    ])  # fmt: skip
    first, second = (production_calls_of_ledger(engine, *weeks).frame for weeks in
                     ((PERIOD[0], monday.date()), (monday.date(), PERIOD[1])))  # fmt: skip
    (found,) = first.filter(pl.col("trace_id") == "d" * 32).to_dicts()
    assert (found["failed"], found["cost_nanos"]) == (False, 10)
    assert "d" * 32 not in set(second["trace_id"])


def test_the_graded_file_is_what_the_notebook_reads_and_failures_count_as_bad(engine, tmp_path):
    sheet = tmp_path / "production.jsonl"
    drawn(engine, sheet, n=300)
    filled(sheet)
    done = grade_production_sheet(sheet, rater="ann", rubric="v1", at="2026-06-22T10:00:00+00:00")
    assert (done.path, done.open) == (tmp_path / "production.graded.jsonl", 0)
    assert done.graders == {"ann, v1 (human)": 870, "no answer, a call that failed (code)": 30}
    rows = lines(done.path)
    assert {"week", "feature", "tenant_id", "sample_weight", "grade", "grader", "source", "rubric"} <= rows[0].keys()
    assert {r["week"] for r in rows} == {"2026-06-01", "2026-06-08", "2026-06-15"}
    graded = read_graded_production(done.path)
    truth = np.mean([r["grade"] for r in rows])  # all were drawn
    assert 0.7 < truth < 0.8
    assert graded["grade"].mean() == pytest.approx(truth)
    groups = {g.name: g for g in production_by_group(graded)}
    assert [w.n for w in groups["all"].weeks] == [300] * 3
    assert groups["all"].status == "too few"  # three weeks; failures, which nobody graded, are no second grader


def test_weighted_grades_are_those_of_all_calls(engine, tmp_path):
    answers = [s for s in production_calls_of_ledger(engine, *PERIOD).frame["trace_id"]]
    read = production_calls_of_ledger(engine, *PERIOD).read
    good = {t: float(read(t).answer.startswith("right")) for t in answers}
    whole, means, plain = np.mean(list(good.values())), [], []
    calls = replace(production_calls_of_ledger(engine, *PERIOD), read=cache(read))  # the same 900 in every draw
    for salt in range(60):
        sheet = tmp_path / f"s{salt}.jsonl"
        draw_production_sheet(sheet, calls, n=50, plan=SamplingPlan(top_cost=0.0, salt=str(salt)))
        items = read_sheet_weights(sheet).values()
        values, weights = [good[i.trace_id] for i in items], [i.sample_weight for i in items]
        means.append(np.average(values, weights=weights))
        plain.append(np.mean(values))
    se = np.std(means) / len(means) ** 0.5
    assert abs(np.mean(means) - whole) < 3 * se
    assert whole - np.mean(plain) > 0.05  # the failures, which are always kept


def test_grades_that_say_nothing_of_the_draw_are_refused(engine, tmp_path):
    sheet = tmp_path / "production.jsonl"
    with pytest.raises(EvalsetError, match="workbench quality draw"):
        grade_production_sheet(sheet, rater="ann", rubric="v1")
    drawn(engine, sheet)
    with pytest.raises(EvalsetError, match=r"no row of .* is filled: fill `grade`"):
        grade_production_sheet(sheet, rater="ann", rubric="v1")
    first, *rest = lines(sheet)
    for change, told in (
        ({"grade": 7}, r"the grade must be in \[0, 1\]"),
        ({"grade": 1}, "a grade of nobody; say who graded"),
        (
            {"grade": 1, "rater": "ann", "rubric": "v1", "item_id": "x"},
            "1 graded row .* without an item .* such as 'x'",
        ),
    ):
        sheet.write_text("".join(json.dumps(r) + "\n" for r in [first | change, *rest]), encoding="utf-8")
        with pytest.raises(EvalsetError, match=told):
            grade_production_sheet(sheet)
    assert not graded_sheet_path(sheet).exists()


def test_several_people_may_fill_one_sheet_each_by_name(engine, tmp_path):
    sheet = tmp_path / "production.jsonl"
    drawn(engine, sheet)
    found = lines(sheet)
    who = [{"grade": 1, "rater": "bob", "rubric": "v2"}, {"grade": 0.5}]
    sheet.write_text("".join(json.dumps(r | (who[i] if i < 2 else {})) + "\n" for i, r in enumerate(found)))
    done = grade_production_sheet(sheet, rater="ann", rubric="v1")
    assert done.graders == {"ann, v1 (human)": 1, "bob, v2 (human)": 1, "no answer, a call that failed (code)": 30}
    assert done.open == len(found) - 2


def test_only_weeks_that_are_over_are_drawn_whole():
    now = datetime(2026, 6, 24, 12, tzinfo=UTC)  # a Wednesday
    assert sheet_weeks(date(2026, 6, 3), None, now) == (date(2026, 6, 1), date(2026, 6, 22))
    assert sheet_weeks(date(2026, 6, 3), date(2026, 6, 8), now) == (date(2026, 6, 1), date(2026, 6, 8))
    with pytest.raises(ConfigError, match="can be drawn from 2026-06-29 on"):
        sheet_weeks(date(2026, 6, 23), None, now)
    with pytest.raises(ConfigError, match="they end before 2026-06-22"):
        sheet_weeks(date(2026, 6, 3), date(2026, 6, 30), now)


def test_calls_of_which_nothing_is_kept_are_counted_and_refused_when_there_are_no_others(engine, tmp_path):
    sheet = tmp_path / "production.jsonl"
    with engine.begin() as connection:
        connection.execute(sa.delete(SPANS).where(SPANS.c.trace_id >= trace_of(450)))
    found = drawn(engine, sheet, n=1000)
    assert found.lost == 450 - 15
    assert found.new == 450 - 15
    with engine.begin() as connection:
        connection.execute(sa.delete(SPANS))
    with pytest.raises(EvalsetError, match="none of the 900 calls drawn can be graded: 870 keep no answer"):
        drawn(engine, tmp_path / "other.jsonl", n=1000)
    with pytest.raises(EvalsetError, match="the ledger has no product call with a trace in these weeks"):
        draw_production_sheet(
            sheet, production_calls_of_ledger(engine, date(2025, 6, 2), date(2025, 6, 9)), n=5, plan=NO_TOP
        )
    with pytest.raises(EvalsetError, match=r"is a \.jsonl file"):
        drawn(engine, tmp_path / "sheet.csv")


def test_a_call_of_which_nothing_is_kept_takes_no_more_statements_than_another(engine):
    read, said = production_calls_of_ledger(engine, *PERIOD).read, []
    sa.event.listen(engine, "before_cursor_execute", lambda *told: said.append(told[2]))

    def statements(trace):
        said.clear()
        return read(trace), len(said)

    (kept, of_kept), (gone, of_gone) = statements(trace_of(0)), statements("f" * 32)
    assert (kept.answer != "", gone.answer) == (True, "")
    assert of_gone <= of_kept


def test_hostile_text_is_inert_on_the_sheet_and_a_megabyte_is_cut(engine, tmp_path):
    with engine.begin() as connection:
        long = json.dumps([{"role": "user", "content": evil("question") + "\x1b[2J" + "x" * 10**6}])
        mine = SPANS.c.trace_id == trace_of(2)
        connection.execute(sa.update(SPANS).where(mine, ~SPANS.c.top).values(attributes=json.dumps({
            "gen_ai.input.messages": long,
            "gen_ai.output.messages": json.dumps([{"role": "assistant", "content": evil("answer")}]),
        })))  # fmt: skip
    sheet = tmp_path / "production.jsonl"
    drawn(engine, sheet, n=1000)
    text = sheet.read_text(encoding="utf-8")
    assert not {"\x1b", "\u202e"} & set(text)
    (found,) = [r for r in lines(sheet) if "answer x=" in r["answer"]]
    assert 20_000 < len(found["question"]) < 20_100


# Judges: one that the tiny evalset's accepted decision licenses.


@pytest.fixture
def licensed(engine, settings, tmp_path):
    judged_project(tmp_path)
    steps_run = start(overlap=[])
    dev, test, decision = steps(steps_run)
    steps_run.gate(decision, test, dev)
    assert decision.arm == "good"
    accept_decision(settings, "quality", reason="the first", clock=SystemClock())
    return load_evalset("tiny", settings=settings)


def client_of(engine, path, served=MODEL):
    def say(request):
        text = request.messages[0]["content"]
        said = "yes" if "right" in text else "maybe" if "wrong 9" in text else "no"
        return Response(said, served, Usage(100, output=2))

    model = ScriptedModel(say)
    books = Books(load_prices(), Budgets(engine, DEFAULT_BUDGETS), Ledger(engine), clock=FakeClock())
    return Client({"": model}, books, recordings=Recordings(path, live=True)), model


def test_a_licensed_judge_grades_what_nobody_has_by_the_budgeted_and_recorded_client(licensed, engine, tmp_path):
    sheet, kept = tmp_path / "production.jsonl", tmp_path / "verdicts.jsonl"
    drawn(engine, sheet, n=30)
    rows = lines(sheet)
    rows[0] |= {"grade": 1.0, "rater": "ann", "rubric": "v1"}
    sheet.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    judge, rests = licensed_judge(licensed, "good")
    client, model = client_of(engine, kept)
    told = []
    with pytest.raises(ConfigError, match="max_cost_usd"):
        judge_production_sheet(sheet, judge, rests, client, max_cost_usd=None, tell=told.append)
    before = Ledger(engine).frame()
    verdicts = judge_production_sheet(sheet, judge, rests, client, max_cost_usd=1.0, tell=told.append)
    unclear = sum(r["answer"].startswith("wrong 9") for r in rows[1:])
    assert len(verdicts) == len(rows) - 1 - unclear
    asked = Ledger(engine).frame().filter(pl.col("purpose") == "judge")
    assert (len(asked), asked["cost_nanos"].min() > 0) == (len(rows) - 1, True)
    assert set(asked["tenant_id"]) == {i.tenant_id for i in read_sheet_weights(sheet).values() if i.answered}
    done = grade_production_sheet(sheet, verdicts=verdicts)
    by_source = {r["trace_id"]: r["source"] for r in lines(done.path)}
    people = [t for t, source in by_source.items() if source == "human"]
    assert people == [read_sheet_weights(sheet)[rows[0]["item_id"]].trace_id]
    assert done.open == unclear
    right = {i.trace_id for i in read_sheet_weights(sheet).values() if i.answered}
    for r in lines(done.path):
        if r["source"] == "model":
            assert r["trace_id"] in right
            assert (r["grader"], r["graded_at"][:4]) == (f"good, {judge.rubric}", "2026")
    n = len(model.requests)
    again, silent = client_of(engine, kept)
    assert judge_production_sheet(sheet, judge, rests, again, max_cost_usd=0.0, tell=told.append)
    assert (len(silent.requests), n) == (0, len(rows) - 1)
    assert len(before.filter(pl.col("purpose") == "judge")) == 0


def test_a_judge_alone_makes_one_series_and_says_how_far_it_agrees_with_people(licensed, engine, tmp_path):
    sheet = tmp_path / "production.jsonl"
    drawn(engine, sheet, n=30)
    filled(sheet, rater="ann", rubric="v1")
    judge, rests = licensed_judge(licensed, "good")
    client, _ = client_of(engine, tmp_path / "verdicts.jsonl")
    assert judge_production_sheet(sheet, judge, rests, client, max_cost_usd=1.0, tell=lambda _: None) == []
    verdicts = judge_production_sheet(sheet, judge, rests, client, max_cost_usd=1.0, tell=lambda _: None, alone=True)
    done = grade_production_sheet(sheet, verdicts=verdicts, alone=True)
    assert {r["source"] for r in lines(done.path)} == {"model", "code"}
    assert done.agreement.startswith(f"judge and people say the same of {len(verdicts)} of the {len(verdicts)} items")
    assert "kappa 1.00" in done.agreement


def test_a_judge_without_its_licence_grades_nothing(licensed, engine, tmp_path):
    sheet = tmp_path / "production.jsonl"
    drawn(engine, sheet, n=5)
    with pytest.raises(ConfigError, match="judge 'coin' has no licence to grade; accepted is: "):
        licensed_judge(licensed, "coin")
    with pytest.raises(ConfigError, match="did you mean 'good'"):
        licensed_judge(licensed, "god")
    judge, rests = licensed_judge(licensed, "good")
    client, _ = client_of(engine, tmp_path / "verdicts.jsonl", served="openai/another-behind-the-name")
    with pytest.raises(ConfigError, match=r"not the judge that was measured \(model was"):
        judge_production_sheet(sheet, judge, rests, client, max_cost_usd=1.0, tell=lambda _: None)
    toml = licensed.path / "judges.toml"
    text = toml.read_text(encoding="utf-8")
    toml.write_text(text.replace("Good judge:", "Better judge:"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"not the judge that was measured \(prompt was"):
        licensed_judge(licensed, "good")
    toml.write_text(text, encoding="utf-8")
    (licensed.path / "decisions" / "quality.json").unlink()
    with pytest.raises(ConfigError, match="no decision is accepted"):
        licensed_judge(licensed, "good")


# Logs of other tools.


def test_calls_of_a_log_are_drawn_as_those_of_the_ledger_are(tmp_path):
    log = read_log("openinference", [LOGS / "openinference.jsonl"])
    days = sorted(c.started[:10] for c in log.calls)
    since, until = (date.fromisoformat(day) for day in (days[0], days[-1]))
    calls = production_calls_of_log(log, load_prices(), since, until + timedelta(days=1))
    assert len(calls.frame) == len({c.trace_id for c in log.calls})
    sheet = tmp_path / "production.jsonl"
    draw_production_sheet(sheet, calls, n=100, plan=NO_TOP)
    rows = {r["question"]: r for r in lines(sheet)}
    assert rows["How do I join frames?"]["retrieved"] == "d1\nd2"
    assert rows["How do I join frames?"]["answer"]
    models = {c.model for c in log.calls}
    assert not [m for m in models if m in sheet.read_text(encoding="utf-8")]
    with pytest.raises(ConfigError, match="made to measure"):
        production_calls_of_log(read_log("promptfoo", [LOGS / "promptfoo.json"]), load_prices(), since, until)


def test_rates_are_whole_where_a_stratum_has_too_few():
    calls = pl.DataFrame({"feature": ["a"] * 104, "tenant_id": ["x"] * 100 + ["y"] * 4})
    assert sampling_rates(calls, 1000) == {("a", "x"): 1.0, ("a", "y"): 1.0}
    rates = sampling_rates(calls, 6)
    assert sum(rates["a", t] * n for t, n in (("x", 100), ("y", 4))) == pytest.approx(6)
    assert rates["a", "y"] / rates["a", "x"] == pytest.approx(5)
    with pytest.raises(ConfigError, match="1 or more, found 0"):
        sampling_rates(calls, 0)


def test_the_commands_draw_and_grade_and_name_what_comes_next(engine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*words):
        done = CliRunner().invoke(app, ["quality", *words])
        return done.exit_code, done.output

    code, said = call("draw", "p.jsonl", "--since", "2026-06-01", "--until", "2026-06-22", "--n", "20")
    assert code == 0, said
    assert "the ledger, weeks from 2026-06-01 up to 2026-06-22: 900 calls, of which are kept: " in said
    assert "30 failed without an answer: each counts as 0" in said
    assert "next: workbench quality grade p.jsonl --rater NAME --rubric VERSION" in said
    code, said = call("grade", "p.jsonl", "--rater", "ann", "--rubric", "v1")
    assert (code, "no row of p.jsonl is filled" in said) == (3, True)
    n = len(filled(tmp_path / "p.jsonl"))
    code, said = call("grade", "p.jsonl", "--rater", "ann", "--rubric", "v1")
    assert code == 0, said
    assert f"{n} graded by ann, v1 (human)" in said
    assert "written: p.graded.jsonl; next: workbench run quality -p production=p.graded.jsonl" in said
    assert "several graders" not in said
    for words, told in (
        (("draw", "p.jsonl", "--since", "2999-01-01"), "no whole week lies"),
        (("draw", "p.jsonl", "--since", "2026-06-01", "--tool", "promptfo"), "did you mean 'promptfoo'"),
        (("grade", "p.jsonl", "--judge", "good"), "--judge needs --evalset NAME"),
        (("grade", "p.jsonl", "--alone"), "name it: --judge NAME"),
    ):
        code, said = call(*words)
        assert (code, told in said) == (3, True), said
