#!/usr/bin/env bash
# langfuse 5.0.4 with langchain-openai 1.7.4: a call of OpenAI's flex tier has 0 input and 0 output tokens in Langfuse,
# one of the priority tier has each token twice; only calls without a tier are counted right.
#
# A good guess says that the tier changes the price and not the count. langchain-openai splits the tokens of a tier into
# flex and flex_cache_read (priority and priority_cache_read), and Langfuse's handler takes every detail off the input,
# down to nothing, except those of "priority", which it leaves inside and lists beside. Langfuse prices by these names:
# without an input there is no cost of one, and a trial of flex against standard finds it free. A priority call is
# charged for its cached tokens in full, and whoever adds the classes up has 20,000 tokens of 10,000. The total is right
# in all three.
#
# Known: langfuse/langfuse#11896 had 0 tokens and $0 for the priority tier, which was mended; none was found of flex.
#
# Seen: of 10,000 input tokens, 4,000 of them cached: input 6000 and cache 4000 without a tier; input 0, flex 6000 and
# cache 4000; input 10000, priority 6000 and cache 4000. Output of 500: 200 and 300, 0, 500.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "langfuse==5.0.4" "langchain==1.5.2" \
  "langchain-core==1.8.3" "langchain-openai==1.7.4" "openai==3.57.0" "opentelemetry-sdk==1.45.2"
"$work/venv/bin/python" -W ignore - <<'PY'
import json
from importlib.metadata import version

import httpx
from langchain_openai import ChatOpenAI
from langfuse import Langfuse
from langfuse.langchain import CallbackHandler
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

NOWHERE = "http://127.0.0.1:9"


def answer(request):
    usage = {"prompt_tokens": 10000, "completion_tokens": 500, "total_tokens": 10500}
    details = {"prompt_tokens_details": {"cached_tokens": 4000}, "completion_tokens_details": {"reasoning_tokens": 300}}
    message = {"role": "assistant", "content": "42"}
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "gpt-5", "usage": usage | details}
    body["choices"] = [{"index": 0, "finish_reason": "stop", "message": message}]
    return httpx.Response(200, json=body | {"service_tier": json.loads(request.content)["service_tier"]})


def counted(tier):
    spans = InMemorySpanExporter()
    langfuse = Langfuse(public_key=f"pk-{tier}", secret_key="sk", host=NOWHERE, span_exporter=spans)
    given = {"base_url": NOWHERE, "api_key": "none", "http_client": httpx.Client(transport=httpx.MockTransport(answer))}
    handler = CallbackHandler(public_key=f"pk-{tier}")
    ChatOpenAI(model="gpt-5", service_tier=tier, **given).invoke("?", config={"callbacks": [handler]})
    langfuse.flush()
    (span,) = spans.get_finished_spans()
    return json.loads(span.attributes["langfuse.observation.usage_details"])


print("langfuse", version("langfuse"), "langchain-openai", version("langchain-openai"))
tiers = {tier: counted(tier) for tier in ("default", "flex", "priority")}
for tier, usage in tiers.items():
    print(tier, usage)
assert {usage["total"] for usage in tiers.values()} == {10500}
assert [tiers["default"][name] for name in ("input", "input_cache_read", "output")] == [6000, 4000, 200]
assert [tiers["flex"][name] for name in ("input", "input_flex", "output")] == [0, 6000, 0], "flex has tokens now"
classes = sum(count for name, count in tiers["priority"].items() if name.startswith("input"))
assert classes == 20000, "tokens of the priority tier are counted once now"
PY
