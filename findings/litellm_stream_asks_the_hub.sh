#!/usr/bin/env bash
# litellm 1.106.2: reading a streamed answer of a model whose name holds "llama" asks huggingface.co for a tokenizer, even
# if the server is your own and counted the tokens itself. Where the hub cannot be reached, the end of the stream comes
# 47 to 49 seconds later.
#
# A good guess says that a stream that ends with its usage needs no counting, and that `api_base` is all that is asked.
# litellm counts all the same (twice), and for such names with a tokenizer that it downloads, with five tries each. A
# call with a time-out below a minute then fails after the whole answer has come and been paid.
# `litellm.disable_hf_tokenizer_download = True` ends it.
#
# Seen: huggingface.co is looked up; offline 'Hello' comes after 49.5 s (openai/llama-3-8b at an own server) and after
# 47.1 s (groq/llama-3.3-70b-versatile).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "litellm==1.106.2"
cd "$work"
LITELLM_LOCAL_MODEL_COST_MAP=True "$work/venv/bin/python" -W ignore - <<'PY'
import json
import os
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

import litellm

litellm.suppress_debug_info = True
resolve = socket.getaddrinfo


def seen(host, *rest, **more):
    if host not in ("127.0.0.1", "localhost"):
        print(f"while a streamed answer of a server on this machine was read, {host} was looked up", flush=True)
        os._exit(0 if host == "huggingface.co" else 1)
    return resolve(host, *rest, **more)


def chunk(delta, finish=None, **more):
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **more}


USAGE = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
EVENTS = [chunk({"content": "Hello"}), chunk({}, "stop"), chunk(None, usage=USAGE)]
BODY = "".join(f"data: {json.dumps(event)}\n\n" for event in EVENTS).encode() + b"data: [DONE]\n\n"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
socket.getaddrinfo = seen
print("litellm", version("litellm"))
stream = litellm.completion(
    "openai/llama-3-8b",
    [{"role": "user", "content": "Hi"}],
    api_base=f"http://127.0.0.1:{server.server_address[1]}/v1",
    api_key="none",
    max_retries=0,
    stream=True,
    stream_options={"include_usage": True},
)
text = "".join(part.choices[0].delta.content or "" for part in stream if part.choices)
sys.exit(f"{text!r} came and nothing else was asked: this changed")
PY
