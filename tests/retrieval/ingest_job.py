"""An ingestion of made-up documents as a flow, which a worker imports by name and a test kills."""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain
from pathlib import Path

from tests.evalset.small_evalset import settings_in
from tests.faults.ingesting_child import DIMENSION, documents, open_parts
from tests.orchestration.small_flows import told
from workbench.orchestration.flows import Flows
from workbench.orchestration.live_step import progress
from workbench.orchestration.steps import flow, outside
from workbench.retrieval.chunking import FixedTokens
from workbench.retrieval.ingest import IngestVectorCache, ingest
from workbench.retrieval.store import open_table
from workbench.testing import HashEmbedder, WordTokenizer

ROOT = Path(__file__).parents[2]
CHUNKER = FixedTokens(16, 4)
KILLS, CHANGED = 5, "d8"  # the document is among the first that are ingested
BATCH = 8  # texts between two saves of `open_parts`


class LoggedEmbedder(HashEmbedder):
    """Writes a hash of each text that it embeds, a line for each batch, before anything is saved."""

    def embed(self, texts):
        vectors = super().embed(texts)
        time.sleep(0.01)
        told(" ".join(sha256(text.encode()).hexdigest()[:16] for text in texts))
        return vectors


def corpus(n, *, changed):
    """Documents, of which one has another text once it was changed."""
    return [replace(d, text="other words") if changed and d.doc_id == CHANGED else d for d in documents(n)]


@outside()
def ingest_all(folder, n):
    store, vectors = open_parts(Path(folder))
    found = corpus(n, changed=Path(folder, "changed").exists())
    ingest(store, found, chunker=CHUNKER, tokenizer=WordTokenizer(), embedder=LoggedEmbedder(DIMENSION),
           vectors=vectors, batch=50, on_progress=lambda done, total: progress("documents", done, total))  # fmt: skip
    return len(found)


@flow()
def ingest_documents(step, folder, n):
    return step(ingest_all, folder, n)


@dataclass(frozen=True)
class Survived:
    """What is left of an ingestion that was killed: the run's status, its table, and what was embedded."""

    status: str
    rows: list
    killed_after: list[int]  # batches embedded before each kill
    batches: list[list[str]]  # hashes of the texts of each batch, in order

    def times(self):
        """How often each text was embedded."""
        return Counter(chain.from_iterable(self.batches))

    def lost(self):
        """Hashes of the texts in flight at each kill: only these may be embedded again."""
        return [self.batches[n - 1] for n in self.killed_after]

    def unexplained(self):
        """Texts that were embedded more often than once and once more for each kill that they were in flight at."""
        allowed = Counter(chain.from_iterable(self.lost()))
        return {text: n for text, n in self.times().items() if n > 1 + allowed[text]}


def survive_kills(folder, n, *, seed, wait_s=600):
    """``survive_kills(folder, 10_000, seed=3)``: ingest as a job whose workers are killed five times, wherever it is.

    Each kill falls into another fifth of the run, after a number of batches that is drawn, and then up to 50 ms more,
    for what is done between two batches. At the third one document, which is in the table by then, gets another text.
    """
    settings = replace(settings_in(folder), state_url=f"sqlite:///{folder / 'state.sqlite'}")
    with Flows.open(settings) as flows:
        run_id = flows.submit(ingest_documents, str(folder), n)
    dice, env = random.Random(seed), os.environ | {"PYTHONPATH": str(ROOT), "WORKBENCH_ROOT": str(folder)}
    command = [sys.executable, "-m", "tests.orchestration.flow_child", str(folder), settings.state_url, "work"]
    log, killed_after = folder / "log", list[int]()
    batches = len({c.text for d in documents(n) for c in CHUNKER.chunk(d, WordTokenizer())}) // BATCH
    points = [dice.randrange(max(1, batches * i // KILLS), batches * (i + 1) // KILLS) for i in range(KILLS)]
    for kill, point in enumerate([*points, None]):
        if kill == KILLS // 2 + 1:
            assert CHANGED in open_parts(folder)[0].for_tenant("a").document_hashes()
            (folder / "changed").touch()
        worker = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            if point is None:
                assert worker.wait(wait_s) == 0
                break
            _wait_for(log, point, worker, wait_s)
            time.sleep(dice.uniform(0, 0.05))
        finally:
            worker.kill()
            worker.wait()
        killed_after.append(len(_lines(log)))
    with Flows.open(settings) as flows:
        status = flows.show(run_id).status
    return Survived(status, table(folder), killed_after, [line.split() for line in _lines(log)])


def _wait_for(log, batches, worker, wait_s):
    deadline = time.monotonic() + wait_s
    while len(_lines(log)) < batches:
        assert worker.poll() is None, "the worker ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _lines(log):
    return log.read_text().splitlines() if log.exists() else []


def table(folder):
    """Every row of the table, by key: keys, texts, hashes and vectors."""
    store, _ = open_parts(folder)
    rows = store._table.to_arrow().sort_by("chunk_id").to_pylist()
    assert len({row["chunk_id"] for row in rows}) == len(rows)
    return [(row["chunk_id"], row["text"], row["content_hash"], row["vector"]) for row in rows]


def clean(folder, n):
    """Table of one ingestion of the changed corpus that nobody disturbs."""
    store = open_table(folder / "store", "chunks", dimension=DIMENSION)
    ingest(store, corpus(n, changed=True), chunker=CHUNKER, tokenizer=WordTokenizer(),
           embedder=HashEmbedder(DIMENSION), vectors=IngestVectorCache(folder / "vectors.sqlite"))  # fmt: skip
    return table(folder)
