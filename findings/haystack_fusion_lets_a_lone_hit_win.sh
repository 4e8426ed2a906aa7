#!/usr/bin/env bash
# haystack-ai 3.4.1: DocumentJoiner's distribution_based_rank_fusion leaves a list of one document at its raw score, so
# that a lone hit of BM25 is first whatever the vectors found; a second, weaker hit beside it takes it off that place.
#
# A good guess says that fusing by distribution puts every list on one scale, from 0 to 1, as it does where a list has
# two different scores. A list of one, or of equal scores, has no distribution, and its scores are kept as they came. A
# BM25 score of 3.1 stands beside vector hits of at most 1 then, and wins by 2; of two hits the same document gets .667
# and is behind. Questions with a rare word have such lists, and so do small tenants: hybrid search looks right on
# average, and gives the one document with the word first for just those. A lone vector hit of .35 is low likewise.
#
# Known: that such lists were all 0 before is deepset-ai/haystack#12507, closed; no report was found of what came of it.
#
# Seen: w0 first with 3.1 of one hit; v0 .78 before w0 .667 of two; both hits first with 3.1 where they are equal.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "haystack-ai==3.4.1" "numpy==2.4.6"
HAYSTACK_TELEMETRY_ENABLED=False "$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

from haystack import Document
from haystack.components.joiners import DocumentJoiner


def hits(name, *scores):
    return [Document(id=f"{name}{i}", content=f"{name}{i}", score=score) for i, score in enumerate(scores)]


def fused(*words):
    joiner = DocumentJoiner(join_mode="distribution_based_rank_fusion")
    found = joiner.run([hits("v", 0.92, 0.81, 0.74, 0.70, 0.66), hits("w", *words)])["documents"]
    return [(document.id, round(document.score, 3)) for document in found]


print("haystack-ai", version("haystack-ai"))
one, two, equal = fused(3.1), fused(3.1, 2.9), fused(3.1, 3.1)
for name, seen in (("one hit by words", one), ("a second, weaker one", two), ("two of equal scores", equal)):
    print(f"{name}: {seen[:4]}")
assert one[0] == ("w0", 3.1), "a lone hit is put on the scale of the others now"
assert two[:2] == [("v0", 0.78), ("w0", 0.667)]
assert equal[:2] == [("w0", 3.1), ("w1", 3.1)], "equal hits are put on the scale of the others now"
PY
