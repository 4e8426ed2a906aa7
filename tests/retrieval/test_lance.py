"""Failures of LanceDB: repeated where it says so, told as ours otherwise."""

import subprocess
import sys

import pytest

from tests.retrieval.tables import open_store, row
from workbench.errors import StoreError
from workbench.retrieval.lance import LanceStore, lance_committed, lance_reported

LOST = (
    "lance error: Retryable commit conflict for version 10: preempted. Please retry.",
    "lance error: Too many concurrent writers. Attempted 10 retries, but failed",
)


@pytest.mark.parametrize("said", LOST)
def test_write_that_lost_a_race_is_done_again(said) -> None:
    tries = []

    def write() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise RuntimeError(said)
        return len(tries)

    assert lance_committed(write) == 3


class Crowded:
    """A table on which every first write loses to others."""

    def __init__(self, table):
        self.table, self.lost = table, 0

    def __getattr__(self, name):
        return getattr(self.table, name)

    def _lose_once(self):
        self.lost += 1
        if self.lost % 2:
            raise RuntimeError(LOST[1])

    def delete(self, condition):
        self._lose_once()
        return self.table.delete(condition)

    def merge_insert(self, key):
        merge, lose_once = self.table.merge_insert(key), self._lose_once

        class Merge:
            def __getattr__(self, name):
                return lambda: (getattr(merge, name)(), self)[1]

            def execute(self, data):
                lose_once()
                return merge.execute(data)

        return Merge()


def test_upserts_and_deletes_among_many_writers_are_done_again(tmp_path) -> None:
    quiet = open_store(tmp_path)
    store = LanceStore(Crowded(quiet._table), "crowded", quiet.dimension)
    assert store.upsert([row("a", "d", "text"), row("a", "e", "text")]) == 2
    assert store.delete_documents("a", ["d"]) == 1
    assert store.delete_stale("a", {"e": "new"}) == 1
    assert quiet.describe().rows == 0


def test_write_that_fails_for_another_reason_is_told_at_once() -> None:
    tries = []

    def write() -> None:
        tries.append(1)
        raise RuntimeError("no space left")

    with pytest.raises(StoreError, match="cannot index it: no space left"), lance_reported("index it"):
        lance_committed(write)
    assert len(tries) == 1


LIGHT = """
import sys
from workbench.retrieval.lance import load_lancedb
table = load_lancedb().connect("memory://").create_table("t", [{"a": 1, "vector": [1.0, 0.0]}])
assert table.search([1.0, 0.0]).to_list()[0]["a"] == 1
clients = "lance_namespace_urllib3_client"
assert f"{clients}.api" not in sys.modules, "the clients were read"
import lance_namespace
import lance_namespace_urllib3_client as package
from lance_namespace_urllib3_client import TableApi
assert package.models.CreateTableRequest is lance_namespace.CreateTableRequest
assert TableApi.__module__ == f"{clients}.api.table_api"
try:
    package.NoSuchThing
except AttributeError as error:
    assert "NoSuchThing" in str(error)
else:
    raise SystemExit("a name that is not there was found")
"""


def test_lancedb_comes_without_clients_of_namespace_services_until_somebody_asks_for_them() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
