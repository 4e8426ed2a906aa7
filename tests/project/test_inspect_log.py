"""What a log can decide, on twelve logs: per notebook the right answer, and what is missing."""

import json
from pathlib import Path

import pytest

from tests.evalset.test_log_tools import FILES, LOGS, PRICES, lines
from workbench.evalset.imports.log_reader import TOOLS, read_log
from workbench.evalset.imports.logged_calls import LoggedCall, LoggedScore, LoggedSearch, ToolLog
from workbench.inference.messages import Usage
from workbench.project.inspect_log import log_answers_table, what_a_log_decides

MODEL = "openai/gpt-5.4-mini"
RIGHT = LoggedScore("correct", 1.0)


def log(calls: list[LoggedCall], tool: str = "langfuse", **more: object) -> ToolLog:
    return ToolLog(tool, (Path("made.jsonl"),), read=len(calls), calls=calls, **more)


def call(i: int, **more: object) -> LoggedCall:
    known = {"prompt": f"question {i}?", "usage": Usage(1000, 0, 0, 100), "trace_id": f"{i:032x}", "model": MODEL,
             "started": "2026-11-30T10:00:00+00:00", "tenant_id": "acme", "feature": "answer"}  # fmt: skip
    return LoggedCall(**{"line": i, **known, **more})


def asked_of(prompts: int, *models: str, noise: int = 7) -> list[LoggedCall]:
    """Each model answers each prompt; the first is wrong on every ``noise``-th."""
    return [
        call(
            i,
            model=model,
            prompt_id=f"p{i}",
            trace_id="",
            scores=(LoggedScore("correct", float(m > 0 or i % noise != 0)),),
        )
        for m, model in enumerate(models)
        for i in range(prompts)
    ]


def twice(score: LoggedScore, i: int) -> LoggedCall:
    return call(i, scores=(score, LoggedScore("correct", 1.0, "human", "ann")))


CASES: dict[str, tuple[ToolLog, dict[str, tuple[str, str]]]] = {
    "two models on 200 prompts": (
        log(asked_of(200, MODEL, "openai/gpt-5.4-nano"), "inspect"),
        {"routing": ("yes", "a margin of 0.02 takes about"), "caching": ("no", "a log of production"),
         "costs": ("yes", ""), "retrieval": ("no", "spans of searches"), "quality": ("no", "")},
    ),
    "two models on 20 prompts": (
        log(asked_of(20, MODEL, "openai/gpt-5.4-nano"), "inspect"),
        {"routing": ("not yet", "about 40 more prompts: under 30 in test nothing is said")},
    ),
    "two models of which one has no price": (
        log([c if c.model == MODEL else call(c.line, model="own/x", prompt_id=c.prompt_id, usage=None, scores=c.scores)
             for c in asked_of(200, MODEL, "own/x")], "inspect"),
        {"routing": ("not yet", "a price: --cost own/x=USD"), "costs": ("yes", "200 calls have no cost")},
    ),
    "two models that share no prompt": (
        log([*asked_of(80, MODEL), *(call(i, model="openai/gpt-5.4-nano", scores=(RIGHT,)) for i in range(80, 160))]),
        {"routing": ("not yet", "")},
    ),
    "one model on 380 prompts": (
        log(asked_of(380, MODEL), "inspect"),
        {"routing": ("no", "ask 380 of the prompts of a second model: about $0.456 at the cost of")},
    ),
    "two scores": (
        log([call(i, scores=(RIGHT, LoggedScore("short", 1.0))) for i in range(80)]),
        {"routing": ("not yet", "--score NAME")},
    ),
    "traffic with repeats": (
        log([call(i, prompt=f"question {i % 500}?") for i in range(2000)]),
        {"caching": ("yes", "labelled pairs"), "routing": ("no", "a score of each answer"), "costs": ("yes", "")},
    ),
    "traffic with few repeats": (
        log([call(i, prompt=f"question {i % 290}?") for i in range(300)]),
        {"caching": ("not yet", "about 289 more repeats to show 299 hits")},
    ),
    "traffic without texts": (
        log([call(i, prompt="", tenant_id="") for i in range(50)]),
        {"caching": ("no", "let your tracing keep what is asked"), "costs": ("yes", "50 calls name no tenant")},
    ),
    "searches": (
        log([], "openinference",
            searches=[LoggedSearch(i, "f", f"q{i}", (("d1", 1.0), ("d2", 0.5))) for i in range(40)]),
        {"retrieval": ("not yet", "20 more questions, the documents themselves, and grades of 80 hits by people"),
         "costs": ("no", "calls with their tokens"), "caching": ("no", "")},
    ),
    "verdicts of a model alone": (
        log([call(i, scores=(LoggedScore("correct", 1.0, "model"),)) for i in range(90)]),
        {"quality": ("no", "labels by people of 60 answers that a model judged")},
    ),
    "verdicts and labels": (
        log([twice(LoggedScore("correct", 0.0, "model"), i) for i in range(90)]),
        {"quality": ("yes", ""), "pipeline": ("no", "workbench record")},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_log_gets_the_right_answer(name):
    given, expected = CASES[name]
    found = {answer.notebook: answer for answer in what_a_log_decides(given, PRICES)}
    assert list(found) == ["retrieval", "routing", "caching", "pipeline", "quality", "costs"]
    for notebook, (can, needs) in expected.items():
        assert found[notebook].can == can, found[notebook]
        assert needs in found[notebook].needs


@pytest.mark.parametrize("tool", FILES)
def test_recorded_logs_are_too_small_to_decide_by(tool):
    answers = what_a_log_decides(read_log(tool, [LOGS / name for name in FILES[tool]]), PRICES)
    assert {a.can for a in answers if a.notebook != "costs"} <= {"no", "not yet"}
    assert all(a.needs for a in answers if a.notebook != "costs")
    assert "What this log can decide" in log_answers_table(answers).to_text()


def test_the_command_says_what_the_log_can_decide_and_import_does_it(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from workbench.cli import app
    from workbench.cli.import_commands import TOOLS as COMMANDS

    assert COMMANDS.keys() == TOOLS.keys()
    (tmp_path / "evalsets").mkdir()
    for name, value in (("ROOT", tmp_path), ("STATE_URL", f"sqlite:///{tmp_path}/s.db"), ("CACHE", tmp_path / "c")):
        monkeypatch.setenv(f"WORKBENCH_{name}", str(value))
    said = CliRunner().invoke(app, ["inspect", str(LOGS / "promptfoo.json")])
    assert said.exit_code == 0, said.output
    assert "promptfoo: 12 rows read, 12 used, 0 set aside" in said.output
    assert "58 more prompts" in said.output
    done = CliRunner().invoke(app, ["import", "promptfoo", str(LOGS / "promptfoo.json"), "--name", "mine", "--ledger"])
    assert done.exit_code == 0, done.output
    assert "ledger: 12 calls added, 0 were there already" in done.output
    costs = CliRunner().invoke(app, ["costs", "--by", "model"])
    assert "scripted:large" in costs.output
    refused = CliRunner().invoke(app, ["inspect", str(lines(tmp_path / "x.jsonl", [json.loads("{}")]))])
    assert (refused.exit_code, "no tool is known that wrote" in refused.output) == (3, True)
    nowhere = CliRunner().invoke(app, ["import", "promptfoo", str(LOGS / "promptfoo.json")])
    assert "say where to: --name EVALSET" in nowhere.output
