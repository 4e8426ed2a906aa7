#!/usr/bin/env bash
# statsmodels 0.15.0: aggregate_raters takes a missing rating for a category of its own, so that Fleiss' kappa rises with
# every item that nobody has rated.
#
# A good guess says that NaN is no rating: that such an item is left out, or refused, as fleiss_kappa itself refuses
# items with unequal numbers of ratings. aggregate_raters is what its documentation hands raw ratings to it by, and NaN
# is one of the categories that it returns. Two raters who skip the same items agree on them perfectly: a sheet that is
# half filled shows good agreement, and the more is open, the better. Leave out rows with NaN before.
#
# Known: no report was found; that equal numbers of ratings are asked for is #7781.
#
# Seen: kappa .39 of ten items that two people rated; .76 of the same sheet with ten more that neither did, and
# categories 0, 1 and nan.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "statsmodels==0.15.0" "numpy==2.4.6" "scipy==1.17.1" \
  "pandas==3.1.1"
"$work/venv/bin/python" -W ignore - <<'PY'
import numpy as np
import statsmodels
from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa

rated = np.array([[1, 1]] * 4 + [[0, 0]] * 3 + [[1, 0]] * 3, dtype=float)
sheet = np.vstack([rated, np.full((10, 2), np.nan)])
(counts, _), (all_counts, categories) = aggregate_raters(rated), aggregate_raters(sheet)
alone, together = float(fleiss_kappa(counts)), float(fleiss_kappa(all_counts))
print("statsmodels", statsmodels.__version__)
print(f"kappa of what was rated {alone:.2f}, with as many items that nobody rated {together:.2f}; {categories=}")
assert np.isnan(categories).any(), "a missing rating is no category now"
assert together > alone + 0.2, "kappa no longer rises with what is missing"
PY
