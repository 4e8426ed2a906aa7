"""In a Jupyter kernel: a flow that is typed into a cell runs and replays, and is another one once it is edited."""

import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).parents[2]
CELLS = [
    """
import asyncio, workbench
from tests.orchestration.small_flows import triage
asyncio.get_running_loop()
flows = workbench.Flows.open()
""",
    """
def shout(text):
    return text.upper()

@workbench.flow()
def typed(step, text):
    return step(shout, text)

assert flows.run(typed, "hello") == "HELLO"
(first,) = flows.durable.runs()
""",
    """
assert flows.replay(first.run_id).again == 1
def shout(text):
    return text.upper() + "!"
""",
    """
assert flows.run(typed, "hello") == "HELLO!"  # the flow is as it was, its step is not: another run
try:
    flows.replay(first.run_id)
except workbench.errors.ReplayMismatch as error:
    assert "shout changed since the record was made" in str(error), error
else:
    raise AssertionError("the edit was not found")
""",
    """
job = flows.submit(triage, "it crashes")
flows.work(when_done=True)
assert flows.wait(job)["made"]["kind"] == "bug"
fork = flows.fork(job, "handle", outputs={"classify": "question"})
flows.diff(job, fork)
""",
    "flows.jobs()",
    "flows.show(job)",
    "flows.close()",
]


def test_every_call_works_in_a_cell(tmp_path, monkeypatch):
    (tmp_path / "evalsets").mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    for name in ("CACHE", "RUNS", "STATE_URL"):
        monkeypatch.delenv(f"WORKBENCH_{name}", raising=False)
    notebook = new_notebook(cells=[new_code_cell(source) for source in CELLS])
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    done = client.execute()
    outputs = {i: cell.outputs for i, cell in enumerate(done.cells)}
    assert [i for i, found in outputs.items() if found] == [4, 5, 6]  # three tables, and no line of noise
    for i in (4, 5, 6):
        (shown,) = outputs[i]
        assert "<table" in shown["data"]["text/html"]
    nbformat.validate(done)
