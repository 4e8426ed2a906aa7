"""Real kernels, one defect each: what the record says, and that nothing of a kernel stays behind."""

import json
import os
import sys
from pathlib import Path

import nbformat
import pytest

from tests.notebooks.zoo import (
    CHILD,
    GATE_FAILS,
    add_notebook,
    is_running,
    kernels_of,
    make_settings,
)
from workbench.config import SystemClock
from workbench.runner import Event, Job, RunRecord, list_runs, run_headless

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for orphans in /proc")

PROGRESS = """from workbench.rendering.progress import Progress
bar = Progress("questions", 1000)
for n in range(1000): bar.update(n + 1)
bar.done("1000 questions, 3 errors")"""
REMEMBER = """import json, sys
_ = (run_dir / "seen.json").write_text(json.dumps({
    "parameters": [limit, margin, label, seed], "python": sys.executable, "cwd": os.getcwd(),
    "profile": os.environ["WORKBENCH_PROFILE"], "root": os.environ["WORKBENCH_ROOT"]}))"""


SECRET = "correct-horse-battery-staple"
LEAKS = (
    """secret, half = os.environ["SHOP_DB_PASSWORD"], len(os.environ["SHOP_DB_PASSWORD"]) // 2
print(secret[:half], end="", flush=True)
time.sleep(0.5)
print(secret[half:])
bar = Progress("questions", 1); bar.done(f"asked with {secret}")""",
    """import sys
from IPython.display import HTML
sys.__stderr__.write(f"log {secret}\\n"); sys.__stderr__.flush()
HTML(f"<b>{secret}</b>")""",
    """raise RuntimeError(f"cannot connect: dsn={secret}")""",
)


class Zoo:
    """All quick notebooks, run once, in parallel."""

    def __init__(self, root: Path) -> None:
        self.settings = make_settings(root)
        notebooks = {
            "good": (CHILD, REMEMBER, PROGRESS),
            "raises": ("1 / 0", "never = 1"),
            "exits": ("import sys; sys.exit(0)",),
            "dies": (CHILD, "os._exit(0)", "never = 1"),
            "sleeps": ("time.sleep(300)",),
            "leaks": ("from workbench.rendering.progress import Progress", *LEAKS),
        }
        for name, body in notebooks.items():
            add_notebook(self.settings, name, *body)
        add_notebook(self.settings, "gate_fails", gate=GATE_FAILS)
        add_notebook(self.settings, "no_gate", gate="pass")
        jobs = [Job(path.stem[3:]) for path in sorted(self.settings.notebooks.glob("*.ipynb"))]
        jobs.append(Job("good", "smoke", {"limit": "12", "margin": "0.5", "label": "{x} 'y'", "seed": 3}))
        jobs.append(Job("leaks", "smoke", {"label": SECRET}))
        self.events: list[Event] = []
        records = run_headless(
            jobs,
            settings=self.settings,
            clock=SystemClock(),
            on_event=self.events.append,
            workers=3,
            cell_timeout_s=4,
        )
        self.records = {(r.notebook, r.profile): r for r in records}

    def __getitem__(self, name: str) -> RunRecord:
        return self.records[name, "ci"]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    foreign = tmp_path_factory.mktemp("jupyter")
    spec = foreign / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text('{"argv": ["/bin/false"], "display_name": "x", "language": "python"}')
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("JUPYTER_PATH", str(foreign))  # a kernel of another environment, first in line
        environment.setenv("SHOP_DB_PASSWORD", SECRET)
        return Zoo(tmp_path_factory.mktemp("project"))


@pytest.mark.parametrize("profile", ["smoke", "ci"])
def test_no_secret_of_an_output_an_error_or_a_parameter_is_written_or_told(zoo: Zoo, profile: str) -> None:
    record = zoo.records["leaks", profile]
    assert record.error == "RuntimeError: cannot connect: dsn=[redacted] in cell [7] of 8"
    files = {path.name: path.read_text(encoding="utf-8") for path in record.run_dir.iterdir()}
    assert {"run.json", "executed.ipynb", "report.html", "kernel.log"} <= files.keys()
    assert [name for name, text in files.items() if SECRET in text] == []
    assert all("[redacted]" in files[name] for name in ("run.json", "executed.ipynb", "report.html"))
    events = [event for event in zoo.events if event.run_dir == record.run_dir]
    assert "asked with [redacted]" in {event.data.get("sentence") for event in events}
    assert [event for event in events if SECRET in repr(event)] == []
    assert nbformat.read(record.run_dir / "executed.ipynb", as_version=4).cells  # and is a notebook still


def test_good_notebook_is_done_and_runs_with_the_parameters_as_passed(zoo: Zoo) -> None:
    record = zoo.records["good", "smoke"]
    seen = json.loads((record.run_dir / "seen.json").read_text())
    assert (record.status, record.exit_reason, record.error, record.gate) == (
        "done",
        "completed",
        None,
        "holds",
    )
    assert record.parameters == {"limit": 12, "margin": 0.5, "label": "{x} 'y'", "seed": 3}
    assert seen["parameters"] == [12, 0.5, "{x} 'y'", 3]
    assert seen["profile"] == "smoke"
    assert record.seed == 3
    assert {cell.status for cell in record.cells} == {"completed"}
    assert [cell.tag for cell in record.cells][:3] == ["parameters", "injected-parameters", "setup"]


def test_kernel_is_this_interpreter_and_works_where_the_notebook_lies(zoo: Zoo) -> None:
    seen = json.loads((zoo["good"].run_dir / "seen.json").read_text())
    assert seen["python"] == sys.executable
    assert seen["cwd"] == str(zoo.settings.notebooks)
    assert seen["root"] == str(zoo.settings.root)
    assert "WORKBENCH_RUN_DIR" not in os.environ


def test_defaults_are_recorded_as_parameters_too(zoo: Zoo) -> None:
    assert zoo["good"].parameters == {"limit": 5, "margin": 0.02, "label": "a # b", "seed": 7}


def test_run_json_on_disk_says_what_was_returned(zoo: Zoo) -> None:
    assert {r.run_dir: r for r in list_runs(zoo.settings)} == {r.run_dir: r for r in zoo.records.values()}


def test_events_tell_cells_and_progress_a_few_times_a_second(zoo: Zoo) -> None:
    events = [e for e in zoo.events if e.run_dir == zoo["good"].run_dir]
    assert [e.kind for e in events if e.kind != "progress"] == ["start", *["cell"] * 7, "end"]
    assert [(e.cell, e.cells) for e in events if e.kind == "cell"] == [(n, 7) for n in range(1, 8)]
    progress = [e for e in events if e.kind == "progress"]
    assert 2 <= len(progress) < 50, "the first step, and the end"
    assert progress[-1].cell == 6
    assert progress[-1].data == {
        "label": "questions",
        "done": 1000,
        "total": 1000,
        "sentence": "1000 questions, 3 errors",
        "told": "1000 questions, 3 errors",
    }


def test_progress_is_saved_as_one_output(zoo: Zoo) -> None:
    executed = nbformat.read(zoo["good"].run_dir / "executed.ipynb", 4)
    outputs = [o for c in executed.cells if c.cell_type == "code" for o in c.outputs if "data" in o]
    assert outputs[0].data["text/plain"] == "1000 questions, 3 errors"
    assert len(outputs) == 1


def test_exception_in_a_cell_is_a_failed_run_that_names_it(zoo: Zoo) -> None:
    record = zoo["raises"]
    assert (record.status, record.exit_reason) == ("failed", "cell_error")
    assert record.error == "ZeroDivisionError: division by zero in cell [4] of 6"
    assert [cell.status for cell in record.cells] == ["completed"] * 3 + ["failed", "pending", "pending"]


def test_sys_exit_is_a_failed_run_although_papermill_returns(zoo: Zoo) -> None:
    record = zoo["exits"]
    assert (record.status, record.exit_reason) == ("failed", "cell_error")
    assert "sys.exit" in str(record.error)
    assert record.cells[-1].status == "pending"


def test_dead_kernel_is_a_failed_run_and_no_cell_after_it_counts_as_executed(zoo: Zoo) -> None:
    record = zoo["dies"]
    assert (record.status, record.exit_reason) == ("failed", "kernel_died")
    assert [cell.status for cell in record.cells[-3:]] == ["failed", "pending", "pending"]
    executed = nbformat.read(record.run_dir / "executed.ipynb", 4)
    assert executed.metadata.papermill.exception is True
    assert [c.metadata.papermill.status for c in executed.cells[-3:]] == ["failed", "pending", "pending"]


def test_sleep_past_the_cell_timeout_is_interrupted(zoo: Zoo) -> None:
    record = zoo["sleeps"]
    assert (record.status, record.exit_reason) == ("failed", "cell_timeout")
    assert record.error == "interrupted at the cell time-out of 4 s in cell [4] of 5"


def test_failed_gate_in_the_last_cell_is_a_run_that_is_done(zoo: Zoo) -> None:
    record = zoo["gate_fails"]
    assert (record.status, record.exit_reason, record.gate) == ("done", "gate_failed", "broken")


def test_without_a_gate_file_the_run_is_failed(zoo: Zoo) -> None:
    assert (zoo["no_gate"].status, zoo["no_gate"].exit_reason) == ("failed", "no_result")


@pytest.mark.parametrize("name", ["dies", "good"])
def test_child_of_a_kernel_does_not_outlive_the_run(zoo: Zoo, name: str) -> None:
    assert not is_running(int((zoo[name].run_dir / "child.pid").read_text()))


def test_no_process_of_any_run_is_left(zoo: Zoo) -> None:
    assert kernels_of(zoo.settings.runs) == []
