#!/usr/bin/env bash
# genai-prices 0.2.3: the price of a sum of calls is not the sum of their prices: five calls of 60,000 tokens cost twice
# as much once their usages are added.
#
# A good guess says that usage, which can be added with + and sum(), is what is paid for, so that a run of an agent, a
# tenant or a day can be added up and priced once. Gemini 2.5 Pro, Claude Sonnet 4.5 and others have a higher price for
# a prompt above 200,000 tokens; calc_price compares that limit with whatever usage it is given. A sum of small calls is
# then one prompt that nobody sent, all of it at the higher rate, its output too; Sonnet 4.5 refuses such a prompt since
# its long context ended. Models without a limit cost the same both ways, so that two change places in a comparison by
# cost. Price each call, and add the dollars.
#
# Known: that the limit counts for one request's whole prompt is pydantic/genai-prices#241; nothing was found on sums.
#
# Seen: $.9375 call by call and $1.85625 for the sum (Sonnet 4.5), $.40 and $.7875 (Gemini 2.5 Pro), $.40 twice (GPT-5).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "genai-prices==0.2.3"
"$work/venv/bin/python" - <<'PY'
from importlib.metadata import version

from genai_prices import Usage, calc_price

calls = [Usage(input_tokens=60_000, output_tokens=500) for _ in range(5)]
print("genai-prices", version("genai-prices"))
seen = {}
for vendor, model in (("anthropic", "claude-sonnet-4-5"), ("google", "gemini-2.5-pro"), ("openai", "gpt-5")):
    each = sum(calc_price(call, model, provider_id=vendor).total_price for call in calls)
    whole = calc_price(sum(calls), model, provider_id=vendor).total_price
    seen[model] = (float(each), float(whole))
    print(f"{model}: call by call ${each}, the sum of the calls ${whole}")
assert seen["gpt-5"] == (0.4, 0.4)
assert seen["claude-sonnet-4-5"] == (0.9375, 1.85625), "a sum is priced as its calls now"
assert seen["gemini-2.5-pro"] == (0.4, 0.7875), "a sum is priced as its calls now"
PY
