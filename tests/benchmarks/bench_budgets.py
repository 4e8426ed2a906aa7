"""One budget, 4 processes of 32 threads, one killed: ``pytest -m bench -s tests/benchmarks/bench_budgets.py``."""

import sys

import pytest

from tests.databases import KINDS, database_url
from tests.inference.budget_storm import HEAD, storm


@pytest.mark.bench
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threads", [1, 8, 32])
def test_budget_is_never_overdrawn(kind, threads, tmp_path):
    with database_url(kind, tmp_path) as url:
        done = storm(url, processes=4, threads=threads, calls=1600 // threads)
    sys.stdout.write(f"\n4 processes x {threads} threads\n{HEAD}\n{done.line(kind)}\n")
