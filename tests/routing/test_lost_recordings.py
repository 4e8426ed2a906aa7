"""A recorded answer that is lost is an error that names it; what was never recorded, or is asked otherwise, is told."""

import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from tests.faults.misbehaving_server import misbehaving_server
from tests.notebooks.zoo import make_settings
from tests.reports import samples
from tests.routing.answered import MODELS, PROMPTS, answered
from workbench.cli import app
from workbench.config import SystemClock
from workbench.errors import RecordingMiss
from workbench.evalset.evalset import Evalset
from workbench.inference.prices import load_prices
from workbench.records import Decision, Fingerprint
from workbench.routing.recorded_outcomes import recorded_outcomes, recording_file
from workbench.runner import check_decisions

ROOT = Path(__file__).parents[2]
ITEM = "answer:q1:bare"


@pytest.fixture
def evalset(tmp_path: Path) -> Evalset:
    """All answers recorded, and an accepted decision that rests on them."""
    evalset = answered(tmp_path)
    accept(evalset)
    return evalset


def accept(evalset: Evalset) -> Decision:
    frame, read, _ = recorded_outcomes(evalset, load_prices())
    settings = {"evalset": "docs", "policies": ["random"], "draws": 200}
    decision = replace(
        samples.decision(), notebook="routing", settings=settings, fingerprint=Fingerprint({**evalset.inputs, **read})
    )
    path = evalset.path / "decisions" / "routing.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(decision.to_json(), encoding="utf-8")
    judged = frame.filter(split="test")["prompt_id"].unique().to_list()
    pl.DataFrame({"item_id": judged, "value": [0.0] * len(judged)}).write_parquet(path.with_suffix(".scores.parquet"))
    return decision


def lines_of(evalset: Evalset, model: str) -> list[str]:
    return recording_file(evalset, model).read_text(encoding="utf-8").splitlines(keepends=True)


def lose(evalset: Evalset, model: str, *items: str) -> None:
    kept = [line for line in lines_of(evalset, model) if not any(f'"{item}"' in line for item in items)]
    assert len(kept) == len(lines_of(evalset, model)) - len(items)
    recording_file(evalset, model).write_text("".join(kept), encoding="utf-8")


def first_and_last(evalset: Evalset, model: str) -> tuple[str, str]:
    """Plain answers with the context ``bare``, in the order in which they are asked."""
    items = [line.split('"item_id": "')[1].split('"')[0] for line in lines_of(evalset, model)]
    plain = [item for item in items if item.startswith("answer:") and item.endswith(":bare") and item != ITEM]
    return plain[0], plain[-1]


def test_a_lost_answer_before_one_of_its_kind_names_the_item_and_what_records_it(evalset: Evalset) -> None:
    (evalset.path / "decisions" / "routing.json").unlink()  # also where nothing is accepted
    first, last = first_and_last(evalset, MODELS[1])
    lose(evalset, MODELS[1], first)
    command = f"workbench record docs --model {MODELS[1]}"
    with pytest.raises(RecordingMiss, match=f"1 recorded answer of docs lost, .*{first}.*{command}") as raised:
        recorded_outcomes(evalset, load_prices())
    assert (raised.value.item_id, raised.value.command) == (first, command)
    lose(evalset, MODELS[1], last)  # the rest of its kind: as if it had not been asked yet
    frame, _, notes = recorded_outcomes(evalset, load_prices())
    assert notes == ["2 of 5 prompts are left out: not all answers to them are recorded"]
    assert len(frame)


def test_a_lost_answer_that_the_accepted_decision_judged_is_an_error_wherever_it_stood(evalset: Evalset) -> None:
    lose(evalset, MODELS[0], "find:q2:bare", "find:q2:top2")
    with pytest.raises(RecordingMiss, match=r"2 recorded answers .*find:q2:bare"):
        recorded_outcomes(evalset, load_prices())


def test_a_lost_file_is_an_error_also_where_nothing_is_accepted(evalset: Evalset) -> None:
    shutil.rmtree(evalset.path / "decisions")
    recording_file(evalset, MODELS[1]).unlink()
    with pytest.raises(RecordingMiss, match=f"10 recorded answers .*record docs --model {MODELS[1]}"):
        recorded_outcomes(evalset, load_prices())


def test_misses_that_a_changed_prompt_explains_are_left_out_and_told(evalset: Evalset) -> None:
    prompts = PROMPTS.replace("Write a query", "Write one query")
    (evalset.path / "prompts.toml").write_text(prompts, encoding="utf-8")
    _, read, notes = recorded_outcomes(evalset, load_prices())
    assert notes == ["1 of 5 prompts are left out: not all answers to them are recorded"]
    accepted = Decision.load(evalset.path / "decisions" / "routing.json")
    changed = accepted.fingerprint.changed(Fingerprint({**evalset.inputs, **read}))
    assert "prompts" in changed, "the gate says that it is stale"


@pytest.mark.slow
def test_the_check_of_a_decision_whose_recording_is_lost_is_an_error_and_asks_nobody(
    evalset: Evalset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "project"
    root.mkdir()
    settings = make_settings(root)
    shutil.copy(ROOT / "notebooks" / "02_routing.ipynb", settings.notebooks)
    (settings.notebooks / "profiles" / "routing.ci.yaml").write_text("", encoding="utf-8")
    shutil.copytree(evalset.path, settings.evalsets / "docs")
    lost = replace(evalset, path=settings.evalsets / "docs")
    first, _ = first_and_last(lost, MODELS[0])
    lose(lost, MODELS[0], first)
    with misbehaving_server() as server:
        for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "WORKBENCH_LLM_API_KEY"):
            monkeypatch.setenv(name, "sk-0123456789")
        for name in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "WORKBENCH_LLM_API_BASE"):
            monkeypatch.setenv(name, server.address)
        (found,) = check_decisions(settings, clock=SystemClock())
        command = f"workbench record docs --model {MODELS[0]}"
        assert (found.exit_code, found.gate, found.record.status) == (3, None, "failed")
        assert f"item '{first}'" in str(found.record.error)
        assert command in str(found.record.error)
        env = {
            "WORKBENCH_ROOT": str(root),
            "WORKBENCH_CACHE": str(settings.cache),
            "WORKBENCH_RUNS": str(settings.runs),
        }
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        said = CliRunner().invoke(app, ["check", "routing"])
        assert said.exit_code == 3
        assert "error: RecordingMiss" in said.output.replace("\n", " ")
    assert server.seen == []
