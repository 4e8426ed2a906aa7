#!/usr/bin/env bash
# focus-validator 2.2.1: a file without a row fails, because the row that is not there has none of the allowed values.
#
# A good guess says that rules on values hold of a file with the right columns and no charge in it, such as that of a
# month in which nothing was spent: nothing in it has a wrong value. They fail, for each column with more than one allowed
# value, with one violation ("OR failed"), while rules on types and nulls of the same columns pass, and a column with a
# single row of an allowed value passes too.
#
# Seen: "ChargeFrequency-C-003-M: FAIL (violations=1, ..." of a header alone, PASS of the same header with a row.
# Needs Python 3.12 or later: PYTHON=python3.12 findings/focus_validator_fails_an_empty_file.sh
set -euo pipefail
python=${PYTHON:-python3.12}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "focus-validator==2.2.1" "pyarrow==22.0.0"
printf 'ChargeCategory,ChargeFrequency\n' >"$work/none.csv"
printf 'ChargeCategory,ChargeFrequency\nUsage,Usage-Based\n' >"$work/one.csv"
cd "$work"/venv/lib/python*/site-packages # it reads a file of its own from below the working directory
validate() {
  "$work/venv/bin/focus-validator" --data-file "$1" --validate-version 1.2 --block-download \
    --applicability-criteria USAGE_MEASUREMENT_SUPPORTED >"$work/said.txt" 2>&1
}
validate "$work/one.csv"
grep -m1 -E "ChargeFrequency-C-003-M: PASS" "$work/said.txt" || { echo "a row with allowed values fails now"; exit 1; }
validate "$work/none.csv"
grep -m1 -E "ChargeFrequency-C-003-M: FAIL .*violations=1" "$work/said.txt" || { echo "no row is no failure now"; exit 1; }
grep -m1 -E "ChargeFrequency-C-00[12]-[MO]: PASS" "$work/said.txt"
echo "focus-validator 2.2.1: a header alone has a violation of allowed values"
