"""kill -9 wherever it falls: what is finished is not done again, what is left is finished by the next process."""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.databases import KINDS, database_url
from tests.orchestration.flow_child import open_flows, settings_of
from tests.orchestration.small_flows import LOG, mortal, mortal_calls, naps
from workbench.inference.tapes import ASKED_AGAIN
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
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_point_the_run_is_finished_by_the_next_process(place, point):
    ids = submitted(place, mortal, 3)
    kill_at(place, point)
    code, told = child(place, "work")
    assert code == -9, told
    code, told = child(place, "work")
    assert code == 0, told
    assert results(place, ids) == [("done", [0, 1, 2])]
    ends = Counter(line for line in log(place) if line.startswith("end"))
    assert ends == {"end 0": 1, "end 1": 1, "end 2": 1}


@pytest.mark.slow
@pytest.mark.parametrize("points", [("in 1", "in 1"), ("after 0", "before 1", "in 2"), ("in 0", "after 0", "after 2")])
def test_killed_again_during_recovery(place, points):
    ids = submitted(place, mortal, 3, n=3)  # one at a time: the others wait behind the one that was killed
    kill_at(place, *points)
    for _ in points:
        code, told = child(place, "work")
        assert code == -9, told
    code, told = child(place, "work")
    assert code == 0, told
    assert results(place, ids) == [("done", [0, 1, 2])] * 3
    assert Counter(line for line in log(place) if line.startswith("end")) == {f"end {i}": 3 for i in range(3)}


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
