"""Ingestion that is killed, and what ingestion costs above the bare embedder.

python -m tests.benchmarks.bench_ingestion_kills [--documents 10000] [--seed 1] [--chunks 1000] [--block 64]

First a job over made-up documents whose workers are killed five times at points drawn over the whole run, while one
document changes half-way: the table must be that of a clean ingestion, and nothing embedded twice but the batches in
flight. Then the docstrings of docs_qa by the real MiniLM: seconds of processor time of the bare embedder, of a plain
ingestion, and of one that is a job, in turn over blocks of documents.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median

from tests.orchestration.conftest import settings_in
from tests.orchestration.small_flows import LOG
from tests.retrieval.ingest_job import clean, survive_kills
from workbench.config import load_settings
from workbench.evalset.evalset import load_evalset
from workbench.inference.encoders import MiniLM
from workbench.orchestration.flows import Flows
from workbench.orchestration.steps import flow, outside
from workbench.retrieval.chunking import ByStructure
from workbench.retrieval.ingest import IngestVectorCache, ingest
from workbench.retrieval.store import open_table

CHUNKER = ByStructure()


def say(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def kills(documents, seed):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ[LOG] = str(folder / "log")
        began = time.monotonic()
        survived = survive_kills(folder, documents, seed=seed)
        took = time.monotonic() - began
        assert survived.status == "done"
        assert survived.rows == clean(folder / "clean", documents)
        assert survived.unexplained() == {}
        times = survived.times()
        again, lost = times.total() - len(times), sum(map(len, survived.lost()))
        say(
            f"{documents:,} documents, seed {seed}: killed after {survived.killed_after} of {len(survived.batches):,} "
            f"batches; {len(survived.rows):,} rows equal to those of a clean ingestion; {len(times):,} distinct "
            f"chunks, {again} embedded twice, {lost} were in flight; {took:.0f} s"
        )


def some_documents(chunks, tokenizer):
    """Documents of docs_qa, spread over it, that make so many chunks."""
    found, all_of, n = [], load_evalset("docs_qa", settings=load_settings()).documents, 0
    for document in all_of[:: max(1, len(all_of) * 2 // chunks)]:
        if n < chunks and document.full_text.strip():
            found.append(document)
            n += len(CHUNKER.chunk(document, tokenizer))
    return found


def ingested(folder, documents, minilm):
    store = open_table(folder / "store", "chunks", dimension=minilm.dimension)
    vectors = IngestVectorCache(folder / "vectors.sqlite")
    return ingest(store, documents, chunker=CHUNKER, tokenizer=minilm, embedder=minilm, vectors=vectors)


@outside()
def ingest_some(folder, *, documents, minilm):
    return ingested(Path(folder), documents, minilm).embedded


@flow(tools={"documents": lambda _: None, "minilm": lambda _: None})
def ingest_docs(step, folder):
    return step(ingest_some, folder)


def clocked(do):
    """Texts that were embedded, and seconds of processor time and on the clock."""
    cpu, clock = time.process_time(), time.monotonic()
    return do(), time.process_time() - cpu, time.monotonic() - clock


def bare(folder, documents, minilm):
    texts = list(dict.fromkeys(c.text for d in documents for c in CHUNKER.chunk(d, minilm)))
    return clocked(lambda: len(minilm.embed(texts)))


def plain(folder, documents, minilm):
    return clocked(lambda: ingested(folder, documents, minilm).embedded)


def job(folder, documents, minilm):
    settings = settings_in(folder, f"sqlite:///{folder / 'state.sqlite'}")
    with Flows.open(settings, tools={"documents": documents, "minilm": minilm}) as flows:
        return clocked(lambda: flows.run(ingest_docs, str(folder)))


def throughput(chunks, block):
    """Seconds of processor time of each way over the same blocks of documents, in turn."""
    minilm = MiniLM(load_settings().cache / "weights")
    documents = some_documents(chunks, minilm)
    blocks = [documents[i : i + block] for i in range(0, len(documents), block)]
    seconds, embedded, clock = {way: [] for way in WAYS}, 0, Counter()
    for n, part in enumerate([documents[:2], *blocks]):  # the first is for what is loaded when it is first used
        done = set()
        for way in WAYS[n % 3 :] + WAYS[: n % 3]:
            with tempfile.TemporaryDirectory() as name:
                texts, cpu_s, clock_s = way(Path(name), part, minilm)
            clock[way] += clock_s
            done.add(texts)
            seconds[way].append(cpu_s)
        (texts,) = done
        embedded += texts if n else 0
    for way in WAYS:
        found = seconds[way][1:]
        shares = [100 * b / s for b, s in zip(seconds[bare][1:], found, strict=True)]
        say(
            f"{way.__name__}: {embedded / sum(found):.2f} chunks a second of processor time, of the bare embedder "
            f"{100 * sum(seconds[bare][1:]) / sum(found):.1f} %; blocks {min(shares):.1f} to {max(shares):.1f}, "
            f"median {median(shares):.1f}; {clock[way] / sum(seconds[way]):.1f} s on the clock for each"
        )


WAYS = (bare, plain, job)


def main():
    ask = argparse.ArgumentParser()
    ask.add_argument("--documents", type=int, default=10_000)
    ask.add_argument("--seed", type=int, default=1)
    ask.add_argument("--chunks", type=int, default=1_000)
    ask.add_argument("--block", type=int, default=64, help="documents")
    given = ask.parse_args()
    if given.documents:
        kills(given.documents, given.seed)
    if given.chunks:
        throughput(given.chunks, given.block)
    say(f"load of the machine: {os.getloadavg()}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
