"""The server of the runs goes away, or connections to it are cut: what was under way goes on, and nothing hangs."""

import threading
import time
from collections import Counter

import pytest
import sqlalchemy as sa

from tests.databases import database_url
from tests.orchestration.flow_child import settings_of
from tests.orchestration.own_server import network_to, own_server
from tests.orchestration.small_flows import LOG, cutting, watches
from tests.orchestration.test_kills import child, log, results, submitted, until
from workbench.errors import StepFailed, StoreError
from workbench.orchestration import heartbeats, live_step
from workbench.orchestration import runs_database as outages
from workbench.orchestration.flows import Flows
from workbench.orchestration.heartbeats import STALE_S, dead_executors, living_processes
from workbench.orchestration.runs_database import database_cut_off, is_outage_outlived
from workbench.state import execute, open_engine

NOBODY = "postgresql://127.0.0.1:1/nothing"
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
        assert "far" in living_processes(engine)
        server.stop("fast")
        began, later = time.monotonic(), threading.Timer(1, server.start)
        with pytest.raises(sa.exc.OperationalError) as failed, engine.connect():
            pass
        later.start()
        assert is_outage_outlived(failed.value, engine, began, threading.Event())
        later.join()
        with pytest.raises(sa.exc.OperationalError) as elsewhere, sa.create_engine(NOBODY).connect():
            pass
        assert is_outage_outlived(
            elsewhere.value, engine, began, threading.Event()
        )  # ours was restarted since it began
        assert not is_outage_outlived(
            elsewhere.value, engine, time.monotonic(), threading.Event()
        )  # no longer since then
        assert dead_executors(engine) == []


@pytest.mark.slow
def test_sessions_that_a_server_ends_while_it_stays_fail_no_job(tmp_path, monkeypatch):
    """Three times all of a worker's sessions: those of the engine, and those in which steps ask and are charged."""
    monkeypatch.setenv(LOG, str(tmp_path / "log"))
    with database_url("postgresql", tmp_path) as url:
        place = (tmp_path, url)
        ids = submitted(place, watches, STEPS, 200, n=JOBS)
        monkeypatch.setenv("PGAPPNAME", tmp_path.name)  # of the sessions that the engine does not name
        worker = child(place, "work", wait=False)
        monkeypatch.delenv("PGAPPNAME")
        for n in (1, 2, 3):
            until(lambda n=n: len(log(place)) > 8 * n)
            assert ended_sessions(url, tmp_path.name) > 1
        assert worker.wait(180) == 0, worker.communicate()[0]
        worker.communicate()
        assert results(place, ids) == [("done", [f"answer to watch {i}" for i in range(STEPS)])] * JOBS
        asked = Counter(log(place))
        assert len(asked) == STEPS
        assert min(asked.values()) >= JOBS
        assert asked.total() <= STEPS * JOBS + 4 * 3  # four at a time: what was being asked at each of three cuts
        assert len(rows(url, executors_of(url))) == 1  # nobody took anything over


@pytest.mark.slow
@pytest.mark.parametrize("taken_for_dead", [False, True], ids=["only late", "taken for dead"])
def test_a_network_that_is_cut_for_20_s_fails_no_job_and_does_none_twice(tmp_path, monkeypatch, taken_for_dead):
    """Taken for dead: another machine's worker starts meanwhile, and has not heard of the first for a minute."""
    monkeypatch.setenv(LOG, str(tmp_path / "log"))
    with database_url("postgresql", tmp_path) as url, network_to(url) as (through, network):
        place = (tmp_path, url)
        n = 10 * JOBS if taken_for_dead else JOBS  # so many that the other one is not done with them meanwhile
        ids = submitted(place, watches, STEPS, 200, n=n)
        first = child((tmp_path, through), "work", wait=False)
        workers = [first]
        until(lambda: len(log(place)) > 8)
        network.cut()
        until_mended = time.monotonic() + 20
        if taken_for_dead:
            silent = f"update wb_heartbeats set host = 'elsewhere', lock = '/nowhere', beat = beat - {2 * STALE_S}"
            executed(url, silent)
            workers.append(child(place, "work", wait=False))
            until(lambda: len(rows(url, executors_of(url))) > 1, 20)
        time.sleep(max(0, until_mended - time.monotonic()))
        assert first.poll() is None
        network.mend()
        if taken_for_dead:  # it says again that it lives, so that nobody takes anything from it a second time
            until(lambda: len(rows(url, "select executor from wb_heartbeats")) == 2)
        ended = [(worker.wait(180), worker.communicate()[0]) for worker in workers]
        assert [code for code, _ in ended] == [0] * len(workers), ended
        assert network.cuts > 1
        assert results(place, ids) == [("done", [f"answer to watch {i}" for i in range(STEPS)])] * n
        asked = Counter(log(place))
        assert len(asked) == STEPS
        assert min(asked.values()) >= n
        assert asked.total() <= STEPS * n + 4 * (1 + taken_for_dead)  # four at a time: what was asked at the cut


def test_a_step_whose_connection_is_cut_each_time_fails_in_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(outages, "_LOOK_S", 0.0)
    monkeypatch.setattr(live_step, "CUTS", 2)
    monkeypatch.setenv(LOG, str(tmp_path / "log"))
    with (
        database_url("postgresql", tmp_path) as url,
        Flows.open(settings_of(str(tmp_path), url)) as flows,
        pytest.raises(StepFailed, match="terminating connection"),
    ):
        flows.run(cutting, url)
    assert log((tmp_path,)) == ["cut"] * 3


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
    assert "terminating connection" in database_cut_off(wrapped)
    assert [database_cut_off(error) for error in (refused.value, locked.value, ValueError(), None)] == [""] * 4
    files = open_engine(f"sqlite:///{tmp_path / 'state.sqlite'}")  # then it was a server of the user's own
    assert not is_outage_outlived(wrapped, files, time.monotonic(), threading.Event())
    files.dispose()


@pytest.mark.parametrize("by", ["a statement", "a prepared text"])
def test_a_connection_of_ours_that_is_cut_is_ours_though_the_server_stays(tmp_path, by):
    ended = "SELECT pg_terminate_backend(pg_backend_pid())"
    with database_url("postgresql", tmp_path) as url:
        engine, stranger = open_engine(url), sa.create_engine(url)
        with pytest.raises(sa.exc.DBAPIError) as ours, engine.connect() as connection:
            connection.exec_driver_sql(ended) if by == "a statement" else execute(connection, ended, ())
        with pytest.raises(sa.exc.DBAPIError) as unknown, stranger.connect() as connection:
            connection.exec_driver_sql(ended)
        now, stop = time.monotonic(), threading.Event()
        assert is_outage_outlived(ours.value, engine, now, stop)
        assert not is_outage_outlived(unknown.value, engine, now, stop)
        assert is_outage_outlived(unknown.value, engine, now, stop, ours=True)
        stop.set()
        assert not is_outage_outlived(ours.value, engine, now, stop)
        engine.dispose()
        stranger.dispose()


def test_a_process_that_was_forgotten_while_it_could_not_be_heard_says_again_that_it_lives(tmp_path):
    settings = settings_of(str(tmp_path), f"sqlite:///{tmp_path / 'state.sqlite'}")
    with Flows.open(settings) as flows:
        engine, beats = flows.durable.engine, flows.durable.heartbeat
        beats.serve("a queue")
        heartbeats.forget_processes(engine, [beats.executor])
        assert living_processes(engine) == {}
        beats._write()
        assert living_processes(engine) == {beats.executor: "a queue"}
        assert dead_executors(engine) == []


def test_a_heart_beats_on_once_connections_that_hung_are_free_again(tmp_path, monkeypatch):
    monkeypatch.setattr(heartbeats, "BEAT_S", 0.05)
    url = f"sqlite:///{tmp_path / 'beats.sqlite'}"
    engine = sa.create_engine(url, poolclass=sa.QueuePool, pool_size=1, max_overflow=0, pool_timeout=0.01)
    beats = heartbeats.Heartbeat(engine, tmp_path)
    try:
        with engine.connect():
            time.sleep(0.5)
            assert beats._thread.is_alive()
        before = time.time()
        until(lambda: rows(url, "select beat from wb_heartbeats")[0].beat > before)
    finally:
        beats.close()
        engine.dispose()


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


def executors_of(url):
    schema = sa.make_url(url).query["options"].rpartition("=")[2]
    return f"select distinct executor_id from {schema}_dbos.workflow_status where executor_id is not null"


def ended_sessions(url, name):
    """End every session of a worker that called itself by this name; returns how many there were."""
    executors = [executor for (executor,) in rows(url, "select executor from wb_heartbeats")]
    names = ", ".join(f"'{each}'" for each in (name, *executors))
    query = "select pg_terminate_backend(pid) from pg_stat_activity where application_name in"
    return len(rows(url, f"{query} ({names}) and pid <> pg_backend_pid()"))


def executed(url, statement):
    engine = open_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


def rows(url, query):
    engine = open_engine(url)
    try:
        with engine.connect() as connection:
            return connection.exec_driver_sql(query).all()
    finally:
        engine.dispose()
