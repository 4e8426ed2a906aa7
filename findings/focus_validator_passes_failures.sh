#!/usr/bin/env bash
# focus-validator 2.2.1: the newest version cannot be imported as installed, works in one folder only, and exits with 0
# whatever it finds.
#
# A good guess says that `pip install focus-validator` gives a command that works anywhere, and whose exit code tells a
# build whether a file conforms. It does not: numpy is held below 2 and pyarrow is not held at all, so the newest pyarrow
# refuses to be imported; a table of currency codes is opened by a path relative to the working directory; and a file in
# which dozens of rules fail ends with exit code 0. Whole numbers of tokens fail too: a CSV column without a point is read
# as integers, and "MUST be of type Decimal" is then broken.
#
# Seen: ImportError "pyarrow requires NumPy 2.0 or newer"; FileNotFoundError on focus_validator/rules/currency_codes.csv;
# "Fail: " above 0 beside exit code 0. Needs Python 3.12 or later: PYTHON=python3.12 findings/focus_validator_passes_failures.sh
set -euo pipefail
python=${PYTHON:-python3.12}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "focus-validator==2.2.1" "pyarrow==26.0.1"
printf 'BilledCost,ChargeCategory,ConsumedQuantity\n1.5,Usage,12\n' >"$work/costs.csv"
validate() {
  "$work/venv/bin/focus-validator" --data-file "$work/costs.csv" --validate-version 1.2 --block-download \
    --applicability-criteria USAGE_MEASUREMENT_SUPPORTED >"$work/said.txt" 2>&1
}
cd "$work"
if validate; then echo "it can be imported beside pyarrow 26 now"; exit 1; fi
grep -m1 "pyarrow requires NumPy 2.0" said.txt
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "pyarrow==22.0.0"
if validate; then echo "it works in any folder now"; exit 1; fi
grep -m1 "currency_codes.csv" said.txt
cd "$work"/venv/lib/python*/site-packages
validate || { echo "its exit code tells of failures now"; exit 1; }
grep -m1 -E "Fail: [1-9]" "$work/said.txt"
grep -m1 -E "ConsumedQuantity.*FAIL.*of type DECIMAL" "$work/said.txt"
echo "focus-validator 2.2.1: exit code 0 beside these failures"
