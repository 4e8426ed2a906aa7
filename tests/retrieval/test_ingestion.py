"""Ingestion as a job: the same table as a plain ingestion makes, whatever happens to the process on the way."""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.evalset.small_evalset import settings_in
from tests.faults.ingesting_child import documents, open_parts
from tests.orchestration.small_flows import LOG
from tests.retrieval.ingest_job import KILLED, ingest_documents
from tests.retrieval.tiny import write_evalset
from workbench.orchestration.flows import Flows
from workbench.records import parameters_of
from workbench.retrieval.arms import make_arms
from workbench.retrieval.chunking import FixedTokens
from workbench.retrieval.ingest import VectorCache, ingest
from workbench.retrieval.ingestion import ingest_evalset
from workbench.retrieval.store import open_table
from workbench.testing import HashEmbedder, WordTokenizer

ROOT = Path(__file__).parents[2]


def test_an_evalset_is_ingested_by_a_job_that_tells_how_far_it_is(tmp_path):
    folder = write_evalset(tmp_path / "evalsets" / "tiny")
    settings = replace(settings_in(tmp_path), state_url=f"sqlite:///{tmp_path / 'state.sqlite'}")
    arm = parameters_of(make_arms(["whole"], ["hybrid_rrf"])[0])
    encoders = {"encoders": lambda name: (HashEmbedder(), WordTokenizer())}
    with Flows.open(settings, tools=encoders) as flows:
        run_id = flows.submit(ingest_evalset, folder.name, arm)
        flows.work(when_done=True)
        assert flows.wait(run_id)["added"] == 80
        assert flows.jobs().rows[0][2] == "documents 80/80"
        assert flows.run(ingest_evalset, folder.name, arm, key="again")["unchanged"] == 80
        assert flows.replay(run_id).result["added"] == 80  # from the record: nothing is ingested


@pytest.mark.slow
def test_five_kills_and_a_document_that_changes_leave_the_table_of_a_clean_ingestion(tmp_path, monkeypatch):
    monkeypatch.setenv(LOG, str(tmp_path / "log"))
    n, batch = 2_000, 8
    settings = replace(settings_in(tmp_path), state_url=f"sqlite:///{tmp_path / 'state.sqlite'}")
    with Flows.open(settings) as flows:
        run_id = flows.submit(ingest_documents, str(tmp_path), n)
    dice, env = random.Random(3), os.environ | {"PYTHONPATH": str(ROOT), "WORKBENCH_ROOT": str(tmp_path)}
    command = [sys.executable, "-m", "tests.orchestration.flow_child", str(tmp_path), settings.state_url, "work"]
    for kill in range(6):
        if kill == 3:
            (tmp_path / "changed").touch()  # one document has another text from here on
        worker = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if kill == KILLED:
            assert worker.wait(300) == 0
            break
        before = len(embedded(tmp_path))
        while len(embedded(tmp_path)) < before + dice.randrange(10, 40) and worker.poll() is None:
            time.sleep(0.02)
        worker.kill()
        worker.wait()
    with Flows.open(settings) as flows:
        assert flows.show(run_id).status == "done"
    assert table(tmp_path) == clean(tmp_path / "clean", n)
    lines = Counter(text for line in embedded(tmp_path) for text in line.split())
    again = sum(count - 1 for count in lines.values())
    assert again <= KILLED * batch, "more was embedded twice than the batch in flight at each kill"


def embedded(folder):
    file = folder / "log"
    return [line for line in file.read_text().splitlines() if "embedded" not in line] if file.exists() else []


def table(folder):
    store, _ = open_parts(folder)
    rows = store._table.to_arrow().sort_by("chunk_id").to_pylist()
    assert len({row["chunk_id"] for row in rows}) == len(rows)
    return [(row["chunk_id"], row["text"], row["content_hash"], row["vector"]) for row in rows]


def clean(folder, n):
    store = open_table(folder / "store", "chunks", dimension=16)
    changed = [replace(d, text="other words") if d.doc_id == "d7" else d for d in documents(n)]
    ingest(store, changed, chunker=FixedTokens(16, 4), tokenizer=WordTokenizer(), embedder=HashEmbedder(16),
           vectors=VectorCache(folder / "vectors.sqlite"))  # fmt: skip
    return table(folder)
