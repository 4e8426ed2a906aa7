"""Jobs: submitted from anywhere, done by whoever has the flow at the same version, listed, retried, cancelled."""

import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import sqlalchemy as sa
from dbos import DBOS
from dbos._dbos import _get_dbos_instance

from tests.orchestration.small_flows import failing, naps, triage
from workbench.errors import FlowError, StepFailed
from workbench.orchestration import heartbeats
from workbench.orchestration.durable import RECORDS, job_queue
from workbench.orchestration.flows import Flows
from workbench.orchestration.heartbeats import dead_executors, living_processes
from workbench.orchestration.live_step import progress
from workbench.orchestration.steps import Flow, flow


def rows(flows, **which):
    return {row[0]: row[1:] for row in flows.jobs(**which).rows}


def test_a_job_waits_for_a_worker_and_is_done_by_it(any_flows):
    run_id = any_flows.submit(triage, "it crashes")
    assert any_flows.submit(triage, "it crashes") == run_id
    status, _, _, note = rows(any_flows)[run_id]
    assert status == "waiting"
    assert "no worker has tests.orchestration.small_flows:triage" in note
    any_flows.work(when_done=True)
    assert any_flows.wait(run_id)["made"]["kind"] == "bug"
    assert rows(any_flows)[run_id][0] == "done"
    assert rows(any_flows, status="waiting") == {}
    with pytest.raises(FlowError, match="no status 'gone'; known: waiting, running"):
        any_flows.jobs(status="gone")


def test_a_job_that_failed_is_retried_from_its_failed_step(flows, settings):
    run_id = flows.submit(mending, str(settings.root))
    flows.work(when_done=True)
    with pytest.raises(StepFailed, match="not yet"):
        flows.wait(run_id)
    assert rows(flows)[run_id][3] == "step 'mend' failed: ValueError: not yet"
    (settings.root / "mended").touch()
    assert flows.retry(run_id) == run_id
    flows.work(when_done=True)
    assert flows.wait(run_id) == "mended"
    assert (settings.root / "before").read_text() == "once"


def test_a_run_is_retried_here(flows, settings):
    with pytest.raises(StepFailed):
        flows.run(mending, str(settings.root))
    (run,) = flows.durable.runs()
    (settings.root / "mended").touch()
    flows.retry(run.run_id, here=True)
    assert flows.wait(run.run_id) == "mended"


def write_once(folder):
    with open(f"{folder}/before", "a") as file:
        file.write("once")


def mend(folder):
    try:
        with open(f"{folder}/mended"):
            return "mended"
    except FileNotFoundError:
        raise ValueError("not yet") from None


@flow()
def mending(step, folder):
    step(write_once, folder)
    return step(mend, folder)


def test_a_retry_after_a_change_of_code_is_another_run(flows):
    with pytest.raises(StepFailed):
        flows.run(failing, "x")
    (run,) = flows.durable.runs()
    flows.durable.know(replace(failing, _read={"small_flows.py": "changed"}))
    with pytest.raises(StepFailed):
        flows.wait(flows.retry(run.run_id, here=True))
    versions = {r.asking.version for r in flows.durable.runs()}
    assert len(versions) == 2


def test_a_waiting_job_is_cancelled_and_goes_on_when_it_is_retried(flows):
    run_id = flows.submit(triage, "x")
    assert flows.cancel(run_id) == "waiting"
    flows.work(when_done=True)
    assert rows(flows)[run_id][0] == "cancelled"
    with pytest.raises(FlowError, match=r"was cancelled; flows\.retry"):
        flows.wait(run_id)
    flows.retry(run_id)
    flows.work(when_done=True)
    assert flows.wait(run_id)["made"]["kind"] == "question"


def test_a_running_job_is_cancelled_before_its_next_step(flows, settings):
    run_id = flows.begin(naps, 50, 100)
    while not (settings.root / "log").exists():
        time.sleep(0.01)
    assert flows.cancel(run_id) == "running"
    with pytest.raises(FlowError, match="was cancelled"):
        flows.wait(run_id)
    done = len(flows.show(run_id).steps)
    assert done < 50


def test_a_job_of_another_version_waits_for_a_worker_that_has_it(flows, caplog):
    other = Flow(triage.function, _read={"small_flows.py": "another"})
    run_id = flows.submit(other, "x")
    flows.durable._flows.clear()
    flows.work(when_done=True)
    assert rows(flows)[run_id][0] == "waiting"
    assert f"wait for version {other.version} of its code, this worker has {triage.version}" in caplog.text


def test_a_run_that_was_begun_by_other_code_does_not_go_on_with_its_steps(flows):
    """What makes version part of the queue: an edited step would else go on with outputs of the old one."""
    asking = flows.durable.know(triage) and triage
    from workbench.orchestration.flows import asked_of_flow

    old = replace(asked_of_flow(asking, ("x",), {}), version="000000000000")
    with pytest.raises(FlowError, match="was begun by version 000000000000"):
        flows.durable.result(flows.durable.begin(triage, old))


def test_a_flow_of_a_notebook_is_no_job(flows):
    def typed(step):
        return None

    typed.__module__, typed.__qualname__ = "__main__", "typed"
    with pytest.raises(FlowError, match="put it into a module"):
        flows.submit(Flow(typed, _read={"x": "y"}))
    with pytest.raises(FlowError, match="no worker finds it"):
        flows.schedule("nightly", "0 3 * * *", Flow(typed, _read={"x": "y"}))


def count_up(n):
    for i in range(n):
        progress("things", i + 1, n)
    return n


@flow()
def counted(step, n):
    return step(count_up, n)


def test_a_step_tells_how_far_it_is(flows):
    flows.run(counted, 3)
    assert next(iter(rows(flows).values()))[1] == "things 3/3"
    progress("outside of a run nobody is told", 1, 2)


def test_a_schedule_submits_a_run_at_each_moment(flows):
    flows.schedule("every second", "* * * * * *", triage, "x")
    assert flows.schedules().rows == (
        ("every second", "* * * * * *", "tests.orchestration.small_flows:triage", '{"args": ["x"], "kwargs": {}}'),
    )
    worker = threading.Thread(target=flows.work, daemon=True)
    worker.start()
    deadline = time.monotonic() + 60
    while len(done := [r for r in flows.durable.runs() if r.status == "done"]) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    flows.unschedule("every second")
    flows.durable.stopped.set()
    worker.join()
    assert len(done) >= 2
    assert len({run.asking.key for run in done}) == len(done)
    assert flows.schedules().rows == ()
    with pytest.raises(FlowError, match="Invalid cron schedule"):
        flows.schedule("never", "every day", triage, "x")


def test_a_flow_with_a_limit_runs_one_job_at_a_time(flows, settings):
    for i in range(4):
        flows.submit(alone, i, str(settings.root / "alone"))
    flows.work(when_done=True)
    lines = (settings.root / "alone").read_text().splitlines()
    assert lines == [f"{word} {i}" for i in range(4) for word in ("begin", "end")]


def write_alone(i, file):
    with open(file, "a") as out:
        out.write(f"begin {i}\n")
    time.sleep(0.05)
    with open(file, "a") as out:
        out.write(f"end {i}\n")


@flow(concurrency=1)
def alone(step, i, file):
    step(write_alone, i, file)


def test_what_runs_when_its_process_closes_goes_on_in_the_next(settings):
    with Flows.open(settings) as flows:
        run_id = flows.begin(naps, 6, 200)
        while not (settings.root / "log").exists():
            time.sleep(0.01)
    with Flows.open(settings) as flows:
        assert flows.show(run_id).status in ("waiting", "running")
        assert flows.run(naps, 6, 200) == 15
    lines = (settings.root / "log").read_text().splitlines()
    assert sum(line.startswith("woke") for line in lines) <= 7  # the step that was under way is done again


def test_the_queue_of_a_flow_names_its_version():
    assert job_queue(triage.name, triage.version) == f"tests.orchestration.small_flows:triage@{triage.version}"


def test_this_process_lives_and_one_that_ended_does_not(any_flows):
    engine, mine = any_flows.durable.engine, any_flows.durable.heartbeat.executor
    assert mine in living_processes(engine)
    assert dead_executors(engine) == []
    gone = {"executor": "gone-1", "host": "elsewhere", "process": 1, "lock": "/nowhere", "serves": "", "beat": 0.0}
    with engine.begin() as connection:
        connection.execute(heartbeats._BEATS.insert(), [gone])
    assert dead_executors(engine) == ["gone-1"]
    any_flows.durable.adopt()
    assert set(living_processes(engine)) == {mine}


def test_a_run_that_was_given_out_and_never_begun_is_given_out_again(any_flows):
    """So it is where the server goes away between the commit of a claim and its answer."""
    durable, run_id = any_flows.durable, any_flows.submit(triage, "x")
    name = job_queue(triage.name, triage.version)
    (queue,) = [queue for queue in durable.call(DBOS.list_queues) if queue.name == name]
    claim = _get_dbos_instance()._sys_db.start_queued_workflows
    assert durable.call(lambda: claim(queue, durable.heartbeat.executor, RECORDS, None))[0] == [run_id]
    assert rows(any_flows)[run_id][0] == "running"
    assert durable.adopt() == []  # it may be about to begin
    assert durable.adopt() == [run_id]
    any_flows.work(when_done=True)
    assert rows(any_flows)[run_id][0] == "done"
    assert durable.adopt() == []


def test_a_run_that_is_being_done_is_not_given_out_again(flows, settings):
    run_id = flows.begin(naps, 3, 200)
    while not (settings.root / "log").exists():
        time.sleep(0.01)
    assert [flows.durable.adopt() for _ in range(3)] == [[]] * 3
    assert flows.wait(run_id) == 3


def test_a_process_whose_lock_cannot_be_tried_is_known_by_its_row(flows):
    engine = flows.durable.engine
    with engine.begin() as connection:
        row = dict(connection.execute(sa.select(heartbeats._BEATS)).mappings().one())
        at = heartbeats.heartbeat_now(connection)
        for name, age in (("heard", 5.0), ("silent", 600.0)):
            other = row | {"executor": name, "lock": "/nowhere/x.lock", "beat": at - age}
            connection.execute(heartbeats._BEATS.insert(), [other])
    assert dead_executors(engine) == ["silent"]


def test_a_process_of_this_machine_is_known_dead_at_once_and_alive_however_long_it_is_silent(flows):
    engine, mine = flows.durable.engine, flows.durable.heartbeat.executor
    with engine.begin() as connection:
        connection.execute(sa.update(heartbeats._BEATS).values(beat=0.0))  # silent since 1970, and its lock is held
    assert dead_executors(engine) == []
    code = "import fcntl, sys\nfcntl.flock(file := open(sys.argv[1], 'w'), fcntl.LOCK_EX)\nprint(flush=True)\ninput()"
    lock = flows.durable.heartbeat._path.with_name("other.lock")
    other = subprocess.Popen([sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other.stdout.readline()
    with engine.begin() as connection:
        row = connection.execute(sa.select(heartbeats._BEATS)).mappings().one()
        beat = heartbeats.heartbeat_now(connection)
        connection.execute(heartbeats._BEATS.insert(), [dict(row) | {"executor": "o", "lock": str(lock), "beat": beat}])
    assert dead_executors(engine) == []
    other.kill()
    other.communicate()
    assert dead_executors(engine) == ["o"]
    assert mine in living_processes(engine)
