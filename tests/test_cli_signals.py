"""A signal that the system gives to another thread ends what the main thread waits for."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.notebooks.zoo import add_notebook, make_settings
from workbench.config import SystemClock
from workbench.runner import Event, Job, list_runs, run_headless

WAITING = """
import signal, threading
from workbench.cli.signals import end_like_ctrl_c, see_signals_at_once
end_like_ctrl_c()
see_signals_at_once()
see_signals_at_once()
waits = threading.Lock()
waits.acquire()
soon = threading.Timer(0.3, lambda: signal.pthread_kill(threading.get_ident(), {number}))
soon.daemon = True
soon.start()
try:
    waits.acquire()
except KeyboardInterrupt:
    print("seen", flush=True)
waits.acquire(timeout=0.5)
print("once", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_main_thread_that_waits_sees_it_once(number: int) -> None:
    script = [sys.executable, "-c", WAITING.format(number=int(number))]
    done = subprocess.run(script, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout.split(), done.stderr) == (["seen", "once"], "")


@pytest.mark.parametrize(("before", "output"), [("SIG_IGN", "here\n"), ("SIG_DFL", "")])
def test_what_was_started_to_outlive_its_terminal_outlives_it(before: str, output: str) -> None:
    code = f"""
import os, signal
from workbench.cli.signals import end_like_ctrl_c
signal.signal(signal.SIGHUP, signal.{before})
end_like_ctrl_c()
os.kill(os.getpid(), signal.SIGHUP)
print("here")"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == output
    assert ("KeyboardInterrupt" in done.stderr) == (not output)


def test_runs_are_interrupted_from_the_thread_of_one_of_them(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    add_notebook(settings, "sleeping", "time.sleep(30)")

    def interrupt(event: Event) -> None:
        if event.kind == "cell" and event.cell == 3:
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_headless([Job("sleeping")], settings=settings, clock=SystemClock(), on_event=interrupt)
    assert [r.status for r in list_runs(settings)] == ["interrupted"]
