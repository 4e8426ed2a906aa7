"""A real HTTP server that speaks OpenAI's embeddings API on the loopback interface, and can misbehave."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from workbench.testing import HashEmbedder

DIMENSION = 16
SEEN = 200  # characters of a text that its vector is made of
TEXTS, TOKENS, TEXT_TOKENS = 2048, 300_000, 8192  # OpenAI's limits, with a token a word


@dataclass
class EmbeddingsServer:
    """Answers with the vectors of `HashEmbedder`, twice as long; ``fault`` is what it does instead.

    With ``once`` it misbehaves for one request alone.
    """

    url: str
    fault: str = ""
    once: bool = False
    turns: int = 0
    asked: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and body for one request."""
        if self.fault == "500":
            return 500, {"error": {"message": "the server is on fire", "type": "server_error"}}
        self.turns += 1
        if self.fault == "429" or (self.fault == "429 every other time" and self.turns % 2):
            return 429, {"error": {"message": "slow down", "type": "rate_limit"}}
        if self.fault == "529 at first" and self.turns <= 4:
            return 529, {"error": {"message": "overloaded", "type": "overloaded_error"}}
        texts = request["input"]
        sizes = [len(text.split()) for text in texts]
        if not all(sizes) or max(sizes) > TEXT_TOKENS or sum(sizes) > TOKENS or len(texts) > TEXTS:
            return 400, {"error": {"message": "$.input is invalid", "type": "invalid_request_error"}}
        vectors = 2 * HashEmbedder(DIMENSION).embed([text[:SEEN] for text in texts])
        data = [{"object": "embedding", "index": i, "embedding": v.tolist()} for i, v in enumerate(vectors)]
        if self.fault == "too few":
            data.pop()
        if self.fault == "one index twice":
            data[-1]["index"] = 0
        if self.fault == "shorter":
            data = [row | {"embedding": row["embedding"][:-1]} for row in data]
        if self.fault == "empty":
            data = []
        data = data[::-1] if self.fault == "reversed" else data
        usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
        return 200, {"object": "list", "model": request["model"], "data": data, "usage": usage}


@contextmanager
def serving() -> Iterator[EmbeddingsServer]:
    """Server on a free port of 127.0.0.1, until the block ends; ``OPENAI_BASE_URL`` sends litellm to it."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server = EmbeddingsServer(f"http://127.0.0.1:{http.server_address[1]}/v1")
    http.app = server  # type: ignore[attr-defined]
    thread = Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        app = self.server.app  # type: ignore[attr-defined]
        app.asked.append(body)
        if app.fault == "hangs up":
            self.connection.close()
            return
        status, answer = app.answer(body) if self.path == "/v1/embeddings" else (404, {})
        text = b"{ this is no JSON" if app.fault == "no json" else json.dumps(answer).encode()
        app.fault = "" if app.once else app.fault
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Keep the terminal for pytest."""
