"""An ingestion of made-up documents as a flow, which a worker imports by name."""

import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from tests.faults.ingesting_child import documents, open_parts
from tests.orchestration.small_flows import told
from workbench.orchestration.live_step import progress
from workbench.orchestration.steps import flow, outside
from workbench.retrieval.chunking import FixedTokens
from workbench.retrieval.ingest import ingest
from workbench.testing import HashEmbedder, WordTokenizer

KILLED = 5


class LoggedEmbedder(HashEmbedder):
    """Writes a hash of each text that it embeds, a line for each batch."""

    def embed(self, texts):
        vectors = super().embed(texts)
        time.sleep(0.01)
        told(" ".join(sha256(text.encode()).hexdigest()[:16] for text in texts))
        return vectors


@outside()
def ingest_all(folder, n):
    store, vectors = open_parts(Path(folder))
    changed = Path(folder, "changed").exists()
    corpus = [replace(d, text="other words") if changed and d.doc_id == "d7" else d for d in documents(n)]
    ingest(store, corpus, chunker=FixedTokens(16, 4), tokenizer=WordTokenizer(), embedder=LoggedEmbedder(16),
           vectors=vectors, batch=50, on_progress=lambda done, total: progress("documents", done, total))  # fmt: skip
    return len(corpus)


@flow()
def ingest_documents(step, folder, n):
    return step(ingest_all, folder, n)
