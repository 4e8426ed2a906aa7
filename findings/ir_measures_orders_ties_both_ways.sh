#!/usr/bin/env bash
# ir-measures 0.4.3: one run, two orders: RR@10 takes documents of equal score from the lowest id up, all other measures
# from the highest down, so that RR@10 is 1.0 beside a Success@1 of 0.
#
# A good guess says that measures of one call rank one list. ir-measures hands each to a provider: RR@10 goes to code
# of MS MARCO's, RR without a cut, nDCG, AP and Success to trec_eval, and each breaks ties in its own way. Equal scores
# are common where ranks were fused, scores rounded, or grades given by a model: a run of one score throughout has an
# RR@10 of 1.0 and, of four documents, an nDCG@10 of .43. Scores made of ranks, highest first, take the choice from both.
#
# Known: terrierteam/ir_measures#18 ("handling of ties"), open.
#
# Seen: RR@10 1.0, RR .25, Success@1 0.0, nDCG@10 .4307 of a run of four documents of equal score; all 1.0 by ranks.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "ir-measures==0.4.3" "pytrec-eval-terrier==0.5.11" \
  "setuptools==80.9.0"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import ir_measures
from ir_measures import RR, Qrel, ScoredDoc, Success, nDCG

MEASURES = [RR @ 10, RR, Success @ 1, nDCG @ 10]
qrels = [Qrel("q", "a", 1)]


def measured(scores):
    run = [ScoredDoc("q", doc, score) for doc, score in scores.items()]
    return {str(measure): round(value, 4) for measure, value in ir_measures.calc_aggregate(MEASURES, qrels, run).items()}


tied = measured({"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0})
by_rank = measured({"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0})
print("ir-measures", version("ir-measures"), "pytrec-eval-terrier", version("pytrec-eval-terrier"))
print("equal scores:", tied)
print("by ranks:    ", by_rank)
assert (tied["RR@10"], tied["RR"], tied["Success@1"], tied["nDCG@10"]) == (1.0, 0.25, 0.0, 0.4307), "ties are one now"
assert set(by_rank.values()) == {1.0}
PY
