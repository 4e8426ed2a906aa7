"""A record is repeated without network and models, and every difference is found and named."""

import importlib
import json
import socket
import sys
import threading
from dataclasses import replace

import pytest

from tests.orchestration.small_flows import asked, asked_bravely, catching, failing, rehearsing, triage, twice
from workbench.codec import from_plain, to_plain
from workbench.errors import FlowError, OfflineError, ProviderError, ReplayMismatch, StepFailed
from workbench.inference.call_tapes import offline, refuse_offline
from workbench.inference.client import Client
from workbench.inference.messages import CacheHit, Completion, Response, Route, ToolCall, Usage
from workbench.orchestration.replay import diff, replay_differences, shown_replay
from workbench.orchestration.steps import rehearse
from workbench.testing import ScriptedModel

OWN = """
import workbench


def sort_of(text, *, client):
    said = client.complete([{"role": "user", "content": f"Sort: {text}"}], model="local/smollm2-135m")
    return said.text.split()[-1]


@workbench.outside()
def now():
    import time
    return time.time()


def label(sort, text):
    return f"{sort}: {text}"


@workbench.flow(tools={"client": workbench.Client.open})
def own(step, text):
    at = step(now)
    sort = step(sort_of, text)
    made = step(label, sort, text)
    return {"at": at, "made": made}
"""


@pytest.fixture
def project(flows, settings):
    """A user's own module in his project: writes it, and writes it anew with a change."""
    name = f"own_flow_{id(settings)}"
    file = settings.root / f"{name}.py"

    def write(change=("", "")):
        file.write_text(OWN.replace(*change) if change[0] else OWN)
        flows.durable._flows.clear()
        sys.modules.pop(name, None)
        importlib.invalidate_caches()
        sys.path_importer_cache.clear()
        for cached in settings.root.glob("__pycache__/*"):
            cached.unlink()
        return flows.durable.flow_of(f"{name}:own")

    yield write
    sys.modules.pop(name, None)
    sys.path.remove(str(settings.root))


def recorded(flows):
    return [run.run_id for run in flows.durable.runs()]


def test_a_run_is_repeated_without_asking_its_model(flows, model, settings):
    flows.run(asked, "why")
    done = flows.replay(recorded(flows)[0])
    assert (done.steps, done.again, done.result) == (3, 2, "why WHY")
    assert len(model.requests) == 1
    assert (settings.root / "log").read_text().splitlines() == ["look_up"]


def test_a_failed_run_is_repeated_with_its_error(flows):
    with pytest.raises(StepFailed):
        flows.run(failing, "x")
    flows.run(catching, "x")
    assert len(flows.replay_all().same) == 2


def test_a_call_that_failed_fails_again(flows, model):
    model.script = [ProviderError("the provider is gone")] * 9
    with pytest.raises(StepFailed, match="CallFailed"):
        flows.run(asked, "why")
    assert flows.replay(recorded(flows)[0]).result is None


def test_one_step_may_ask_several_times(flows, model):
    flows.run(twice, "why")
    assert flows.replay(recorded(flows)[0]).result == ["why 1", "why 2"]


@pytest.mark.parametrize(
    ("change", "step", "number", "what", "cause"),
    [
        (('f"{sort}: {text}"', 'f"{sort}; {text}"'), "label", 3, "output", "does something else with the same inputs"),
        (('f"Sort: {text}"', 'f"Sort this: {text}"'), "sort_of", 2, "model calls", "asks models something else"),
        (("split()[-1]", "split()[0]"), "sort_of", 2, "output", "does something else"),
        (("step(label, sort, text)", "step(label, sort, text.upper())"), "label", 3, "inputs", "hands 'label'"),
        (('{"at": at, "made": made}', "made"), "", 3, "result", "makes another result"),
        (("    at = step(now)\n", "    at = 0\n"), "now", 1, "name", "takes another way"),
        (("    made = step(label, sort, text)", "    made = sort"), "label", 3, "length", "takes another way"),
        (("    return {", "    step(label, 1, 2)\n    return {"), "label", 4, "length", "takes another way"),
        (("    at = step(now)", "    step(label, 1)\n    at = 0"), "now", 1, "name", "takes another way"),
        (("split()[-1]", "split()[9]"), "sort_of", 2, "error", "does something else"),
    ],
)
def test_a_change_of_code_is_found_where_it_takes_effect(flows, project, change, step, number, what, cause):
    flows.run(project(), "it crashes")
    (run_id,) = recorded(flows)
    assert flows.replay(run_id).result["made"] == "crashes: it crashes"
    project(change)
    with pytest.raises(ReplayMismatch) as found:
        flows.replay(run_id)
    mismatch = found.value
    assert (mismatch.step, mismatch.number, mismatch.what) == (step, number, what)
    assert cause in mismatch.cause
    assert f"own_flow_{id(flows.durable.settings)}.py changed since the record was made" in str(mismatch)
    assert mismatch.flow.endswith(":own")
    assert repr(mismatch.expected)[:20] in str(mismatch)


def test_a_change_that_alters_nothing_replays(flows, project):
    flows.run(project(), "it crashes")
    project(("def label(sort, text):\n", "def label(sort, text):\n    # sort first\n"))
    assert flows.replay(recorded(flows)[0]).steps == 3


def test_all_that_a_change_alters_is_listed(flows, project):
    own = project()
    for text in ("a", "b", "c"):
        flows.run(own, text)
    flows.run(triage, "x")
    project(('f"{sort}: {text}"', 'f"{sort}: {text.strip(chr(99))}"'))
    report = flows.replay_all()
    assert len(report.same) == 3
    (run_id,) = report.different
    assert flows.show(run_id).asking.args == ["c"]
    assert "3 of 4 recorded runs are repeated" in report.table().to_text()
    assert "label" in report._repr_html_()


def test_a_flow_that_is_gone_says_so(flows, project, settings):
    flows.run(project(), "a")
    (settings.root / f"own_flow_{id(settings)}.py").unlink()
    sys.modules.pop(f"own_flow_{id(settings)}")
    flows.durable._flows.clear()
    importlib.invalidate_caches()
    with pytest.raises(FlowError, match="cannot be imported"):
        flows.replay(recorded(flows)[0])


@pytest.mark.parametrize("reach", ["connect", "look up", "thread"])
def test_network_is_refused_while_a_run_is_repeated(reach):
    errors = []

    def connect():
        try:
            if reach == "look up":
                socket.getaddrinfo("localhost", 80)
            else:
                socket.create_connection(("127.0.0.1", 9), timeout=1).close()
        except OfflineError as error:
            errors.append(str(error))

    with offline():
        if reach == "thread":
            thread = threading.Thread(target=connect)
            thread.start()
            thread.join()
        else:
            connect()
    assert len(errors) == 1
    assert "must do without" in errors[0]


def test_other_threads_are_left_alone_while_one_is_offline():
    began, go, errors = threading.Event(), threading.Event(), []

    def other():
        began.set()
        go.wait(10)
        try:
            refuse_offline("asking")
        except OfflineError as error:
            errors.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    began.wait(10)
    with offline(), offline():
        go.set()
        thread.join()
        with pytest.raises(OfflineError, match="asking is refused"):
            refuse_offline("asking")
    refuse_offline("asking")
    assert errors == []


def test_a_fork_goes_live_from_its_step_with_what_is_replaced(flows, model):
    flows.run(asked, "why")
    (run_id,) = recorded(flows)
    other = flows.fork(run_id, "ask", outputs={"look_up": ["NOW"]})
    run = flows.show(other)
    assert run.result == "why NOW"
    assert [s.output for s in run.steps] == [["NOW"], "why NOW", "why NOW"]
    assert len(model.requests) == 2
    assert flows.fork(run_id, "ask", outputs={"look_up": ["NOW"]}) == other  # the same fork is the same run
    assert len(model.requests) == 2
    table = flows.diff(run_id, other)
    assert ("1 look_up", "output[0]", "WHY", "NOW") in table.rows
    assert ("end", "result", "why WHY", "why NOW") in table.rows
    assert "NOW" in table.to_html()
    assert flows.replay(other).result == "why NOW"


def test_a_fork_takes_other_arguments(flows):
    flows.run(triage, "it crashes", loud=False)
    (run_id,) = recorded(flows)
    assert flows.show(flows.fork(run_id, 2, arguments={"loud": True})).result["loud"] is True


def test_a_fork_that_cannot_be_says_why(flows):
    flows.run(triage, "it crashes")
    (run_id,) = recorded(flows)
    with pytest.raises(FlowError, match="has no step 'nothing'; it has: 1 classify, 2 handle"):
        flows.fork(run_id, "nothing")
    with pytest.raises(FlowError, match="does step 2 itself"):
        flows.fork(run_id, "handle", outputs={"handle": 1})


def test_runs_that_are_the_same_have_no_differences(flows):
    flows.run(triage, "it crashes")
    (run_id,) = recorded(flows)
    table = flows.diff(run_id, run_id)
    assert table.rows == ()
    assert "they are the same" in table.caption


def heard(script, flow=asked, *args, client):
    """A run of a user's flow in memory, with a model that says what the script has."""
    return rehearse(flow, {"client": replace(client, providers={"": ScriptedModel(script)})}, *(args or ("why",)))


def test_a_run_in_memory_is_a_whole_record_that_is_repeated_without_its_model(client, settings):
    run = heard(["once", "twice"], twice, client=client)
    assert [len(step.calls) for step in run.steps] == [2]
    silent = Client({}, client.books)
    repeated = shown_replay(twice, run, {"client": silent}, title="q1")
    assert repeated.equal
    assert repeated.table.rows == (
        (1, "ask_twice", "done again", 2, '["once", "twice"]', "equal"),
        (None, "done", None, None, '["once", "twice"]', "equal"),
    )
    assert repeated.table.caption.startswith("q1: repeated from its record, models and network refused. Equal")
    run = heard(["yes"], client=client)
    before = (settings.root / "log").read_text()
    repeated = shown_replay(asked, run, {"client": silent})
    assert [row[2] for row in repeated.table.rows] == ["read from the record", "done again", "done again", None]
    assert (settings.root / "log").read_text() == before, "what looks at the world is not done again"


@pytest.mark.parametrize(
    ("change", "where", "told"),
    [
        ({"output": "no"}, "step 2, ask", "differs in output: yes"),
        ({"calls": ()}, "step 2, ask", "differs in model calls: RecordingMiss"),
        ({"name": "asked_before"}, "step 2, asked_before", "differs in name: ask"),
        ({"inputs": {"args": ["<b>"], "kwargs": {}}}, "step 2, ask", "differs in inputs: "),
    ],
)
def test_of_a_run_in_memory_the_step_that_differs_is_shown_not_raised(client, change, where, told):
    run = heard(["yes"], client=client)
    steps = [replace(s, **change) if s.number == 2 else s for s in run.steps]
    found = shown_replay(asked, replace(run, steps=steps), {"client": Client({}, client.books)})
    assert not found.equal
    assert f"{where} differs" in found.table.caption
    equal, differs, left, end = found.table.rows
    assert (equal[5], left[2], left[5], end[5]) == ("equal", "not reached", None, None)
    assert differs[5].startswith(told)
    assert "<b>" not in found._repr_html_()


def test_of_a_run_in_memory_another_end_is_shown_behind_its_steps(client):
    run = replace(heard(["yes"], client=client), result="no")
    rows = shown_replay(asked, run, {"client": Client({}, client.books)}).table.rows
    assert [row[5] for row in rows] == ["equal"] * 3 + ["differs in result: yes"]


def test_of_a_run_in_memory_a_further_step_is_shown_behind_its_record(client):
    run = heard(["yes"], client=client)
    found = shown_replay(asked, replace(run, steps=run.steps[:2]), {"client": Client({}, client.books)})
    assert [row[:3] for row in found.table.rows[2:]] == [(3, "shorten", "not in the record"), (None, "done", None)]
    more = [*run.steps, replace(run.steps[-1], number=4)]
    early = shown_replay(asked, replace(run, steps=more), {"client": Client({}, client.books)})
    assert early.table.rows[3][5] == "differs in length: the end of the flow"


def test_a_call_that_failed_in_memory_fails_again(client):
    run = heard([ProviderError("the provider is gone")] * 9, asked_bravely, client=client)
    assert run.result == "CallFailed"
    assert shown_replay(asked_bravely, run, {"client": Client({}, client.books)}).equal


def test_a_replay_in_memory_needs_every_tool(client):
    with pytest.raises(FlowError, match="needs the tools client too"):
        shown_replay(asked, heard(["yes"], client=client), {})


def test_calls_of_a_rehearsal_inside_a_durable_step_are_kept_with_that_step_too(flows, model):
    assert flows.run(rehearsing, "why") == "why"
    (run_id,) = recorded(flows)
    assert [len(step.calls) for step in flows.show(run_id).steps] == [1]
    assert flows.replay(run_id).result == "why"
    assert len(model.requests) == 1


def test_names_stand_above_what_differs_between_two_runs(client):
    runs = [heard([text], client=client) for text in ("yes", "no")]
    table = diff(*runs, names=("before <i>", "now"), title="q1 - ")
    assert [column.name for column in table.columns][2:] == ["before <i>", "now"]
    assert ("2 ask", "output", "yes", "no") in table.rows
    assert table.caption == "q1 - before <i> and now"
    assert "<i>" not in table.to_html()


def test_differences_are_told_by_place():
    assert list(replay_differences({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3, "c": 4}], "d": 5}))[:1] == [
        (".a[1].b", 2, 3)
    ]
    assert [path for path, _, _ in replay_differences([1], [1, 2])] == ["[1]"]


def test_a_completion_is_read_back_as_it_was():
    hit = CacheHit(Response("no", "m", None), "exact", 1.0, 1.0, "e", "s", 5)
    call = ToolCall("c1", "look_up", "{}")
    answer = Response("yes", "m", Usage(1, 0, 0, 2), tool_calls=(call,), latency_ms=3.5, confidence=0.5)
    done = Completion(answer, "call", "trace", "model", Route("m", "top2", "a", "b"), 7, 2, hit)
    assert from_plain(Completion, json.loads(json.dumps(to_plain(done))), "no completion") == done


def test_hundred_recorded_runs_are_repeated_and_a_planted_change_is_found_in_each_that_passes_it(flows, project, model):
    own = project()
    for i in range(100):
        flows.run(own, f"{'crash' if i % 3 else 'ask'} {i}")
    asked_before = len(model.requests)
    assert len(flows.replay_all().same) == 100
    project(('return f"{sort}: {text}"', "return f\"{sort}: {text}\" if 'crash' in text else sort"))
    report = flows.replay_all()
    assert len(report.same) == 66
    assert len(report.different) == 34
    assert {(e.step, e.what) for e in report.different.values()} == {("label", "output")}
    assert len(model.requests) == asked_before
