"""The server of the runs goes away and comes back: what was under way goes on, and nothing waits for ever."""

import threading
import time
from collections import Counter

import pytest
import sqlalchemy as sa

from tests.databases import database_url
from tests.orchestration.flow_child import settings_of
from tests.orchestration.own_server import own_server
from tests.orchestration.small_flows import LOG, watches
from tests.orchestration.test_kills import child, log, results, submitted, until
from workbench.errors import StoreError
from workbench.orchestration import heartbeats
from workbench.orchestration.flows import Flows
from workbench.orchestration.heartbeats import dead_executors, living
from workbench.orchestration.outages import cut_off, is_outlived
from workbench.state import open_engine

JOBS, STEPS = 6, 12


@pytest.mark.slow
def test_a_server_that_restarts_during_a_recovery_strands_nothing(tmp_path, monkeypatch):
    """Three times: as the next worker takes over, once it has taken over, and while it goes on."""
    monkeypatch.setenv(LOG, str(tmp_path / "log"))
    with own_server() as server:
        place = (tmp_path, server.url)
        ids = submitted(place, watches, STEPS, 50, n=JOBS)
        first = child(place, "work", wait=False)
        until(lambda: len(log(place)) > 6)
        first.kill()
        first.communicate()
        worker, died = child(place, "work", wait=False), 0
        for moment in (registered, adopted, going_on(place)):
            until(lambda moment=moment: moment(server.url))
            server.stop("immediate")
            time.sleep(2)
            server.start()
            if worker.poll() is not None:  # its start was cut off; whoever started it does so again
                assert "Error: the database" in worker.communicate()[0]
                worker, died = child(place, "work", wait=False), died + 1
        assert worker.wait(120) == 0, worker.communicate()[0]
        worker.communicate()
        assert results(place, ids) == [("done", [f"answer to watch {i}" for i in range(STEPS)])] * JOBS
        asked = Counter(log(place))
        assert died <= 1
        assert len(asked) == STEPS
        assert min(asked.values()) >= JOBS
        assert asked.total() <= STEPS * JOBS + 4 * (1 + 3)  # four at a time, a kill and three restarts


@pytest.mark.slow
def test_a_server_that_was_away_for_a_minute_makes_nobody_dead(tmp_path):
    """Of another machine only beats are known, and nobody's could be written."""
    with own_server() as server, Flows.open(settings_of(str(tmp_path), server.url)) as flows:
        engine = flows.durable.engine
        with engine.begin() as connection:
            row = dict(connection.execute(sa.select(heartbeats._BEATS)).mappings().one())
            silent = row | {"executor": "far", "host": "elsewhere", "beat": row["beat"] - heartbeats.STALE_S - 1}
            connection.execute(heartbeats._BEATS.insert(), [silent])
        assert dead_executors(engine) == []  # the server has been there for some seconds only
        assert "far" in living(engine)
        server.stop("fast")
        began, later = time.monotonic(), threading.Timer(1, server.start)
        with pytest.raises(sa.exc.OperationalError) as failed, engine.connect():
            pass
        later.start()
        assert is_outlived(failed.value, engine, began, threading.Event())
        later.join()
        assert not is_outlived(failed.value, engine, time.monotonic(), threading.Event())  # no longer since then
        assert dead_executors(engine) == []


def test_only_a_connection_that_is_lost_is_waited_for(tmp_path):
    with database_url("postgresql", tmp_path) as url:
        engine = open_engine(url)
        with pytest.raises(sa.exc.ProgrammingError) as refused, engine.connect() as connection:
            connection.exec_driver_sql("select * from nowhere")
        with pytest.raises(sa.exc.OperationalError) as ended, engine.connect() as connection:
            connection.exec_driver_sql("select pg_terminate_backend(pg_backend_pid())")
        engine.dispose()
    with pytest.raises(sa.exc.OperationalError) as locked, sa.create_engine("sqlite:////nowhere/x").connect():
        pass
    wrapped = StoreError("cannot be written")
    wrapped.__cause__ = ended.value
    assert "terminating connection" in cut_off(wrapped)
    assert [cut_off(error) for error in (refused.value, locked.value, ValueError(), None)] == [""] * 4
    files = open_engine(f"sqlite:///{tmp_path / 'state.sqlite'}")  # then it was a server of the user's own
    assert not is_outlived(wrapped, files, time.monotonic(), threading.Event())
    files.dispose()


def registered(url):
    return len(rows(url, "select executor from wb_heartbeats")) > 1


def adopted(url):
    alive = [executor for executor, _ in rows(url, "select executor, beat from wb_heartbeats order by beat")][-1]
    return alive in {executor for (executor,) in rows(url, "select executor_id from dbos.workflow_status")}


def going_on(place):
    before = []

    def condition(_url):
        before.append(len(log(place)))
        return before[-1] > before[0] + 4

    return condition


def rows(url, query):
    engine = open_engine(url)
    try:
        with engine.connect() as connection:
            return connection.exec_driver_sql(query).all()
    finally:
        engine.dispose()
