"""What only the store in PostgreSQL has: policies under every session, roles, COPY, iterative scan, clear refusals."""

import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import sqlalchemy as sa

from tests.databases import POSTGRES
from tests.retrieval.stores import pgvector_url, table_name
from tests.retrieval.tables import EMBEDDER, natural_rows, open_store, random_rows, row
from workbench.errors import StoreError, TenantError
from workbench.retrieval.filters import Between, Equals, OneOf
from workbench.retrieval.index_kinds import Exact, FullTextIndex, Hnsw, HnswSq
from workbench.retrieval.postgres_session import SEARCHER, WRITER
from workbench.retrieval.store import open_table

TABLES = ("chunks", "terms", "tenants")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("postgres")


@pytest.fixture(scope="module")
def filled(folder):
    store = open_store(folder, random_rows("a", 600) + random_rows("b", 300, seed=1), kind="postgres")
    store.index()
    return store


@pytest.fixture
def session(filled, folder):
    """A connection of one's own in the tables of the store, which has taken no role and set no tenant."""
    engine = sa.create_engine(pgvector_url())
    with engine.connect() as connection:
        path = f'"{table_name(str(folder))}", public'
        connection.execute(sa.text("select set_config('search_path', :path, false)"), {"path": path})
        connection.commit()
        yield connection
    engine.dispose()


def seen(connection, table: str) -> set[str]:
    return set(connection.execute(sa.select(sa.column("tenant_id")).select_from(sa.table(table))).scalars())


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("role", [SEARCHER, WRITER])
def test_a_session_that_sets_no_tenant_sees_nothing(session, table, role):
    """But how many rows each tenant has, which the writer keeps."""
    session.execute(sa.text("select set_config('role', :role, true)"), {"role": role})
    assert seen(session, table) == ({"a", "b"} if (role, table) == (WRITER, "tenants") else set())


@pytest.mark.parametrize("table", TABLES)
def test_what_an_earlier_transaction_set_is_forgotten(session, table):
    settings = "select set_config('role', :role, true), set_config('workbench.tenant', 'a', true)"
    session.execute(sa.text(settings), {"role": SEARCHER})
    assert seen(session, table) == {"a"}
    session.commit()
    session.execute(sa.text("select set_config('role', :role, true)"), {"role": SEARCHER})
    assert seen(session, table) == set()


@pytest.mark.parametrize("table", TABLES)
def test_the_check_turns_red_when_the_policy_is_taken_out(session, table):
    session.exec_driver_sql(f"alter table {table} disable row level security")
    session.execute(sa.text("select set_config('role', :role, true)"), {"role": SEARCHER})
    assert seen(session, table) == {"a", "b"}
    session.rollback()


def test_a_pooled_connection_keeps_nothing_of_the_last_tenant(filled):
    handles = {t: filled.for_tenant(t) for t in "ab"}
    for _ in range(20):
        assert [handles[t].count() for t in "aba"] == [600, 300, 600]
    with filled._sessions._engine.connect() as connection:
        told = connection.execute(
            sa.text("select current_user = session_user, current_setting('workbench.tenant', true)")
        )
        assert told.one() == (True, "")


def test_an_owner_who_is_no_superuser_is_told_what_is_missing_and_sees_nothing_beside_the_store(filled):
    """The common case: a database of one's own on a server that others run."""
    admin = sa.create_engine(pgvector_url(), isolation_level="AUTOCOMMIT")
    name = f"owner_{os.getpid()}"
    inside = sa.create_engine(admin.url.set(database=name), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"create role {name} login")
        connection.exec_driver_sql(f"create database {name} owner {name}")
    try:
        url = sa.make_url(pgvector_url()).set(username=name, database=name)
        for said, engine, command in (
            ("has to run: CREATE EXTENSION vector;", inside, "create extension vector"),
            (f"has to run: CREATE ROLE {SEARCHER}; .* GRANT", admin, f"grant {SEARCHER}, {WRITER} to {name}"),
        ):
            with pytest.raises(StoreError, match=said):
                open_table(url.render_as_string(), "chunks", dimension=EMBEDDER.dimension)
            with engine.connect() as connection:
                connection.exec_driver_sql(command)
        store = open_table(url.render_as_string(), "chunks", dimension=EMBEDDER.dimension)
        store.upsert(random_rows("a", 20) + random_rows("b", 10))
        store.index(Hnsw())
        assert (store.for_tenant("a").count(), len(store.for_tenant("b").full_text("common", 50))) == (20, 10)
        with store._sessions._engine.connect() as connection:
            connection.execute(sa.text("select set_config('search_path', 'chunks', true)"))
            assert seen(connection, "chunks") == set()
        store._sessions._engine.dispose()
    finally:
        inside.dispose()
        with admin.connect() as connection:
            connection.exec_driver_sql(f"drop database {name} with (force)")
            connection.exec_driver_sql(f"drop owned by {name}")
            connection.exec_driver_sql(f"drop role {name}")
        admin.dispose()


def test_a_server_without_pgvector_says_which_command_installs_it():
    if not (server := os.environ.get(POSTGRES)):
        pytest.skip(f"{POSTGRES} names no server")
    engine = sa.create_engine(server)
    with engine.connect() as connection:
        has = connection.execute(sa.text("select count(*) from pg_available_extensions where name = 'vector'"))
        there = has.scalar_one()
    engine.dispose()
    if there:
        pytest.skip(f"the server that {POSTGRES} names has pgvector")
    said = r"has no pgvector; install it .*apt install postgresql-\d\d-pgvector\), then: CREATE EXTENSION vector;"
    with pytest.raises(StoreError, match=said):
        open_table(server, "chunks", dimension=4)


def test_a_server_that_does_not_answer_is_a_clear_error_without_the_password():
    with pytest.raises(StoreError, match="cannot open table 'chunks' in postgresql") as raised:
        open_table("postgresql://me:secret@127.0.0.1:1/none", "chunks", dimension=4)
    assert "secret" not in str(raised.value)


def test_two_tables_of_one_database_do_not_meet(tmp_path):
    for place in ("one", 'two"; drop schema public; --'):
        open_store(tmp_path / place, [row("a", place, "words")], kind="postgres")
    assert set(open_store(tmp_path / "one", kind="postgres").for_tenant("a").document_hashes()) == {"one"}


@pytest.mark.parametrize("name", ["", "n" * 64, "nul\x00"])
def test_name_that_cannot_be_a_schema_is_refused(name):
    with pytest.raises(StoreError, match="is named by 1 to 63 bytes"):
        open_table(pgvector_url(), name, dimension=4)


def test_name_with_marks_is_only_a_name():
    name = f'it\'s "{os.getpid()}"; drop table x; -- %s :t %'
    store = open_table(pgvector_url(), name, dimension=16)
    store.upsert([row("a", "d", "words")])
    store.index(Hnsw())
    store.optimize()
    assert [h.doc_id for h in store.for_tenant("a").full_text("word", 3)] == ["d"]
    with store._sessions._engine.begin() as connection:
        connection.execute(sa.schema.DropSchema(name, cascade=True))


def test_nul_is_refused_where_it_cannot_be_kept(tmp_path):
    store = open_store(tmp_path, [row("a", "d", "good")], kind="postgres")
    with pytest.raises(TenantError, match="holds NUL"):
        store.for_tenant("a\x00")
    with pytest.raises(StoreError, match="'text' of document 'e' holds NUL"):
        store.upsert([row("a", "f", "good"), row("a", "e", "b\x00d")])
    assert store.describe().rows == 1


def test_more_words_than_postgresql_indexes_are_told_and_write_nothing(tmp_path):
    store = open_store(tmp_path, [row("a", "d", "good")], kind="postgres")
    store.index()
    huge = " ".join(f"w{i}" for i in range(300_000))
    with pytest.raises(StoreError, match=r"cannot write 1 chunk to .*string is too long for tsvector"):
        store.upsert([row("a", "e", huge, np.ones(16))])
    assert store.describe().rows == 1


@pytest.mark.parametrize("limit", [5, 50])
def test_graph_finds_what_is_there_for_every_size_of_tenant(tmp_path, limit):
    """Rows of a small tenant lie among thousands of others that are nearer."""
    sizes = {"huge": 3000, "middle": 300, "tiny": 7, "empty": 0}
    rows = {t: random_rows(t, n, seed=i) for i, (t, n) in enumerate(sizes.items())}
    store = open_store(tmp_path, [r for own in rows.values() for r in own], kind="postgres")
    store.index(Hnsw())
    query = np.asarray(rows["huge"][0].vector)
    for tenant, own in rows.items():
        hits = store.for_tenant(tenant).vector(query, limit)
        exact = store.for_tenant(tenant).vector(query, limit, exact=True)
        assert len(hits) == min(limit, len(own)) == len(exact)
        assert len({h.doc_id for h in hits} & {h.doc_id for h in exact}) >= 0.9 * len(exact)


def test_plan_shows_the_graph_where_it_is_used_and_never_for_exact(tmp_path):
    store = open_store(tmp_path, random_rows("a", 3000), kind="postgres")
    store.index(Hnsw())
    handle, query = store.for_tenant("a"), np.ones(16)
    plan = handle.plan(vector=query, ef=150)["vector"]
    assert "Index Scan using vector_ann" in plan
    assert "hnsw.ef_search = 150" in plan
    assert "hnsw.iterative_scan = relaxed_order" in plan
    assert "vector_ann" not in handle.plan(vector=query, exact=True)["vector"]
    store.index(Exact())
    assert "vector_ann" not in handle.plan(vector=query)["vector"]


@pytest.mark.parametrize("knob", ["nprobes", "refine_factor"])
def test_knobs_of_the_other_store_are_refused(filled, knob):
    with pytest.raises(StoreError, match=f"PostgreSQL has no knob '{knob}'"):
        filled.for_tenant("a").vector(np.ones(16), 5, **{knob: 3})


def test_indices_of_the_other_store_are_refused(filled, tmp_path):
    with pytest.raises(StoreError, match=r"HnswSq\(\) is an index of LanceDB; PostgreSQL has Exact\(\) and Hnsw\(\)"):
        filled.index(HnswSq())
    with pytest.raises(StoreError, match=r"Hnsw\(\) is an index of PostgreSQL"):
        open_store(tmp_path, random_rows("a", 5)).index(Hnsw())


@pytest.mark.parametrize("full_text", [FullTextIndex(stem=False), FullTextIndex(tokenizer="ngram")])
def test_words_that_postgresql_cannot_make_are_refused(filled, full_text):
    with pytest.raises(StoreError, match="PostgreSQL has no FullTextIndex"):
        filled.index(full_text=full_text)


def test_stemming_and_accents_are_a_choice_of_the_index(tmp_path):
    store = open_store(tmp_path, [row("a", "d", "joining the cafés")], kind="postgres")
    found = {}
    for full_text in (
        FullTextIndex(),
        FullTextIndex(stem=False, remove_stop_words=False),
        FullTextIndex(ascii_folding=False),
    ):
        store.index(full_text=full_text)
        found[repr(full_text)] = [len(store.for_tenant("a").full_text(w, 5)) for w in ("joined", "cafe", "the")]
    assert list(found.values()) == [[1, 1, 0], [0, 0, 1], [1, 0, 0]]


def bm25(rows, words, k1=1.2, b=0.75):
    """Okapi BM25 over words as they stand, written down a second time."""
    texts = {r.doc_id: r.text.split() for r in rows}
    average = sum(map(len, texts.values())) / len(texts)
    scores = {}
    for word in words:
        df = sum(word in t for t in texts.values())
        idf = np.log(1 + (len(texts) - df + 0.5) / (df + 0.5))
        for doc, text in texts.items():
            if tf := text.count(word):
                scores[doc] = scores.get(doc, 0) + idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * len(text) / average))
    return scores


def test_scores_are_bm25_over_the_tenants_own_rows_whatever_was_written_over_them(tmp_path):
    words = FullTextIndex(stem=False, remove_stop_words=False)
    rows = [replace(r, text=" ".join(r.text.split()[:200])) for r in natural_rows("a", 120)]
    store = open_store(tmp_path, [replace(r, text="old words here") for r in rows[:50]], kind="postgres")
    store.index(full_text=words)
    store.upsert(rows + natural_rows("b", 80, seed=1))
    store.upsert([row("a", "gone", "w1 w2 w3")])
    store.delete_documents("a", ["gone"])
    handle = store.for_tenant("a")
    for asked in ("w1", "w3 w7", "w11 w2 w40"):
        hits = {h.doc_id: h.score for h in handle.full_text(asked, 200)}
        assert hits == pytest.approx(bm25(rows, asked.split()), rel=1e-6)


def test_counts_of_tenants_follow_every_write(filled, folder, session):
    store = open_store(
        folder, [row("c", f"d{i}", "three words here", content_hash="1") for i in range(5)], kind="postgres"
    )
    store.upsert([row("c", "d0", "now there are many more words here", content_hash="2")])
    store.delete_documents("c", ["d1", "d2", "unknown"])
    store.delete_stale("c", {"d3": "3"})
    counted = sa.text(
        """select t.n, t.total, (select count(*) from chunks c where c.tenant_id = t.tenant_id),
        (select sum(tf) from terms w where w.tenant_id = t.tenant_id) from tenants t where tenant_id = 'c'"""
    )
    n, total, rows, terms = session.execute(counted).one()
    assert (n, total) == (rows, terms)
    assert n == 2


def test_filters_find_the_same_in_both_stores(tmp_path):
    rows = [replace(r, date=None if i % 7 == 0 else r.date) for i, r in enumerate(random_rows("a", 200))]
    stores = [open_store(tmp_path, rows, kind=kind) for kind in ("lance", "postgres")]
    day = rows[3].date
    for where in (
        Equals("document_type", "class"),
        Equals("date", day),
        OneOf("doc_id", ["doc3", "doc4", "it's"]),
        Between("date", day, None),
        Between("date", None, day),
        Between("document_type", "a", "d") & Between("date", day, day),
    ):
        found = [store.for_tenant("a").vector(np.ones(16), 200, where=where) for store in stores]
        assert {h.doc_id for h in found[0]} == {h.doc_id for h in found[1]}
        assert [h.score for h in found[0]] == pytest.approx([h.score for h in found[1]], abs=2e-6)


def test_four_processes_that_open_and_write_at_once_write_every_row(tmp_path):
    pgvector_url()
    code = """
import sys
from workbench.retrieval.store import open_table
from tests.retrieval.tables import row
url, name, k = sys.argv[1:]
store = open_table(url, name, dimension=16)
store.upsert([row("a", f"d{i}", f"common {k}") for i in range(40)])
store.upsert([row("a", f"e{k}.{i}", "common") for i in range(10)])
"""
    name = table_name(str(tmp_path))
    children = [
        subprocess.Popen([sys.executable, "-c", code, pgvector_url(), name, str(k)], stderr=subprocess.PIPE, text=True)
        for k in range(4)
    ]
    told = [child.communicate(timeout=120)[1] for child in children]
    assert [child.returncode for child in children] == [0] * 4, told
    store = open_store(tmp_path, kind="postgres")
    assert store.for_tenant("a").count() == store.describe().rows == 40 + 4 * 10
    store.index()
    assert len(store.for_tenant("a").full_text("common", 200)) == 80


def test_the_names_of_the_roles_are_those_of_the_policies():
    from workbench.retrieval import postgres_sql

    told = " ".join([postgres_sql.ROLES, *postgres_sql.CREATE])
    assert set(re.findall(r"workbench_\w+", told)) == {SEARCHER, WRITER}
