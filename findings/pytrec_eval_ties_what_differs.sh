#!/usr/bin/env bash
# pytrec-eval-terrier 0.5.11: scores are kept as float32, so that probabilities near 1 are ties, and ties go by the
# document's id: a reranker that is sure of its first five is measured in the order of their names.
#
# A good guess says that Python's floats are compared as they are; trec_eval 10 keeps doubles. This build of it keeps
# single precision: .99999999 and .99999998, what a sigmoid gives of logits 18.4 and 17.7, are the same number, and so
# are 1700000000.1 and 1700000000.9 where a time was added. Ties are broken by id, descending. ir-measures measures most
# things through it. Logits, or ranks, in place of probabilities keep the order.
#
# Known: usnistgov/trec_eval#34, of trec_eval 9; no report of this package was found.
#
# Seen: reciprocal rank .2 and nDCG@10 .3869 of the five probabilities, 1.0 of the logits behind them.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "pytrec-eval-terrier==0.5.11" "numpy==2.4.6"
"$work/venv/bin/python" - <<'PY'
import math
from importlib.metadata import version

import pytrec_eval

LOGITS = {"a": 20.0, "b": 19.5, "c": 19.0, "d": 18.5, "e": 18.0}
PROBABILITIES = {doc: 1 / (1 + math.exp(-logit)) for doc, logit in LOGITS.items()}
evaluator = pytrec_eval.RelevanceEvaluator({"q": {"a": 1}}, {"recip_rank", "ndcg_cut_10"})


def measured(scores):
    return {name: round(value, 4) for name, value in evaluator.evaluate({"q": scores})["q"].items()}


print("pytrec-eval-terrier", version("pytrec-eval-terrier"))
print("probabilities:", PROBABILITIES, measured(PROBABILITIES))
print("logits:       ", LOGITS, measured(LOGITS))
assert len(set(PROBABILITIES.values())) == 5, "the probabilities differ in Python"
assert measured(LOGITS) == {"recip_rank": 1.0, "ndcg_cut_10": 1.0}
assert measured(PROBABILITIES) == {"recip_rank": 0.2, "ndcg_cut_10": 0.3869}, "doubles are kept now"
PY
