"""Another retrieval arm is a level once its prompts are answered; until then it is told what answering them costs."""

from pathlib import Path

import pytest

from tests.routing.answered import MODELS, QUESTIONS, answered
from tests.routing.test_record_answers import client_of, says
from workbench.config import Settings
from workbench.errors import ConfigError, EvalsetError
from workbench.evalset.evalset import Evalset
from workbench.inference.batch import estimate_batch
from workbench.inference.prices import load_prices
from workbench.inference.recordings import Recordings
from workbench.project.recompute_decision import raw_outcomes
from workbench.records import Query
from workbench.rendering.numbers import usd
from workbench.retrieval.arms import named_arm
from workbench.retrieval.searcher import Searcher
from workbench.routing.record_answers import record_answers
from workbench.routing.recorded_hits import ArmHits
from workbench.routing.recorded_outcomes import recorded_outcomes, recorded_requests_of, recording_file
from workbench.routing.retrieval_levels import (
    keep_level_hits,
    level_found_with,
    level_hits_file,
    read_levels,
    retrieve_level,
    uncovered_levels,
    write_level_hits,
)
from workbench.testing import HashEmbedder, WordTokenizer

ARM = "whole · full_text"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path, tmp_path / "cache", tmp_path / "runs", f"sqlite:///{tmp_path / 'state.sqlite'}")


@pytest.fixture
def evalset(tmp_path: Path) -> Evalset:
    return answered(tmp_path)


def retrieved(evalset: Evalset, **other: list[str]) -> ArmHits:
    """What the accepted arm found, but for some questions."""
    hits = {q: ["merge", "sort", "speed"] for q in QUESTIONS} | other
    found = ArmHits(ARM, {"full_text": 1.0}, level_found_with(evalset, ARM), hits, {("default", "?"): ["speed"]})
    write_level_hits(evalset, found)
    return found


def levels(evalset: Evalset):
    prices = load_prices()
    return read_levels(evalset, prices, set(recorded_outcomes(evalset, prices)[0]["prompt_id"]))


def test_an_arm_that_finds_the_same_is_covered_by_what_is_recorded(evalset: Evalset) -> None:
    found = retrieved(evalset, q1=["merge", "sort"])  # two are shown
    keep_level_hits(evalset, found, [("default", "?"), ("default", "sort rows")], lambda _: ["sort"])
    (level,), notes = levels(evalset)
    assert (level.name, level.missing, notes) == ("top2 of whole/full_text", (), [])
    accepted, read, _ = recorded_outcomes(evalset, load_prices())
    before = accepted.filter(config="top2").sort("prompt_id", "model")
    after = level.frame.sort("prompt_id", "model")
    assert after["quality"].to_list() == before["quality"].to_list()
    searched_usd = load_prices().rate("full_text")
    assert after["cost_usd"].to_list() == pytest.approx([usd + searched_usd for usd in before["cost_usd"]])
    assert {"hits of whole · full_text", f"recordings of {MODELS[0]} with {level.name}"} <= level.inputs.keys()
    assert not level.inputs.keys() & read.keys()


def test_prompts_that_nobody_answered_are_counted_priced_and_told_with_the_command(evalset: Evalset) -> None:
    found = retrieved(evalset, q1=["sort", "merge"])
    (level,), _ = levels(evalset)
    assert level.frame is None
    ours = [a for a in recorded_requests_of(evalset, retrieved=found) if a.query.query_id == "q1"]
    assert [r.sha256 for r in level.missing] == [a.request.sha256 for a in ours]
    worst_usd = estimate_batch(level.missing, load_prices()).worst_usd
    (told,) = uncovered_levels(evalset, load_prices(), [level], [])
    assert "of 10 answers to its prompts 2 are not recorded (2 with top2)" in told
    assert f"at most {usd(worst_usd, up=True)}" in told
    assert f"workbench record docs --retrieval '{ARM}' --max-cost-usd " in told
    assert float(told.rpartition(" ")[2]) >= worst_usd
    unknown, fitted = uncovered_levels(
        evalset, load_prices(), [], ["structure · vector", ARM, "whole · hybrid_weighted"]
    )
    assert unknown.endswith("workbench record docs --retrieval 'structure · vector'")
    assert fitted.startswith("whole · hybrid_weighted can be no level of retrieval")


def test_recording_an_arm_asks_what_is_new_alone_and_changes_nothing_else(evalset: Evalset, settings: Settings) -> None:
    retrieved(evalset, q1=["sort", "merge"])
    before = recorded_outcomes(evalset, load_prices())
    raw = raw_outcomes(evalset, load_prices(), {})
    client, model = client_of(settings, says)
    told: list[str] = []
    common = {"settings": settings, "retrieval": ARM, "tell": told.append, "client": client}
    with pytest.raises(ConfigError, match="no max_cost_usd"):
        record_answers("docs", **common)
    assert "docs: 8 of 10 answers are recorded; still to ask: 2 requests" in told[0]
    # what `find` wrote is searched by this arm too: these two texts were not
    found = retrieved(evalset, q1=["sort", "merge"])
    keep_level_hits(evalset, found, [("default", "?"), ("default", "sort rows")], lambda _: ["sort"])
    assert record_answers("docs", max_cost_usd=1.0, **common) == 0
    assert len(model.requests) == 2
    (level,), _ = levels(evalset)
    assert level.frame is not None
    assert level.frame.filter(prompt_id="answer:q1")["quality"].to_list() == [0.0, 0.0]
    after = recorded_outcomes(evalset, load_prices())
    assert after[0].equals(before[0])
    assert after[1:] == before[1:]
    again = raw_outcomes(evalset, load_prices(), {})
    assert again.outcomes.quality.tolist() == raw.outcomes.quality.tolist()
    assert again.outcomes.cost_usd.tolist() == raw.outcomes.cost_usd.tolist()
    for name in MODELS:  # what a decision read is one of the hashes that its recordings may have
        assert after[1][f"recordings of {name}"] in again.hashes[name]


def test_what_an_arm_finds_is_searched_once_and_told(evalset: Evalset, settings: Settings) -> None:
    searcher = Searcher(evalset.documents, "m", settings, {"minilm": HashEmbedder(16)}, WordTokenizer())
    told: list[str] = []
    found, search = retrieve_level(evalset, settings, ARM, told.append, searcher=searcher)
    assert told == ["hits-whole-full_text.jsonl of docs is recorded: what whole · full_text finds for 3 questions"]
    assert found.hits.keys() == QUESTIONS.keys()
    assert "merge" in search(Query("", "the way of merge", "default"))
    assert found.amounts["full_text"] == 1.0
    again, _ = retrieve_level(evalset, settings, ARM, told.append, searcher=searcher)
    assert len(told) == 1
    assert {q: tuple(ids) for q, ids in again.hits.items()} == {q: tuple(ids) for q, ids in found.hits.items()}


def test_hits_of_another_corpus_are_no_level_and_a_broken_file_is_named(evalset: Evalset) -> None:
    found = retrieved(evalset)
    write_level_hits(evalset, ArmHits(ARM, found.amounts, {**found.found_with, "corpus": "other"}, found.hits, {}))
    assert levels(evalset) == ([], [
        "what whole · full_text found is from before the corpus changed; renew it with: "
        f"workbench record docs --retrieval '{ARM}'"
    ])  # fmt: skip
    path = level_hits_file(evalset, ARM)
    path.write_text(path.read_text().splitlines()[0] + '\n{"doc_ids": 7}\n')
    with pytest.raises(EvalsetError, match=r"hits-whole-full_text.jsonl:2 is no hits: doc_ids"):
        levels(evalset)


def test_arms_are_built_by_their_names_or_refused(evalset: Evalset, settings: Settings) -> None:
    assert named_arm("whole · wordllama · vector · postgres").store == "postgres"
    for name, says_ in (("whole · hybrid_weighted", "fitted on dev"), ("whole", "strategy"), ("x · vector", "chunker"),
                        ("whole · minilm · vector", "no arm of 01_retrieval"),
                        ("whole · a · b · vector", "no arm of 01_retrieval")):  # fmt: skip
        with pytest.raises(ConfigError, match=says_):
            record_answers("docs", settings=settings, retrieval=name, tell=lambda _: None)
    assert not list(recording_file(evalset, "x").parent.glob("hits-*"))
    assert len(Recordings(recording_file(evalset, MODELS[0]))) == 10
