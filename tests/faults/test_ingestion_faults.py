"""Whatever happens to a process that ingests, running it again puts everything right."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.ingesting_child import DIMENSION, documents, open_parts
from tests.retrieval.stores import KINDS, PGVECTOR, pgvector_url
from workbench.errors import StoreError
from workbench.records import Document
from workbench.retrieval.chunking import Chunker, FixedTokens, WholeDocument
from workbench.retrieval.ingest import IngestReport, ingest
from workbench.retrieval.store import open_table
from workbench.testing import HashEmbedder, WordTokenizer

N = 90
SMALL = FixedTokens(16, 4)
CHUNKS = sum(len(SMALL.chunk(d, WordTokenizer())) for d in documents(N))


def start(folder: Path, n: int = N, fault: str = "", kind: str = "lance") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.faults.ingesting_child", str(folder), str(n), fault, kind]
    env = os.environ | ({PGVECTOR: pgvector_url()} if kind == "postgres" else {})  # one server for all children
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


def finish(child: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = child.communicate(timeout=120)
    return child.returncode, output


def ingest_here(folder: Path, texts: Sequence[Document], chunker: Chunker = SMALL, kind: str = "lance") -> IngestReport:
    store, vectors = open_parts(folder, kind)
    return ingest(
        store,
        texts,
        vectors=vectors,
        chunker=chunker,
        tokenizer=WordTokenizer(),
        embedder=HashEmbedder(DIMENSION),
    )


def assert_everything_is_there_once(folder: Path, n: int = N, kind: str = "lance") -> None:
    store, _ = open_parts(folder, kind)
    assert store.describe().rows == sum(len(SMALL.chunk(d, WordTokenizer())) for d in documents(n))
    found = {t: store.for_tenant(t).document_hashes() for t in "ab"}
    assert {(t, d) for t in found for d in found[t]} == {(d.tenant_id, d.doc_id) for d in documents(n)}
    assert all(digest for hashes in found.values() for digest in hashes.values())


@pytest.fixture
def folder():
    """A folder that another user can look into."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize("kind", KINDS)
def test_run_that_was_killed_is_finished_by_the_next(folder, kind):
    for commits in (1, 3):
        child = start(folder, kind=kind)
        assert child.stdout
        progress = [child.stdout.readline() for _ in range(commits)]
        assert all(re.fullmatch(r"\d+ \d+\n", line) for line in progress), progress
        child.kill()
        finish(child)
    before = open_parts(folder, kind)[0].describe().rows
    assert 0 < before < CHUNKS
    report = ingest_here(folder, documents(N), kind=kind)
    assert_everything_is_there_once(folder, kind=kind)
    assert report.embedded <= CHUNKS - before, "vectors of a killed run were computed again"
    assert ingest_here(folder, documents(N), kind=kind) == IngestReport(0, 0, N, 0, 0, 0, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_three_writers_at_once_write_every_chunk_once(folder, kind):
    assert_three_writers_write_once(folder, kind)


def assert_three_writers_write_once(folder: Path, kind: str) -> None:
    changed = [replace(d, text=f"old {d.text} old") for d in documents(30)]
    ingest_here(folder, changed, kind=kind)
    results = [finish(writer) for writer in [start(folder, kind=kind) for _ in range(3)]]
    assert [code for code, _ in results] == [0, 0, 0], results
    assert_everything_is_there_once(folder, kind=kind)


@pytest.mark.parametrize(
    ("fault", "vectors_are_there", "said"),
    [
        ("disk full", False, r"cannot write the vectors in .*vectors\.sqlite: "),
        ("disk full", True, r"cannot write \d+ chunks to .*store: .*File too large"),
        ("read only", True, r"cannot write \d+ chunks to .*store: .*Permission denied"),
        ("read only from the start", False, r"cannot (open|write) the vectors in .*vectors\.sqlite: "),
    ],
)
def test_folder_that_cannot_be_written_is_a_clear_error_and_loses_nothing(folder, fault, vectors_are_there, said):
    ingest_here(folder, documents(N if vectors_are_there else 40))
    ingest_here(folder, documents(40))
    make_writable(folder, "read only" not in fault)
    code, output = finish(start(folder, N, fault))
    make_writable(folder, True)
    assert code == 3, output
    assert re.search(said, output)
    assert len(output.splitlines()) < 10, "a message, not a backtrace"
    assert_everything_is_there_once(folder, 40)
    assert ingest_here(folder, documents(N)).added == N - 40
    assert_everything_is_there_once(folder)


def make_writable(folder: Path, writable: bool) -> None:
    for path in folder.rglob("*"):
        path.chmod((0o755 if writable else 0o555) if path.is_dir() else (0o644 if writable else 0o444))


def test_store_cannot_be_opened_where_no_folder_can_be():
    with pytest.raises(StoreError, match="cannot open table 'chunks' in /dev/null/x: "):
        open_table("/dev/null/x", "chunks", dimension=4)


def test_document_of_five_megabytes_is_ingested_and_found(tmp_path):
    huge = " ".join(f"word{i % 1000}" for i in range(650_000)) + " needle"
    assert len(huge) > 5_000_000
    ingest_here(tmp_path, [Document("huge", huge, "Title", "a"), Document("small", "text", "", "a")], FixedTokens())
    store, _ = open_parts(tmp_path)
    store.index()
    handle = store.for_tenant("a")
    hits = handle.full_text("needle", 5)
    assert [h.doc_id for h in hits] == ["huge"]
    chunks = handle.documents(["huge"])["huge"]
    assert hits[0].position == len(chunks) - 1
    assert chunks[-1].startswith("Title\n")


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert('x')</script>",
        "'; DROP TABLE chunks; --",
        "zero\x00byte",
        "🔥👩‍💻 ünïcode",
        "{{ 7 * 7 }}",
    ],
)
def test_hostile_text_comes_back_as_it_went_in(tmp_path, text):
    ingest_here(tmp_path, [Document(text, text, text, "a")], WholeDocument())
    handle = open_parts(tmp_path)[0].for_tenant("a")
    assert handle.documents([text]) == {text: (f"{text}\n{text}",)}
    assert [h.doc_id for h in handle.vector(HashEmbedder(DIMENSION).embed([text])[0], 3)] == [text]
