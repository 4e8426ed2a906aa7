"""A log of real calls: hashes and sizes alone, good enough to be simulated and compared with the bill."""

from dataclasses import replace

import pytest

from tests.caching.scripted_vendor import Part, ScriptedVendor
from tests.caching.test_prompt_cache_tables import cells
from workbench.caching.prompt_cache import load_prompt_cache_rules
from workbench.caching.prompt_cache_tables import billed_prompts_table, prompt_tables
from workbench.caching.prompt_calls import CALLS, CallLog, read_prompt_calls
from workbench.errors import AttemptTimeout, CallFailed, ConfigError
from workbench.evalset.evalset import Evalset
from workbench.inference.call_attempt import Books
from workbench.inference.client import Client
from workbench.inference.failover import RetryPolicy
from workbench.inference.messages import Response, Usage
from workbench.inference.prices import load_prices
from workbench.telemetry.attribution import attributed
from workbench.testing import FakeClock, ScriptedModel

SONNET = "claude-sonnet-4-6"
MODEL, MARK = f"anthropic/{SONNET}", {"cache_control": {"type": "ephemeral"}}
SYSTEM = "You answer. " * 600


def messages(question):
    system = {"role": "system", "content": [{"type": "text", "text": SYSTEM, **MARK}]}
    return [system, {"role": "user", "content": question}]


def vendor_of(clock, per_token=3):
    """Script of a vendor with its own tokenizer, which bills by its own rules."""
    vendor = ScriptedVendor("anthropic")

    def script(request):
        texts = [request.messages[0]["content"][0]["text"], request.messages[1]["content"]]
        parts = [Part("system", "s" * (len(texts[0]) // per_token), "5m"), Part("user", texts[1])]
        bill = vendor.serve("account", clock.now().timestamp(), parts, answered=clock.now().timestamp(), output=7)
        usage = Usage(sum(len(p.text) for p in parts) - bill.read - bill.write, bill.read, bill.write, 7)
        return Response("yes", request.model, usage, latency_ms=900.0, first_token_ms=200.0)

    return script


def log_of(path, questions, *, gap_s=60.0, script=None):
    clock = FakeClock()
    model = ScriptedModel(script or vendor_of(clock), clock=clock)
    prices = load_prices()
    prices = replace(prices, models={**prices.models, MODEL: prices.models["local/smollm2-135m"]})
    books = Books(prices, clock=clock)
    client = Client({"": CallLog(model, path, clock=clock)}, books, policy=RetryPolicy(attempts_per_model=1))
    for question in questions:
        with attributed(tenant_id="acme", feature="answer"):
            client.complete(messages(question), model=MODEL, max_tokens=9)
        clock.sleep(gap_s)
    return read_prompt_calls(path)


def test_calls_of_a_client_are_logged_with_who_asked_and_what_was_billed(tmp_path):
    calls = log_of(tmp_path / CALLS, ["a secret", "b"])
    assert [(c.tenant_id, c.feature, c.model, c.scope) for c in calls] == [("acme", "answer", MODEL, "account")] * 2
    assert [c.at - calls[0].at for c in calls] == [0, 60]
    assert [c.started_ms for c in calls] == [200, 200]
    assert [(c.billed_read, c.billed_write) for c in calls] == [(0, 2400), (2400, 0)]
    assert [c.input_tokens for c in calls] == [2408, 2401], "the sizes are those that the vendor counted"
    assert [s.breakpoint for s in calls[0].segments] == [True, False]
    said = (tmp_path / CALLS).read_text(encoding="utf-8")
    assert "secret" not in said
    assert "You answer" not in said


def test_the_simulation_of_a_log_stands_beside_its_bill(tmp_path):
    calls = log_of(tmp_path / CALLS, [f"question {i}" for i in range(8)])
    table = billed_prompts_table(calls, load_prompt_cache_rules())
    assert cells(table, "model") == [SONNET]
    assert cells(table, "billed calls") == [8]
    assert cells(table, "read, billed") == [7 * 2400]
    assert cells(table, "tokens read")[0] == pytest.approx(7 * 2400, rel=0.01), "sizes are in proportion to the texts"
    assert cells(table, "mean error of a call's cost")[0] < 0.02


def test_the_notebook_goes_by_the_log_where_there_is_one(tmp_path):
    log_of(tmp_path / CALLS, [f"question {i}" for i in range(8)])
    evalset = Evalset("shop", tmp_path, (), {}, (), {}, "", {}, False)
    tables = prompt_tables(evalset)
    assert max(cells(tables[0], "of input read")) > 0.8
    assert cells(tables[-1], "billed calls") == [8]


def test_without_a_bill_the_table_says_so():
    (row,) = billed_prompts_table((), load_prompt_cache_rules()).rows
    assert "none of these calls was billed" in row[0]


def test_an_attempt_that_fails_is_not_logged_and_a_count_that_lacks_is_no_bill(tmp_path):
    path = tmp_path / CALLS
    with pytest.raises(CallFailed):
        log_of(path, ["a"], script=[AttemptTimeout("slow", billed="unknown")])
    assert read_prompt_calls(path) == ()
    (call,) = log_of(path, ["a"], script=[Response("yes", MODEL, None)])
    assert (call.billed_read, call.output_tokens) == (None, 0)


def test_a_log_that_cannot_be_written_is_told_before_anything_is_paid(tmp_path):
    model = ScriptedModel(["yes"])
    with pytest.raises(OSError, match="No such file"):
        CallLog(model, tmp_path / "no" / CALLS).complete(None, timeout_s=1)
    assert model.requests == []


def test_a_line_that_is_no_call_is_named(tmp_path):
    log_of(tmp_path / CALLS, ["a"])
    with (tmp_path / CALLS).open("a", encoding="utf-8") as file:
        file.write('{"at": 1}\n')
    with pytest.raises(ConfigError, match=r"calls.jsonl:2 is no logged call"):
        read_prompt_calls(tmp_path / CALLS)
