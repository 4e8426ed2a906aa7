"""Processes that share one budget, one of them killed in mid-run."""

import pytest

from tests.inference.budget_storm import storm


@pytest.mark.slow
def test_processes_never_overdraw_a_budget_and_the_books_agree_though_one_is_killed(state_url):
    done = storm(state_url, processes=3, threads=4, calls=60)
    assert done.polls > 20
    assert done.highest > 0.99
    assert done.refused > 0
