"""A real HTTP server that speaks OpenAI's protocol, or breaks it in the way that a seeded script says.

>>> from tests.faults.misbehaving_server import misbehaving_server
>>> with misbehaving_server(seed=1, faults=["good", "reset_mid_body"]) as server:
...     server.address.startswith("http://127.0.0.1:"), server.seen
(True, [])
"""

import json
import random
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TEXT = "Paris is the capital of France."
USAGE = {"prompt_tokens": 20, "completion_tokens": 7, "total_tokens": 27, "prompt_tokens_details": {"cached_tokens": 8}}
WRONG_USAGE = USAGE | {"prompt_tokens_details": {"cached_tokens": 5000}}
THINKING = {"prompt_tokens": 20, "completion_tokens": 7, "total_tokens": 127,
            "completion_tokens_details": {"reasoning_tokens": 100}}  # fmt: skip
RETRY_AFTER_S = 90


@dataclass(frozen=True)
class Seen:
    """One request that the server saw, and what it did with it."""

    number: int
    fault: str
    body: dict[str, Any]
    headers: dict[str, str]
    at_s: float
    connection: tuple[str, int] = ("", 0)

    @property
    def signature(self) -> str:
        """What an answer to this request says, so that it is known whose it is."""
        said = self.body.get("input") or [m.get("content") for m in self.body.get("messages", [])]
        return signature(json.dumps(said))


@dataclass
class MisbehavingServer:
    """Chooses what to do for each request, in the order in which they come.

    Attributes
    ----------
    faults : sequence or mapping
        Names of `FAULTS`: a sequence is gone through in turn, and its last stays; a mapping of names to weights is
        drawn from with ``seed``.
    hang_s : float
        How long "hang" says nothing, and how long "slow_drip" and its kin go on.
    signed : bool
        Whether each answer says what request it is to, see `Seen.signature`.
    previous : bytes
        The last whole answer to another request, from its status line on.
    """

    seed: int
    faults: Sequence[str] | Mapping[str, float]
    hang_s: float = 3.0
    keep_alive: bool = True
    signed: bool = False
    previous: bytes = b""
    address: str = ""
    seen: list[Seen] = field(default_factory=list)
    cut_off: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        if unknown := set(self.faults) - set(FAULTS):
            raise ValueError(f"unknown faults {sorted(unknown)}; known: {', '.join(FAULTS)}")
        self._lock, self._random = threading.Lock(), random.Random(self.seed)

    def notice(self, body: dict[str, Any], headers: dict[str, str], connection: tuple[str, int]) -> Seen:
        with self._lock:
            number = len(self.seen)
            if isinstance(self.faults, Mapping):
                (fault,) = self._random.choices(list(self.faults), list(self.faults.values()))
            else:
                fault = self.faults[min(number, len(self.faults) - 1)]
            self.seen.append(Seen(number, fault, body, headers, time.monotonic(), connection))
            return self.seen[-1]


@contextmanager
def misbehaving_server(
    seed: int = 0,
    faults: Sequence[str] | Mapping[str, float] = ("good",),
    *,
    hang_s: float = 3.0,
    keep_alive: bool = True,
    signed: bool = False,
) -> Iterator[MisbehavingServer]:
    """Server on a free port of 127.0.0.1 until the block ends; ``address`` is what ``api_base`` takes."""
    app = MisbehavingServer(seed, faults, hang_s, keep_alive, signed)
    http = _Server(("127.0.0.1", 0), _Handler)
    http.app, app.address = app, f"http://127.0.0.1:{http.server_address[1]}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield app
    finally:
        app.stopped.set()
        http.shutdown()
        http.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    app: MisbehavingServer
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def end_headers(self) -> None:
        if not self.server.app.keep_alive:  # else a request may be sent to a connection that was closed meanwhile
            self.send_header("Connection", "close")
        super().end_headers()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen = self.server.app.notice(body, dict(self.headers), self.client_address)
        with suppress(OSError):
            FAULTS[self.seen.fault](self)

    def answer(
        self, status: int, body: bytes, kind: str = "application/json", *, length: int = 0, **headers: str
    ) -> None:
        """Send a whole answer, or one that promises more bytes than it has."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length or len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def error(self, status: int, **headers: str) -> None:
        self.refuse(status, f"status {status} as scripted", **headers)

    def refuse(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        told = {"error": {"message": message, "type": "scripted", "code": code}}
        self.answer(status, json.dumps(told).encode(), **headers)

    def reset(self) -> None:
        """End the connection with RST rather than FIN."""
        self.close_connection = True
        self.wfile.flush()
        time.sleep(0.02)  # else the RST overtakes what was just sent
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def wait(self, seconds: float) -> None:
        self.server.app.stopped.wait(seconds)

    def drip(self, data: bytes, *, interval_s: float = 0.05) -> None:
        """Send a byte now and then, for as long as the server's ``hang_s``."""
        self.close_connection = True
        end = time.monotonic() + self.server.app.hang_s
        for byte in data:
            if time.monotonic() > end or self.server.app.stopped.is_set():
                return
            try:
                self.wfile.write(bytes([byte]))
            except OSError:
                self.server.app.cut_off += 1
                raise
            self.wait(interval_s)

    @property
    def sign(self) -> str:
        return f" {self.seen.signature}" if self.server.app.signed else ""

    def good(self, **headers: str) -> None:
        self.send(self.whole(**headers))

    def send(self, *responses: bytes) -> None:
        """Send whole responses, as many as there are, at once."""
        self.server.app.previous = responses[0]
        self.wfile.write(b"".join(responses))
        self.wfile.flush()

    def whole(self, **headers: str) -> bytes:
        """The good response from its status line on; its end is known, so that the connection can be used again."""
        app, body = self.server.app, self.seen.body
        told = {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
        if body.get("stream"):
            told |= {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
            data = b"".join(b"%x\r\n%b\r\n" % (len(e), e) for e in [*events(self.sign), b""])
        else:
            given = vectors(body["input"]) if "input" in body else completion(self.sign)
            data = json.dumps(given).encode()
            told["Content-Length"] = str(len(data))
        if not app.keep_alive:
            told["Connection"], self.close_connection = "close", True
        head = "".join(f"{name}: {value}\r\n" for name, value in told.items())
        return f"HTTP/1.1 200 OK\r\n{head}\r\n".encode() + data

    def stream(self, parts: Sequence[str], *, finish: bool = True, usage: Mapping[str, Any] | None = USAGE) -> None:
        """Server-sent events, ended by closing the connection."""
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for part in parts:
            self.event({"index": 0, "delta": {"content": part}, "finish_reason": None})
        if finish:
            self.event({"index": 0, "delta": {}, "finish_reason": "stop"})
            if usage:
                self.event(None, usage=usage)
            self.wfile.write(b"data: [DONE]\n\n")
        self.wfile.flush()

    def event(self, choice: dict[str, Any] | None, **more: Any) -> None:
        self.wfile.write(event(choice, **more))
        self.wfile.flush()

    def cut_stream(self) -> None:
        if self.seen.body.get("stream"):
            self.stream(["Paris ", "is the "], finish=False)
        else:
            self.cut_body()

    def cut_body(self) -> None:
        self.close_connection = True
        self.answer(200, json.dumps(completion()).encode()[:80], length=400)

    def log_message(self, *_: object) -> None:
        """Keep the terminal for pytest."""


def signature(said: str) -> str:
    return sha256(said.encode()).hexdigest()[:16]


def event(choice: dict[str, Any] | None, *, answer_id: str = "x", **more: Any) -> bytes:
    chunk = {"id": answer_id, "object": "chat.completion.chunk", "created": 1, "model": "scripted"}
    return b"data: " + json.dumps(chunk | {"choices": [choice] if choice else [], **more}).encode() + b"\n\n"


def events(sign: str) -> Iterator[bytes]:
    """Events of a good stream, which ends with what it is signed with."""
    answer_id = f"chatcmpl-{uuid.uuid4()}"
    for part in ["Paris ", "is the capital ", "of France.", *([sign] if sign else [])]:
        yield event({"index": 0, "delta": {"content": part}, "finish_reason": None}, answer_id=answer_id)
    yield event({"index": 0, "delta": {}, "finish_reason": "stop"}, answer_id=answer_id)
    yield event(None, answer_id=answer_id, usage=USAGE) + b"data: [DONE]\n\n"


def vectors(texts: list[str]) -> dict[str, Any]:
    """Answer to a request for embeddings; each vector says what text it is of."""
    data = [{"object": "embedding", "index": i, "embedding": vector(text)} for i, text in enumerate(texts)]
    usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
    return {"object": "list", "model": "scripted", "data": data, "usage": usage}


def vector(text: str) -> list[float]:
    return [byte - 127.5 for byte in sha256(text.encode()).digest()[:8]]


def completion(sign: str = "", **changed: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": TEXT + sign}
    return {
        "id": f"chatcmpl-{uuid.uuid4()}",
        "object": "chat.completion",
        "created": 1,
        "model": "scripted",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": USAGE,
        **changed,
    }


def _json(handler: _Handler, **changed: Any) -> None:
    handler.answer(200, json.dumps(completion(handler.sign, **changed)).encode())


def _counted(handler: _Handler, usage: Mapping[str, Any] | None) -> None:
    if handler.seen.body.get("stream"):
        handler.stream(["Paris", handler.sign], usage=usage)
    else:
        _json(handler, usage=usage)


def _in_90_s() -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=RETRY_AFTER_S), usegmt=True)


def _reset_mid_body(handler: _Handler) -> None:
    handler.answer(200, json.dumps(completion()).encode()[:80], length=400)
    handler.reset()


def _cut_status_line(handler: _Handler) -> None:
    handler.close_connection = True


def _drip_body(handler: _Handler) -> None:
    body = json.dumps(completion()).encode()
    handler.answer(200, b"", length=len(body))
    handler.drip(body)


def _drip_stream(handler: _Handler) -> None:
    handler.stream([], finish=False)
    handler.drip(b": still here\n\n" * 1000)


def _slow_but_whole(handler: _Handler) -> None:
    handler.wait(0.3)
    handler.good()


def _twice(handler: _Handler) -> None:
    whole = handler.whole()
    handler.close_connection = False
    handler.send(whole, whole)


def _surplus(handler: _Handler) -> None:
    previous = handler.server.app.previous
    whole = handler.whole()
    handler.close_connection = False
    handler.send(whole, previous or whole)


def _late_surplus(handler: _Handler) -> None:
    previous = handler.server.app.previous
    whole = handler.whole()
    handler.close_connection = False
    handler.send(whole)
    handler.wait(0.03)
    handler.wfile.write(previous or whole)
    handler.wfile.flush()


def _previous(handler: _Handler) -> None:
    handler.send(handler.server.app.previous or handler.whole())


def _bad_event(handler: _Handler) -> None:
    handler.stream(["Paris "], finish=False)
    handler.wfile.write(b'data: {"choices": [{"index"\n\n')


def _error_event(handler: _Handler) -> None:
    handler.stream(["Paris "], finish=False)
    handler.wfile.write(b'data: {"error": {"message": "overloaded", "code": 529}}\n\n')


def _error_as_first_event(handler: _Handler) -> None:
    handler.stream([], finish=False)
    handler.wfile.write(b': working\n\ndata: {"error": {"message": "overloaded", "code": 529}}\n\n')


def _error_after_a_role(handler: _Handler) -> None:
    handler.stream([], finish=False)
    handler.event({"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None})
    handler.wfile.write(b'data: {"error": {"message": "overloaded", "code": 529}}\n\n')


FAULTS: dict[str, Callable[[_Handler], None]] = {
    "good": _Handler.good,
    "slow": _slow_but_whole,
    "twice": _twice,
    "surplus": _surplus,
    "late_surplus": _late_surplus,
    "previous": _previous,
    "another_s_request_id": lambda h: h.good(X_Client_Request_Id="3f2b8c1e-9d4a-4b6e-8f70-123456789abc"),
    "429_seconds": lambda h: h.error(429, Retry_After=str(RETRY_AFTER_S)),
    "429_fraction": lambda h: h.error(429, Retry_After="0.25"),
    "429_date": lambda h: h.error(429, Retry_After=_in_90_s()),
    "429": lambda h: h.error(429),
    "429_nonsense": lambda h: h.error(429, Retry_After="soon"),
    "400": lambda h: h.error(400),
    "401": lambda h: h.error(401),
    "402": lambda h: h.error(402),
    "403": lambda h: h.error(403),
    "404": lambda h: h.error(404),
    "410": lambda h: h.error(410),
    "usage_limit": lambda h: h.refuse(400, "You have reached your specified API usage limits."),
    "no_credit": lambda h: h.refuse(400, "Your credit balance is too low to access the API."),
    "bad_key_as_400": lambda h: h.refuse(400, "API key not valid. Please pass a valid API key."),
    "retired_as_400": lambda h: h.refuse(400, "The model `m` has been decommissioned.", "model_decommissioned"),
    "no_quota": lambda h: h.refuse(429, "You exceeded your current quota.", "insufficient_quota"),
    "bad_schema": lambda h: h.refuse(400, "Invalid schema for response_format 'answer'.", "invalid_json_schema"),
    "408": lambda h: h.error(408),
    "413": lambda h: h.error(413),
    "422": lambda h: h.error(422),
    "500": lambda h: h.error(500),
    "503": lambda h: h.error(503),
    "503_seconds": lambda h: h.error(503, Retry_After="7"),
    "503_page": lambda h: h.answer(503, b"<html>503 Service Temporarily Unavailable</html>", "text/html"),
    "503_with_usage": lambda h: h.answer(503, b'{"error": {"message": "lost"}, "usage": {"prompt_tokens": 9}}'),
    "529": lambda h: h.error(529),
    "overloaded_as_500": lambda h: h.refuse(500, "The engine is currently overloaded, please try again later"),
    "context_too_long": lambda h: h.answer(
        400,
        b'{"error": {"message": "the maximum context length is 10 tokens", "code": "context_length_exceeded"}}',
    ),
    "content_refused": lambda h: h.answer(
        400, b'{"error": {"message": "refused by policy", "code": "content_policy_violation"}}'
    ),
    "content_filter": lambda h: h.answer(400, b'{"error": {"message": "filtered", "code": "content_filter"}}'),
    "reset_before_any_byte": _Handler.reset,
    "close_before_any_byte": _cut_status_line,
    "reset_mid_body": _reset_mid_body,
    "cut_body": _Handler.cut_body,
    "hang": lambda h: h.wait(h.server.app.hang_s),
    "drip_headers": lambda h: h.drip(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"z" * 1000),
    "drip_body": _drip_body,
    "drip_stream": _drip_stream,
    "malformed_json": lambda h: h.answer(200, b'{"id": "x", "choices": [{"index": 0, '),
    "json_of_another_kind": lambda h: h.answer(200, b"[]"),
    "wrong_content_type": lambda h: h.answer(200, b"<html>Sign in to the wireless network</html>", "text/html"),
    "empty_body": lambda h: h.answer(200, b""),
    "empty_object": lambda h: h.answer(200, b"{}"),
    "empty_choices": lambda h: _json(h, choices=[]),
    "error_as_200": lambda h: h.answer(200, b'{"error": {"message": "overloaded", "code": 529}}'),
    "error_of_a_type_as_200": lambda h: h.answer(
        200, b'{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}'
    ),
    "error_in_words_as_200": lambda h: h.answer(200, b'{"error": "the upstream gave up"}'),
    "500_as_200": lambda h: h.answer(200, b'{"error": {"message": "?", "code": 500}}'),
    "429_as_200": lambda h: h.answer(200, b'{"error": {"message": "slow down", "code": 429}}', Retry_After="7"),
    "no_credit_as_200": lambda h: h.answer(200, b'{"error": {"message": "Insufficient Balance", "code": 402}}'),
    "too_long_as_200": lambda h: h.answer(200, b'{"error": {"message": "long", "code": "context_length_exceeded"}}'),
    "error_with_usage_as_200": lambda h: h.answer(
        200, b'{"error": {"message": "overloaded", "code": 529}, "usage": {"prompt_tokens": 9, "total_tokens": 9}}'
    ),
    "error_as_first_event": _error_as_first_event,
    "error_after_a_role": _error_after_a_role,
    "no_usage": lambda h: _counted(h, None),
    "thinking_beside": lambda h: _counted(h, THINKING),
    "wrong_usage": lambda h: _counted(h, WRONG_USAGE),
    "cut_stream": _Handler.cut_stream,
    "bad_event": _bad_event,
    "error_event": _error_event,
}
