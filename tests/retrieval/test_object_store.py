"""An object store in place of a folder: the same code, the same rows and hits, and the same after a kill."""

import re
from dataclasses import replace

import pytest

from tests.evalset.small_evalset import settings_in
from tests.faults.ingesting_child import DIMENSION, documents, open_parts
from tests.faults.test_ingestion_faults import (
    N,
    assert_everything_is_there_once,
    assert_three_writers_write_once,
    finish,
    ingest_here,
    start,
)
from tests.retrieval.bucket import bucket
from tests.retrieval.stores import BUCKET
from tests.retrieval.tiny import write_evalset
from workbench.config import load_settings
from workbench.errors import ConfigError, StoreError
from workbench.evalset.evalset import load_evalset
from workbench.orchestration.flows import Flows
from workbench.records import parameters_of
from workbench.retrieval.arms import make_arms
from workbench.retrieval.ingest import IngestReport
from workbench.retrieval.ingestion import ingest_evalset
from workbench.retrieval.searcher import Searcher
from workbench.retrieval.store import open_table
from workbench.testing import HashEmbedder, WordTokenizer

__all__ = ["bucket"]  # a fixture
KINDS = ("lance", "s3")


@pytest.mark.slow
def test_a_bucket_holds_and_finds_what_a_folder_does(tmp_path, bucket):
    asked = HashEmbedder(DIMENSION).embed(["w1 w2 w3"])[0]
    found = {}
    for kind in KINDS:
        report = ingest_here(tmp_path / kind, documents(40), kind=kind)
        open_parts(tmp_path / kind, kind)[0].index()
        store, _ = open_parts(tmp_path / kind, kind)  # as another process does
        assert ingest_here(tmp_path / kind, documents(40), kind=kind) == IngestReport(0, 0, 40, 0, 0)
        handles = {tenant: store.for_tenant(tenant) for tenant in ("a", "b", "nobody")}
        hits = {t: (h.vector(asked, 5), h.full_text("w1 w2", 5), h.count()) for t, h in handles.items()}
        found[kind] = (report, hits)
    assert found["lance"] == found["s3"]
    of_a, of_b, of_nobody = found["s3"][1].values()
    assert {int(hit.doc_id[1:]) % 2 for hit in (*of_a[0], *of_a[1])} == {0}  # tenant a has the even ones
    assert {int(hit.doc_id[1:]) % 2 for hit in (*of_b[0], *of_b[1])} == {1}
    assert of_nobody == ([], [], 0)


@pytest.mark.slow
def test_an_ingestion_into_a_bucket_that_was_killed_is_finished_by_the_next(tmp_path, bucket):
    child = start(tmp_path, kind="s3")
    assert re.fullmatch(r"\d+ \d+\n", child.stdout.readline())
    child.kill()
    finish(child)
    assert open_parts(tmp_path, "s3")[0].describe().rows > 0
    code, told = finish(start(tmp_path, kind="s3"))
    assert code == 0, told
    assert_everything_is_there_once(tmp_path, N, kind="s3")


@pytest.mark.slow
def test_three_writers_at_once_write_every_chunk_into_a_bucket_once(tmp_path, bucket):
    assert_three_writers_write_once(tmp_path, "s3")


@pytest.mark.slow
def test_the_tables_of_an_evalset_lie_in_the_bucket_that_is_set(tmp_path, bucket):
    folder = write_evalset(tmp_path / "evalsets" / "tiny")
    plain = replace(settings_in(tmp_path), state_url=f"sqlite:///{tmp_path / 'state.sqlite'}")
    (arm,) = make_arms(["whole"], ["hybrid_rrf"])
    evalset, hits = load_evalset(folder.name, settings=plain), []
    for settings in (plain, replace(plain, tables_url=f"s3://{BUCKET}/tables", cache=tmp_path / "other cache")):
        with Flows.open(settings, tools={"encoders": lambda name: (HashEmbedder(), WordTokenizer())}) as flows:
            report = flows.run(ingest_evalset, folder.name, parameters_of(arm), key=settings.tables)
        assert report["added"] == 80
        embedders = {arm.embedder: HashEmbedder()}
        searcher = Searcher(evalset.documents, evalset.inputs["corpus"], settings, embedders, WordTokenizer())
        assert searcher.prepare(arm).unchanged == 80
        hits.append([searcher.search(arm, query, 5) for query in evalset.queries[:20]])
        of = {document.doc_id: document.tenant_id for document in evalset.documents}
        tenants = [query.tenant_id for query in evalset.queries[:20]]
        assert all(of[hit.doc_id] == tenant for tenant, some in zip(tenants, hits[-1], strict=True) for hit in some)
    assert hits[0] == hits[1]
    assert not (tmp_path / "other cache" / "tables").exists()
    with pytest.raises(StoreError, match="cannot open table 'chunks' in s3://nowhere"):
        open_table("s3://nowhere", "chunks", dimension=8)


def test_a_bucket_is_named_as_the_store_of_tables(tmp_path):
    def tables(value):
        return load_settings({"WORKBENCH_TABLES_URL": value}, tmp_path).tables

    assert tables("s3://corpus/tables") == "s3://corpus/tables"
    assert tables(str(tmp_path / "x" / ".." / "y")) == str(tmp_path / "y")
    assert tables("") == str(tmp_path / "data" / ".cache" / "tables")
    with pytest.raises(ConfigError, match=r"s3://..., gs://..., az://... or a folder, found postgresql://"):
        tables("postgresql://me:hidden@host/db")
    for odd in ("s3://", "s3:///", "s3:/bucket/tables", "gs:bucket"):
        with pytest.raises(ConfigError, match=f"found '{odd}', which names no bucket: s3://bucket/prefix"):
            tables(odd)
