"""The command line, as a user calls it."""

import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from tests.command_line import workbench, workbench_process
from tests.notebooks.zoo import add_notebook, make_settings
from tests.runner.test_accept_and_check import DECISION, finished
from workbench.config import Settings

DECIDES = """from workbench.records import Decision, Fingerprint, Rule
rule = Rule("ndcg@10", "usd_per_1k_requests", "vector", 0.02, 0.95)
decision = Decision(notebook="x", question="?", profile="ci", rule=rule, verdict="chosen", arm="text",
    parameters={}, sentence=f"text is good enough at margin {margin} on {evalset}.", claims=(),
    n_items=1, n_clusters=1, items_needed=None, test_uses=1, fingerprint=Fingerprint({"queries": "abc"}))
(run_dir / "decision.json").write_text(decision.to_json())"""
PARAMETERS = 'margin: float = 0.02\nevalset: str = "docs_qa"'


@pytest.fixture
def project(tmp_path: Path) -> Settings:
    settings = make_settings(tmp_path)
    (settings.evalsets / "docs_qa").mkdir()
    (settings.evalsets / "docs_qa" / "card.md").write_text("# docs_qa", encoding="utf-8")
    add_notebook(settings, "retrieval", DECIDES, parameters=PARAMETERS)
    add_notebook(settings, "texts", DECIDES, parameters=PARAMETERS)  # one of your own, of which nothing else is known
    return settings


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["runs"], 0),
        (["evalset", "check", "docs_qa"], 1),
        (["check", "--no-such-option"], 2),
        (["run", "retrievel"], 3),
    ],
)
def test_a_process_says_and_ends_as_the_command_in_this_one(project: Settings, arguments: list[str], code: int) -> None:
    alone, here = workbench_process(project, *arguments), workbench(project, *arguments)
    assert (alone.returncode, here.returncode) == (code, code), alone.stderr + here.stderr
    called = alone.stderr.replace("python -m workbench.cli", "workbench")
    assert (alone.stdout, called) == (here.stdout, here.stderr)


def test_run_prints_sentence_gate_and_report_and_is_listed(project: Settings) -> None:
    mine = project.root / "mine"
    (mine / "qrels").mkdir(parents=True)
    done = workbench_process(project, "run", "texts", "-p", "margin=0.5", "--evalset", "../mine")
    assert done.returncode == 0, done.stderr
    sentence, gate, report = done.stdout.splitlines()
    assert sentence == f"text is good enough at margin 0.5 on {mine}."
    assert gate == "gate: holds"
    assert report.startswith("report: ")
    assert "texts  cell 2/5" in done.stderr
    (listed,) = workbench(project, "runs").stdout.splitlines()
    assert listed.split()[1:] == ["done", "ci", str(mine), "Use:", "text", "gate:", "holds"]
    assert workbench(project, "runs", "--evalset", "../mine").stdout.splitlines() == [listed]
    assert "no runs on docs_qa" in workbench(project, "runs", "--evalset", "docs_qa").stdout
    newest = workbench(project, "summary").stdout
    assert "margin 0.5" in newest
    assert workbench(project, "summary", listed.split()[0]).stdout == newest


def test_a_run_that_cannot_tell_names_the_sheet_that_would_help(project: Settings) -> None:
    unclear = DECIDES.replace('verdict="chosen"', 'verdict="inconclusive"')
    add_notebook(project, "texts", f"{unclear}\n(run_dir / 'to_judge.jsonl').write_text('{{}}')", parameters=PARAMETERS)
    done = workbench(project, "run", "texts", "-p", "evalset=docs_qa")
    assert done.returncode == 0, done.stderr
    (folder,) = project.runs.iterdir()
    last = done.stdout.splitlines()[-1]
    assert last == f"next: workbench import judgements {folder / 'to_judge.jsonl'} --name docs_qa --partly"


def test_accept_names_the_evalset_and_the_anchor_and_refuses_what_cannot_tell(project: Settings) -> None:
    finished(project, replace(DECISION, settings={"evalset": "docs_qa"}), parameters={"evalset": "docs_qa"})
    done = workbench(project, "accept", "retrieval", "--reason", "first")
    assert done.returncode == 0, done.stderr
    assert "accepted for the evalset docs_qa: " in done.stdout
    assert "it is the anchor" in done.stdout
    unclear = replace(DECISION, settings={"evalset": "docs_qa"}, verdict="inconclusive")
    finished(project, unclear, parameters={"evalset": "docs_qa"})
    assert "--even-if inconclusive" in workbench(project, "accept", "retrieval", "--reason", "x").stderr
    taken = workbench(
        project, "accept", "retrieval", "--reason", "x", "--even-if", "inconclusive", "--evalset", "docs_qa"
    )
    assert taken.returncode == 0, taken.stderr
    assert "it is the anchor" not in taken.stdout


def test_evalset_can_be_a_folder_named_from_where_one_stands(project: Settings) -> None:
    (project.root / "mine" / "qrels").mkdir(parents=True)
    done = workbench(project, "run", "texts", "-p", "evalset=../mine")
    assert f"on {project.root / 'mine'}." in done.stdout, done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "run retrieval --evalset ../docs", "run retrieval --dry-run -p evalset=../docs", "runs --evalset ../docs",
        "accept retrieval --reason x --evalset ../docs", "evalset check ../docs", "evalset pairs ../docs",
        "evalset lock ../docs", "import judgements sheet.jsonl --name ../docs", "import stream s.csv --name ../docs",
        "import otlp log.json --name ../docs", "feedback list ../docs", "feedback collect ../docs",
        "record ../docs --max-cost-usd 1",
    ],
)  # fmt: skip
def test_a_folder_that_is_no_evalset_is_told_plainly_by_every_command(project: Settings, command: str) -> None:
    (project.root / "docs").mkdir()
    (project.root / "docs" / "guide.md").write_text("# Guide", encoding="utf-8")
    (project.notebooks / "sheet.jsonl").write_text('{"query_id": "q", "doc_id": "d", "grade": 1}\n', encoding="utf-8")
    (project.notebooks / "log.json").write_text('{"resourceSpans": []}', encoding="utf-8")
    done = workbench(project, *command.split())
    assert done.returncode in (1, 3)
    told = done.stdout + done.stderr
    assert "'../docs' is no evalset" in told
    assert "it holds 1 .md; make one of documents and questions: workbench new NAME --documents ../docs" in told
    assert [p.name for p in (project.root / "docs").iterdir()] == ["guide.md"]


def test_tables_become_an_evalset_of_the_project(project: Settings) -> None:
    (project.notebooks / "docs.jsonl").write_text('{"id": "a", "body": "Refunds take five days."}\n')
    (project.notebooks / "asked.csv").write_text("id,frage,relevant\nq1,when is my money back?,a\nq2,how long?,a\n")
    tables = ["--corpus", "docs.jsonl", "--queries", "asked.csv", "--rename", "frage=question"]
    done = workbench(project, "import", "tables", "shop", *tables)
    assert done.returncode == 0, done.stderr
    assert (project.evalsets / "shop" / "qrels" / "test.tsv").is_file()
    assert workbench(project, "evalset", "check", "shop").returncode == 0


def test_collection_of_the_hub_is_refused_offline_with_what_to_do(project: Settings) -> None:
    done = workbench(project, "import", "hub", "owner/name")
    assert done.returncode == 3
    assert "HF_HUB_OFFLINE is set; unset it, or load a local BEIR folder" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["retrievel"], "unknown notebook 'retrievel'; did you mean 'retrieval'?"),
        (["retrieval", "-p", "margn=1"], "unknown parameter 'margn'; did you mean 'margin'?"),
        (["retrieval", "-p", "margin=0.5x"], "'margin' must be float"),
        (["retrieval", "-p", "margin"], "-p takes NAME=VALUE, found 'margin'"),
        (["retrieval", "-p", "margin=1", "-p", "margin=2"], "-p margin is given twice"),
        (["retrieval", "--profile", "cii"], "unknown profile 'cii'; did you mean 'ci'?"),
        (["retrieval", "--evalset", "nowhere"], "unknown evalset 'nowhere'"),
    ],
)
def test_mistake_is_one_clear_message_and_exit_code_3(project: Settings, arguments: list[str], says: str) -> None:
    done = workbench(project, "run", *arguments)
    assert done.returncode == 3
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not project.runs.exists()


@pytest.mark.slow
def test_check_says_what_holds_and_writes_it_for_the_build_server(project: Settings) -> None:
    accepted = replace(DECISION, settings={"evalset": "docs_qa", "margin": 0.5})
    (project.evalsets / "docs_qa" / "decisions").mkdir()
    (project.evalsets / "docs_qa" / "decisions" / "retrieval.json").write_text(accepted.to_json(), encoding="utf-8")
    claim = '{"kind": "generalisation", "arm": "vector", "status": "broken", "sentence": "It fell."}'
    gate = f'{{"status": "broken", "exit_code": 1, "sentence": "It fell.", "claims": [{claim}]}}'
    writes = f"_ = (run_dir / 'gate.json').write_text('{gate}')"
    add_notebook(project, "retrieval", gate=writes, parameters=PARAMETERS)
    path = project.root / "build" / "junit.xml"
    done = workbench(project, "check", "--junit", str(path))
    assert done.returncode == 1, done.stderr
    said, _, written = done.stdout.splitlines()
    assert said == "docs_qa/retrieval  broken: It fell."
    assert written == f"written: {path}"
    (suite,) = ET.parse(path).getroot()
    assert [suite.get(name) for name in ("name", "tests", "failures")] == ["workbench.docs_qa.retrieval", "2", "1"]


def test_failed_run_exits_3_and_says_why(project: Settings) -> None:
    add_notebook(project, "sums", gate="pass")
    done = workbench(project, "run", "sums")
    assert done.returncode == 3
    assert "run failed: all cells ran, but the last one left no gate.json" in done.stderr


def test_outside_of_a_project_it_says_so(tmp_path: Path) -> None:
    settings = Settings(tmp_path, tmp_path, tmp_path / "runs", "")
    settings.notebooks.mkdir()
    assert "begin one: workbench init" in workbench(settings, "run", "retrieval").stderr
    settings.evalsets.mkdir()
    assert "no notebooks (NN_<name>.ipynb)" in workbench(settings, "run", "retrieval").stderr
    assert "no runs in" in workbench(settings, "runs").stdout


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, workbench.cli as cli\n"
        "cli.app(['--help'], standalone_mode=False)\n"
        "heavy = {'papermill', 'nbformat', 'polars', 'numpy', 'sqlalchemy', 'lancedb', 'pydantic'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
