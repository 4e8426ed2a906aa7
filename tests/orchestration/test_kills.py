"""kill -9 wherever it falls: what is finished is not done again, what is left is finished by the next process."""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.databases import KINDS, database_url
from tests.orchestration.flow_child import open_flows, settings_of
from tests.orchestration.small_flows import LOG, mortal, mortal_calls, naps
from workbench.inference.call_tapes import ASKED_AGAIN
from workbench.state import open_engine

ROOT = Path(__file__).parents[2]
POINTS = [f"{where} {i}" for i in range(3) for where in ("before", "in", "after")]


@pytest.fixture(params=KINDS)
def place(request, tmp_path, monkeypatch):
    """Folder and database of one project; what runs there writes to its log."""
    monkeypatch.setenv(LOG, str(tmp_path / "log"))
    with database_url(request.param, tmp_path) as url:
        yield tmp_path, url


def child(place, *arguments, wait=True):
    command = [sys.executable, "-m", "tests.orchestration.flow_child", str(place[0]), place[1], *map(str, arguments)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    return (process.wait(120), process.communicate()[0]) if wait else process


def log(place):
    file = place[0] / "log"
    return file.read_text().splitlines() if file.exists() else []


def submitted(place, flow, *args, n=1):
    with open_flows(settings_of(*place)) as flows:
        return [flows.submit(flow, *args, key=str(i)) for i in range(n)]


def results(place, run_ids):
    with open_flows(settings_of(*place)) as flows:
        return [(run.status, run.result) for run in map(flows.show, run_ids)]


def kill_at(place, *points):
    (place[0] / "kills").write_text("\n".join(points))


@pytest.mark.slow
def test_killed_at_every_step_boundary_in_every_step_and_again_during_recovery(place):
    ids = submitted(place, mortal, 3, n=2)  # one at a time: the other waits behind the one that was killed
    points = [*POINTS, "in 0", "after 2"]  # of the first run, each but the first in a recovery; then of the second
    kill_at(place, *points)
    for _ in points:
        code, told = child(place, "work")
        assert code == -9, told
    code, told = child(place, "work")
    assert code == 0, told
    assert results(place, ids) == [("done", [0, 1, 2])] * 2
    ends = Counter(line for line in log(place) if line.startswith("end"))
    assert ends == {"end 0": 2, "end 1": 2, "end 2": 2}


@pytest.mark.slow
def test_a_run_of_a_killed_process_goes_on_when_it_is_run_again(place):
    kill_at(place, "in 1")
    code, told = child(place, "run", "mortal", 3)
    assert code == -9, told
    code, told = child(place, "run", "mortal", 3)
    assert (code, told.strip()) == (0, "[0, 1, 2]")
    assert [line for line in log(place) if line.startswith("end")] == ["end 0", "end 1", "end 2"]


@pytest.mark.slow
@pytest.mark.parametrize("point", ["call 0", "call 1", "asking why 1"])
def test_no_model_call_is_paid_twice_but_the_one_in_flight(place, point):
    ids = submitted(place, mortal_calls, "why")
    kill_at(place, point)
    assert child(place, "work")[0] == -9
    code, told = child(place, "work")
    assert code == 0, told
    assert results(place, ids) == [("done", [f"answer to why {i}" for i in range(3)])]
    asked = Counter(line for line in log(place) if line.startswith("asked"))
    in_flight = {"asked why 1": 2} if point.startswith("asking") else {}
    assert asked == {f"asked why {i}": 1 for i in range(3)} | in_flight
    engine = open_engine(place[1])
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("select reason from wb_ledger order by started").all()
    engine.dispose()
    again = [reason for (reason,) in rows if reason == ASKED_AGAIN]
    assert len(again) == (1 if in_flight else 0)


@pytest.mark.slow
def test_four_workers_do_each_of_a_hundred_jobs_once(place):
    ids = submitted(place, naps, 2, 20, n=100)
    workers = [child(place, "work", wait=False) for _ in range(4)]
    codes = [(worker.wait(300), worker.communicate()[0]) for worker in workers]
    assert [code for code, _ in codes] == [0] * 4, codes
    assert not any("locked" in told for _, told in codes)
    assert results(place, ids) == [("done", 1)] * 100
    assert Counter(log(place)) == {line: 100 for line in ("nap 0", "woke 0", "nap 1", "woke 1")}
    with open_flows(settings_of(*place)) as flows:
        by = Counter(flows.show(run_id).executor for run_id in ids)
    assert len(by) > 1  # shared, in whatever parts


@pytest.mark.slow
def test_two_notebooks_and_a_worker_on_one_folder_do_no_step_twice(place):
    """Two processes run one flow with one argument while a worker does jobs: the second waits for the first."""
    ids = submitted(place, naps, 3, 50, n=10)
    worker = child(place, "work", wait=False)
    notebooks = [child(place, "run", "naps", 8, 100, wait=False) for _ in range(2)]
    told = [(process.wait(120), process.communicate()[0]) for process in (*notebooks, worker)]
    assert [code for code, _ in told] == [0] * 3, told
    assert [said.strip() for _, said in told[:2]] == ["28", "28"]
    assert results(place, ids) == [("done", 3)] * 10
    done = Counter(log(place))
    assert [done[f"woke {i}"] for i in range(8)] == [11, 11, 11, 1, 1, 1, 1, 1]


@pytest.mark.slow
def test_random_kills_of_one_of_two_workers(place):
    ids = submitted(place, naps, 6, 30, n=12)
    dice, workers = random.Random(5), [child(place, "work", wait=False) for _ in range(2)]
    for _ in range(6):
        time.sleep(dice.uniform(1.0, 4.0))
        victim = dice.randrange(2)
        workers[victim].kill()
        workers[victim].communicate()
        workers[victim] = child(place, "work", wait=False)
    codes = [(worker.wait(120), worker.communicate()[0]) for worker in workers]
    assert [code for code, _ in codes] == [0, 0], codes
    assert results(place, ids) == [("done", sum(range(6)))] * 12
    woke = Counter(line for line in log(place) if line.startswith("woke"))
    assert all(12 <= woke[f"woke {i}"] <= 12 + 6 for i in range(6))
    assert sum(woke.values()) <= 12 * 6 + 6  # at most the step that each kill cut off between its end and its record


@pytest.mark.slow
def test_a_database_that_drops_its_connections_strands_nothing(tmp_path, monkeypatch):
    """As a server does that restarts: while a run of a killed process is taken over, and while it goes on."""
    monkeypatch.setenv(LOG, str(tmp_path / "log"))
    with database_url("postgresql", tmp_path) as url:
        place = (tmp_path, url)
        ids = submitted(place, naps, 20, 150, n=2)
        first = child(place, "work", wait=False)
        until(lambda: len(log(place)) > 6)
        first.kill()
        first.communicate()
        worker = child(place, "work", wait=False)
        for n in (1, 2, 3):
            before = len(log(place))
            dropped = drop_connections(url)  # at first perhaps before there is any
            assert n == 1 or dropped
            until(lambda before=before: len(log(place)) > before + 8)
        assert worker.wait(120) == 0, worker.communicate()[0]
        worker.communicate()
        assert results(place, ids) == [("done", sum(range(20)))] * 2


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


def drop_connections(url):
    """End every connection that the engine of runs has on this database; returns how many there were."""
    engine = open_engine(url)
    with engine.begin() as connection:
        executors = connection.exec_driver_sql("select executor from wb_heartbeats").scalars().all()
        dropped = connection.execute(
            sa.text(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity "
                "where application_name = any(cast(:names as text[]))"
            ),
            {"names": executors},
        ).scalar_one()
    engine.dispose()
    return dropped
