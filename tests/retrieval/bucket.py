"""A bucket of an S3-compatible object store on this machine, for the tests of one module."""

import logging
from collections.abc import Iterator
from typing import Any
from urllib.request import Request, urlopen

import pytest

from tests.retrieval.stores import BUCKET


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The server; LanceDB, here and in children, is told of it by its own variables."""
    moto = pytest.importorskip("moto.server", reason="moto[s3] and flask-cors are not installed: no object store here")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for every request
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    own = {
        "AWS_ENDPOINT": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
    }
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    with urlopen(Request(f"{own['AWS_ENDPOINT']}/{BUCKET}", method="PUT")):  # makes the bucket
        pass
    yield server
    server.stop()
