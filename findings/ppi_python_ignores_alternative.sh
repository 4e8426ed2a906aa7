#!/usr/bin/env bash
# ppi-python 0.2.3: ppi_mean_ci(alternative="larger") gives the two-sided interval, and importing it silences warnings.
#
# A good guess says that an interval for a one-sided alternative has one bound and puts all of alpha there. With the
# power tuning that is the default (lam=None) the function calls itself with the tuned weight and does not hand
# `alternative` on, so that the answer is the two-sided interval without a word; with lam given it is one-sided.
# Its module also runs warnings.simplefilter("ignore") when it is imported, for the whole process.
#
# Seen: with lam=None both alternatives have the same two finite bounds; with lam=1 "larger" has an infinite one. A
# warning that is shown before the import is not after it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "ppi-python==0.2.3" "numpy==2.4.6"
cd "$work"
"$work/venv/bin/python" - <<'PY'
import importlib.metadata
import warnings

import numpy as np

before = len(warnings.filters)
from ppi_py import ppi_mean_ci

rng = np.random.default_rng(0)
label, judged, others = rng.normal(size=50), rng.normal(size=50), rng.normal(size=200)


def interval(**given):
    return [float(np.squeeze(bound)) for bound in ppi_mean_ci(label, judged, others, alpha=0.1, **given)]


two, larger = interval(), interval(alternative="larger")
fixed = interval(alternative="larger", lam=1)
print("ppi-python", importlib.metadata.version("ppi-python"))
print("tuned, two-sided:", two)
print("tuned, larger:   ", larger)
print("lam=1, larger:   ", fixed)
print("first warning filter:", warnings.filters[0][:3], "filters before and after:", before, len(warnings.filters))
assert two == larger and np.isfinite(larger).all(), "the alternative is no longer ignored"
assert not np.isfinite(fixed).all(), "lam=1 no longer gives a one-sided interval"
assert warnings.filters[0][0] == "ignore" and warnings.filters[0][2] is Warning, "warnings are no longer silenced"
PY
