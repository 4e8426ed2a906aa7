"""The command line, as a user calls it: in this process where the words count, as a process where the process does."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from workbench.cli import app
from workbench.config import Settings

ROOT = Path(__file__).parents[1]


def workbench(
    where: Path | Settings, *arguments: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Result of a command that is called in a folder, or in that of a project's notebooks; no process is started.

    A process takes seconds to start and comes to the same: `tests.test_cli` holds the two together. Of the variables
    of the package the command sees only those of ``env``.
    """
    with pytest.MonkeyPatch.context() as patch, _what_a_process_ends_with():
        for name in [name for name in os.environ if name.startswith("WORKBENCH_")]:
            patch.delenv(name)
        for name, value in (env or {}).items():
            patch.setenv(name, value)
        patch.chdir(_folder(where))
        done = CliRunner().invoke(app, arguments, prog_name="workbench", catch_exceptions=False)
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def workbench_process(
    where: Path | Settings, *arguments: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The same by a process of its own, for what only that can show."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("WORKBENCH_")}
    return subprocess.run(
        [sys.executable, "-m", "workbench.cli", *arguments],
        cwd=_folder(where), env=own | {"PYTHONPATH": str(ROOT)} | dict(env or {}),
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def _folder(where: Path | Settings) -> Path:
    return where.notebooks if isinstance(where, Settings) else where


@contextmanager
def _what_a_process_ends_with() -> Iterator[None]:
    """Take back what a command leaves to the end of its process: how signals are handled, and connections."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    engines = set()

    def note(connection: sa.Connection) -> None:
        engines.add(connection.engine)

    sa.event.listen(sa.Engine, "engine_connect", note)
    try:
        yield
    finally:
        sa.event.remove(sa.Engine, "engine_connect", note)
        for engine in engines:
            engine.dispose()
        for number, handler in handlers.items():
            signal.signal(number, handler)
