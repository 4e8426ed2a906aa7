#!/usr/bin/env bash
# ragas 0.4.3: two judges that share a DiskCacheBackend give the verdicts of the first; the second is never asked.
#
# A good guess says that a cache of answers is kept by who was asked: `llm_factory("a", cache=cache)` beside
# `llm_factory("b", cache=cache)` is the plain way to try a cheaper judge, and the cache is a folder that outlives the
# process. Its key is the name of the method and its arguments: model, temperature, system prompt and server are not in
# it. So a second judge agrees with the first in everything, at no cost, and a repeat at another temperature repeats
# nothing. The workaround is a folder for each judge and setting.
#
# Known: vibrantlabsai/ragas#2983, open.
#
# Seen: context recall 1.0 by a lenient judge, then 1.0 by a strict one that says 0, and by the first at another
# temperature, with one request in all; with a folder of its own the strict one gives 0.0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "ragas==0.4.3" "langchain-community>=0.4,<0.4.2" \
  "rouge-score>=0.1.2" "openai==2.54.0" "diskcache==5.6.3"
cd "$work"
RAGAS_DO_NOT_TRACK=true LITELLM_LOCAL_MODEL_COST_MAP=True "$work/venv/bin/python" -W ignore - <<'PY'
import asyncio
import importlib.metadata
import json

import httpx
import openai
from ragas.cache import DiskCacheBackend
from ragas.llms import llm_factory
from ragas.metrics.collections import ContextRecall

asked = []


def answer(request):
    model = json.loads(request.content)["model"]
    asked.append(model)
    verdict = {"statement": "s", "reason": "r", "attributed": int(model == "lenient")}
    message = {"role": "assistant", "content": json.dumps({"classifications": [verdict]})}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    told = {"id": "x", "object": "chat.completion", "created": 1, "model": model, "choices": choices}
    return httpx.Response(200, json=told | {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}})


def recall(model, cache, **given):
    web = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    client = openai.AsyncOpenAI(base_url="http://judge.invalid/v1", api_key="none", http_client=web)
    metric = ContextRecall(llm=llm_factory(model, client=client, cache=cache, **given))
    return asyncio.run(metric.ascore(user_input="q", reference="s", retrieved_contexts=["c"])).value


shared = DiskCacheBackend("shared")
lenient, strict, warm = recall("lenient", shared), recall("strict", shared), recall("lenient", shared, temperature=0.9)
print("ragas", importlib.metadata.version("ragas"))
print("one cache: lenient", lenient, "strict", strict, "lenient at another temperature", warm, "asked:", asked)
assert (lenient, strict, warm, asked) == (1.0, 1.0, 1.0, ["lenient"]), "the key has the judge in it now"
alone = recall("strict", DiskCacheBackend("alone"))
print("a cache of its own: strict", alone)
assert alone == 0.0
PY
