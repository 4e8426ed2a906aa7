"""A stream that was given up holds no later request up."""

import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.faults.misbehaving_server import TEXT, MisbehavingServer, misbehaving_server
from workbench.errors import ProviderError
from workbench.inference.hosted_connections import one_connection_per_request
from workbench.inference.hosted_models import LiteLLMProvider
from workbench.inference.messages import Request

ASKED = {"messages": [{"role": "user", "content": "Paris?"}], "stream": True}


@pytest.fixture
def server() -> Iterator[MisbehavingServer]:
    with misbehaving_server(seed=1) as server:
        yield server


@pytest.fixture
def collected_under_lock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The collector runs where it hurts most: while a thread holds the lock of httpcore's pool."""
    pools: Any = type(httpx.HTTPTransport()._pool)
    assign = pools._assign_requests_to_connections

    def assign_after(pool: Any) -> Any:
        gc.collect()
        return assign(pool)

    monkeypatch.setattr(pools, "_assign_requests_to_connections", assign_after)
    gc.disable()
    yield
    gc.enable()


def answered_in_time(ask: Callable[[], None]) -> bool:
    asking = threading.Thread(target=ask, daemon=True)  # else a test that fails would never end
    asking.start()
    asking.join(timeout=30)
    return not asking.is_alive()


@pytest.mark.usefixtures("collected_under_lock")
# the library that gave the stream up is not ours: its connection ends when it is collected
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_requests_go_on_while_a_stream_that_was_given_up_is_collected(server: MisbehavingServer) -> None:
    client, url = one_connection_per_request(httpx.Client()), f"{server.address}/chat/completions"

    def ask() -> None:
        response = client.send(client.build_request("POST", url, json=ASKED), stream=True)
        cycle: list[object] = [response.iter_lines()]  # as the frames of an exception hold one
        next(cycle[0])  # type: ignore[call-overload]
        cycle.append(cycle)
        del response, cycle
        assert client.post(url, json=ASKED | {"stream": False}).status_code == 200

    assert answered_in_time(ask)
    client.close()


@pytest.mark.usefixtures("collected_under_lock")
@pytest.mark.parametrize("model", ["deepseek/m", "openai/m"])  # litellm's own handler, and OpenAI's library
def test_an_attempt_closes_the_stream_that_broke(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[httpx.Response] = []
    told: list[str] = []
    handle = httpx.HTTPTransport.handle_request

    def noted(transport: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        opened.append(handle(transport, request))
        return opened[-1]

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", noted)
    with misbehaving_server(faults=["bad_event", "good"]) as server:
        provider = LiteLLMProvider(server.address, "key")
        asked = Request(model, ({"role": "user", "content": "Paris?"},), max_tokens=20)
        with pytest.raises(ProviderError):
            provider.complete(asked, timeout_s=20, on_text=len)
        assert answered_in_time(lambda: told.append(provider.complete(asked, timeout_s=20).text))
    assert told == [TEXT]
    assert len(opened) == 2
    assert all(response.is_closed for response in opened)


def test_each_request_keeps_the_settings_of_its_client(server: MisbehavingServer) -> None:
    plain = httpx.HTTPTransport(local_address="127.0.0.3", retries=2)
    client = one_connection_per_request(
        httpx.Client(transport=plain, mounts={"https://": plain, "all://nobody.test": None})
    )
    assert client.post(f"{server.address}/chat/completions", json=ASKED).status_code == 200
    assert server.seen[0].connection[0] == "127.0.0.3"
    assert plain._pool.connections == []  # nothing of one request is left for the next
    again = one_connection_per_request(client)
    assert again.post(f"{server.address}/chat/completions", json=ASKED).status_code == 200
    client.close()
