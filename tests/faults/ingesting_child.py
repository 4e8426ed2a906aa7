"""Ingest documents as a process of its own: ``python -m tests.faults.ingesting_child FOLDER N [FAULT [KIND]]``.

Prints a line after each commit and the report at the end; exits with 3 and the message on an error of ours.
"""

import os
import resource
import sys
import time
from pathlib import Path

from tests.retrieval.stores import open_kind
from workbench.errors import WorkbenchError
from workbench.records import Document
from workbench.retrieval.chunking import FixedTokens
from workbench.retrieval.ingest import IngestVectorCache, ingest
from workbench.retrieval.store import Store
from workbench.testing import HashEmbedder, WordTokenizer

DIMENSION = 16


class SlowEmbedder(HashEmbedder):
    """Takes its time, so that a process can be killed in mid-run."""

    def embed(self, texts):
        time.sleep(0.02)
        return super().embed(texts)


def documents(n: int) -> list[Document]:
    """A corpus of two tenants; documents have one to four chunks."""
    return [
        Document(f"d{i}", " ".join(f"w{(i * j) % 89}" for j in range(3 + i % 50)), f"T{i}", "ab"[i % 2])
        for i in range(n)
    ]


def open_parts(folder: Path, kind: str = "lance") -> tuple[Store, IngestVectorCache]:
    """Open the store and the vector cache of the folder."""
    store = open_kind(kind, str(folder / "store"), DIMENSION)
    return store, IngestVectorCache(folder / "vectors" / "vectors.sqlite", batch=8)


def say(what: object) -> None:
    """Print at once, for a parent that waits for it."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def suffer(fault: str) -> None:
    """Bring about the fault from here on."""
    if fault == "disk full":  # writing past the limit fails, as it does on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    if fault == "read only" and os.geteuid() == 0:  # root may write anywhere
        os.setuid(65534)


def main(folder: str, n: str, fault: str = "", kind: str = "lance") -> None:
    # What is imported lazily must be there before rights are given up.
    import sqlite3  # noqa: F401

    import lancedb  # noqa: F401

    if fault == "read only from the start":
        suffer("read only")
    store, vectors = open_parts(Path(folder), kind)
    store.for_tenant("a").document_hashes()
    suffer(fault)
    report = ingest(
        store,
        documents(int(n)),
        chunker=FixedTokens(16, 4),
        tokenizer=WordTokenizer(),
        embedder=SlowEmbedder(DIMENSION),
        vectors=vectors,
        batch=10,
        on_progress=lambda done, total: say(f"{done} {total}"),
    )
    say(report)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except WorkbenchError as error:
        say(error)
        sys.exit(3)
