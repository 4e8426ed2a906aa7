import pytest

from tests.orchestration.small_flows import asked, catching, failing, triage
from workbench.errors import StepFailed


def test_a_run_is_recorded_with_the_inputs_and_outputs_of_its_steps(any_flows):
    result = any_flows.run(triage, "it crashes", loud=True)
    assert result == {"made": {"kind": "bug", "words": ["it", "crashes"]}, "loud": True}
    (run,) = any_flows.durable.runs()
    run = any_flows.show(run.run_id)
    assert run.status == "done"
    assert run.result == result
    assert [(s.number, s.name, s.inputs, s.output) for s in run.steps] == [
        (1, "classify", {"args": ["it crashes"], "kwargs": {}}, "bug"),
        (2, "handle", {"args": ["it crashes"], "kwargs": {"kind": "bug"}}, {"kind": "bug", "words": ["it", "crashes"]}),
    ]


def test_a_run_asks_its_model_and_replays_without(flows, model):
    assert flows.run(asked, "why") == "why WHY"
    assert len(model.requests) == 1
    assert flows.run(asked, "why") == "why WHY"
    assert len(model.requests) == 1
    (run,) = flows.durable.runs()
    done = flows.replay(run.run_id)
    assert (done.steps, done.again, done.result) == (3, 2, "why WHY")
    assert len(model.requests) == 1


def test_a_step_that_raises(flows):
    with pytest.raises(StepFailed, match="step 'fail' failed: ValueError: no x"):
        flows.run(failing, "x")
    with pytest.raises(StepFailed, match="step 'fail' failed: ValueError: no x"):
        flows.run(failing, "x")
    assert flows.run(catching, "x") == {"kind": "ValueError"}
    for run in flows.durable.runs():
        flows.replay(run.run_id)
