"""Documents and questions of a database: columns are guessed and told as of files, secrets are kept nowhere."""

import os
import uuid
from pathlib import Path

import polars as pl
import pytest

from tests.command_line import workbench
from tests.databases import POSTGRES
from tests.notebooks.zoo import make_settings
from workbench.config import Settings
from workbench.errors import ConfigError, EvalsetError, StoreError
from workbench.evalset.imports.hub import read_hub_collection
from workbench.project.document_databases import database_without_secrets, read_document_database
from workbench.project.new_evalset import understand_evalset, write_new_evalset

ROWS = [{"slug": "returns", "content": "Send it back within a week."}, {"slug": "fees", "content": "4 euro."}]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path, tmp_path / "cache", tmp_path / "runs", "sqlite://")


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    path = tmp_path / "asked.csv"
    path.write_text("question,relevant\nhow do I return it?,returns\n", encoding="utf-8")
    return path


def lance(folder: Path, **tables: list[dict]) -> Path:
    lancedb, pa = pytest.importorskip("lancedb"), pytest.importorskip("pyarrow")
    for name, rows in tables.items():
        vector = pa.FixedSizeListArray.from_arrays(pa.array([0.5] * 2 * len(rows), pa.float32()), 2)
        table = pa.Table.from_pylist(rows).append_column("vector", vector)
        lancedb.connect(folder).create_table(name, table)
    return folder


@pytest.mark.parametrize("form", ["lance:{}", "lance:{}#docs", "lance://{}#docs", "{}/docs.lance"])
def test_a_lancedb_table_is_documents_without_its_vectors(tmp_path: Path, asked: Path, form: str) -> None:
    folder = lance(tmp_path / "db", docs=ROWS)
    found = understand_evalset([form.format(folder)], asked)
    assert [(d.doc_id, d.text) for d in found.documents] == [tuple(row.values()) for row in ROWS]
    assert [j.doc_id for j in found.judgements] == ["returns"]
    assert found.lines[0] == f"2 documents of {folder}#docs: _id = slug, text = content; left out: vector"


def test_a_lancedb_table_that_is_not_there_is_told_with_those_that_are(tmp_path: Path, asked: Path) -> None:
    folder = lance(tmp_path / "db", docs=ROWS, chunks=ROWS)
    for source, told in (
        (f"lance:{folder}", "was asked for a table; there are chunks, docs"),
        (f"lance:{folder}#pages", "was asked for the table 'pages'; there are chunks, docs"),
        (f"lance:{tmp_path}/none#docs", "no such folder: "),
        (str(folder), "its LanceDB tables are named as "),
    ):
        with pytest.raises(ConfigError, match=told):
            understand_evalset([source], asked)
    (next((folder / "docs.lance" / "data").iterdir())).write_bytes(b"torn")
    with pytest.raises(StoreError, match="cannot read table 'docs' of "):
        understand_evalset([f"lance:{folder}#docs"], asked)


@pytest.fixture
def server():
    """URL of the test server with a password in it, and a schema with a table of pages, dropped afterwards."""
    if not (url := os.environ.get(POSTGRES)):
        pytest.skip(f"{POSTGRES} names no server")
    psycopg = pytest.importorskip("psycopg")
    schema = f"wb_test_{uuid.uuid4().hex}"
    with psycopg.connect(url) as connection:
        connection.execute(f"create schema {schema}")
        connection.execute(f"create table {schema}.pages (key uuid, body text, made timestamptz, size numeric, v text)")
        insert = f"insert into {schema}.pages values (%s, %s, now(), 1.5, '[{','.join(['0.25'] * 8)}]')"
        for n, row in enumerate(ROWS):
            connection.execute(insert, (uuid.UUID(int=n), row["content"]))
    head, _, rest = url.partition("://")
    user, at, place = rest.rpartition("@")
    yield f"{head}://{(user or 'postgres').partition(':')[0]}:swordfish@{place if at else rest}", schema
    with psycopg.connect(url) as connection:
        connection.execute(f"drop schema {schema} cascade")


def test_a_query_gives_documents_and_questions_and_no_secret_is_kept(tmp_path: Path, server) -> None:
    url, schema = server
    settings = make_settings(tmp_path / "project")
    asked = (
        "new", "mine", "--documents", url, "--query", f"select * from {schema}.pages where body not like '%x%'",
        "--questions", url, "--questions-query",
        f"select 'how?' as question, json_build_array(key) as relevant from {schema}.pages limit 1",
    )  # fmt: skip
    done = workbench(settings, *asked)
    assert done.returncode == 0, done.stderr
    assert "_id = key, text = body; left out: made, size, v" in done.stdout
    assert "1 of 1 question names a right document" in done.stdout
    written = [p for p in (settings.evalsets / "mine").rglob("*") if p.is_file()]
    kept = "".join(path.read_text(encoding="utf-8") for path in written)
    assert f"- selected by: select * from {schema}.pages where body not like '%x%'\n- selected by: select" in kept
    assert "swordfish" not in kept + done.stdout + done.stderr
    assert "postgres:" not in kept, "no user"


def test_a_query_reads_alone_and_says_what_is_wrong(server, settings: Settings) -> None:
    url, schema = server
    for query, told in (
        (f"delete from {schema}.pages", "refuses the query: cannot execute DELETE in a read-only transaction"),
        ("select nonsense", 'refuses the query: column "nonsense" does not exist'),
        (f"select * from {schema}.pages where false", "holds no row that the query selects"),
        (f"commit; delete from {schema}.pages", "refuses the query: cannot insert multiple commands"),
        (f"select 1 as n; select body from {schema}.pages", "refuses the query: cannot insert multiple commands"),
        (f"select body, body from {schema}.pages", "two columns of the query are called 'body'"),
        ("select 'infinity'::timestamp as at, 'x' as text", r"cannot be read; select it as text \(::text\): "),
        ("copy (select 1) to stdout", "gave what cannot be read; select it as text"),
    ):
        with pytest.raises(EvalsetError, match=told) as caught:
            read_document_database(url, query, settings)
        assert "swordfish" not in str(caught.value)
    assert len(read_document_database(url, f"select body from {schema}.pages;", settings)[0].rows) == len(ROWS), (
        "nothing is gone"
    )


@pytest.mark.parametrize("source", ["lance:", "lance:#docs", "lance://", "datasets:", "datasets:#train"])
def test_a_source_without_a_name_is_no_source(source: str, settings: Settings) -> None:
    with pytest.raises(ConfigError, match="names no folder and no collection; sources are lance:FOLDER#TABLE"):
        read_document_database(source, "", settings)


PLACES = ("ann:pikefish@127.0.0.1:1/none", "ann:pike@fish@127.0.0.1:1/none", "ann:pike/fish@127.0.0.1/none",
          "127.0.0.1:1/none?password=pikefish", "ann:pike%zfish@127.0.0.1:1/none")  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_a_server_that_does_not_answer_is_told_without_the_password(place: str, settings: Settings) -> None:
    pytest.importorskip("psycopg")
    url = f"postgresql://{place}"
    with pytest.raises((EvalsetError, ConfigError), match=r"127\.0\.0\.1:1/none cannot be reached|no URL of") as caught:
        read_document_database(url, "select 1", settings)
    said = f"{caught.value} {database_without_secrets(url)}"
    assert "pike" not in said
    assert "fish" not in said


def test_a_short_list_of_numbers_is_no_vector(tmp_path: Path, settings: Settings) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "asked").mkdir()
    pl.DataFrame({"q": ["how?"], "relevant": [[7.0]]}).write_parquet(tmp_path / "asked" / "train.parquet")
    table, vectors = read_document_database(f"datasets:{tmp_path}/asked", "", settings)
    assert (table.columns, vectors) == (("q", "relevant"), [])


def test_rows_that_share_an_id_are_parts_and_that_is_told(tmp_path: Path, asked: Path) -> None:
    folder = lance(tmp_path / "db", docs=[{"doc_id": "a", "n": i, "text": f"part {i}"} for i in range(3)])
    with pytest.raises(
        EvalsetError, match=r"docs: rows share an _id, taken from doc_id; if they are parts .*YOURS=_id"
    ):
        understand_evalset([f"lance:{folder}"], asked)
    (tmp_path / "q.txt").write_text("what?\n", encoding="utf-8")
    found = understand_evalset([f"lance:{folder}"], tmp_path / "q.txt", rename_documents={"n": "_id"})
    assert [d.doc_id for d in found.documents] == ["0", "1", "2"]


def test_a_query_and_its_database_belong_together(asked: Path) -> None:
    with pytest.raises(ConfigError, match="postgresql://db/shop needs SQL that selects the rows: --query"):
        understand_evalset(["postgresql://ann@db/shop"], asked)
    with pytest.raises(ConfigError, match="lance:x#y takes no --query"):
        understand_evalset(["lance:x#y"], asked, query="select 1")
    with pytest.raises(ConfigError, match="--query selects documents of a database, none is named"):
        understand_evalset([str(asked)], asked, query="select 1")
    with pytest.raises(ConfigError, match="--questions-query selects questions of a database, found "):
        understand_evalset([str(asked)], asked, questions_query="select 1")


@pytest.mark.parametrize("name", ["./none", "../none", "/none", "asked.csv", "a b/c", "a/b/c"])
def test_what_is_no_folder_and_no_name_of_the_hub_asks_for_no_network(
    name: str, asked: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasets")
    monkeypatch.chdir(asked.parent)
    with pytest.raises(EvalsetError, match="is no folder, and no name of the hub, which is NAME or OWNER/NAME"):
        read_hub_collection(name, "", "", settings=settings)


def test_a_folder_of_datasets_is_documents(tmp_path: Path, asked: Path, settings: Settings) -> None:
    pytest.importorskip("datasets")
    folder = tmp_path / "pages"
    folder.mkdir()
    for split, row in zip(("train", "test"), ROWS, strict=True):
        pl.DataFrame([row | {"embedding": [0.5] * 8}]).write_parquet(folder / f"{split}.parquet")
    found = understand_evalset([f"datasets:{folder}"], asked, settings=settings)
    assert sorted((d.doc_id, d.text) for d in found.documents) == sorted(tuple(row.values()) for row in ROWS)
    assert found.lines[0].endswith("_id = slug, text = content; left out: embedding")
    assert [d.doc_id for d in understand_evalset([f"datasets:{folder}#train"], asked, settings=settings).documents] == [
        "returns"
    ]
    with pytest.raises(EvalsetError, match="has no split 'dev', but train, test"):
        read_hub_collection(str(folder), "", "dev", settings=settings)
    out = write_new_evalset(found, tmp_path / "out", sources=[f"datasets:{folder}"])
    assert f"- datasets:{folder}" in (out / "card.md").read_text(encoding="utf-8")
