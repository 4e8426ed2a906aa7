"""The promises of the deciding test, by simulation; the whole table: ``python -m tests.benchmarks.simulate_gate``."""

import numpy as np
import pytest

from tests.benchmarks.simulate_gate import checks, few_differ, share

CHECKS = checks()


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.what)
def test_the_promise_is_kept_within_four_monte_carlo_errors(check):
    kept, line = check.line(share(check, 200), 200, errors=4)
    assert kept, line


@pytest.mark.parametrize("m", [30, 60, 120])
@pytest.mark.parametrize(("differing", "status"), [(0, "identical"), (1, "inconclusive"), (9, "inconclusive")])
def test_too_few_differing_clusters_are_never_a_claim(m, differing, status):
    assert all(few_differ(np.random.default_rng(s), status, m=m, differing=differing) for s in range(20))
