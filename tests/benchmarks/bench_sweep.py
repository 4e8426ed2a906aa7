"""All distinct thresholds at once against loops over a grid: ``pytest -m bench -s tests/benchmarks/bench_sweep.py``.

The loop is how threshold optimisers of semantic caches go about it: for each of 60 thresholds a dictionary for each
query. A plain loop of vectorised masks over the same grid stands beside it.
"""

import sys
import time

import numpy as np
import pytest

from workbench.caching.threshold_certificate import sweep_thresholds

PAIRS, GRID = 1_000_000, np.linspace(0.2, 0.99, 60)
GOAL = 100


def dictionaries(scores, false):
    best = (-1.0, 0.0)
    for threshold in GRID.tolist():
        results = [
            {"score": score, "hit": score >= threshold, "false": wrong and score >= threshold}
            for score, wrong in zip(scores, false, strict=True)
        ]
        hits = sum(r["hit"] for r in results)
        wrong = sum(r["false"] for r in results)
        right = sum(not r["false"] and r["hit"] for r in results)
        best = max(best, (right / max(hits, 1) - wrong, threshold))
    return best


def masks(scores, false):
    return [((hit := scores >= threshold).sum(), (hit & false).sum()) for threshold in GRID]


def seconds(call, *arguments):
    start = time.perf_counter()
    found = call(*arguments)
    return time.perf_counter() - start, found


@pytest.mark.bench
@pytest.mark.timeout(900)
def test_one_sort_beats_the_loop():
    rng = np.random.default_rng(0)
    scores = rng.beta(8, 3, PAIRS)
    false = rng.random(PAIRS) > scores
    ours, found = min((seconds(sweep_thresholds, scores, false) for _ in range(3)), key=lambda timed: timed[0])
    masked, counted = seconds(masks, scores, false)
    looped, _ = seconds(dictionaries, scores.tolist(), false.tolist())
    sys.stdout.write(
        f"\n{PAIRS:,} pairs: sweep {ours:.2f} s over {len(found.thresholds):,} thresholds; masks {masked:.2f} s and "
        f"dictionaries {looped:.1f} s over {len(GRID)}: {masked / ours:.1f} and {looped / ours:.0f} times\n"
    )
    at = np.searchsorted(-found.thresholds, -GRID, "right") - 1
    assert [(h, f) for h, f in counted] == list(zip(found.hits[at], found.false[at], strict=True))
    assert looped / ours > GOAL
