"""A run without a runner, as in JupyterLab: it keeps its own record, and can be read and accepted like any other."""

import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import papermill
import pytest
from nbclient.exceptions import DeadKernelError

from tests.command_line import workbench
from tests.evaluation.test_decision import RULE
from tests.retrieval.tiny import judge, open_bench, project, write_evalset
from tests.routing.routing_tables import planted
from tests.routing.test_notebook import project as routing_project
from workbench.config import SystemClock
from workbench.errors import GateFailed
from workbench.evaluation.gate import Gate
from workbench.evaluation.run_record import RunRecord
from workbench.records import Decision
from workbench.reports.brief import markdown_summary
from workbench.reports.ending import NextSteps
from workbench.runner import accept_decision, list_runs
from workbench.runner.accept_and_check import evalset_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_runner(monkeypatch):
    monkeypatch.delenv("WORKBENCH_RUN_DIR", raising=False)


def ended(root, **given):
    """Every step of the notebook, the last one included."""
    bench = open_bench(root, **given)
    dev, _, test, decision = judge(bench, bench.prepare())
    bench.gate(decision, test, dev)
    return bench, decision


def test_a_run_is_running_from_its_start_and_done_with_its_gate(tmp_path, capsys):
    bench = open_bench(tmp_path)
    (begun,) = list_runs(bench.settings)
    assert (begun.run_dir, begun.status, begun.notebook) == (bench.folder, "running", "retrieval")
    assert (begun.parameters["depth"], begun.seed) == (bench.parameters.depth, bench.parameters.seed)
    dev, _, test, decision = judge(bench, bench.prepare())
    assert [r.status for r in list_runs(bench.settings)] == ["running"], "a decision is not yet a gate"
    bench.gate(decision, test, dev)
    (done,) = list_runs(bench.settings)
    assert (done.status, done.exit_reason, done.gate, done.error) == ("done", "completed", "new", None)
    assert done.started <= str(done.ended)
    assert done.fingerprint["inputs"] == decision.fingerprint.inputs
    assert "run ended" not in markdown_summary(done.run_dir)
    page = done.report.read_text(encoding="utf-8")
    assert decision.sentence.split(":")[0] in page
    assert "not known how the run ended" not in page
    assert capsys.readouterr().out.splitlines()[-2] == f"report: {done.report}"


def test_the_command_that_is_printed_accepts_this_very_run(tmp_path, capsys):
    bench, decision = ended(tmp_path)
    command = capsys.readouterr().out.splitlines()[-1]
    assert command == f"accept: workbench accept retrieval --run {bench.folder.name} --reason TEXT"
    ended(tmp_path)  # a newer one, which is not meant
    bench.settings.notebooks.mkdir()  # where the command is called
    done = workbench(bench.settings, *shlex.split(command)[2:])
    assert done.returncode == 0, done.stderr
    assert Decision.load(tmp_path / "evalsets" / "tiny" / "decisions" / "retrieval.json").sentence == decision.sentence
    first, second = workbench(bench.settings, "runs", "--evalset", "tiny").stdout.splitlines()
    assert first.startswith(bench.folder.name)
    assert "  done " in first
    assert "  done " in second


def test_a_run_on_a_folder_from_elsewhere_is_accepted_into_that_folder(tmp_path, monkeypatch):
    folder = write_evalset(tmp_path / "elsewhere" / "mine")
    monkeypatch.chdir(tmp_path)
    bench, _ = ended(tmp_path, evalset="elsewhere/mine")
    monkeypatch.chdir(ROOT)
    (record,) = list_runs(bench.settings)
    assert evalset_of(record) == str(folder)
    path = accept_decision(bench.settings, "retrieval", reason="mine", clock=SystemClock())
    assert path == folder / "decisions" / "retrieval.json"


def test_a_gate_that_fails_ends_the_run_properly(tmp_path, monkeypatch):
    bench = open_bench(tmp_path)
    dev, _, test, decision = judge(bench, bench.prepare())
    with pytest.raises(GateFailed, match="hits of another tenant: 5"):
        bench.gate(decision, replace(test, foreign=3), replace(dev, foreign=2))
    (record,) = list_runs(bench.settings)
    assert (record.status, record.exit_reason, record.gate) == ("done", "gate_failed", "broken")
    assert record.report


def test_a_report_that_cannot_be_drawn_hides_no_result(tmp_path, capsys):
    bench = open_bench(tmp_path)
    dev, _, test, decision = judge(bench, bench.prepare())
    (bench.folder / "report.html").mkdir()
    bench.gate(decision, test, dev)
    (record,) = list_runs(bench.settings)
    assert (record.status, record.gate) == ("done", "new")
    assert str(record.report_error).startswith("IsADirectoryError")
    assert f"report: none ({record.report_error})" in capsys.readouterr().out


DIES = """
import os, sys
from pathlib import Path
from tests.retrieval.tiny import open_bench
open_bench(Path(sys.argv[1]))
os._exit(9)
"""


def test_a_process_that_dies_leaves_a_run_that_is_listed_as_interrupted(tmp_path):
    project(tmp_path)
    died = subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], cwd=ROOT, check=False)
    assert died.returncode == 9
    (record,) = list_runs(project(tmp_path))
    assert RunRecord.load(record.run_dir).status == "running", "nobody was left to write more"
    assert (record.status, record.error) == ("interrupted", "interrupted (process gone)")


def test_a_runner_keeps_the_record_of_its_run_and_draws_its_report(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "given"
    folder.mkdir()
    monkeypatch.setenv("WORKBENCH_RUN_DIR", str(folder))
    bench, _ = ended(tmp_path)
    assert bench.folder == folder
    assert {"gate.json", "decision.json"} <= {p.name for p in folder.iterdir()}
    assert not {"run.json", "report.html"} & {p.name for p in folder.iterdir()}
    assert not bench.settings.runs.exists()
    assert "accept: " not in capsys.readouterr().out


@pytest.mark.parametrize(("verdict", "status"), [("inconclusive", "inconclusive"), ("chosen", "error")])
def test_where_nothing_can_be_accepted_no_command_is_told(tmp_path, verdict, status):
    record = RunRecord(tmp_path, "done", "retrieval")
    decision = Decision(
        "retrieval", "?", "ci", RULE, verdict, "a", {}, "?", (), n_items=1, n_clusters=1, items_needed=None,
        test_uses=1, fingerprint=None,
    )  # fmt: skip
    steps = NextSteps.of(record, decision, Gate(status, 3, "?", ()))
    assert steps.command == ""
    assert "accept" not in repr(steps) + steps._repr_html_()


PARAMETERS = {"evalset": "drawn", "policies": ["length", "logistic_words"], "draws": 200}


@pytest.mark.slow
def test_the_notebook_in_a_kernel_of_its_own_shows_a_link_and_is_accepted(tmp_path, monkeypatch):
    settings = routing_project(tmp_path, planted(600))
    settings.notebooks.mkdir()
    environment(monkeypatch, settings)
    out = tmp_path / "saved.ipynb"
    source = ROOT / "notebooks" / "02_routing.ipynb"
    papermill.execute_notebook(source, out, PARAMETERS, cwd=settings.notebooks, progress_bar=False)
    (record,) = list_runs(settings)
    assert (record.status, record.exit_reason, record.gate) == ("done", "completed", "new")
    shown = nbformat.read(out, as_version=4).cells[-1].outputs[-1].data
    (address,) = re.findall(r'href="(.*?)"', shown["text/html"])
    assert (settings.notebooks / address).resolve() == record.report
    (command,) = re.findall(r"<code>(.*?)</code>", shown["text/html"])
    assert f"accept: {command}" in shown["text/plain"]
    done = workbench(settings, *shlex.split(command)[1:])
    assert done.returncode == 0, done.stderr
    accepted = json.loads((settings.evalsets / "drawn" / "decisions" / "routing.json").read_text(encoding="utf-8"))
    assert accepted["settings"]["policies"] == PARAMETERS["policies"]


@pytest.mark.slow
def test_a_kernel_that_dies_leaves_a_run_that_is_listed_as_interrupted(tmp_path, monkeypatch):
    settings = routing_project(tmp_path, planted(600))
    settings.notebooks.mkdir()
    environment(monkeypatch, settings)
    notebook = nbformat.read(ROOT / "notebooks" / "02_routing.ipynb", as_version=4)
    notebook.cells[-1].source = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    nbformat.write(notebook, settings.notebooks / "02_routing.ipynb")
    with pytest.raises(DeadKernelError):
        papermill.execute_notebook(
            settings.notebooks / "02_routing.ipynb", None, PARAMETERS, cwd=settings.notebooks, progress_bar=False
        )
    listed = workbench(settings, "runs").stdout
    assert "  interrupted  ci" in listed
    assert "process gone" in listed


def environment(monkeypatch, settings):
    """What a kernel of this project starts with: its places, and this code."""
    for name, place in (("ROOT", settings.root), ("CACHE", settings.cache), ("RUNS", settings.runs)):
        monkeypatch.setenv(f"WORKBENCH_{name}", str(place))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
