"""What tests cannot do: reach beyond this machine."""

import socket

import pytest


@pytest.mark.parametrize("address", [("192.0.2.1", 80), ("example.org", 443), ("2001:db8::1", 80)])
def test_connection_that_leaves_the_machine_is_refused(address: tuple[str, int]) -> None:
    with pytest.raises(RuntimeError, match="tests are offline"):
        socket.create_connection(address, timeout=1)


def test_loopback_stays_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
        socket.create_connection(("localhost", server.getsockname()[1]), timeout=5).close()
