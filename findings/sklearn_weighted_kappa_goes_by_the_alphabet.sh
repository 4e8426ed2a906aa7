#!/usr/bin/env bash
# scikit-learn 1.9.1: cohen_kappa_score(weights="quadratic") of grades in words measures how far two are apart in the
# alphabet, and of numbers by their place among those that occur: a judge that takes low for high beats one that takes
# medium for high.
#
# A good guess says that weights know the order of the grades, or ask for it where they are words, and that 5 is three
# from 2. The classes are sorted, and the distance is that of their places: high, low, medium has high beside low and
# farthest from medium. Of the grades 1, 2 and 5 the last two are neighbours, until someone gives a 3: one more answer,
# on which both agree, then lowers the agreement. Of two judges the worse is chosen. The documentation has `labels` to
# choose a subset by; here it is the order, and has to hold each grade of the scale, also those that nobody gave.
#
# Known: no report was found.
#
# Seen: in words .6 for medium in place of high and .889 for low in place of high, and the other way round with the
# order given; of 1, 2 and 5 .8, .684 with a 3 on which both agree, .625 by the whole scale.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "scikit-learn==1.9.1" "numpy==2.4.6" "scipy==1.17.1"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

from sklearn.metrics import cohen_kappa_score

ORDER = ["low", "medium", "high"]
people = ["low"] * 10 + ["medium"] * 10 + ["high"] * 10
one_off = ["low"] * 10 + ["medium"] * 10 + ["high"] * 6 + ["medium"] * 4
two_off = ["low"] * 10 + ["medium"] * 10 + ["high"] * 6 + ["low"] * 4


def kappa(judge, **how):
    return round(float(cohen_kappa_score(people, judge, weights="quadratic", **how)), 3)


print("scikit-learn", version("scikit-learn"))
found, right = [[kappa(j, **how) for j in (one_off, two_off)] for how in ({}, {"labels": ORDER})]
print("medium for high, low for high:", found, "with the order given:", right)
asked, said = [1, 1, 2, 2, 5, 5, 5, 5], [1, 1, 2, 2, 5, 5, 2, 2]
few, more = [float(cohen_kappa_score(a, b, weights="quadratic")) for a, b in ((asked, said), ([*asked, 3], [*said, 3]))]
whole = float(cohen_kappa_score(asked, said, weights="quadratic", labels=range(1, 6)))
print(f"grades 1, 2 and 5: {few:.3f}, with a 3 on which both agree {more:.3f}, by the whole scale {whole:.3f}")
assert right[0] > right[1] + 0.1
assert found[0] < found[1], "words are no longer weighted by the alphabet"
assert more < few, "numbers are no longer weighted by their places"
assert few > whole + 0.05
PY
