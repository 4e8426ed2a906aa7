"""README and docs say what works: their commands parse, the quick ones run, their files, links and settings exist."""

import io
import os
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import click
import pytest
from typer.main import get_command

from workbench.cli import app
from workbench.config import PROFILES, Settings, load_settings
from workbench.evalset.gates import scan_gates
from workbench.inference.call_attempt import Books
from workbench.inference.client import Client
from workbench.inference.prices import project_prices
from workbench.inference.weights import WEIGHTS
from workbench.orchestration.flows import Flows
from workbench.project.new_evalset import understand_evalset
from workbench.quality.production import read_graded_production
from workbench.quality.shadow_pairs import ShadowEvidence
from workbench.routing.prompts import Prompts
from workbench.state import open_engine
from workbench.telemetry.attribution import Attribution
from workbench.testing import ScriptedModel

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
README = TEXTS["README.md"]
ALL = "\n".join(TEXTS.values())
BLOCKS = re.findall(r"```console\n(.*?)```", ALL, re.DOTALL)
COMMANDS = [line[2:].strip() for block in BLOCKS for line in block.splitlines() if line.startswith("$ ")]
OURS = [c.partition("workbench ")[2] for c in COMMANDS if c.startswith((".venv/bin/workbench ", "workbench "))]
TOML = re.findall(r"```toml\n(.*?)```", ALL, re.DOTALL)
PYTHON = re.findall(r"```python\n(.*?)```", ALL, re.DOTALL)
TARGETS = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("command", sorted(set(OURS)))
def test_command_is_one_that_the_command_line_takes(command: str) -> None:
    parse(get_command(app), shlex.split(command))


def parse(command: click.Command, arguments: list[str], parent: click.Context | None = None) -> None:
    context = command.make_context(command.name, arguments, parent=parent)
    if isinstance(command, click.Group):
        _, chosen, rest = command.resolve_command(context, [*context.protected_args, *context.args])
        assert chosen is not None
        parse(chosen, rest, context)


def test_every_command_is_shown() -> None:
    said = " ".join(OURS)
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        for full in [f"{name} {sub}" for sub in getattr(command, "commands", [])] or [name]:
            if full != "evalset lock":  # for who changes the corpus of docs_qa itself
                assert full in said, f"workbench {full}"


@pytest.mark.slow
def test_example_of_a_call_runs_as_it_stands(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    if not (load_settings().cache / "weights" / WEIGHTS["smollm2-135m"].file_name).is_file():
        pytest.skip("the weights of the small model are not on disk: workbench models fetch smollm2-135m")
    monkeypatch.setenv("WORKBENCH_STATE_URL", f"sqlite:///{tmp_path / 'state.sqlite'}")
    (example,) = (block for block in PYTHON if "client.complete(question" in block)
    exec(compile(example, "README.md", "exec"), {})
    assert re.search(r"0\.0000\d+ USD, trace [0-9a-f]{32}", capsys.readouterr().out)


def test_flow_of_a_user_and_its_handler_run_as_they_stand(tmp_path: Path, monkeypatch) -> None:
    own, use, memory, handler = (block for block in PYTHON if "triage" in block)
    assert len([line for line in own.splitlines() if line.strip()]) <= 20
    (tmp_path / "triage.py").write_text(own, encoding="utf-8")
    client = Client({"": ScriptedModel(lambda request: "Bug.")}, Books(project_prices(tmp_path)))
    settings = Settings(tmp_path, tmp_path / "cache", tmp_path / "runs", f"sqlite:///{tmp_path / 'state.sqlite'}")
    monkeypatch.syspath_prepend(str(tmp_path))
    with Flows.open(settings, tools={"client": client}) as flows:
        waiting = threading.Thread(target=lambda: flows.work(["triage:triage"]), daemon=True)
        waiting.start()
        monkeypatch.setattr(Flows, "open", lambda: flows)
        names: dict = {}
        monkeypatch.setattr(Client, "open", lambda settings: client)
        exec(compile(use + memory + handler, "README.md", "exec"), names)
        assert names["again"].equal
        assert names["beside"].result == "bug: Where is the manual?"
        assert names["flows"].show(names["other"]).result == "bug: Where is the manual?"
        handled = Handled(names["Handler"])
        status, run_id = handled.post("It is slow.")
        assert status == 202
        flows.wait(run_id)
        assert handled.get(run_id) == (200, "bug: It is slow.")
        flows.durable.stopped.set()
        waiting.join()
    sys.modules.pop("triage")


class Handled:
    """The README's handler without a socket."""

    def __init__(self, kind: type) -> None:
        self._handler = kind.__new__(kind)
        self._handler.answer = lambda status, text: setattr(self, "came", (status, text))

    def post(self, text: str) -> tuple[int, str]:
        self._handler.rfile, self._handler.headers = io.BytesIO(text.encode()), {"Content-Length": str(len(text))}
        self._handler.do_POST()
        return self.came

    def get(self, run_id: str) -> tuple[int, str]:
        self._handler.path = f"/{run_id}"
        self._handler.do_GET()
        return self.came


def test_every_target_of_make_that_is_named_exists() -> None:
    named = {c.split()[1] for c in COMMANDS if c.startswith("make ")} | set(re.findall(r"`make (\w+)`", ALL))
    assert named
    assert named <= TARGETS


@pytest.mark.parametrize("command", ["--help", "runs", "evalset check routing_demo"])
def test_quick_command_runs(command: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "workbench.cli", *command.split()],
        cwd=ROOT, env=os.environ | {"WORKBENCH_RUNS": str(tmp_path / "none")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_gates_that_are_shown_are_valid(tmp_path: Path) -> None:
    (shown,) = (block for block in TOML if block.startswith("[retrieval]"))
    (tmp_path / "gates.toml").write_text(shown, encoding="utf-8")
    policies, defects = scan_gates(tmp_path / "gates.toml")
    assert not defects
    committed = tomllib.loads((ROOT / "evalsets/docs_qa/gates.toml").read_text(encoding="utf-8"))["retrieval"]
    assert {k: getattr(policies["retrieval"], k) for k in committed} == committed


def test_other_files_that_are_shown_are_read_as_they_stand(tmp_path: Path) -> None:
    for block in TOML:
        if named := re.match(r"# (\w+\.toml)\n", block):
            (tmp_path / named[1]).write_text(block, encoding="utf-8")
    assert len(list(tmp_path.iterdir())) == len(TOML) - 1  # the other is gates.toml
    prices, prompts = project_prices(tmp_path), Prompts.load(tmp_path / "prompts.toml")
    assert all(model in prices.models for model in prompts.models)


def test_budgets_that_are_shown_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_STATE_URL", f"sqlite:///{tmp_path / 'state.sqlite'}")
    (block,) = (block for block in PYTHON if "workbench.Budget(" in block)
    names: dict = {}
    exec(compile(block, "docs/files.md", "exec"), names)
    who = Attribution(tenant_id="acme", user_id="ann", feature="answer")
    assert [b.scope(who) for b in names["budgets"]] == ["all", "tenant_id=acme", "feature=answer&user_id=ann"]
    assert isinstance(names["client"], Client)


def test_shadow_that_is_shown_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = f"sqlite:///{tmp_path / 'state.sqlite'}"
    monkeypatch.setenv("WORKBENCH_STATE_URL", state)
    model = ScriptedModel(lambda request: "merge_asof")
    monkeypatch.setattr("workbench.inference.client.LiteLLMProvider", lambda **_: model)
    (block,) = (block for block in PYTHON if "Shadow(" in block)
    assert len([line for line in block.splitlines() if line.strip()]) <= 15
    exec(compile(block.replace("rate=0.05", "rate=1.0"), "docs/quality.md", "exec"), {})
    assert [request.model for request in model.requests] == ["openai/gpt-5.4-mini", "openai/gpt-5.4-nano"]
    verdict = ShadowEvidence(open_engine(state)).verdict("nano")
    assert (verdict.status, verdict.claim.n_items, verdict.claim.difference) == ("inconclusive", 1, 0.0)


def test_graded_production_calls_are_read_as_shown(tmp_path: Path) -> None:
    (rows,) = re.findall(r"```json\n(.*?)```", TEXTS["docs/quality.md"], re.DOTALL)
    (tmp_path / "graded.jsonl").write_text(rows, encoding="utf-8")
    graded = read_graded_production(tmp_path / "graded.jsonl")
    assert graded.select("tenant", "sample_weight", "grade").rows() == [("acme", 10.0, 1.0), ("acme", 1.0, 0.0)]


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_is_explained(name: str) -> None:
    assert f"`{name}`" in README


def test_named_files_exist() -> None:
    for name in re.findall(r"`((?:\.ci|\.github|notebooks|workbench|data|tests|docs|evalsets)/[\w./-]+\w)`", ALL):
        made = name.startswith(("data/.cache", "evalsets/docs/"))  # by a command that is shown
        assert (ROOT / name).exists() or made, name
    for notebook in re.findall(r"`(\d\d_\w+)`", ALL):
        assert (ROOT / "notebooks" / f"{notebook}.ipynb").is_file()


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXTS[page]):
        assert (ROOT / page).parent.joinpath(target).exists(), target


def test_readme_is_read_in_ten_minutes() -> None:
    assert len(README.split()) <= 10 * 220  # words a minute of technical text
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} <= set(re.findall(r"\]\(([^)#]+)\)", README))


def test_sample_files_that_are_shown_are_read_as_they_stand(tmp_path: Path) -> None:
    (shown,) = re.findall(r"```csv\n(.*?)```", README, re.DOTALL)
    (tmp_path / "asked.csv").write_text(shown, encoding="utf-8")
    for name in (name.strip() for row in shown.splitlines()[1:] for name in row.rpartition(",")[2].split(";")):
        path = tmp_path / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("# A page\n\nIt says what was asked.\n", encoding="utf-8")
    understood = understand_evalset([str(tmp_path / "docs")], tmp_path / "asked.csv")
    assert [len(part) for part in (understood.documents, understood.queries, understood.judgements)] == [3, 2, 3]
