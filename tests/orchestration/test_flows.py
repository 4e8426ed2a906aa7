"""What a run is: recorded, done once, resumed by its id, traced, and possible from a notebook's event loop."""

import asyncio
import json
import sqlite3
import sys

import pytest

from tests.orchestration.conftest import settings_in
from tests.orchestration.small_flows import asked, catching, failing, naps, triage, twice
from workbench.errors import FlowError, StepFailed, UnknownPrice
from workbench.orchestration.flows import Flows
from workbench.orchestration.runs_database import flows_url
from workbench.orchestration.steps import flow, plain_json
from workbench.orchestration.user_modules import sources_of_function
from workbench.telemetry.attribution import attributed
from workbench.telemetry.traces import load_trace

LOCAL = "local/smollm2-135m"


def only(flows):
    (run,) = flows.durable.runs()
    return flows.show(run.run_id)


def test_a_run_is_recorded_with_the_inputs_and_outputs_of_its_steps(any_flows):
    result = any_flows.run(triage, "it crashes", loud=True)
    assert result == {"made": {"kind": "bug", "words": ["it", "crashes"]}, "loud": True}
    run = only(any_flows)
    assert (run.status, run.result) == ("done", result)
    assert [(s.number, s.name, s.inputs, s.output) for s in run.steps] == [
        (1, "classify", {"args": ["it crashes"], "kwargs": {}}, "bug"),
        (2, "handle", {"args": ["it crashes"], "kwargs": {"kind": "bug"}}, {"kind": "bug", "words": ["it", "crashes"]}),
    ]
    shown = run.text()
    assert "it crashes" in shown
    assert "classify" in run._repr_html_()


def test_the_record_is_json_that_other_programs_read(flows, settings):
    flows.run(triage, "it crashes")
    file = flows_url(settings.state_url).removeprefix("sqlite:///")
    with sqlite3.connect(file) as connection:
        rows = connection.execute("select function_name, output from operation_outputs order by function_id").fetchall()
    assert [name for name, _ in rows] == ["classify", "handle"]
    assert json.loads(rows[0][1]) == {"inputs": {"args": ["it crashes"], "kwargs": {}}, "output": "bug", "calls": []}


def test_the_same_run_is_done_once_and_a_key_makes_it_another(flows, settings):
    assert [flows.run(naps, 2) for _ in range(3)] == [1, 1, 1]
    assert flows.run(naps, 2, key="again") == 1
    log = (settings.root / "log").read_text().splitlines()
    assert log.count("nap 0") == 2
    assert len(flows.durable.runs()) == 2


def test_who_asks_is_part_of_the_run_and_known_in_its_steps(flows):
    with attributed(tenant_id="acme", feature="support"):
        flows.run(triage, "x")
    flows.run(triage, "x")
    ids = [run.run_id for run in flows.durable.runs()]
    assert len(ids) == 2
    assert sum(run_id.startswith("acme:triage:") for run_id in ids) == 1
    acme = next(run for run in flows.durable.runs() if run.run_id.startswith("acme:"))
    assert acme.asking.who == {"tenant_id": "acme", "feature": "support", "purpose": "product"}
    assert flows.find("acme:") == acme.run_id


def test_a_step_gets_the_tools_that_it_names(flows, model):
    assert flows.run(asked, "why") == "why WHY"
    assert [request.messages[0]["content"] for request in model.requests] == ["why WHY"]
    assert [s.calls for s in only(flows).steps] == [(), (0,), ()]


def test_several_calls_of_one_step_are_recorded_in_their_order(flows):
    assert flows.run(twice, "why") == ["why 1", "why 2"]
    assert only(flows).steps[0].calls == (0, 1)


def test_a_step_that_raises_fails_the_run_with_its_kind_and_reason(flows):
    for _ in range(2):  # live, and from the record
        with pytest.raises(StepFailed, match="step 'fail' failed: ValueError: no x") as raised:
            flows.run(failing, "x")
        assert (raised.value.step, raised.value.kind, raised.value.reason) == ("fail", "ValueError", "no x")
        assert "flows.retry(" in raised.value.__notes__[0]
    run = only(flows)
    assert (run.status, run.steps[1].error) == ("failed", {"kind": "ValueError", "reason": "no x"})
    assert run.steps[1].inputs == {"args": ["x"], "kwargs": {}}


def test_a_flow_may_catch_what_a_step_raised(flows):
    assert flows.run(catching, "x") == {"kind": "ValueError"}


def test_an_error_of_the_flow_itself_is_told_like_one_of_its_steps(flows):
    with pytest.raises(FlowError, match="KeyError: 'nothing'"):
        flows.run(broken)
    assert only(flows).error == "KeyError: 'nothing'"


@flow()
def broken(step):
    return {}["nothing"]


def give_object():
    return object()


@flow()
def objects(step):
    return step(give_object)


def test_what_json_cannot_hold_is_refused_with_what_it_is(flows):
    with pytest.raises(StepFailed, match="what step 'give_object' returns must be JSON values"):
        flows.run(objects)
    with pytest.raises(FlowError, match="what flow 'triage' is given must be JSON values"):
        flows.run(triage, {1, 2})
    with pytest.raises(FlowError, match="must be JSON values"):
        plain_json(float("nan"), "a number")


def test_spans_of_steps_and_calls_lie_below_the_flow(flows, settings):
    with flows.durable.tracing.span("request"):
        flows.run(asked, "why")
    flows.durable.tracing.flush()
    trace = load_trace(flows.durable._state, only(flows).trace_id)
    names = {row.span_id: row.name for row in trace.rows}
    tree = {row.name: names.get(row.parent_id, "") for row in trace.rows}
    assert tree == {
        "request": "",
        "invoke_workflow asked": "request",
        "step look_up": "invoke_workflow asked",
        "step ask": "invoke_workflow asked",
        "step shorten": "invoke_workflow asked",
    }


def test_every_call_works_under_a_running_event_loop(settings, client):
    """As in a notebook, whose kernel runs one."""

    async def cell():
        with Flows.open(settings, tools={"client": client}) as flows:
            assert flows.run(triage, "it crashes")["made"]["kind"] == "bug"
            run_id = flows.submit(triage, "why")
            flows.work(when_done=True)
            assert flows.wait(run_id)["made"]["kind"] == "question"
            assert flows.replay(run_id).steps == 2
            other = flows.fork(run_id, "handle", outputs={"classify": "bug"})
            assert flows.diff(run_id, other).rows
            flows.schedule("hourly", "0 * * * *", triage, "x")
            assert len(flows.schedules().rows) == 1
            flows.unschedule("hourly")
            assert [row[1] for row in flows.jobs().rows] == ["done"] * 3
            begun = flows.begin(triage, "later")
            assert flows.wait(begun)["made"]["kind"] == "question"
            with pytest.raises(FlowError, match="is done already"):
                flows.cancel(run_id)
            with pytest.raises(FlowError, match="only one that failed"):
                flows.retry(run_id)

    asyncio.run(cell())


def test_a_process_has_one_database_of_runs(flows, settings, tmp_path):
    other = settings_in(tmp_path / "other", f"sqlite:///{tmp_path / 'other.sqlite'}")
    with pytest.raises(FlowError, match="has its flows open on"):
        Flows.open(other)
    assert Flows.open(settings).durable is flows.durable


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url, tmp_path):
    with pytest.raises(FlowError, match="durable runs need a file or a server"):
        Flows.open(settings_in(tmp_path, url))


def test_our_tables_and_those_of_the_engine_never_meet(flows):
    with flows.durable.engine.connect() as connection:
        rows = connection.exec_driver_sql("select name from sqlite_master where type = 'table'").all()
    names = {name for (name,) in rows if not name.startswith("sqlite_")}
    ours = {name for name in names if name.startswith("wb_")}
    assert ours == {"wb_step_calls", "wb_progress", "wb_heartbeats"}
    assert {"workflow_status", "operation_outputs"} <= names - ours


def test_a_flow_has_a_name_and_takes_its_step():
    with pytest.raises(FlowError, match="define it in a module"):

        @flow()
        def inner(step):
            return None

    with pytest.raises(FlowError, match="its first one is the step"):
        flow()(give_nothing)


def give_nothing():
    return None


def test_every_process_comes_to_the_same_version_of_the_same_code(tmp_path, monkeypatch):
    """Else a worker whose environment names its project in another way would leave jobs lying."""
    here = sources_of_function(triage.function)
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert sources_of_function(triage.function) == here
    assert "tests/orchestration/small_flows.py" in here


def test_a_flow_that_is_none_is_refused_by_name(flows):
    with pytest.raises(FlowError, match="cannot be imported: No module named 'no_such_module'"):
        flows.durable.flow_of("no_such_module:answer")
    with pytest.raises(FlowError, match="is no flow but function"):
        flows.durable.flow_of("tests.orchestration.small_flows:classify")
    with pytest.raises(FlowError, match="no run 'nothing'"):
        flows.show("nothing")


def test_a_module_that_does_not_compile_is_a_flow_that_cannot_be_imported(flows, settings, monkeypatch):
    monkeypatch.setattr("sys.path", [*sys.path])
    (settings.root / "broken_module.py").write_text("def own(step:\n")
    with pytest.raises(FlowError, match="cannot be imported: SyntaxError"):
        flows.durable.flow_of("broken_module:own")


def test_an_error_of_the_client_keeps_its_class_in_a_step_and_its_name_in_the_record(flows, model):
    model.script = [UnknownPrice("no price", model=LOCAL)]
    with pytest.raises(StepFailed, match="UnknownPrice: no price"):
        flows.run(asked, "why")
    assert only(flows).steps[1].error == {"kind": "UnknownPrice", "reason": "no price"}
