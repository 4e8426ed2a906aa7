#!/usr/bin/env bash
# litellm 1.106.2: an answer that ends in a failure of the vendor's comes back as one that was finished, "stop".
#
# Servers of OpenAI's protocol end an answer that broke half-way with a finish_reason of their own: OpenRouter "error",
# Z.AI "network_error", vLLM and SGLang "abort", DeepSeek "insufficient_system_resource". A good guess says that litellm
# hands it on, maps it to something that is not "stop", or raises. It maps all four to "stop" in a whole answer, and
# three of them in a stream, where only "error" raises. Half a text is then taken for a whole one, cached, and judged.
#
# Seen: "stop" and the half that came for each of the four, for two with a line in the log ("Unmapped"); in a stream
# "stop" for all but "error", which raises.
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

litellm.suppress_debug_info = True
REASONS = ["error", "network_error", "abort", "insufficient_system_resource"]
HALF = "The three steps are: first"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        reason = asked["messages"][0]["content"]
        told = {"id": "x", "created": 1, "model": "m"}
        if asked.get("stream"):
            parts = [({"content": HALF}, None), ({}, reason)]
            events = [
                told | {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": d, "finish_reason": r}]}
                for d, r in parts
            ]
            body = b"".join(b"data: %b\n\n" % json.dumps(e).encode() for e in events) + b"data: [DONE]\n\n"
            kind = "text/event-stream"
        else:
            message = {"role": "assistant", "content": HALF}
            usage = {"prompt_tokens": 9, "completion_tokens": 6, "total_tokens": 15}
            choices = [{"index": 0, "message": message, "finish_reason": reason}]
            body = json.dumps(told | {"object": "chat.completion", "choices": choices, "usage": usage}).encode()
            kind = "application/json"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
given = {"model": "openai/m", "api_base": f"http://127.0.0.1:{server.server_address[1]}", "api_key": "none"}
print("litellm", version("litellm"))
for reason in REASONS:
    messages = [{"role": "user", "content": reason}]
    whole = litellm.completion(messages=messages, **given).choices[0]
    try:
        chunks = list(litellm.completion(messages=messages, stream=True, **given))
        (end,) = {c.choices[0].finish_reason for c in chunks} - {None}
    except litellm.exceptions.MidStreamFallbackError:
        end = "raised"
    print(f"{reason}: whole {whole.finish_reason!r} {whole.message.content!r}, streamed {end!r}")
    assert (whole.finish_reason, whole.message.content) == ("stop", HALF), "a failed end is no longer called stop"
    assert end == ("raised" if reason == "error" else "stop"), "a failed end of a stream is told in another way"
PY
