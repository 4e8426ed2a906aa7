"""What the routing steps cost, and how that grows with ten times the prompts: ``pytest -m bench -s``."""

import resource
import time

import numpy as np
import pytest

from tests.routing.routing_tables import planted
from tests.routing.test_notebook import open_bench, project, run_all


@pytest.mark.bench
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("prompts", [3_000, 30_000])
def test_cost_of_all_steps(tmp_path, prompts):
    policies = ["random", "length", "complexity", "boosting", "logistic_words", "knn_words"]
    bench = open_bench(project(tmp_path, planted(prompts)), policies=policies, draws=2000)
    cpu = time.process_time()
    decision = run_all(bench)
    spent = time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{prompts:,} prompts: {spent:.1f} s of processor time, peak {peak:,.0f} MB, {decision.verdict}")  # noqa: T201  what a benchmark is for
    assert np.isfinite(decision.claims[-1].low)
