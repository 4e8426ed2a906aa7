"""Runs that are stopped from outside: at once, with a true record, and with nothing of a kernel left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.notebooks.zoo import CHILD, NATIVE, add_notebook, is_running, kernels_of, make_settings
from workbench.config import Settings, SystemClock
from workbench.runner import Job, list_runs, run_headless

# Far below the 300 s that the cells would take, far above what a busy machine needs: minutes are the failure.
AT_ONCE_S = 30
pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for orphans in /proc")


def test_native_code_past_the_hard_timeout_is_killed_with_its_children(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    add_notebook(settings, "native", CHILD, NATIVE)
    began = time.monotonic()
    (record,) = run_headless([Job("native")], settings=settings, clock=SystemClock(), hard_timeout_s=10)
    assert (record.status, record.exit_reason) == ("failed", "hard_timeout")
    assert record.error == "killed at the hard time-out of 10 s in cell [5] of 6"
    assert time.monotonic() - began < 10 + AT_ONCE_S
    assert not is_running(int((record.run_dir / "child.pid").read_text()))
    assert kernels_of(settings.runs) == []


RUN_TWO = """
import signal, sys
from pathlib import Path
from workbench.config import SystemClock
from workbench.config import load_settings
from workbench.runner import Job, run_headless
signal.signal(signal.SIGINT, signal.default_int_handler)
run_headless([Job("native"), Job("sleeping"), Job("queued")], settings=load_settings(), clock=SystemClock())
"""


def test_ctrl_c_ends_parallel_runs_at_once_and_says_so(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    add_notebook(settings, "native", CHILD, NATIVE)
    add_notebook(settings, "sleeping", CHILD, "time.sleep(300)")
    add_notebook(settings, "queued")
    runner = _start([sys.executable, "-c", RUN_TWO], settings)
    _wait_for(lambda: len(list(settings.runs.glob("*/child.pid"))) == 2)
    assert len(kernels_of(settings.runs)) == 4  # two kernels and their children
    assert {r.status for r in list_runs(settings)} == {"running"}
    assert _stop(runner, signal.SIGINT) < AT_ONCE_S
    records = list_runs(settings)
    assert sorted(r.notebook for r in records) == ["native", "sleeping"]
    assert {(r.status, r.exit_reason) for r in records} == {("interrupted", "interrupted")}
    assert kernels_of(settings.runs) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_a_kernel_starts_leaves_nothing_behind(tmp_path: Path, number: int) -> None:
    settings = make_settings(tmp_path)
    add_notebook(settings, "slow", "time.sleep(300)")
    runner = _start([sys.executable, "-m", "workbench.cli", "run", "slow"], settings)
    _wait_for(lambda: list(settings.runs.glob("*/kernel.log")))
    assert _stop(runner, number) < AT_ONCE_S
    assert runner.returncode == 130
    assert [r.status for r in list_runs(settings)] == ["interrupted"]
    assert kernels_of(settings.runs) == []
    assert _left_behind(settings) == []


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [[signal.SIGINT, signal.SIGINT], [signal.SIGTERM], [signal.SIGHUP]])
def test_signals_while_a_cell_runs_leave_no_file_behind(tmp_path: Path, numbers: list[int]) -> None:
    settings = make_settings(tmp_path)
    add_notebook(settings, "slow", CHILD, "time.sleep(300)")
    runner = _start([sys.executable, "-m", "workbench.cli", "run", "slow"], settings)
    _wait_for(lambda: list(settings.runs.glob("*/child.pid")))
    assert _left_behind(settings) != []
    for number in numbers:
        runner.send_signal(number)
        time.sleep(0.1)
    assert runner.wait(timeout=60) == 130
    assert kernels_of(settings.runs) == []
    assert _left_behind(settings) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_that_is_stopped_leaves_no_kernel_and_no_file(tmp_path: Path, number: int) -> None:
    settings = make_settings(tmp_path)
    add_notebook(settings, "slow", CHILD, "time.sleep(300)")
    command = [sys.executable, "-m", "workbench.cli"]
    submitted = _start([*command, "run", "slow", "--sweep", "limit=1,2", "--no-wait"], settings)
    assert submitted.wait(timeout=300) == 0
    worker = _start([*command, "jobs", "work"], settings)
    _wait_for(lambda: len(list(settings.runs.glob("*/child.pid"))) == 2)
    assert _stop(worker, number) < AT_ONCE_S
    assert worker.returncode == 130
    _wait_for(lambda: kernels_of(settings.runs) == [], timeout_s=2)
    assert _left_behind(settings) == []


@pytest.mark.slow
def test_the_next_run_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    add_notebook(settings, "slow", CHILD, "time.sleep(300)")
    add_notebook(settings, "quick")
    command = [sys.executable, "-m", "workbench.cli", "run"]
    killed, alive = (_start([*command, "slow"], settings) for _ in range(2))
    _wait_for(lambda: len(list(settings.runs.glob("*/child.pid"))) == 2)
    assert len(_left_behind(settings)) == 2
    killed.kill()
    killed.communicate()
    assert _start([*command, "quick"], settings).wait(timeout=300) == 0
    assert len(_left_behind(settings)) == 1
    assert _stop(alive, signal.SIGINT) < AT_ONCE_S
    assert [r.status for r in list_runs(settings) if r.notebook == "slow"] == ["interrupted"] * 2
    assert _left_behind(settings) == []


@pytest.mark.slow
def test_killed_runner_is_listed_as_interrupted(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    add_notebook(settings, "slow", "time.sleep(300)")
    runner = _start([sys.executable, "-m", "workbench.cli", "run", "slow"], settings)
    _wait_for(lambda: list(settings.runs.glob("*/run.json")))
    runner.kill()
    runner.communicate()
    (record,) = list_runs(settings)
    assert (record.status, record.error) == ("interrupted", "interrupted (process gone)")
    _wait_for(lambda: kernels_of(settings.runs) == [])  # a kernel notices by itself that its parent is gone


def _start(command: list[str], settings: Settings) -> subprocess.Popen[bytes]:
    (temporary := settings.root / "tmp").mkdir(exist_ok=True)
    places = {
        "WORKBENCH_ROOT": str(settings.root), "WORKBENCH_RUNS": str(settings.runs), "TMPDIR": str(temporary),
        "WORKBENCH_STATE_URL": f"sqlite:///{settings.root / 'state.sqlite'}",
        "WORKBENCH_CACHE": str(settings.cache),
    }  # fmt: skip
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, env={**os.environ, **places}, stdout=quiet, stderr=quiet)


def _left_behind(settings: Settings) -> list[str]:
    """Temporary files and folders of the processes that were started."""
    return sorted(path.name for path in (settings.root / "tmp").iterdir())


def _stop(runner: subprocess.Popen[bytes], number: int) -> float:
    """Send a signal; seconds until the process has ended."""
    began = time.monotonic()
    runner.send_signal(number)
    runner.wait(timeout=60)
    return time.monotonic() - began


def _wait_for(condition: Callable[[], object], timeout_s: float = 300) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
