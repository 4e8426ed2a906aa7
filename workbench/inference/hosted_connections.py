"""Connections to hosted models: each carries one request, so that what is left on one answers no other request.

A server that sends more than one answer to a request (a whole answer twice, bytes behind the end of a stream) leaves
the rest on the connection. httpcore keeps such a connection, and its next request, of whoever, then reads the rest as
its own answer. HTTP/1.1 has no field that would tell. Therefore every request says ``Connection: close``: the protocol
state of httpcore then allows no second one. What that costs is measured by ``tests/benchmarks/bench_connections.py``.

An attempt closes what it opened, see `connections_closed`, and each request has a pool of its own. A stream that is
given up in an exception is else closed when Python collects it, which may be while the same thread holds the lock of
httpcore's pool; closing takes that lock, and no request of the client ever goes on (httpcore 1.0.9).
"""

import copy
import json
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import httpx

from workbench.errors import AnswerMismatch, MalformedAnswer
from workbench.inference.hosted_models import hosted_answer_ids
from workbench.inference.provider_errors import ends_in_failure, error_told_inside
from workbench.records import content_hash

# OpenAI logs it, and some gateways send it back: https://platform.openai.com/docs/api-reference/debugging-requests
REQUEST_ID = "X-Client-Request-Id"
_STREAM = re.compile(rb'"stream"\s*:\s*true')
_SHORT_BYTES = 65_536
_OPENED: ContextVar[list[httpx.Response] | None] = ContextVar("_OPENED", default=None)
ANSWER_IDS = ("x-request-id", "request-id")  # how OpenAI's and Anthropic's servers name an answer of theirs


def one_connection_per_request(client: httpx.Client) -> httpx.Client:
    """Make a client open a connection for each request, and refuse an answer that names another request.

    >>> transport = httpx.MockTransport(lambda asked: httpx.Response(200))
    >>> client = one_connection_per_request(httpx.Client(transport=transport))
    >>> client.get("http://host/").request.headers["Connection"]
    'close'

    Raises
    ------
    AnswerMismatch
        From each request of the client whose answer echoes another request's id, or has the id of an answer to another.
    ToldInside
        From each whose answer is called a success and tells an error.
    MalformedAnswer
        From each request for a stream that is answered with one JSON body.
    """
    hooks = client.event_hooks
    if _last_request not in hooks["request"]:
        client.event_hooks = {
            "request": [*hooks["request"], _last_request],
            "response": [
                _note_on_connection,
                _check_whose_connection,
                _check_connection_error,
                _check_streamed_on_connection,
                *hooks["response"],
            ],
        }
        client._transport = _PoolPerRequest.of(client._transport)
        client._mounts = {at: mounted and _PoolPerRequest.of(mounted) for at, mounted in client._mounts.items()}
    return client


def guard_connections(litellm: Any) -> None:
    """Let litellm ask by no other clients than these; done once, and again without effect.

    It has two kinds: its own handler, from which most vendors' clients are made, and one session for the libraries of
    OpenAI and Azure. Clients that were made before are forgotten.
    """
    from litellm.llms.custom_httpx.http_handler import HTTPHandler, blocked_cookie_jar, get_ssl_configuration

    create = HTTPHandler.create_client
    if getattr(create, "one_request_each", False):
        return

    def create_client(handler: Any) -> httpx.Client:
        return one_connection_per_request(create(handler))

    create_client.one_request_each = True  # type: ignore[attr-defined]
    session = litellm.client_session or httpx.Client(
        verify=get_ssl_configuration(),
        cookies=blocked_cookie_jar(),  # no cookie of one tenant's answer goes out with another's request
        follow_redirects=True,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
    )
    litellm.client_session = one_connection_per_request(session)
    HTTPHandler.create_client = create_client
    if handler := vars(litellm).get("module_level_client"):
        one_connection_per_request(handler.client)
    litellm.in_memory_llm_clients_cache.flush_cache()


@contextmanager
def connections_closed() -> Iterator[None]:
    """Close, when the block ends, each response that a guarded client got in it, read or not."""
    opened: list[httpx.Response] = []
    token = _OPENED.set(opened)
    try:
        yield
    finally:
        _OPENED.reset(token)
        for response in opened:
            response.close()


def _note_on_connection(response: httpx.Response) -> None:
    if (opened := _OPENED.get()) is not None:
        opened.append(response)


class _PoolPerRequest(httpx.BaseTransport):
    """Transport that sends each request through an empty copy of its pool, with the same settings and proxies."""

    def __init__(self, transport: httpx.HTTPTransport) -> None:
        self._transport = transport

    @classmethod
    def of(cls, transport: httpx.BaseTransport) -> httpx.BaseTransport:
        return cls(transport) if isinstance(transport, httpx.HTTPTransport) else transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        alone, pool = copy.copy(self._transport), copy.copy(self._transport._pool)
        pool._connections, pool._requests = [], []
        pool._optional_thread_lock = type(pool._optional_thread_lock)()
        alone._pool = pool
        return alone.handle_request(request)

    def close(self) -> None:
        self._transport.close()


def _last_request(request: httpx.Request) -> None:
    request.headers["Connection"] = "close"
    request.headers.setdefault(REQUEST_ID, str(uuid.uuid4()))


def _check_whose_connection(response: httpx.Response) -> None:
    request, came = response.request, response.headers
    sent = request.headers.get(REQUEST_ID)
    if came.get(REQUEST_ID, sent) != sent:
        raise AnswerMismatch(
            f"request {sent} was answered with what names request {came[REQUEST_ID]}: an answer to somebody else",
            billed="unknown",
        )
    asked = content_hash(str(request.url), request.read())
    for name in ANSWER_IDS:
        if not hosted_answer_ids("header").belongs(came.get(name, ""), asked):
            raise AnswerMismatch(
                f"request {sent} was answered with {name} {came[name]}, which was the answer to another request",
                billed="unknown",
            )


def _check_connection_error(response: httpx.Response) -> None:
    """Raise the error that an answer tells although its status is that of success: litellm reads each in its own way.

    Of a stream of events the first one is looked at, before which nothing was said, and each that ends in a failure;
    JSON is read whole, but to a request for a stream only if it is short.
    """
    came = response.headers
    kind = came.get("content-type", "").partition(";")[0].strip().lower()
    if not response.is_success:
        return
    if kind == "text/event-stream":
        _watch_connection_events(response)
    elif kind.endswith(("/json", "+json")):
        short = 0 < int(came.get("content-length") or 0) <= _SHORT_BYTES
        if short or not _STREAM.search(response.request.read()):
            _raise_connection_error(response.read(), came)


def _watch_connection_events(response: httpx.Response) -> None:
    plain = response.iter_bytes

    def iter_bytes(chunk_size: int | None = None) -> Iterator[bytes]:
        first, rest = True, b""
        for piece in plain(chunk_size):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.startswith(b"data:"):
                    data = line.removeprefix(b"data:").strip()
                    if first or ends_in_failure(data.decode(errors="replace")):
                        _raise_connection_error(data, response.headers)
                    first = False
            yield piece

    response.iter_bytes = iter_bytes  # type: ignore[method-assign]  # what lines and texts are made of too


def _raise_connection_error(body: bytes, headers: Mapping[str, str]) -> None:
    if told := error_told_inside(body.decode(errors="replace"), headers):
        raise told


def _check_streamed_on_connection(response: httpx.Response) -> None:
    """Refuse a whole answer in the place of a stream, of which litellm makes a good answer without any text.

    An error in such a body is left to its reader. If a server calls its stream JSON, it is read as a stream.
    """
    if not response.is_success or not response.headers.get("content-type", "").startswith("application/json"):
        return
    if not _STREAM.search(response.request.read()):
        return
    try:
        body = json.loads(response.read())
    except ValueError:
        return
    if isinstance(body, dict) and not body.get("error"):
        raise MalformedAnswer(
            "a stream was asked for and one JSON body came; ask this server without a stream", billed="unknown"
        )
