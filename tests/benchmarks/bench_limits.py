"""One rate limit, 3 processes of 8 threads: ``pytest -m bench -s tests/benchmarks/bench_limits.py``."""

import sys

import pytest

from tests.databases import KINDS, database_url
from tests.inference.limit_storm import HEAD, limit_storm


@pytest.mark.bench
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [12, 60])
def test_limit_holds_in_every_window(kind, limit, tmp_path):
    with database_url(kind, tmp_path) as url:
        done = limit_storm(url, limit=limit, window_s=3.0, windows=13)
    sys.stdout.write(f"\n{limit} in any 3 s\n{HEAD}\n{done.line(kind)}\n")
    assert done.most_reserved <= limit
