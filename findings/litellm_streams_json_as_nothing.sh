#!/usr/bin/env bash
# litellm 1.106.2: a JSON body in answer to a streamed request becomes a good answer without any text, which is charged.
#
# Gateways that do not stream (a cache in front, an older server, a proxy that buffers) answer `"stream": true` with one
# JSON body. A good guess says that litellm reads it whole, as it does for openai/ names by raising nothing and giving
# no finish reason, or raises. For mistral/, deepseek/, xai/, together_ai/ and others it gives one chunk without text,
# the finish reason "stop", and the usage of the body: an empty answer that looks complete, with output tokens to pay.
#
# Seen: text '', finish 'stop', 2 completion tokens, for a body that says "Hello".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "litellm==1.106.2"
cd "$work"
LITELLM_LOCAL_MODEL_COST_MAP=True "$work/venv/bin/python" -W ignore - <<'PY'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

import litellm

BODY = json.dumps({
    "id": "x", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12},
}).encode()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert asked["stream"] is True
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print("litellm", version("litellm"))
for model in ("mistral/m", "deepseek/m", "xai/m"):
    chunks = list(litellm.completion(
        model=model, messages=[{"role": "user", "content": "Hi"}], stream=True, stream_options={"include_usage": True},
        api_base=f"http://127.0.0.1:{server.server_port}/v1", api_key="key", num_retries=0, max_retries=0,
    ))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    finish = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    usage = [c.usage.completion_tokens for c in chunks if getattr(c, "usage", None)]
    print(f"{model}: text {text!r}, finish {finish}, completion tokens {usage}")
    assert (text, finish[-1:], usage[-1:]) == ("", ["stop"], [2]), "it is read, or refused, now"
PY
