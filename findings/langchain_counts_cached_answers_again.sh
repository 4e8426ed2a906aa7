#!/usr/bin/env bash
# langchain-core 1.8.3: get_usage_metadata_callback() counts an answer of the cache as if the model had given it: five
# equal questions, one request, and five times the tokens.
#
# A good guess says that usage is what was used, and that a cache which saves four requests of five saves four of five
# tokens that are counted. The message is kept with its usage_metadata, and comes out of the cache with the same counts.
# It tells so itself (total_cost: 0 is added to it), but the sum by model takes its tokens as they are. A budget in
# tokens runs out early, and a bill made of tokens and prices comes out the same with and without the cache, so that a
# trial of it shows no gain. Count what was sent, or leave out messages whose usage has total_cost 0.
#
# Known: langfuse/langfuse#2112 and BerriAI/litellm#39057, both open, have it of theirs; none was found of
# langchain-core.
#
# Seen: one call of the model, of 1,000 input and 100 output tokens, and 5,000 and 500 counted; the same of five calls
# without a cache.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "langchain-core==1.8.3"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import get_usage_metadata_callback
from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage

CALLS = []


class Model(FakeMessagesListChatModel):
    def _generate(self, *args, **kwargs):
        CALLS.append(args)
        return super()._generate(*args, **kwargs)


def counted(cache):
    CALLS.clear()
    usage = {"input_tokens": 1000, "output_tokens": 100, "total_tokens": 1100}
    model = Model(responses=[AIMessage("42", usage_metadata=usage, response_metadata={"model_name": "m"})], cache=cache)
    with get_usage_metadata_callback() as callback:
        for _ in range(5):
            model.invoke("What is six times seven?")
    return len(CALLS), callback.usage_metadata["m"]["input_tokens"], callback.usage_metadata["m"]["output_tokens"]


print("langchain-core", version("langchain-core"))
with_cache, without = counted(InMemoryCache()), counted(False)
print("calls, input and output tokens with a cache", with_cache, "without", without)
assert without == (5, 5000, 500)
assert with_cache[0] == 1
assert with_cache[1:] == without[1:], "a cached answer is not counted again now"
PY
