#!/usr/bin/env bash
# inspect-ai 0.3.285: exact() calls the answer "A" wrong where the target is "A", and "-5" right where it is "5"; match()
# calls every answer right where the target is a symbol, such as "<" or "+".
#
# A good guess says that an answer in the words of its target is right, and another one is not. Both scorers take
# punctuation away first, and exact() the words a, an and the too. What is left of "A" is nothing, which exact() passes
# over: of a multiple-choice set each question whose answer is A counts as wrong, B, C and D do not. What is left of
# "<" is nothing as well, and every text ends with nothing: match() gives a comparison or operator set 100 %. Of "-5" and
# "C++" is left what is left of "5" and "C". f1() gives the same: 0 for "A", 1 for "-5" and "5".
# match() has no option for it, also not location="exact"; includes(), and choice() for letters, tell them apart.
#
# Known: no report of these was found; that an answer "A" is an article is known of others (OpenBMB/UltraRAG#509,
# stanford-crfm/helm#4315).
#
# Seen: exact I of A and A, C of B and B, C of -5 and 5, C of C++ and C; match C of "I do not know" and "<".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "inspect-ai==0.3.285"
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import asyncio
from importlib.metadata import version

from inspect_ai.model import ModelOutput
from inspect_ai.scorer import Target, exact, f1, includes, match
from inspect_ai.solver import TaskState


def value(scorer, answer, target):
    state = TaskState(model="mockllm/model", sample_id=1, epoch=1, input="q", messages=[])
    state.output = ModelOutput.from_content("mockllm/model", answer)
    return asyncio.run(scorer(state, Target(target))).value


PAIRS = [("A", "A"), ("B", "B"), ("-5", "5"), ("C++", "C"), ("I do not know", "<"), ("<", "<"), (">", "<")]
print("inspect-ai", version("inspect-ai"), "(answer, target: exact, f1, match)")
seen = {}
for pair in PAIRS:
    seen[pair] = tuple(value(scorer, *pair) for scorer in (exact(), f1(), match()))
    print(*pair, seen[pair], sep=" | ")
assert seen["A", "A"][:2] == ("I", 0.0) and seen["B", "B"][:2] == ("C", 1.0), "the letter A is an answer now"
assert seen["-5", "5"][:2] == seen["C++", "C"][:2] == ("C", 1.0), "exact tells signs apart now"
assert seen["I do not know", "<"][2] == seen[">", "<"][2] == "C", "match tells symbols apart now"
assert value(match(location="exact"), ">", "<") == "C" and value(includes(), ">", "<") == "I"
PY
