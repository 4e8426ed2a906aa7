"""Runs that ended are deleted by their age; what waits or runs is not, nor what it rests on."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from tests.orchestration.small_flows import asked, failing, naps, triage, watches
from workbench.errors import FlowError, StepFailed
from workbench.orchestration.replay import forked_asking
from workbench.orchestration.step_tapes import step_calls_of, step_progress_of

AGES = timedelta(days=1)


def soon():
    return datetime.now(UTC) + timedelta(seconds=2)  # SQLite's times of runs are whole seconds


def left(flows):
    return {run.run_id for run in flows.durable.runs()}


def test_what_ended_is_deleted_and_what_waits_or_runs_stays(any_flows):
    flows = any_flows
    flows.run(triage, "done")
    (done,) = left(flows)
    with pytest.raises(StepFailed):
        flows.run(failing, "failed")
    cancelled, waiting = flows.submit(triage, "cancelled"), flows.submit(triage, "waiting")
    flows.cancel(cancelled)
    running = flows.begin(naps, 100, 100)
    before = left(flows)
    assert flows.prune(datetime.now(UTC) - AGES) == 0
    assert left(flows) == before
    assert flows.prune(soon()) == 3
    assert left(flows) == {waiting, running}
    with pytest.raises(FlowError, match=f"no run {done!r}"):
        flows.show(done)
    flows.cancel(running)
    flows.work(when_done=True)
    assert flows.wait(waiting)["made"]["kind"] == "question"
    flows.run(triage, "done")  # it is done anew
    assert done in left(flows)


def test_model_calls_and_progress_go_with_their_run(flows):
    flows.run(watches, 1)
    flows.run(asked, "why")
    engine, ids = flows.durable.engine, left(flows)
    assert len(step_progress_of(engine, list(ids))) == 1
    assert all(step_calls_of(engine, run_id) for run_id in ids)
    assert flows.prune(soon()) == 2
    assert step_progress_of(engine, list(ids)) == {}
    assert not any(step_calls_of(engine, run_id) for run_id in ids)


def test_what_a_waiting_fork_begins_with_stays_until_it_ended(flows):
    flows.run(triage, "it crashes")
    flows.run(triage, "another")
    origin = next(run for run in flows.durable.runs() if run.asking.args == ["it crashes"])
    asking = forked_asking(flows.show(origin.run_id), triage, "handle", {}, {})
    flows.durable.make_queue("later")
    flows.durable.begin(triage, asking, queue="later")
    assert flows.prune(soon()) == 1
    assert left(flows) == {origin.run_id, triage.run_id(asking)}
    flows.durable.serve("later")
    assert flows.wait(triage.run_id(asking))["made"]["kind"] == "bug"
    assert flows.prune(soon()) == 2


def test_runs_of_schedules_are_deleted_with_what_they_began(flows):
    flows.schedule("every second", "* * * * * *", triage, "x")
    flows.durable.serve("ticks")
    deadline = time.monotonic() + 60
    while not left(flows) and time.monotonic() < deadline:
        time.sleep(0.1)
    flows.unschedule("every second")
    flows.work(when_done=True)
    runs = len(left(flows))
    assert runs >= 1
    assert flows.prune(soon()) >= 2 * runs
    assert flows.durable.ended_before(soon(), 1) == []


def test_a_moment_without_a_time_zone_is_refused(flows):
    with pytest.raises(FlowError, match="time zone, found 2026-01-01"):
        flows.prune(datetime(2026, 1, 1))  # noqa: DTZ001
