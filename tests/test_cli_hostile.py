"""Text of others on the terminal: it is shown as it is, steers nothing and begins no line of its own."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.command_line import workbench
from tests.notebooks.zoo import add_notebook, make_settings
from tests.reports.hostile import evil
from tests.runner.test_accept_and_check import DECISION, finished
from workbench.cli.lines import write_file
from workbench.config import Settings
from workbench.rendering.text import visible
from workbench.runner import list_runs

DECIDES = """from workbench.records import Decision
decision = Decision.load(run_dir.parents[1] / "decides.json")
(run_dir / "decision.json").write_text(decision.to_json())"""


def steers(name: str) -> str:
    """Hostile text that also sets a terminal's title and begins a line."""
    return f"{evil(name)} \x1b]0;title\x07\r\nforged {name}"


def shown(name: str) -> str:
    """How `steers` stands in a line."""
    return visible(steers(name)).replace("\n", " ")


@pytest.fixture
def project(tmp_path: Path) -> Settings:
    settings = make_settings(tmp_path)
    (settings.evalsets / "mine" / "recordings").mkdir(parents=True)
    add_notebook(settings, "retrieval", parameters='evalset: str = "mine"')
    return settings


def lines_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Lines of both outputs; none of them steers the terminal or was begun by text of others."""
    text = done.stdout + done.stderr
    assert not set("\x1b\x07\r\u202e") & set(text), text
    assert not [line for line in text.splitlines() if line.startswith("forged")], text
    return text.splitlines()


def test_a_list_of_runs_has_a_line_a_run_whatever_these_are_called(project: Settings) -> None:
    arm = steers("arm")
    rule = replace(DECISION.rule, reference=steers("reference"))
    decided = replace(DECISION, arm=arm, verdict=steers("verdict"), rule=rule, claims=())
    finished(project, decided, parameters={"evalset": steers("evalset")})
    (record,) = list_runs(project)
    fields = {"status": "failed", "profile": steers("profile"), "error": steers("error")}
    replace(record, **fields).save()  # type: ignore[arg-type]
    (line,) = lines_of(workbench(project, "runs"))
    for name in ("arm", "verdict", "evalset", "profile", "error"):
        assert shown(name) in line
    replace(record, gate=steers("gate")).save()
    assert f"gate: {shown('gate')}" in lines_of(workbench(project, "runs"))[0]


def test_an_acceptance_shows_the_sentence_and_so_does_a_refusal(project: Settings) -> None:
    decided = replace(DECISION, sentence=steers("sentence"))
    finished(project, decided, parameters={"evalset": "mine"})
    assert lines_of(workbench(project, "accept", "retrieval", "--reason", "x"))[0] == shown("sentence")
    finished(project, replace(decided, verdict="inconclusive"), parameters={"evalset": "mine"})
    refused = workbench(project, "accept", "retrieval", "--reason", "x")
    assert refused.returncode == 3
    first, second = lines_of(refused)  # what an error says on a further line is set in
    assert first.endswith(visible(steers("sentence")).partition("\n")[0])
    assert second.startswith("  forged sentence To accept")


def test_a_run_shows_its_sentence_and_why_it_failed(project: Settings) -> None:
    decided = replace(DECISION, sentence=steers("sentence"))
    (project.root / "decides.json").write_text(decided.to_json(), encoding="utf-8")
    raises = f"raise ValueError({steers('error')!r})"
    add_notebook(project, "texts", DECIDES, raises, parameters='evalset: str = "mine"')
    lines = lines_of(workbench(project, "run", "texts"))
    assert shown("sentence") in lines
    assert [line for line in lines if line.startswith("run failed: ") and shown("error") in line]
    assert [line for line in lines if line.startswith("texts  failed: ") and shown("error") in line]


@pytest.mark.slow
def test_a_check_shows_what_the_gate_says(project: Settings) -> None:
    (project.evalsets / "mine" / "decisions").mkdir()
    accepted = replace(DECISION, settings={"evalset": "mine"})
    (project.evalsets / "mine" / "decisions" / "retrieval.json").write_text(accepted.to_json(), encoding="utf-8")
    gate = {"status": "holds", "exit_code": 0, "sentence": steers("said"), "claims": []}
    writes = f"import json\n_ = (run_dir / 'gate.json').write_text(json.dumps({gate!r}))"
    add_notebook(project, "retrieval", gate=writes, parameters='evalset: str = "mine"')
    assert f"mine/retrieval  holds: {shown('said')}" in lines_of(workbench(project, "check"))


def test_a_check_of_an_evalset_shows_the_names_of_its_files(project: Settings) -> None:
    (project.evalsets / "mine" / "qrels").mkdir()
    (project.evalsets / "mine" / "qrels" / f"{evil('split')}.tsv").write_text("one cell\n", encoding="utf-8")
    assert visible(evil("split")) in " ".join(lines_of(workbench(project, "evalset", "check", "mine")))


def test_half_of_a_pair_of_characters_is_written_as_its_escape(tmp_path: Path) -> None:
    write_file(tmp_path / "new" / "out.json", '{"arm": "\ud800"}')
    assert json.loads((tmp_path / "new" / "out.json").read_text(encoding="utf-8")) == {"arm": "\ud800"}
