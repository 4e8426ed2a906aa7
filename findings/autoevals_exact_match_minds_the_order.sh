#!/usr/bin/env bash
# autoevals 0.4.1: ExactMatch gives 0 for the same JSON object with its keys in another order, although its own
# documentation shows that pair with the score 1.0.
#
# A good guess says that objects are compared as objects, as Python's == does, and as the documentation of the module has
# it: {"name": "John", "age": 30} against '{"age": 30, "name": "John"}' ("Different order but same content"), 1.0. Both
# sides are written by json.dumps without sorted keys, and the texts are compared; 1 against 1.0 is 0 as well. A model
# that fills in the right arguments in an order of its own gets nothing right, and one that copies the order of
# the prompt looks better than it is. JSONDiff gives 1 for both, but nearly 1 for a wrong number too. Sort the keys
# of both sides before.
#
# Known: no report of the order was found; braintrustdata/autoevals#220 is on numbers against objects.
#
# Seen: 0 for the documentation's own pair and for the two as dicts; 1 in one order; JSONDiff 1.0 for both, and .9999 for
# order number 4711 in place of 4712.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "autoevals==0.4.1"
"$work/venv/bin/python" - <<'PY'
from importlib.metadata import version

import autoevals.value
from autoevals import ExactMatch, JSONDiff

mine, theirs = {"name": "John", "age": 30}, {"age": 30, "name": "John"}
exact, diff = ExactMatch(), JSONDiff()
print("autoevals", version("autoevals"))
shown = exact.eval(output=mine, expected='{"age": 30, "name": "John"}').score
dicts = exact.eval(output=mine, expected=theirs).score
same = exact.eval(output=mine, expected=dict(mine)).score
near = diff.eval(output={"order": 4711}, expected={"order": 4712}).score
print("ExactMatch: the documentation's pair", shown, " as dicts", dicts, " in one order", same)
print("JSONDiff: another order", diff.eval(output=mine, expected=theirs).score, " a wrong order number", round(near, 4))
assert "Different order but same content" in autoevals.value.__doc__, "the documentation shows another pair now"
assert mine == theirs and same == 1
assert (shown, dicts) == (0, 0), "the order of keys no longer counts"
assert diff.eval(output=mine, expected=theirs).score == 1 and round(near, 4) == 0.9999
PY
