"""Failures of LanceDB: repeated where it says so, told as ours otherwise."""

import pytest

from workbench.errors import StoreError
from workbench.retrieval.lance import committed, reported


def test_write_that_lost_a_race_is_done_again() -> None:
    tries = []

    def write() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise RuntimeError("lance error: Retryable commit conflict for version 10: preempted. Please retry.")

    committed(write)
    assert len(tries) == 3


def test_write_that_fails_for_another_reason_is_told_at_once() -> None:
    tries = []

    def write() -> None:
        tries.append(1)
        raise RuntimeError("no space left")

    with pytest.raises(StoreError, match="cannot index it: no space left"), reported("index it"):
        committed(write)
    assert len(tries) == 1
