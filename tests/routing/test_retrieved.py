"""Recorded hits are those of the accepted retrieval decision, this corpus and these questions, or `record` says so."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.reports import samples
from tests.routing.answered import MODELS, QUESTIONS, answered
from workbench.config import Settings
from workbench.errors import ConfigError
from workbench.evalset.evalset import Evalset, load_evalset
from workbench.inference.messages import Response, Usage
from workbench.inference.prices import load_prices
from workbench.inference.recordings import FOLDER, Recordings
from workbench.records import Query
from workbench.routing.accepted_router import FOUND_WITH, HITS
from workbench.routing.record_answers import record_answers
from workbench.routing.recorded_hits import SEARCHES, keep_search_hits, recorded_hit_rows, renew_hits
from workbench.routing.recorded_outcomes import recorded_outcomes, recorded_requests_of, recording_file


class Search:
    """Finds the document that it was told to, and notes what it was asked."""

    def __init__(self, doc_id: str) -> None:
        self.doc_id, self.asked = doc_id, list[str]()

    def __call__(self, query: Query) -> list[str]:
        self.asked.append(query.text)
        return [self.doc_id]


@pytest.fixture
def recorded(tmp_path: Path) -> Evalset:
    """Evalset whose hits and searches were recorded with its accepted decision."""
    evalset = answered(tmp_path)
    accept(evalset, margin=1)
    renew_hits(evalset, Search("merge"), lambda _: None)
    keep_search_hits(evalset, [("default", "sort rows"), ("default", "?")], Search("merge"))
    return evalset


def accept(evalset: Evalset, **parameters: object) -> None:
    decision = replace(samples.decision(), notebook="retrieval", parameters={"kind": "Arm", **parameters})
    (evalset.path / "decisions").mkdir(exist_ok=True)
    (evalset.path / "decisions" / "retrieval.json").write_text(decision.to_json(), encoding="utf-8")


def files(evalset: Evalset) -> dict[str, bytes]:
    return {name: (evalset.path / FOLDER / name).read_bytes() for name in (HITS, SEARCHES, FOUND_WITH)}


def renewed(evalset: Evalset) -> tuple[list[str], list[str]]:
    """What was told, and searched."""
    told, search = list[str](), Search("sort")
    renew_hits(evalset, search, told.append)
    return told, search.asked


def test_nothing_is_searched_again_while_decision_corpus_and_questions_stay(recorded: Evalset) -> None:
    before = files(recorded)
    assert renewed(recorded) == ([], [])
    search = Search("elsewhere")
    keep_search_hits(recorded, [("default", "sort rows"), ("default", "?")], search)
    assert search.asked == []
    assert files(recorded) == before


def test_another_accepted_arm_renews_hits_and_forgets_what_searches_found(recorded: Evalset) -> None:
    accept(recorded, margin=2)
    (told,), searched = renewed(recorded)
    assert "the retrieval arm changed" in told
    assert sorted(searched) == sorted(text for _, text, _ in QUESTIONS.values())
    assert {row["query_id"]: row["doc_ids"] for row in recorded_hit_rows(recorded, HITS)} == {
        query_id: ["sort"] for query_id in QUESTIONS
    }
    assert recorded_hit_rows(recorded, SEARCHES) == []
    assert renewed(recorded) == ([], [])


def test_another_text_of_a_question_renews_hits_and_keeps_what_searches_found(recorded: Evalset) -> None:
    before = recorded_hit_rows(recorded, SEARCHES)
    queries = (replace(recorded.queries[0], text="in other words"), *recorded.queries[1:])
    (told,), searched = renewed(replace(recorded, queries=queries))
    assert "the questions changed" in told
    assert "in other words" in searched
    assert recorded_hit_rows(recorded, SEARCHES) == before


def test_another_corpus_or_a_missing_file_renews_hits(recorded: Evalset) -> None:
    (told,), _ = renewed(replace(recorded, inputs={**recorded.inputs, "corpus": "other"}))
    assert "the corpus changed" in told
    (recorded.path / FOLDER / FOUND_WITH).unlink()
    (told,), _ = renewed(recorded)
    assert f"there is no {FOUND_WITH}" in told


def test_an_outcome_whose_hits_are_of_another_decision_says_so(recorded: Evalset) -> None:
    _, _, before = recorded_outcomes(recorded, load_prices())
    accept(recorded, margin=2)
    _, _, notes = recorded_outcomes(recorded, load_prices())
    assert [note for note in notes if note not in before] == [
        "The prompts hold what was found before the retrieval arm changed; renew them with: workbench record docs"
    ]


def test_recording_what_is_recorded_asks_nothing_and_changes_no_byte(recorded: Evalset, tmp_path: Path) -> None:
    for asked in recorded_requests_of(recorded):
        file = Recordings(recording_file(recorded, asked.request.model), live=True)
        if not file.count(asked.request):
            file.add(asked.request, asked.item_id, Response("?", asked.request.model, Usage(50, output=5)))
    keep_search_hits(recorded, [("default", "sort rows"), ("default", "?")], Search("merge"))
    before, told = files(recorded), list[str]()
    settings = Settings(tmp_path, tmp_path / "cache", tmp_path / "runs", f"sqlite:///{tmp_path / 'state.sqlite'}")
    assert record_answers("docs", settings=settings, tell=told.append) == 0
    assert files(load_evalset("docs", settings=settings)) == before
    assert "still to ask: 0 requests" in told[0]
    assert told[1:] == [f"{model}: 10 answers (0 asked now for $0), 0 errors" for model in MODELS]


def test_without_an_accepted_decision_nothing_can_be_found(tmp_path: Path) -> None:
    evalset = answered(tmp_path)
    settings = Settings(tmp_path, tmp_path / "cache", tmp_path / "runs", "sqlite://")
    with pytest.raises(ConfigError, match="accept a decision first"):
        record_answers("docs", settings=settings, tell=lambda _: None)
    assert not (evalset.path / FOLDER / FOUND_WITH).exists()
