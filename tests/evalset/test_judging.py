import asyncio

import pytest

from workbench.evalset.echoes import echo_scores

PAIRS = [("how to join two frames", "Join two frames by key."), ("unrelated words here", "Sort rows.")]


def test_echo_is_rouge_l_of_the_question_against_the_line():
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    expected = [scorer.score(line, question)["rougeL"] for question, line in PAIRS]
    told = []
    found = echo_scores(PAIRS, on_progress=lambda *far: told.append(far))
    assert told == [(len(PAIRS), len(PAIRS))]
    assert [(s.precision, s.recall) for s in found] == [(e.precision, e.recall) for e in expected]
    assert (found[0].precision, found[0].recall) == (3 / 5, 3 / 5)
    assert echo_scores([]) == []


def test_echo_can_be_scored_inside_a_running_loop():
    async def notebook():
        return echo_scores(PAIRS)

    assert asyncio.run(notebook()) == echo_scores(PAIRS)


def test_echo_scores_come_from_ragas(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ragas.metrics", None)
    with pytest.raises(ImportError):
        echo_scores(PAIRS)
