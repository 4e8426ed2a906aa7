"""Traces are forgotten as a whole, for good, and nothing else is."""

import itertools
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.databases import file_bytes
from tests.telemetry.rows import row
from workbench.errors import TraceError
from workbench.state import create_tables, open_engine
from workbench.telemetry.ledger import Ledger
from workbench.telemetry.span_tree import SPANS
from workbench.telemetry.spans import Tracing
from workbench.telemetry.traces import forget_traces, latest_traces, load_trace

BEFORE = datetime(2026, 10, 1, tzinfo=UTC)
BEFORE_NS = int(BEFORE.timestamp()) * 1_000_000_000


def span(trace: int, number: int, ended_ns: int, said: str = "") -> dict[str, object]:
    plain = {"parent_id": "", "top": number == 0, "operation": "", "status": "unset", "message": "", "events": "[]"}
    ids = {"trace_id": f"{trace:032x}", "span_id": f"{number:016x}", "name": f"trace {trace}"}
    return plain | ids | {"started_ns": 1, "ended_ns": ended_ns, "attributes": f'{{"said": "{said}"}}'}


def store(engine: sa.Engine, *spans: dict[str, object]) -> None:
    create_tables(engine, SPANS)
    with engine.begin() as connection:
        connection.execute(SPANS.insert(), spans)


def test_whole_traces_go_whose_last_span_ended_before_the_moment(engine: sa.Engine) -> None:
    store(engine, *(span(i, n, BEFORE_NS - 1) for i in range(450) for n in range(2)))
    store(engine, span(1000, 0, 1), span(1000, 1, BEFORE_NS), span(1001, 0, BEFORE_NS + 1))
    Ledger(engine).add([row("c", 0, 7, trace_id=f"{1:032x}")])
    assert forget_traces(engine, BEFORE) == (450, 900)
    assert {str(r[2]) for r in latest_traces(engine, 1000).rows} == {"trace 1000", "trace 1001"}
    assert len(load_trace(engine, f"{1000:032x}", wait_s=0).rows) == 2
    assert Ledger(engine).frame()["cost_nanos"].to_list() == [7]
    assert forget_traces(engine, BEFORE) == (0, 0)


def test_database_without_traces_has_none_to_forget(engine: sa.Engine) -> None:
    assert forget_traces(engine, BEFORE) == (0, 0)


def test_moment_in_the_future_is_refused_and_nothing_goes(engine: sa.Engine) -> None:
    store(engine, span(1, 0, 5))
    with pytest.raises(TraceError, match=r"2999-01-01.* is in the future"):
        forget_traces(engine, datetime(2999, 1, 1, tzinfo=UTC))
    assert latest_traces(engine).rows


def test_what_is_written_meanwhile_stays(engine: sa.Engine) -> None:
    store(engine, *(span(i, 0, 5) for i in range(2000)))
    tracing, over = Tracing(engine), threading.Event()

    def write() -> int:
        for count in itertools.count(1):
            with tracing.span("new"):
                pass
            tracing.flush()
            if over.is_set():
                return count
        raise AssertionError("unreachable")

    written: list[int] = []
    writer = threading.Thread(target=lambda: written.append(write()))
    writer.start()
    try:
        assert forget_traces(engine, BEFORE).traces == 2000
    finally:
        over.set()
        writer.join()
    tracing.close()
    assert tracing.lost == 0
    assert len(latest_traces(engine, 100_000).rows) == written[0]


def test_nothing_of_it_is_left_in_the_file(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'state.sqlite'}")
    store(engine, *(span(i, 0, 5, f"Blutwurst {i} " * 50) for i in range(300)), span(999, 0, BEFORE_NS, "Leberwurst"))
    assert b"Blutwurst" in file_bytes(tmp_path)
    forget_traces(engine, BEFORE)
    assert b"Blutwurst" not in file_bytes(tmp_path)
    assert b"Leberwurst" in file_bytes(tmp_path)
    engine.dispose()
