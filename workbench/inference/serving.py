"""A local model in a process of its own, asked over HTTP: for parallel kernels, and for crashes that hurt nobody."""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from workbench.errors import ConfigError, Unavailable, unknown_name
from workbench.inference.local import CHAT_MODELS, PREFIX, LocalModels, start_server, threads_wanted
from workbench.inference.providers import LiteLLMProvider, Provider
from workbench.inference.waiting import in_time
from workbench.inference.weights import fetch

_START_S, _STOP_S = 120.0, 5.0


@dataclass(frozen=True, slots=True)
class LocalServer:
    """A running child: its address (``http://127.0.0.1:PORT/v1``), the key that it wants, and its process id."""

    address: str
    api_key: str = field(repr=False)
    pid: int

    def provider(self) -> LiteLLMProvider:
        """Provider of ``local/NAME`` by this server."""
        return LiteLLMProvider(self.address, self.api_key, logprobs=True)


@contextmanager
def serving(model: str, weights: Path, *, threads: int | None = None, parallel: int = 1) -> Iterator[LocalServer]:
    """Serve one local model until the block ends, or this process does.

    The child gets its key through a pipe, so that neither its arguments nor its environment show it, and ends when that
    pipe does.

    Raises
    ------
    ConfigError
        If there is no such model.
    AttemptTimeout, Unavailable
        If the child does not start in two minutes, or at all.
    """
    if (name := model.removeprefix(PREFIX)) not in CHAT_MODELS:
        raise ConfigError(unknown_name("local model", name, CHAT_MODELS))
    key, threads = secrets.token_hex(16), threads or threads_wanted()
    told = {"model": name, "path": str(fetch(name, weights)), "threads": threads, "parallel": parallel, "api_key": key}
    child = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the parent, and the pipe tells the child
    )
    try:
        yield LocalServer(_address(child, json.dumps(told), model), key, child.pid)
    finally:
        _stop(child)


def local_provider(weights: Path, env: Mapping[str, str] | None = None) -> Provider:
    """Provider of ``local/NAME``: here, or at ``WORKBENCH_LLM_API_BASE`` with ``WORKBENCH_LLM_API_KEY``."""
    env = os.environ if env is None else env
    if address := env.get("WORKBENCH_LLM_API_BASE"):
        return LiteLLMProvider(address, env.get("WORKBENCH_LLM_API_KEY", ""), logprobs=True)
    return LocalModels(weights)


def _address(child: "subprocess.Popen[str]", told: str, model: str) -> str:
    assert child.stdin is not None
    assert child.stdout is not None
    out = child.stdout
    with suppress(BrokenPipeError):  # its exit code is told below
        child.stdin.write(told + "\n")
        child.stdin.flush()
    lines: Generator[str, None, None] = in_time(
        lambda give: give(out.readline()), timeout_s=_START_S, asked=f"server of {model}"
    )
    with closing(lines):
        line = next(lines)
    if not line:
        raise Unavailable(f"the server of {model} ended with code {child.wait(_STOP_S)} before it could be asked")
    if error := json.loads(line).get("error"):
        raise Unavailable(f"the server of {model} could not start: {error}")
    return f"{json.loads(line)['address']}/v1"


def _stop(child: "subprocess.Popen[str]") -> None:
    with child:
        assert child.stdin is not None
        with suppress(BrokenPipeError):
            child.stdin.close()
        try:
            child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()


def _serve() -> None:
    """What the child does: read what to serve, say where, and wait for the end of the parent."""
    told = json.loads(sys.stdin.readline())
    try:
        server = start_server(
            told["model"],
            Path(told["path"]),
            threads=told["threads"],
            parallel=told["parallel"],
            api_key=told["api_key"],
        )
        answer = {"address": server.listening_address}
    except Unavailable as error:
        answer = {"error": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)  # at once, whatever is being generated


if __name__ == "__main__":
    _serve()
