"""The layers' page on a fresh clone, on a project with only logs, and on one in use."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.telemetry.rows import row
from workbench.config import load_settings
from workbench.orchestration.runs_database import flows_url, runs_schema
from workbench.stack.layers import LAYERS, read_layers
from workbench.state import open_engine
from workbench.telemetry.ledger import Ledger

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path):
    return load_settings({"WORKBENCH_ROOT": str(tmp_path)})


def missing(page):
    return [g.missing for g in page.gaps]


def test_an_empty_project_says_what_is_missing_in_order_and_makes_no_file(project, tmp_path):
    page = read_layers(project)
    assert {f.layer for f in page.facts} == set(LAYERS)
    assert missing(page) == [
        "no call is in the ledger", "no evalset for retrieval", "no evalset for routing", "no evalset for caching",
        "no trace is stored", "no durable flow was run",
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_this_clone_shows_its_decisions_with_their_evidence(tmp_path):
    page = read_layers(replace(load_settings({}, ROOT), state_url=f"sqlite:///{tmp_path}/none.sqlite"))
    found = {f.what: f for f in page.facts}
    decided = found["retrieval on docs_qa"]
    assert decided.evidence == ROOT / "evalsets" / "docs_qa" / "decisions" / "retrieval.json"
    assert decided.when.startswith("20")
    assert "retrieval is not decided" not in missing(page)
    assert 'href="evalsets/docs_qa/decisions/retrieval.json"' in page.to_html(ROOT)


def test_a_project_with_only_logs_can_decide_what_its_logs_can_tell(project, tmp_path):
    folder = tmp_path / "evalsets" / "logs"
    folder.mkdir(parents=True)
    for name in ("stream.parquet", "outcomes.parquet"):
        (folder / name).touch()
    page = read_layers(project)
    (told,) = (f.configured for f in page.facts if f.what == "evalset logs")
    assert told == "can decide: routing, caching"
    assert missing(page)[1:4] == ["no evalset for retrieval", "routing is not decided", "caching is not decided"]
    assert "workbench run caching --evalset logs" in repr(page.backlog)


def test_calls_without_tenant_or_price_and_hits_are_told(project, tmp_path):
    engine = open_engine(project.state_url)
    Ledger(engine).add([
        row("a", 0, 3_000_000_000, model_asked="<b>m</b>"),
        row("b", 0, 0, price_version="", fresh_tokens=9, tenant_id="acme"),
        row("c", 0, 0, status="cached", saved_nanos=10**9, tenant_id="acme"),
    ])  # fmt: skip
    engine.dispose()
    page = read_layers(project)
    assert missing(page)[:2] == ["1 call has no price", "1 call names no tenant (100.0 % of the money)"]
    assert any(f.measured == "1 answer from our cache saved $1.00" for f in page.facts)
    assert any(f.measured == "3 calls, $3.00" and f.when == "2026-11-23" for f in page.facts)


def test_names_of_folders_are_escaped_and_the_page_loads_nothing(project, tmp_path):
    (tmp_path / "evalsets" / "<script>alert(1)<").mkdir(parents=True)
    (tmp_path / "evalsets" / "ok").mkdir()
    shutil.copytree(ROOT / "evalsets" / "routing_demo" / "decisions", tmp_path / "evalsets" / "ok" / "decisions")
    page = read_layers(project).page(tmp_path)
    assert "<script" not in page
    assert "src=" not in page
    assert "prefers-color-scheme: dark" in page


def test_runs_of_durable_flows_are_counted(state_url, tmp_path):
    project = load_settings({"WORKBENCH_ROOT": str(tmp_path), "WORKBENCH_STATE_URL": state_url})
    engine = sa.create_engine(flows_url(state_url))
    schema = None if state_url.startswith("sqlite") else runs_schema(engine)
    with engine.begin() as connection:
        if schema:
            connection.execute(sa.schema.CreateSchema(schema))
        table = sa.Table("workflow_status", sa.MetaData(schema=schema), sa.Column("id", sa.Text))
        table.create(connection)
        connection.execute(table.insert(), [{"id": "a"}, {"id": "b"}])
    try:
        page = read_layers(project)
        assert any(f.measured == "2 runs" for f in page.facts if f.layer == "orchestration")
        assert "no durable flow was run" not in missing(page)
    finally:
        with engine.begin() as connection:
            if schema:
                connection.execute(sa.schema.DropSchema(schema, cascade=True))
        engine.dispose()
