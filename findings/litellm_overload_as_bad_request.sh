#!/usr/bin/env bash
# litellm 1.106.2: one and the same overload, told in the body of a 200, is another error by the vendor's name, and for
# five of six a BadRequestError, which says that the request is wrong and must not be sent again.
#
# Gateways answer 200 and tell the error inside ({"type": "error", "error": {"type": "overloaded_error", ...}}). A good
# guess says that litellm maps it to one class, and that this class tells a refusal to retry from one not to. It does
# not: `except litellm.BadRequestError: raise` loses calls that a second later would be answered, and no fallback is
# asked. For OpenAI the message is empty as well.
#
# Seen: BadRequestError for openai, mistral, deepseek, xai and openrouter; InternalServerError for anthropic.
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
BODY = json.dumps({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}).encode()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
address = f"http://127.0.0.1:{server.server_address[1]}"
models = ["openai/m", "mistral/m", "deepseek/m", "xai/m", "openrouter/a/m", "anthropic/claude-sonnet-4-5"]
print("litellm", version("litellm"))
found = {}
for model in models:
    try:
        litellm.completion(model, [{"role": "user", "content": "Hi"}], api_base=address, api_key="none", max_retries=0)
    except Exception as error:
        found[model] = type(error).__name__
        print(f"{model}: {found[model]}: {str(error)[:80]}")
assert [found.get(model) for model in models[:5]] == ["BadRequestError"] * 5, "an overload is no bad request any more"
assert found.get(models[5]) == "InternalServerError", "Anthropic's overload is another error now"
PY
