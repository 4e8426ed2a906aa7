"""Processes that share one rate limit."""

import pytest

from tests.inference.limit_storm import limit_storm


@pytest.mark.slow
def test_processes_share_a_limit_fairly_and_never_exceed_it_in_any_window(state_url):
    done = limit_storm(state_url, limit=10, window_s=1.0, windows=6, processes=2, threads=5)
    assert done.started > 30
    assert done.most_reserved == 10
    assert done.unfairness <= 1.5
    assert done.longest_wait_s <= 2 * done.ideal_wait_s + 1
    assert done.rows_kept <= 3 * 10
