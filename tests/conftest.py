"""Tests are offline: a connection that leaves this machine is an error, here and in the libraries that would try."""

import ipaddress
import os
import sys
from typing import Any

import hypothesis
import pytest

from tests.databases import engine, state_url
from workbench.extras import without_iri_grammar

hypothesis.settings.register_profile("shared machine", deadline=None)  # a slow first example is no fault
hypothesis.settings.load_profile("shared machine")

with without_iri_grammar():
    import nbformat  # noqa: F401 - most modules of tests need it

__all__ = ["engine", "state_url"]  # fixtures that any test may ask for

# Set before any test imports the library that reads it, and inherited by the kernels and children of tests.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    LITELLM_LOCAL_MODEL_COST_MAP="True",
    RAGAS_DO_NOT_TRACK="true",
)


# Files whose tests share what takes minutes to make, as vectors of a whole collection.
ON_ONE_WORKER = {"tests/retrieval/test_scifact.py"}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep such files on one worker where tests go in groups: pytest-xdist 3.8's own marks do nothing in pytest 9.2."""
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadGroupScheduling

    class WholeFiles(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if file in ON_ONE_WORKER else nodeid

    return WholeFiles(config, log)


def pytest_configure() -> None:
    sys.addaudithook(refuse_network)


def refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    """Raise for a connection or a look-up of a name beyond this machine; Unix sockets are part of it."""
    if event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    else:
        return
    if not is_loopback(host):
        raise RuntimeError(f"a test tried to reach {host!r}; tests are offline, serve what they need on 127.0.0.1")


def is_loopback(host: Any) -> bool:
    name = host.decode() if isinstance(host, bytes) else host or "localhost"
    try:
        return ipaddress.ip_address(name).is_loopback or name in ("0.0.0.0", "::")
    except ValueError:
        return name == "localhost"
