"""ragas' metrics through the client: asked once, also after a cut; what fails is counted; the ledger is the sum."""

import json
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from workbench.errors import BudgetExceeded, ConfigError, Unavailable
from workbench.inference.budgets import Budget, Budgets
from workbench.inference.call_attempt import Books
from workbench.inference.client import Client
from workbench.inference.failover import RetryPolicy
from workbench.inference.prices import load_prices
from workbench.inference.recordings import Recordings
from workbench.quality.answer_metrics import MeasuredAnswer
from workbench.quality.ragas_metrics import RAGAS_METRICS, score_with_ragas
from workbench.state import open_engine
from workbench.telemetry.ledger import Ledger
from workbench.testing import FakeClock, HashEmbedder, ScriptedModel

DOCS_QA = Path(__file__).parents[2] / "evalsets/docs_qa"
MODEL = "openai/gpt-5.4-nano"
# metrics with the calls that each makes for an answer of two statements
CALLS = {"faithfulness": 2, "answer_relevancy": 1, "context_recall": 1}
RUBRIC = {f"score{i}_description": f"as good as {i}" for i in range(1, 6)}


def docs_qa(most: int) -> list[MeasuredAnswer]:
    """Questions of docs_qa with what a model answered; the references of two questions stand for what was found."""
    asked = [json.loads(line) for line in (DOCS_QA / "queries.jsonl").read_text(encoding="utf-8").splitlines()]
    asked = [row for row in asked if row["metadata"].get("reference")][: most + 1]
    lines = (DOCS_QA / "recordings/local-qwen2.5-coder-0.5b.jsonl").read_text(encoding="utf-8").splitlines()
    said = {row["item_id"]: row["text"] for row in map(json.loads, lines)}
    right = [row["metadata"]["reference"] for row in asked]
    return [
        MeasuredAnswer(
            row["_id"], said[f"answer:{row['_id']}:bare"], row["text"], right[i],
            retrieved={"a": right[i], "b": right[i + 1]}, tenant_id=row["metadata"]["tenant_id"],
        )
        for i, row in enumerate(asked[:most])
    ]  # fmt: skip


def answer(request) -> str:
    """What a judge says that finds the first of two statements true, and the first document useful."""
    verdicts = [{"statement": s, "reason": "r", "verdict": v} for s, v in (("one", 1), ("two", 0))]
    kind, prompt = request.schema["title"], request.messages[0]["content"]
    said = {
        "StatementGeneratorOutput": {"statements": ["one", "two"]},
        "ClaimDecompositionOutput": {"claims": ["one", "two"]},
        "NLIStatementOutput": {"statements": verdicts},
        "AnswerRelevanceOutput": {"question": f"how {request.seed}", "noncommittal": 0},
        "ContextPrecisionOutput": {"reason": "r", "verdict": int("Output" in prompt)},
        "ContextRecallOutput": {"classifications": [{"statement": "one", "reason": "r", "attributed": 1}]},
        "RubricScoreOutput": {"feedback": "f", "score": 4},
    }.get(kind, {"rating": 2})
    return json.dumps(said)


@pytest.fixture
def make(tmp_path):
    """Client by name: those of one name write one ledger and one file of recordings."""
    engines = {}

    def made(name, script=answer, *, budget_usd=10.0, live=True):
        if name not in engines:
            engines[name] = open_engine(f"sqlite:///{tmp_path}/{name}.sqlite")
        clock = FakeClock()
        budgets = Budgets(engines[name], [Budget(budget_usd, "total")], clock)
        books, model = Books(load_prices(), budgets, Ledger(engines[name]), clock=clock), ScriptedModel(script)
        recordings = Recordings(tmp_path / f"{name}.jsonl", live=live)
        return Client({"": model}, books, recordings=recordings, policy=RetryPolicy(attempts_per_model=1)), model

    yield made
    for engine in engines.values():
        engine.dispose()


def score(client, answers, metrics=tuple(CALLS), **other) -> pl.DataFrame:
    given = {"model": MODEL, "max_cost_usd": 5.0, "embedder": HashEmbedder(), "tell": lambda _: None}
    return score_with_ragas("ours", answers, metrics, client, **given | other)


def test_a_run_that_was_cut_off_asks_nothing_twice_and_the_ledger_is_the_sum_of_the_calls(make):
    answers = docs_qa(50)
    lost, down = ("faithfulness", answers[7]), answers[7].text

    def failing(request):
        kind, prompt = request.schema["title"], request.messages[0]["content"]
        if kind == "StatementGeneratorOutput" and json.dumps(down)[1:-1] in prompt:
            return Unavailable("down")
        if kind == "ContextRecallOutput" and json.dumps(answers[9].question)[1:-1] in prompt:
            return '{"classifications": []}'
        return answer(request)

    def cut(request):
        if len(first.requests) == 91:
            raise KeyboardInterrupt
        return failing(request)

    client, first = make("cut", cut)
    with pytest.raises(KeyboardInterrupt):
        score(client, answers)
    again, second = make("cut", failing)
    told = []
    found = score(again, answers, tell=told.append)
    assert told[-1].startswith("148 values, 2 errors, $")
    errors = found.filter(pl.col("error").is_not_null())
    assert dict(errors.select("item_id", "metric").rows()) == {
        answers[7].item_id: "faithfulness", answers[9].item_id: "context_recall",
    }  # fmt: skip
    assert errors["value"].null_count() == 2
    assert found["value"].is_between(0, 1).sum() == 3 * 50 - 2
    rows = again.books.ledger.frame()
    paid = rows.filter(pl.col("status") == "ok")
    calls = dict(paid.group_by("item_id").len().rows())
    assert calls == {f"ragas:{m}:{a.item_id}": n for m, n in CALLS.items() for a in answers if (m, a) != lost}
    assert len(first.requests) + len(second.requests) == len(paid) + 2  # the call that failed is tried again
    assert set(rows["purpose"]) == {"judge"}
    assert paid["cost_nanos"].sum() == load_prices().cost_nanos(MODEL, second.usage) * len(paid) > 0
    broken = rows.filter((pl.col("status") != "ok") & (pl.col("cost_nanos") > 0))
    assert set(broken["error_class"]) == {"KeyboardInterrupt"}  # nobody knows what it took: its worst case is charged

    replay, silent = make("cut", live=False)
    assert_frame_equal(
        score(replay, answers[:5], max_cost_usd=None).drop("cost_usd"),
        found.filter(pl.col("item_id").is_in([a.item_id for a in answers[:5]])).drop("cost_usd"),
    )
    assert not silent.requests


def test_every_metric_gives_a_value_by_the_definition_of_ragas(make):
    client, model = make("all")
    found = score(client, docs_qa(1), [*RAGAS_METRICS], rubric=RUBRIC, temperature=0.7)
    assert found["error"].null_count() == len(found) == 10, found["error"].drop_nulls().to_list()
    values = dict(zip(found["metric"], found["value"], strict=True))
    assert (values["faithfulness"], values["factual_correctness"], values["rubric"]) == (0.5, 0.5, 0.75)
    assert (values["answer_accuracy"], values["context_relevance"]) == (0.5, 1.0)
    assert client.books.ledger.frame()["cost_nanos"].sum() == round(found["cost_usd"].sum() * 1e9) > 0
    questions = [r for r in model.requests if r.schema["title"] == "AnswerRelevanceOutput"]
    assert [r.seed for r in questions] == [0, 1, 2]
    objects = [questions[0].schema, *model.requests[1].schema["$defs"].values()]
    assert all(part["additionalProperties"] is False for part in objects)


@pytest.mark.parametrize(
    ("metric", "kind", "said", "told"),
    [
        ("faithfulness", "StatementGeneratorOutput", {"statements": []}, "statements is empty"),
        ("faithfulness", "NLIStatementOutput",
         {"statements": [{"statement": "one", "reason": "r", "verdict": 1}]}, "1 verdict on 2 statements"),
        ("factual_correctness", "ClaimDecompositionOutput", {"claims": []}, "claims is empty"),
        ("answer_relevancy", "AnswerRelevanceOutput", {"question": " ", "noncommittal": 0}, "the question is empty"),
        ("context_precision", "ContextPrecisionOutput", {"reason": "r", "verdict": 3}, "verdict is 3"),
        ("context_recall", "ContextRecallOutput",
         {"classifications": [{"statement": "s", "reason": "r", "attributed": 5}]}, "attributed is 5"),
        ("answer_accuracy", "AnswerAccuracyOutput", {"rating": 1}, "rating is 1, and may be 0, 2, 4"),
        ("rubric", "RubricScoreOutput", {"feedback": "f", "score": 9}, "the value is 2.0"),
        ("context_relevance", "ContextRelevanceOutput", "no JSON", "CallFailed"),
    ],
)  # fmt: skip
def test_what_ragas_would_count_all_the_same_is_an_error_row_and_is_paid(make, metric, kind, said, told):
    said = said if isinstance(said, str) else json.dumps(said)
    client, model = make(metric, lambda r: said if r.schema["title"] == kind else answer(r))
    found = score(client, docs_qa(1), [metric], rubric=RUBRIC)
    assert found["value"].to_list() == [None]
    assert told in found["error"][0]
    assert client.books.ledger.frame()["cost_nanos"].sum() == round(found["cost_usd"][0] * 1e9) > 0
    assert model.requests[-1].schema["title"] == kind  # nothing is asked after the failure


def test_what_cannot_be_scored_or_paid_is_refused_before_anything_is_asked(make):
    client, model = make("refused")
    bare = [MeasuredAnswer("q", "an answer", "a question")]
    told = score(client, bare, ["faithfulness", "context_recall"])["error"].to_list()
    assert told == ["item has no retrieved text"] * 2
    for given, match in (
        ({"metrics": ["faith"]}, "faithfulness"),
        ({"metrics": ["rubric"]}, "score1_description"),
        ({"embedder": None}, "embedder"),
        ({"max_cost_usd": None}, "no max_cost_usd"),
        ({"answers": bare * 2}, "several of 'q'"),
    ):
        with pytest.raises(ConfigError, match=match):
            score(client, **{"answers": bare} | given)
    assert not model.requests
    with pytest.raises(BudgetExceeded):
        score(client, docs_qa(1), ["faithfulness"], max_cost_usd=1e-6)


def test_a_second_judge_is_asked_itself_and_not_answered_by_the_first(make):
    """ragas 0.4.3 keeps answers without who gave them: its cache hands the first judge's verdicts to the second."""
    lenient, strict = MODEL, "openai/gpt-5.4-mini"

    def verdict(request):
        return answer(request).replace('"attributed": 1', f'"attributed": {int(request.model == lenient)}')

    def judged(client):
        judges = (lenient, strict)
        return [score(client, docs_qa(1), ["context_recall"], model=judge)["value"][0] for judge in judges]

    client, model = make("judges", verdict)
    assert judged(client) == [1.0, 0.0]
    assert [request.model for request in model.requests] == [lenient, strict]
    replay, silent = make("judges", live=False)
    assert judged(replay) == [1.0, 0.0]
    assert not silent.requests
