#!/usr/bin/env bash
# pytest-xdist 3.8.0 in pytest 9.2.0: --dist loadgroup spreads the tests of one xdist_group over all workers, silently.
#
# A good guess says that tests with one mark xdist_group("name") run on one worker, so that what a fixture of the module
# makes is made once. A worker writes the group behind the test's private _nodeid; pytest 9.2 no longer reads a node's id
# from there, so that the name never reaches the scheduler, every test is a group of its own, and nothing warns.
#
# Seen: two workers run the eight tests of one group in pytest 9.2.0, one worker does in pytest 9.0.2.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/test_group.py" <<'PY'
import time

import pytest


@pytest.mark.xdist_group("one")
@pytest.mark.parametrize("number", range(8))
def test_of_a_group(number, worker_id):
    print(worker_id)
    time.sleep(0.2)
PY
workers() {
  python3 -m venv "$work/$1"
  "$work/$1/bin/pip" install --quiet --disable-pip-version-check "pytest==$1" "pytest-xdist==3.8.0"
  (cd "$work" && "$work/$1/bin/pytest" -n 2 --dist loadgroup -v -p no:cacheprovider test_group.py) >"$work/$1.txt"
  grep -q "8 passed" "$work/$1.txt"
  grep -oE "^\[gw[01]\]" "$work/$1.txt" | sort -u | wc -l
}
before=$(workers 9.0.2)
now=$(workers 9.2.0)
echo "pytest-xdist 3.8.0: workers of one group: $before in pytest 9.0.2, $now in pytest 9.2.0"
test "$before" = 1
test "$now" = 2
