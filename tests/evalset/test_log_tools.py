"""Logs that the tools wrote themselves: rows, means, costs and tokens are the tools' own, or it is said why not.

`logs/` holds what promptfoo 0.123.1, inspect-ai 0.3.285, lm-eval 0.4.13, the OpenInference instrumentor 0.1.66, the
Langfuse SDK 5.0.4, litellm 1.110.2 and MLflow 3.17 wrote here on made-up prompts with scripted models. Batch files and
Langfuse's exports come from servers that were not at hand: those below are made by their documentation.
"""

import json
import os
import shutil
from pathlib import Path

import polars as pl
import pytest

from workbench.errors import ConfigError, EvalsetError
from workbench.evalset.imports.log_import import (
    ASKED,
    PEOPLE,
    RUN,
    STREAM,
    VERDICTS,
    LogChoices,
    book_log,
    import_log,
    ledger_rows_of_log,
    log_cost_lines,
)
from workbench.evalset.imports.log_reader import TOOLS, read_log, tool_of_log
from workbench.evalset.imports.logged_calls import ToolLog, logged_cost_nanos, logged_model_price
from workbench.evalset.imports.outcome_tables import OutcomeRepairs, import_outcomes
from workbench.evalset.outcomes import load_outcomes
from workbench.evalset.traffic import load_traffic_stream
from workbench.inference.messages import Usage
from workbench.inference.prices import load_prices
from workbench.quality.labels import read_labels
from workbench.retrieval.systems import read_system_run
from workbench.telemetry.ledger import Ledger

LOGS = Path(__file__).parent / "logs"
PRICES = load_prices()
MINI = PRICES.models["openai/gpt-5.4-mini"]
FILES = {
    "promptfoo": ["promptfoo.json"], "inspect": ["inspect_large.eval", "inspect_small.json"], "lm-eval": ["lm_eval"],
    "litellm": ["litellm_payload.jsonl"], "otlp": ["langfuse_spans.jsonl"], "openinference": ["openinference.jsonl"],
    "mlflow": ["mlflow_traces.jsonl"],
}  # fmt: skip


def read(tool: str) -> ToolLog:
    return read_log(tool, [LOGS / name for name in FILES[tool]])


def lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def mean(log: ToolLog, model: str, score: str) -> float:
    values = [s.value for c in log.calls if c.model == model for s in c.scores if s.name == score]
    return sum(values) / len(values)


def test_promptfoo_s_rows_scores_costs_and_tokens_are_its_own():
    log, said = read("promptfoo"), json.loads((LOGS / "promptfoo.json").read_text())["results"]
    stats = said["stats"]
    assert len(log.calls) == stats["successes"] + stats["failures"] + stats["errors"] == 12
    assert sum(bool(c.error) for c in log.calls) == stats["errors"]
    for prompt in said["prompts"]:
        mine = [c for c in log.calls if c.model == f"scripted:{prompt['provider']}"]
        metrics, tokens = prompt["metrics"], prompt["metrics"]["tokenUsage"]
        assert sum(c.usd or 0 for c in mine) == pytest.approx(metrics["cost"], rel=1e-12)
        assert sum(c.usage.input for c in mine if c.usage) == tokens["prompt"]
        assert sum(c.usage.output for c in mine if c.usage) == tokens["completion"]
        unasserted = sum(not c.scores and not c.error for c in mine)  # those pass there with a score of 1
        assert sum(s.value for c in mine for s in c.scores if s.name == "score") + unasserted == metrics["score"]


def test_inspect_s_means_and_tokens_are_its_own_and_what_failed_is_a_failed_outcome(tmp_path):
    log, said = read("inspect"), json.loads((LOGS / "inspect_small.json").read_text())
    usage = said["stats"]["model_usage"]["mockllm/small"]
    small = [c for c in log.calls if c.model == "mockllm/small"]
    assert (len(log.calls), len(small), sum(bool(c.error) for c in small)) == (10, 6, 2)
    assert sum(c.usage.input for c in small if c.usage) == usage["input_tokens"]
    assert sum(c.usage.output for c in small if c.usage) == usage["output_tokens"]
    for score in said["results"]["scores"]:
        assert mean(log, "mockllm/small", score["scorer"]) == score["metrics"]["accuracy"]["value"]
    assert {c.usage for c in log.calls if c.model == "mockllm/large"} == {Usage(6, 10, 0, 3)}
    costs = OutcomeRepairs(costs={"mockllm/small": 0.1, "mockllm/large": 1.0}, drop_incomplete=True)
    import_log(log, tmp_path / "out", PRICES, choices=LogChoices("match", costs))
    found = load_outcomes(tmp_path / "out")
    assert found.quality.mean(axis=0).tolist() == [0.5, 1.0]  # sample c was asked of one model alone
    assert "its repeats are averaged" in " ".join(found.notes)


@pytest.mark.parametrize(
    ("scorer", "target", "kept"),
    [
        ("exact", "A", False), ("f1", "the", False), ("exact", "B", True), ("exact", ["A", "Option A"], True),
        ("exact", "-5", True), ("match", "<", False), ("match", ["<", "less"], False), ("match", "A", True),
        ("match", "-5", True), ("includes", "<", True), ("choice", "A", True), ("match", 5, True),
        ("exact", None, True),
    ],
)  # fmt: skip
def test_a_score_of_a_target_of_which_inspect_leaves_nothing_is_none(tmp_path, scorer, target, kept):
    """inspect-ai 0.3.285: exact() calls A wrong where A is right, and match() every text right where it is a symbol."""
    said = json.loads((LOGS / "inspect_small.json").read_text())
    first = said["samples"][0]
    first |= {"target": target, "scores": {scorer: {"value": "C"}}, "error": None}
    (tmp_path / "log.json").write_text(json.dumps(said))
    log = read_log("inspect", [tmp_path / "log.json"])
    assert [score.name for score in log.calls[0].scores] == [scorer] * kept
    assert any(f"left out: 1 score of {scorer}," in line for line in log.told()) is not kept


def test_a_prompt_whose_calls_failed_has_quality_0_and_their_model_s_mean_cost(tmp_path):
    import_log(read("promptfoo"), tmp_path / "out", PRICES, choices=LogChoices("score"))
    rows = pl.read_parquet(tmp_path / "out" / "outcomes.parquet").filter(pl.col("model") == "scripted:small")
    assert rows["quality"].to_list() == [1.0, 1.0, 0.0, 0.0]
    assert rows["cost_usd"].to_list() == pytest.approx([6.55e-6] * 4)
    assert rows["latency_ms"].null_count() == 2
    card = (tmp_path / "out" / "card.md").read_text()
    assert "12 rows read, 12 used, 0 set aside" in card
    assert "4 calls without score" in card
    assert "scripted:small: 6 calls, 2 failed; no known price; $0.000026 by the log, for 4" in card


def test_lm_eval_s_means_are_its_own_by_metric_and_filter():
    log = read("lm-eval")
    results = json.loads(next((LOGS / "lm_eval").glob("results*")).read_text())["results"]
    assert (log.read, len(log.calls), log.spare) == (9, 6, 0)  # two filters are two rows of one call
    for task, said in results.items():
        for name, value in said.items():
            if "," in name and "stderr" not in name:
                values = [s.value for c in log.calls if c.feature == task for s in c.scores if s.name == name]
                assert sum(values) / 3 == pytest.approx(value)
    assert {c.model for c in log.calls} == {"dummy"}  # lm-eval's own name for it is random


@pytest.mark.parametrize("tool", ["litellm", "otlp", "openinference", "mlflow"])
def test_calls_of_one_server_cost_the_same_through_every_tracer(tool):
    """108 or 110 prompt tokens of which 64 were read from a cache, and 7 of output, are what the server counted."""
    log = read(tool)
    paid = [c for c in log.calls if not c.error]
    assert {(c.usage.cache_read, c.usage.output) for c in paid} == {(64, 7)}
    assert {c.usage.input for c in paid} <= {108, 110, 116, 118}
    for call in paid:
        by_hand = call.usage.fresh * MINI["input"] + 64 * MINI["cache_read"] + 7 * MINI["output"]
        assert logged_cost_nanos(call, PRICES) == by_hand
    failed = [c for c in log.calls if c.error]
    assert [(c.usage, c.latency_ms) for c in failed] == [(None, None)]
    assert {c.tenant_id for c in paid} == {"acme"}
    assert {logged_model_price(c.model, PRICES.models) for c in log.calls} == {"openai/gpt-5.4-mini"}


def test_litellm_s_own_costs_equal_those_by_tokens_in_both_of_its_forms():
    for name in ("litellm_payload.jsonl", "litellm_spend.jsonl"):
        log = read_log("litellm", [LOGS / name])
        paid = [c for c in log.calls if not c.error]
        assert len(paid) == 2
        assert [logged_cost_nanos(c, PRICES) / 1e9 for c in paid] == pytest.approx([c.usd for c in paid])


def test_a_trace_s_question_is_what_the_user_asked_and_its_search_is_a_run(tmp_path):
    log = read("openinference")
    assert (log.read, len(log.calls), len(log.searches), log.spare) == (6, 2, 2, 2)
    import_log(log, tmp_path / "out", PRICES)
    stream = load_traffic_stream(tmp_path / "out")
    assert stream.queries == ("How do I join frames?", "This fails?")  # not the prompt, which holds documents too
    assert (stream.tenants, stream.features) == (("acme", "acme"), ("answer", "answer"))
    run = read_system_run(tmp_path / "out" / RUN)
    asked = [json.loads(line) for line in (tmp_path / "out" / ASKED).read_text().splitlines()]
    assert run["doc_id"].to_list() == ["d1", "d2"] * 2
    assert set(run["query_id"]) == {row["_id"] for row in asked}


def test_a_question_of_the_evalset_keeps_its_id_in_the_run(tmp_path):
    lines(tmp_path / "queries.jsonl", [{"_id": "q7", "text": "How do I join frames?"}])
    import_log(read("openinference"), tmp_path, PRICES)
    assert "q7" in set(read_system_run(tmp_path / RUN)["query_id"])


def test_answers_that_nobody_scored_are_graded_and_become_outcomes(tmp_path):
    asked = [{"custom_id": n, "body": {"model": m, "messages": [{"role": "user", "content": "why?"}]}}
             for n, m in (("one", "gpt-5.4-mini"), ("two", "gpt-5.4-nano"))]  # fmt: skip
    lines(tmp_path / "input.jsonl", asked)
    lines(tmp_path / "output.jsonl", [batch("one"), batch("two", "gpt-5.4-nano")])
    (path,) = import_log(read_log("openai-batch", [tmp_path]), tmp_path / "out", PRICES)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["model"], row["answer"], row["quality"]) for row in rows] == [
        ("gpt-5.4-mini", "4", None), ("gpt-5.4-nano", "4", None),
    ]  # fmt: skip
    graded = lines(tmp_path / "graded.jsonl", [row | {"quality": 1, "prompt_id": "p"} for row in rows])
    found = load_outcomes(import_outcomes(graded, tmp_path / "routing"))
    assert found.cost_usd.tolist() == [[row["cost_usd"] for row in reversed(rows)]]


def test_people_s_scores_stand_apart_from_models(tmp_path):
    import_log(read("mlflow"), tmp_path / "out", PRICES)
    people, others = read_labels(tmp_path / "out" / PEOPLE), read_labels(tmp_path / "out" / VERDICTS)
    assert [(x.source, x.rater, x.value) for x in people] == [("human", "ann", 1.0)]
    assert [(x.source, x.rater, x.value) for x in others] == [("model", "gpt", 0.0)]


def test_calls_are_booked_once_and_sum_to_what_their_tokens_cost(engine):
    ledger = Ledger(engine)
    for tool in ("litellm", "mlflow", "openinference", "promptfoo"):
        log = read(tool)
        assert book_log(log, ledger, PRICES, TOOLS[tool].purpose) == (len(log.calls), 0)
        assert book_log(log, ledger, PRICES, TOOLS[tool].purpose) == (0, len(log.calls))
    rows = ledger.frame()
    by_hand = sum(round(c.usd * 1e9) for c in read("promptfoo").calls if c.usd)
    by_hand += sum(
        logged_cost_nanos(c, PRICES) or 0 for t in ("litellm", "mlflow", "openinference") for c in read(t).calls
    )
    assert rows["cost_nanos"].sum() == pytest.approx(by_hand, abs=len(rows))
    assert set(rows.filter(pl.col("status") == "error")["cost_nanos"]) == {0}
    assert set(rows["price_version"]) == {PRICES.version, "as logged by promptfoo", ""}
    assert {row.purpose for row in ledger_rows_of_log(read("mlflow"), PRICES, "product")} == {"product"}


def test_a_cached_repeat_is_none_and_a_cached_row_has_no_latency(tmp_path):
    row = json.loads((LOGS / "promptfoo.json").read_text())["results"]["results"][0]
    rows = []
    for model, cached in (("a", False), ("a", True), ("b", True), ("b", True)):
        response = {**row["response"], "cached": cached, "tokenUsage": {"cached": 17, "total": 17}}
        rows.append({**row, "provider": {"id": model}, "response": response, "latencyMs": 5, "cost": 0})
    log = read_log("promptfoo", [lines(tmp_path / "out.jsonl", rows)])
    assert [c.latency_ms for c in log.calls] == [5, None, None, None]
    assert [c.usd for c in log.calls] == [None] * 4  # 0 is not known there
    import_log(log, tmp_path / "o", PRICES, choices=LogChoices("score", OutcomeRepairs(costs={"a": 1, "b": 1})))
    found = pl.read_parquet(tmp_path / "o" / "outcomes.parquet")
    assert found["model"].to_list() == ["a", "b"]
    assert "2 calls repeated, and answered by a cache" in (tmp_path / "o" / "card.md").read_text()


def batch(name: str, model: str = "gpt-5.4-mini", **parts: object) -> dict:
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 40}}
    body = {"id": f"c-{name}", "model": f"{model}-2026-03-17", "created": 1790000000, "usage": usage,
            "choices": [{"message": {"role": "assistant", "content": "4"}}]}  # fmt: skip
    return {"id": "b", "custom_id": name, "response": {"status_code": 200, "body": body}, "error": None} | parts


def test_batch_files_are_joined_by_custom_id_at_half_the_price(tmp_path):
    asked = [{"custom_id": n, "body": {"model": "gpt-5.4-mini", "messages": [{"role": "user", "content": f"{n}?"}]}}
             for n in ("one", "two", "three")]  # fmt: skip
    lines(tmp_path / "input.jsonl", asked)
    lines(tmp_path / "output.jsonl", [batch("two"), batch("one")])
    lines(
        tmp_path / "error.jsonl", [batch("three", response={"status_code": 400, "body": {"error": {"message": "no"}}})]
    )
    log = read_log("openai-batch", [tmp_path])
    calls = {c.prompt_id: c for c in log.calls}
    assert {n: (c.prompt, c.output, c.error) for n, c in calls.items()} == {
        "one": ("one?", "4", ""), "two": ("two?", "4", ""), "three": ("three?", "", "no"),
    }  # fmt: skip
    full = 60 * MINI["input"] + 40 * MINI["cache_read"] + 10 * MINI["output"]
    assert logged_cost_nanos(calls["one"], PRICES) == full / 2
    assert {row.price_version for row in ledger_rows_of_log(log, PRICES, "eval")} == {"", f"{PRICES.version}+batch"}
    usage = {"input_tokens": 10, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 50, "output_tokens": 5}
    message = {"model": "claude-sonnet-4-5", "content": [{"type": "text", "text": "4"}], "usage": usage}
    anthropic = {"custom_id": "x", "result": {"type": "succeeded", "message": message}}
    (one,) = read_log("openai-batch", [lines(tmp_path / "a.jsonl", [anthropic])]).calls
    assert (one.usage, one.output) == (Usage(10, 100, 50, 5), "4")


LANGFUSE = [
    {"id": "o1", "trace_id": "t1", "type": "GENERATION", "start_time": "2026-11-30T10:00:00Z", "latency": 0.5,
     "end_time": "2026-11-30T10:00:00.500Z", "provided_model_name": "gpt-5.4-mini", "input": '"why?"', "user_id": "u",
     "usage_details": '{"input": 60, "input_cache_read": 100, "output": 7, "total": 167}', "total_cost": 0.0001},
    {"id": "o2", "trace_id": "t2", "type": "GENERATION", "start_time": "2026-11-30T11:00:00Z", "level": "ERROR",
     "provided_model_name": "gpt-5.4-mini", "input": '{"question": "how?"}', "status_message": "503"},
    {"id": "o3", "trace_id": "t2", "type": "SPAN", "start_time": "2026-11-30T11:00:00Z"},
]  # fmt: skip
GIVEN = [
    {"id": "s1", "trace_id": "t1", "name": "correct", "value": 1, "author_user_id": "ann", "source": "ANNOTATION"},
    {"id": "s2", "trace_id": "t1", "name": "correct", "value": 0, "evaluator_id": "judge-1", "source": "EVAL"},
    {"id": "s3", "trace_id": "gone", "name": "correct", "value": 9, "author_user_id": "ann"},
    {"id": "s4", "name": "correct", "value": 1},
]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
def test_langfuse_s_exports_are_read_in_every_format(tmp_path, suffix):
    for stem, rows in (("observations", LANGFUSE), ("scores", GIVEN)):
        frame = pl.DataFrame(rows, infer_schema_length=None)
        {".csv": frame.write_csv, ".jsonl": frame.write_ndjson, ".parquet": frame.write_parquet}[suffix](
            tmp_path / f"{stem}{suffix}"
        )
    log = read_log("langfuse", [tmp_path])
    assert (log.read, len(log.calls), log.spare) == (7, 2, 1)
    assert log.calls[0].usage == Usage(60, 100, 0, 7)
    assert [(c.prompt, c.latency_ms, c.error) for c in log.calls] == [("why?", 500.0, ""), ("how?", None, "503")]
    assert [(d.line, d.file) for d in log.aside] == [(5 if suffix == ".csv" else 4, f"scores{suffix}")]
    import_log(log, tmp_path / "out", PRICES)
    assert [(x.item_id, x.value) for x in read_labels(tmp_path / "out" / PEOPLE)] == [("t1", 1.0)]
    assert [(x.rater, x.value) for x in read_labels(tmp_path / "out" / VERDICTS)] == [("judge-1", 0.0)]
    assert "1 score of people or models is not in [0, 1]" in (tmp_path / "out" / "card.md").read_text()


@pytest.mark.parametrize("counts", [
    {"input": 6000, "input_cache_read": 4000, "output": 200, "output_reasoning": 300, "total": 10500},
    {"input": 0, "input_flex": 6000, "input_flex_cache_read": 4000, "output": 0, "output_flex": 200,
     "output_flex_reasoning": 300, "total": 10500},
    {"input": 10000, "input_priority": 6000, "input_priority_cache_read": 4000, "output": 500,
     "output_priority": 200, "output_priority_reasoning": 300, "total": 10500},
    {"input": 6000, "cache_read_input_tokens": 4000, "output": 500},
    {"input": 6000, "input_cache_read": 4000, "output": 500, "unit": "TOKENS", "inputCost": 3.5, "outputCost": 2},
], ids=["no tier", "flex", "priority", "Anthropic", "with a unit and dollars"])  # fmt: skip
@pytest.mark.parametrize("tool", ["langfuse", "otlp"])
def test_a_call_has_its_tokens_whatever_names_langfuse_gives_them(tmp_path, tool, counts):
    """Langfuse 5.0.4 takes a tier's tokens off the input, or leaves them in and lists them once more."""
    if tool == "langfuse":
        rows = [LANGFUSE[0] | {"usage_details": counts}]
    else:
        rows = [json.loads(line) for line in (LOGS / "langfuse_spans.jsonl").read_text().splitlines()[:1]]
        for told in rows[0]["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["attributes"]:
            if told["key"] == "langfuse.observation.usage_details":
                told["value"] = {"stringValue": json.dumps(counts)}
    (call,) = read_log(tool, [lines(tmp_path / "rows.jsonl", rows)]).calls
    assert call.usage == Usage(6000, 4000, 0, 500)


def test_a_call_that_holds_another_is_counted_once(tmp_path):
    request = json.loads((LOGS / "openinference.jsonl").read_text().splitlines()[1])
    (span,) = request["resourceSpans"][0]["scopeSpans"][0]["spans"]
    inner = {**span, "spanId": "00000000000000aa", "parentSpanId": span["spanId"]}
    request["resourceSpans"][0]["scopeSpans"][0]["spans"] = [inner, span]
    log = read_log("otlp", [lines(tmp_path / "o.jsonl", [request])])
    assert [c.call_id for c in log.calls] == ["00000000000000aa"]
    assert [d.problem for d in log.aside] == ["it holds another call of a model, which is counted"]


def test_ids_in_base64_are_refused_by_line(tmp_path):
    request = json.loads((LOGS / "openinference.jsonl").read_text().splitlines()[1])
    request["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["traceId"] = "OsnDaqkljCkDxtCO1d9SwQ=="
    with pytest.raises(EvalsetError, match="the trace id 'OsnDaqkljCkDxtCO1d9SwQ==' is not in hex"):
        read_log("otlp", [lines(tmp_path / "o.jsonl", [request])])


def test_genai_spans_and_log_records_are_read_together(tmp_path):
    ids = {"traceId": "0" * 31 + "1", "spanId": "0" * 15 + "2"}
    said = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-5.4-mini",
            "gen_ai.usage.input_tokens": 100, "gen_ai.usage.output_tokens": 5,
            "gen_ai.usage.cache_read.input_tokens": 40}  # fmt: skip
    span = {**ids, "name": "chat", "startTimeUnixNano": "1796006405676001679", "endTimeUnixNano": "1796006405714523341",
            "attributes": [{"key": k, "value": {"intValue": str(v)} if isinstance(v, int) else {"stringValue": v}}
                           for k, v in said.items()], "status": {}}  # fmt: skip
    asked = json.dumps([{"role": "user", "parts": [{"type": "text", "content": "why?"}]}])
    records = [
        {**ids, "attributes": [{"key": "gen_ai.input.messages", "value": {"stringValue": asked}}]},
        {**ids, "attributes": [{"key": "gen_ai.evaluation.name", "value": {"stringValue": "correct"}},
                               {"key": "gen_ai.evaluation.score.value", "value": {"doubleValue": 0.5}}]},
    ]  # fmt: skip
    document = {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}],
                "resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]}  # fmt: skip
    (tmp_path / "o.json").write_text(json.dumps(document, indent=1))
    (call,) = read_log("otlp", [tmp_path / "o.json"]).calls
    assert (call.prompt, call.usage, call.latency_ms) == ("why?", Usage(60, 40, 0, 5), 38.521662)
    assert [(s.name, s.value, s.source) for s in call.scores] == [("correct", 0.5, "model")]


def test_phoenix_s_table_of_spans_is_read(tmp_path):
    frame = pl.DataFrame({
        "context.trace_id": ["0" * 32] * 2, "context.span_id": ["0" * 15 + "1", "0" * 15 + "2"],
        "parent_id": [None, "0" * 15 + "1"], "name": ["search", "llm"], "span_kind": ["RETRIEVER", "LLM"],
        "start_time": ["2026-11-30T10:00:00+00:00"] * 2, "end_time": ["2026-11-30T10:00:01+00:00"] * 2,
        "status_code": ["OK", "OK"], "status_message": ["", ""], "attributes.input.value": ["why?", None],
        "attributes.retrieval.documents": [[{"document.id": "d1", "document.score": 0.5}], None],
        "attributes.llm.model_name": [None, "gpt-5.4-mini"], "attributes.llm.token_count.prompt": [None, 100],
        "attributes.llm.token_count.completion": [None, 5],
    })  # fmt: skip
    frame.write_parquet(tmp_path / "spans.parquet")
    log = read_log("openinference", [tmp_path / "spans.parquet"])
    assert [(s.query, s.hits) for s in log.searches] == [("why?", (("d1", 0.5),))]
    assert [(c.model, c.prompt, c.usage, c.latency_ms) for c in log.calls] == [
        ("gpt-5.4-mini", "why?", Usage(100, 0, 0, 5), 1000.0)
    ]


def test_what_cannot_be_used_is_told_by_line_and_the_rest_is_kept(tmp_path):
    path = tmp_path / "p.jsonl"
    good = (LOGS / "litellm_payload.jsonl").read_text().splitlines()
    path.write_text(
        "\n".join([good[0], "{broken", '{"model": "x"}', good[1].replace('"prompt_tokens":', '"prompt_tokens":-')])
    )
    log = read_log("litellm", [path])
    assert log.told()[0] == "litellm: 4 rows read, 1 used, 3 set aside"
    assert [d.line for d in log.aside] == [2, 3, 4]
    assert any("line 3: a row of litellm has model, and startTime or call_type" in line for line in log.told())


def test_what_was_meant_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match=r"2 scores \(includes, match\); say which is the quality: --score NAME"):
        import_log(read("inspect"), tmp_path / "out", PRICES)
    with pytest.raises(ConfigError, match=r"--score: .*matsch"):
        import_log(read("inspect"), tmp_path / "out", PRICES, choices=LogChoices("matsch"))
    with pytest.raises(EvalsetError, match="no cost is recorded for mockllm/large, mockllm/small"):
        import_log(read("inspect"), tmp_path / "out", PRICES,
                   choices=LogChoices("match", OutcomeRepairs(drop_incomplete=True)))  # fmt: skip
    assert not (tmp_path / "out").exists()
    import_log(read("mlflow"), tmp_path / "out", PRICES)
    with pytest.raises(EvalsetError, match=r"has stream.parquet, retrieved.run, .* already; remove it"):
        import_log(read("mlflow"), tmp_path / "out", PRICES)
    with pytest.raises(EvalsetError, match="is the input of a batch: give the output file too"):
        read_log("openai-batch", [lines(tmp_path / "i.jsonl", [{"custom_id": "a", "body": {}}])])
    shutil.copy(next((LOGS / "lm_eval").glob("samples_made_up_gen*")), tmp_path)
    with pytest.raises(EvalsetError, match="which model was it"):
        read_log("lm-eval", list(tmp_path.glob("samples*")))
    damaged = tmp_path / "x.eval"
    damaged.write_bytes((LOGS / "inspect_large.eval").read_bytes()[:-40])
    with pytest.raises(EvalsetError):
        read_log("inspect", [damaged])


@pytest.mark.parametrize("tool", FILES)
def test_each_file_tells_which_tool_wrote_it(tool):
    found = tool_of_log([LOGS / FILES[tool][0]])
    assert found == ("otlp" if tool == "openinference" else tool)


def test_a_file_of_no_tool_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no tool is known that wrote"):
        tool_of_log([lines(tmp_path / "x.jsonl", [{"a": 1}])])


def test_stream_is_written_only_for_traffic(tmp_path):
    import_log(read("promptfoo"), tmp_path / "out", PRICES)
    assert not (tmp_path / "out" / STREAM).exists()


@pytest.mark.parametrize("name", ["gone.json", "x" * 300 + ".json"])
def test_a_file_that_cannot_be_there_is_not_there(tmp_path: Path, name: str) -> None:
    for read in (lambda: tool_of_log([tmp_path / name]), lambda: read_log("promptfoo", [tmp_path / name])):
        with pytest.raises(EvalsetError, match="is not there"):
            read()


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe.json")
    with pytest.raises(EvalsetError, match="is a pipe or a device"):
        read_log("promptfoo", [pipe])
    with pytest.raises(ConfigError, match="no tool is known"):
        tool_of_log([pipe])


def lm_eval_log(folder: Path, model: str, answers: list[str]) -> Path:
    """Samples of a model, and the file that names it, in a folder as lm-eval writes them."""
    folder.mkdir()
    (folder / "results_1.json").write_text(json.dumps({"model_name": model, "config": {"model_args": model}}))
    rows = [
        {"doc_id": i, "doc_hash": f"{i:x}", "arguments": {"gen_args_0": {"arg_0": f"question {i}"}}}
        | {"resps": [[answer]], "filtered_resps": [answer], "filter": "none", "metrics": ["acc"], "acc": float(i % 2)}
        for i, answer in enumerate(answers)
    ]
    (folder / "samples_qa_1.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.mark.parametrize(
    ("answers", "others", "told"),
    [
        ([f"answer {i}" for i in range(12)], [f"answer {i}" for i in range(12)], True),
        ([f"answer {i}" for i in range(12)], [f"answer {i}" for i in range(11)] + ["another"], False),
        (["yes", "no"] * 6, ["yes", "no"] * 6, False),
        ([f"answer {i}" for i in range(9)], [f"answer {i}" for i in range(9)], False),
    ],
    ids=["all alike", "one differs", "labels", "few"],
)
def test_models_that_answer_alike_are_told_since_a_cache_may_have_answered_for_both(tmp_path, answers, others, told):
    folders = [lm_eval_log(tmp_path / name, name, said) for name, said in (("small", answers), ("large", others))]
    log, line = read_log("lm-eval", folders), f"small and large answered all {len(answers)} prompts in the same words"
    costs = OutcomeRepairs(costs={"small": 0.1, "large": 1.0})
    import_log(log, tmp_path / "out", PRICES, choices=LogChoices("acc,none", costs))
    assert any(each.startswith(line) for each in log_cost_lines(log, PRICES)) is told
    assert (line in (tmp_path / "out" / "card.md").read_text()) is told
