"""Calls that a log says were made at another tier than the standard one: their own price, or it is told."""

import json
import math
from pathlib import Path

import pytest

from workbench.evalset.imports.log_import import ledger_rows_of_log, log_cost_lines
from workbench.evalset.imports.log_reader import read_log
from workbench.evalset.imports.logged_calls import logged_cost_nanos
from workbench.inference.prices import load_prices

LOGS = Path(__file__).parent / "logs"
PRICES = load_prices()


def lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def at_tier(row: dict, tier: str, usd: float | None) -> dict:
    """A payload of litellm whose answer names the tier, with or without litellm's own cost."""
    return row | {"response": row["response"] | {"service_tier": tier}, "response_cost": usd}


def test_a_call_at_another_tier_than_the_standard_one_costs_its_own_price_or_is_told(tmp_path):
    paid = [json.loads(line) for line in (LOGS / "litellm_payload.jsonl").read_text().splitlines()][:1]
    rows = [at_tier(row, tier, None) for row in paid for tier in ("default", "flex", "flex", "priority", "batch")]
    log = read_log("litellm", [lines(tmp_path / "litellm.jsonl", rows)])
    standard, *others, half = (logged_cost_nanos(c, PRICES) for c in log.calls)
    assert others == [standard] * 3
    assert half == math.ceil(standard / 2)
    told = [line for line in log_cost_lines(log, PRICES) if "tier" in line]
    as_standard = "whose price is not known here: priced as standard"
    assert [line.partition(";")[0] for line in told] == [
        f"2 calls ran at tier flex, {as_standard}", f"1 call ran at tier priority, {as_standard}",
    ]  # fmt: skip
    own = "version = '2026-11-30'\n[models.'openai/gpt-5.4-mini@flex']\nusd_per_mtok = {input = 1, output = 1}\n"
    (tmp_path / "models.toml").write_text(own + "source = 'contract'\ndate = 2026-11-30\n")
    prices = load_prices(models=tmp_path / "models.toml")
    assert [logged_cost_nanos(c, prices) for c in log.calls] == [standard, 115_000, 115_000, standard, half]
    assert [line for line in log_cost_lines(log, prices) if "tier" in line] == told[1:]
    versions = [row.price_version.partition("+")[2][8:] for row in ledger_rows_of_log(log, prices, "product")]
    assert versions == ["", "+flex", "+flex", "", "+batch"]


def test_a_model_may_have_a_price_of_one_tier_alone(tmp_path):
    paid = json.loads((LOGS / "litellm_payload.jsonl").read_text().splitlines()[0])
    renamed = json.loads(json.dumps(paid).replace("gpt-5.4-mini", "own-model"))
    rows = [at_tier(renamed, tier, None) for tier in ("flex", "default", "priority")]
    log = read_log("litellm", [lines(tmp_path / "litellm.jsonl", rows)])
    own = "version = '2026-11-30'\n[models.'openai/own-model@flex']\nusd_per_mtok = {input = 1, output = 1}\n"
    (tmp_path / "models.toml").write_text(own + "source = 'contract'\ndate = 2026-11-30\n")
    prices = load_prices(models=tmp_path / "models.toml")
    assert [logged_cost_nanos(c, prices) for c in log.calls] == [115_000, None, None]
    assert [line for line in log_cost_lines(log, prices) if "tier" in line] == []


def test_what_the_log_says_of_a_call_at_a_tier_without_a_price_is_its_cost(tmp_path):
    paid = json.loads((LOGS / "litellm_payload.jsonl").read_text().splitlines()[0])
    log = read_log("litellm", [lines(tmp_path / "litellm.jsonl", [at_tier(paid, "flex", 0.00003465)])])
    (row,) = ledger_rows_of_log(log, PRICES, "product")
    assert (row.cost_nanos, row.price_version) == (34_650, "as logged by litellm")
    said, *told = log_cost_lines(log, PRICES)
    assert "no price of what was used; $0.000035 by the log, for 1" in said
    assert told[0].startswith("1 call ran at tier flex, whose price is not known here: priced as the log says;")


def span_at_tier(**attributes: object) -> dict:
    said = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-5.4-mini",
            "gen_ai.usage.input_tokens": 100, "gen_ai.usage.output_tokens": 10} | attributes  # fmt: skip
    kinds = [{"key": key, "value": {"intValue" if isinstance(value, int) else "stringValue": value}}
             for key, value in said.items()]  # fmt: skip
    span = {"traceId": "a" * 32, "spanId": "b" * 16, "name": "chat", "attributes": kinds,
            "startTimeUnixNano": "1796006405600155766", "endTimeUnixNano": "1796006405900155766"}  # fmt: skip
    return {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}


@pytest.mark.parametrize(
    ("said", "tier"),
    [
        ({"openai.request.service_tier": "flex"}, "flex"),
        ({"openai.request.service_tier": "flex", "openai.response.service_tier": "default"}, ""),
        ({"gen_ai.openai.request.service_tier": "auto", "gen_ai.openai.response.service_tier": "priority"}, "priority"),
        ({"llm.invocation_parameters": '{"service_tier": "flex"}'}, "flex"),
        ({"output.value": '{"service_tier": "priority"}', "input.value": '{"service_tier": "auto"}'}, "priority"),
        ({"langfuse.observation.model.parameters": '{"service_tier": "flex"}'}, "flex"),
        ({}, ""),
    ],
)  # fmt: skip
def test_a_span_tells_the_tier_of_its_answer_before_that_of_its_request(tmp_path, said, tier):
    log = read_log("otlp", [lines(tmp_path / "spans.jsonl", [span_at_tier(**said)])])
    assert [call.tier for call in log.calls] == [tier]
    told = [line for line in log_cost_lines(log, PRICES) if line.startswith(f"1 call ran at tier {tier},")]
    assert len(told) == bool(tier)


def test_tiers_are_read_where_langfuse_mlflow_and_inspect_keep_them(tmp_path):
    row = {"id": "o1", "type": "GENERATION", "startTime": "2026-11-30T10:00:00Z", "providedModelName": "gpt-5.4-mini",
           "usageDetails": {"input": 60, "output": 7}, "modelParameters": {"service_tier": "flex"}}  # fmt: skip
    (call,) = read_log("langfuse", [lines(tmp_path / "langfuse.jsonl", [row])]).calls
    assert call.tier == "flex"
    text, asked = (LOGS / "mlflow_traces.jsonl").read_text(), '{\\"model\\": \\"gpt-5.4-mini\\"'
    (tmp_path / "mlflow.jsonl").write_text(text.replace(asked, asked + ', \\"service_tier\\": \\"flex\\"'))
    assert {c.tier for c in read_log("mlflow", [tmp_path / "mlflow.jsonl"]).calls} == {"flex"}
    log = json.loads((LOGS / "inspect_small.json").read_text())
    log["eval"]["model_args"] = {"service_tier": "priority"}
    (tmp_path / "inspect.json").write_text(json.dumps(log))
    assert {c.tier for c in read_log("inspect", [tmp_path / "inspect.json"]).calls} == {"priority"}
