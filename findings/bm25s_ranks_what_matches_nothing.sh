#!/usr/bin/env bash
# bm25s 0.3.16: a question without a word in common with any document gets k documents all the same, the last of the
# corpus first, with score 0; fused by rank they weigh as much as real hits.
#
# A good guess says that a search by words returns what has one of the words, fewer than k where fewer have, as Lucene
# and every database do. bm25s fills up with documents of score 0. Recall and "found at all" then count chance, and
# reciprocal rank fusion, which looks at places alone, gives them 1/61, 1/62 and so on: a question in other words than
# the documents' has its best vector hit tied with, or behind, a document that shares nothing with it. Keep scores
# above 0 before anything is fused, measured, or written to a run file.
#
# Known: reported and mended in haystack (deepset-ai/haystack#5982), which was the same; none was found for bm25s.
#
# Seen: documents 5, 4, 3 with scores 0, 0, 0; by fusion with a vector search that finds 0, 1, 2 the first place is a
# tie of document 0 and document 5.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "bm25s==0.3.16" "numpy==2.4.6"
"$work/venv/bin/python" - <<'PY'
from importlib.metadata import version

import bm25s

DOCUMENTS = [
    "reset your password in the settings",
    "a password has twelve letters",
    "sign in with a single account",
    "invoices are sent in march",
    "cancel a plan at any time",
    "our office is in vienna",
]
index = bm25s.BM25()
index.index(bm25s.tokenize(DOCUMENTS, show_progress=False), show_progress=False)


def search(question):
    found, scores = index.retrieve(bm25s.tokenize([question], show_progress=False), k=3, show_progress=False)
    return found[0].tolist(), [round(float(score), 3) for score in scores[0]]


words, scores = search("forgotten credentials")
vectors = [0, 1, 2]
fused = {d: sum(1 / (61 + leg.index(d)) for leg in (words, vectors) if d in leg) for d in {*words, *vectors}}
some, some_scores = search("password")
print("bm25s", version("bm25s"))
print("no word in common:", words, scores)
print("fused with vector hits", vectors, {d: round(score, 5) for d, score in sorted(fused.items())})
print("two documents have the word:", some, some_scores)
assert scores == [0, 0, 0] and len(words) == 3, "what matches nothing is left out now"
assert fused[words[0]] == fused[vectors[0]] == max(fused.values())
assert sorted(some[:2]) == [0, 1] and some_scores[2] == 0 and len(some) == 3
PY
