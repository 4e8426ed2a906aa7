"""Recorded answers as outcomes: the same prompts everywhere, a right answer is told without a judge."""

from pathlib import Path

import pytest

from tests.routing.answered import MODELS, PROMPTS, QUESTIONS, answered, write
from workbench.errors import EvalsetError
from workbench.evalset.evalset import Evalset
from workbench.inference.messages import Response, Usage
from workbench.inference.prices import load_prices
from workbench.inference.recordings import FOLDER, Recordings
from workbench.routing.accepted_router import HITS
from workbench.routing.recorded_outcomes import recorded_outcomes, recorded_requests_of, recording_file


@pytest.fixture
def evalset(tmp_path: Path) -> Evalset:
    return answered(tmp_path)


def test_answers_are_right_by_name_by_yes_or_no_and_by_what_a_query_finds(evalset: Evalset) -> None:
    frame, _, notes = recorded_outcomes(evalset, load_prices())
    assert notes == []
    right = {(r["prompt_id"], r["model"]) for r in frame.to_dicts() if r["quality"] == 1}
    assert right == {("answer:q1", MODELS[1]), ("find:q2", MODELS[0]), ("check:q3", MODELS[1])}
    assert set(frame["split"].to_list()) == {"dev", "test"}
    assert frame.filter(prompt_id="answer:q1")["split"].to_list() == ["dev"] * 4


def test_cost_and_latency_of_local_models_do_not_depend_on_how_busy_the_machine_was(evalset: Evalset) -> None:
    frame, _, _ = recorded_outcomes(evalset, load_prices())
    small = frame.filter(model=MODELS[0]).to_dicts()
    assert {r["cost_usd"] for r in small} == {load_prices().cost_nanos(MODELS[0], Usage(50, output=5)) / 1e9}
    assert {round(r["latency_ms"]) for r in small} == {round(50 * 4.3 + 5 * 10)}


def test_prompt_that_not_every_model_answered_is_left_out_and_told(evalset: Evalset) -> None:
    path = recording_file(evalset, MODELS[0])
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "find:q2" not in line), encoding="utf-8")
    frame, _, notes = recorded_outcomes(evalset, load_prices())
    assert "find:q2" not in set(frame["prompt_id"])
    assert notes == ["1 of 5 prompts are left out: not all answers to them are recorded"]


def test_recordings_that_were_read_are_inputs_and_others_are_not(evalset: Evalset) -> None:
    _, before, _ = recorded_outcomes(evalset, load_prices())
    extra = next(iter(recorded_requests_of(evalset))).request.to("other/model")
    file = Recordings(recording_file(evalset, MODELS[0]), live=True)
    file.add(extra, "elsewhere", Response("?", "other", Usage(1)))
    assert recorded_outcomes(evalset, load_prices())[1] == before
    prompts = evalset.path / "prompts.toml"
    prompts.write_text(PROMPTS.replace("Answer about", "Answer on"), encoding="utf-8")
    frame, after, _ = recorded_outcomes(evalset, load_prices())
    assert after["prompts"] != before["prompts"]
    assert not [p for p in frame["prompt_id"].to_list() if p.startswith("answer:")]  # a changed prompt has no answer


def test_hits_that_do_not_fit_the_corpus_are_refused(evalset: Evalset) -> None:
    write(evalset.path / FOLDER / HITS, [{"query_id": q, "doc_ids": ["gone"]} for q in QUESTIONS])
    with pytest.raises(EvalsetError, match="does not fit the corpus"):
        list(recorded_requests_of(evalset))
    (evalset.path / FOLDER / HITS).unlink()
    with pytest.raises(EvalsetError, match="workbench record docs"):
        list(recorded_requests_of(evalset))
