"""Spans reach the database and OTLP, whoever writes and however the program ends; what cannot be kept is counted."""

import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.telemetry.collector import collector
from tests.telemetry.rows import row
from workbench.errors import TraceError
from workbench.state import open_engine
from workbench.telemetry.attribution import attributed
from workbench.telemetry.ledger import Ledger
from workbench.telemetry.span_tree import SPANS
from workbench.telemetry.spans import Tracing
from workbench.telemetry.traces import TraceFilter, latest_traces, load_trace

CHILD = """
import sys
from workbench.state import open_engine
from workbench.telemetry.ledger import Ledger
from workbench.telemetry.spans import Tracing
tracing = Tracing(open_engine(sys.argv[1]))
for i in range(int(sys.argv[2])):
    with tracing.span(f"root {i}"):
        with tracing.span("child", "chat"):
            pass
print(tracing.lost)
"""


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[sa.Engine]:
    opened = open_engine(f"sqlite:///{tmp_path / 'state.sqlite'}")
    yield opened
    opened.dispose()


def start_child(engine: sa.Engine, count: int, more: str = "") -> subprocess.Popen[str]:
    url = engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", CHILD + more, url, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def rows(engine: sa.Engine) -> int:
    with engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(SPANS)).scalar_one()


def test_what_is_loaded_is_what_was_measured(engine: sa.Engine) -> None:
    tracing = Tracing(engine)
    asked = {"gen_ai.usage.input_tokens": 2**40, "x": ["a", "b"], "y": 0.1}
    who = attributed(tenant_id="ä\x00", feature="answer")
    with who, tracing.span("root", "invoke_workflow") as root, tracing.span("chat m", "chat", asked) as span:
        span.content("gen_ai.input.messages", [{"role": "user", "content": "\u202e\U0001f600\x00"}])
    tracing.flush()
    trace = load_trace(engine, root.trace_id)
    top, chat = sorted(trace.rows, key=lambda row: row.started_ns)
    assert (top.name, top.parent_id, chat.parent_id) == ("root", "", root.span_id)
    assert chat.attributes["gen_ai.usage.input_tokens"] == 2**40
    assert (chat.attributes["x"], chat.attributes["y"]) == (["a", "b"], 0.1)
    assert chat.attributes["gen_ai.input.messages"] == '[{"role": "user", "content": "\u202e\U0001f600\u2400"}]'
    assert chat.attributes["wb.tenant_id"] == "ä\u2400"
    assert load_trace(engine, root.trace_id[:12]).rows == trace.rows
    tracing.close()


def test_trace_that_just_ended_is_waited_for(engine: sa.Engine) -> None:
    tracing = Tracing(engine)
    with tracing.span("root") as root, tracing.span("child"):
        pass
    started = time.monotonic()
    assert len(load_trace(engine, root.trace_id, wait_s=30).rows) == 2
    assert time.monotonic() - started < 20  # as soon as it is there
    tracing.close()


def test_the_list_of_traces_is_narrowed_by_tenant_feature_error_cost_and_score(engine: sa.Engine) -> None:
    tracing, ids = Tracing(engine), dict[str, str]()
    for tenant, feature in (("acme", "find"), ("acme", "answer"), ("bolt", "find"), ("", "")):
        with (
            suppress(ValueError),
            attributed(tenant_id=tenant, feature=feature),
            tracing.span("call", "invoke_workflow") as root,
        ):
            ids[f"{tenant} {feature}".strip()] = root.trace_id
            if feature == "answer":
                raise ValueError
    tracing.close()
    assert latest_traces(engine, only=TraceFilter(least_cost_usd=1)).rows == ()
    dear, cheap = ids["acme find"], ids["bolt find"]
    attempts = [("c0", 0, 20_000_000, dear), ("c0", 1, 10_000_000, dear), ("c1", 0, 5_000_000, cheap)]
    Ledger(engine).add([row(call, number, nanos, trace_id=trace) for call, number, nanos, trace in attempts])
    said = sa.union_all(*(sa.select(sa.literal(trace).label("trace_id"), sa.literal(score).label("score"))
                          for trace, score in ((dear, 0.25), (cheap, 1.0)))).subquery()  # fmt: skip
    scores = sa.select(said.c.trace_id, said.c.score)

    def listed(limit: int = 20, **only: Any) -> set[str]:
        found = {r[0] for r in latest_traces(engine, limit, only=TraceFilter(**only), scores=scores).rows}
        return {name for name, trace_id in ids.items() if trace_id in found}

    assert listed() == set(ids)
    assert listed(tenant="acme") == {"acme find", "acme answer"}
    assert listed(tenant="acm") == set()
    assert listed(tenant="") == {""}
    assert listed(feature="find") == {"acme find", "bolt find"}
    assert listed(failed=True) == {"acme answer"}
    assert listed(least_cost_usd=0.03) == {"acme find"}
    assert listed(least_cost_usd=0.005) == {"acme find", "bolt find"}
    assert listed(most_score=0.25) == {"acme find"}
    assert listed(most_score=1.0, tenant="bolt") == {"bolt find"}
    assert listed(1, tenant="acme") == {"acme answer"}
    told = {r[0]: r[5:7] for r in latest_traces(engine, scores=scores).rows}
    assert (told[dear], told[cheap], told[ids["acme answer"]]) == ((0.03, 0.25), (0.005, 1.0), (None, None))


def test_latest_traces_come_newest_first_and_an_unknown_one_names_them(engine: sa.Engine) -> None:
    with pytest.raises(TraceError, match="no trace is stored in this database yet"):
        load_trace(engine, "ab", wait_s=0)
    tracing = Tracing(engine)
    for i in range(25):
        with tracing.span(f"root {i}") as root, tracing.span("child"):
            pass
    tracing.close()
    assert [row[2] for row in latest_traces(engine).rows] == [f"root {i}" for i in range(24, 4, -1)]
    for wrong in ("f" * 32, "'; DROP TABLE wb_span", "%", "", "g" * 40):
        with pytest.raises(TraceError, match=f"no trace .*the latest are:\n  {root.trace_id}"):
            load_trace(engine, wrong, wait_s=0)
    with pytest.raises(TraceError, match="several traces begin with"):
        load_trace(engine, _common_start(engine), wait_s=0)


def _common_start(engine: sa.Engine) -> str:
    """First digit that two of 25 traces share: there are only 16."""
    first = [str(row[0])[0] for row in latest_traces(engine, 25).rows]
    return next(digit for digit in first if first.count(digit) > 1)


def test_processes_write_the_same_new_database_at_once_and_nothing_is_lost(engine: sa.Engine) -> None:
    children = [start_child(engine, 200) for _ in range(2)]
    said = [child.communicate() for child in children]
    assert said == [("0\n", "")] * 2
    assert rows(engine) == 2 * 200 * 2


@pytest.mark.parametrize("end", ["", "1 / 0"])
def test_no_span_is_lost_however_the_program_ends(sqlite: sa.Engine, end: str) -> None:
    start_child(sqlite, 300, end).communicate()
    assert rows(sqlite) == 600


def test_database_that_cannot_be_written_breaks_nothing_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state.sqlite").write_bytes(b"this is no database, and never was one" * 100)
    tracing = Tracing(sa.create_engine(f"sqlite:///{tmp_path / 'state.sqlite'}"))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with tracing.span("a"), tracing.span("b"):
                pass
            tracing.flush()
    assert tracing.lost == 6
    (told,) = (record.getMessage() for record in caplog.records)
    assert "traces are not being stored" in told
    assert "calls go on without them" in told
    tracing.close()


def test_password_of_the_database_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    tracing = Tracing(sa.create_engine("postgresql+psycopg://me:swordfish@127.0.0.1:1/none"))
    with caplog.at_level(logging.WARNING), tracing.span("a"):
        pass
    tracing.close()
    assert tracing.lost == 1
    assert "swordfish" not in caplog.text
    assert "127.0.0.1" in caplog.text


@pytest.mark.slow
def test_spans_beyond_the_queue_are_counted_while_the_database_is_locked(sqlite: sa.Engine) -> None:
    tracing = Tracing(sqlite)
    with tracing.span("first"):
        pass
    tracing.flush()
    with sqlite.begin():  # takes the write lock
        for _ in range(18_000):
            with tracing.span("a"):
                pass
    tracing.close()
    assert tracing.lost > 500
    assert rows(sqlite) == 18_001 - tracing.lost


def test_otlp_back_end_sees_the_same_tree(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with collector() as live:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", live.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-project=blue")
        monkeypatch.setenv("ACME_API_KEY", "swordfish-42")
        tracing = Tracing(engine)
        with tracing.span("invoke_workflow answer", "invoke_workflow") as root:
            with tracing.span("chat a", "chat") as chat:
                chat.error(ValueError("no swordfish-42"))
            with tracing.span("chat b", "chat", {"gen_ai.usage.input_tokens": 7, "tags": ["x"], "nan": float("nan")}):
                pass
        tracing.close()
    stored = {row.span_id: row.name for row in load_trace(engine, root.trace_id, wait_s=0).rows}
    assert {span.span_id.hex(): span.name for span in live.spans} == stored
    root_name = "invoke_workflow answer"
    assert live.tree() == {root_name: "", "chat a": root_name, "chat b": root_name}
    assert live.services == {"workbench"}
    assert (live.headers[0]["x-project"], live.headers[0]["path"]) == ("blue", "/v1/traces")
    assert {span.trace_id.hex() for span in live.spans} == {root.trace_id}
    assert "swordfish" not in str(live.spans)


@pytest.mark.parametrize("kind", ["refuses", pytest.param("never answers", marks=pytest.mark.slow)])
def test_dead_endpoint_slows_no_call_and_holds_the_end_up_for_seconds_only(
    sqlite: sa.Engine, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    silent = socket.create_server(("127.0.0.1", 0), backlog=64)
    address = f"http://127.0.0.1:{silent.getsockname()[1]}"
    if kind == "refuses":
        silent.close()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", address)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    tracing = Tracing(sqlite)
    started = time.monotonic()
    for _ in range(1500):
        with tracing.span("a"):
            pass
    ended = time.monotonic()
    tracing.flush()
    tracing.close()
    closed = time.monotonic()
    assert rows(sqlite) == 1500
    silent.close()
    # Far above what a busy machine needs; one span in a hundred that waited for one attempt would be minutes.
    assert ended - started < 60
    assert closed - ended < 30
