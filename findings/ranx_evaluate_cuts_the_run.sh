#!/usr/bin/env bash
# ranx 0.3.21: evaluate(dev, run, make_comparable=True) takes every question that is not in dev out of the run itself, so
# that the same run is 0.0 on the test questions afterwards.
#
# A good guess says that measuring a run leaves it as it was, and that "adds empty results for queries missing from the
# run and removes those not appearing in qrels" is done on a copy. It is done in place: a run of all questions, measured
# on one split, has that split's questions alone, and on the next split each of them counts as answered with nothing.
# Nothing is raised, as filling gaps is what was asked for. Whoever chooses on one split and reports on the other, or
# compares by tenant or by topic, sees 0.0 for whatever comes second; compare() does it to each run of its list. A new
# Run for each call, or splits cut by hand without make_comparable, gives the right numbers. A Run cannot be deep-copied.
#
# Known: no report was found.
#
# Seen: MRR 1.0 on dev, then 0.0 on test, of a run that ranks first in both; 1.0 on test with a new Run of the same hits.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "ranx==0.3.21" "numba==0.68.1" "numpy==2.4.6"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

from ranx import Qrels, Run, compare, evaluate

HITS = {"q1": {"a": 2.0, "b": 1.0}, "q2": {"c": 2.0, "d": 1.0}, "q3": {"e": 1.0}, "q4": {"f": 3.0}}
dev, test = Qrels({"q1": {"a": 1}, "q2": {"c": 1}}), Qrels({"q3": {"e": 1}, "q4": {"f": 1}})

print("ranx", version("ranx"))
run = Run(HITS)
first = evaluate(dev, run, "mrr", make_comparable=True)
second = evaluate(test, run, "mrr", make_comparable=True)
fresh = evaluate(test, Run(HITS), "mrr", make_comparable=True)
print("dev:", first, " test, the same run:", second, " test, a new run:", fresh)
compared = Run(HITS, name="compared")
compare(dev, [compared, Run(HITS, name="other")], ["mrr"], make_comparable=True)
print("questions of a run that was compared on dev:", list(compared.keys()))
assert (first, fresh) == (1.0, 1.0)
assert second == 0.0, "a run is left as it was now"
assert list(compared.keys()) == ["q1", "q2"], "compare leaves its runs as they were now"
PY
