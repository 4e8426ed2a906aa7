"""An answer that does not fulfil the schema it was asked for is paid for and is none."""

import pytest

from workbench.errors import CallFailed, ConfigError, MalformedAnswer
from workbench.inference.budgets import Budget, Budgets
from workbench.inference.call_attempt import Books, answer_misfit, attempt_answer_validator
from workbench.inference.client import Client
from workbench.inference.messages import Request, Response, ToolCall, Usage
from workbench.inference.prices import load_prices
from workbench.state import open_engine
from workbench.telemetry.ledger import Ledger
from workbench.testing import FakeClock, ScriptedModel

MODEL = "local/smollm2-135m"
ASK = [{"role": "user", "content": "Where?"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
USAGE = Usage(100, output=20)
GOOD = '{"city": "Paris"}'


def said(text: str, *calls: ToolCall) -> Response:
    return Response(text, "served", USAGE, tool_calls=calls)


def wrong(text: str, schema: object = CITY) -> str:
    return answer_misfit(attempt_answer_validator(Request(MODEL, tuple(ASK), schema=schema)), said(text))


@pytest.fixture
def client(tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path / 'state.sqlite'}")
    books = Books(load_prices(), Budgets(engine, [Budget(1, "total")]), Ledger(engine), clock=FakeClock())
    return Client({"": ScriptedModel()}, books)


@pytest.mark.parametrize("text", ["this is no JSON", "", GOOD[:-2], '{"city": 5}', "{}", "[]"])
def test_an_answer_that_does_not_fulfil_its_schema_is_charged_as_counted_and_asked_again(client, text):
    client.providers[""].script = [said(text), said(GOOD)]
    done = client.complete(ASK, model=MODEL, schema=CITY)
    each = load_prices().cost_nanos(MODEL, USAGE)
    assert (done.text, done.attempts, done.cost_nanos) == (GOOD, 2, 2 * each)
    rows = client.books.ledger.frame().sort("attempt").to_dicts()
    assert [(r["status"], r["error_class"], r["cost_nanos"], r["output_tokens"]) for r in rows] == [
        ("ok", "MalformedAnswer", each, 20),
        ("ok", "", each, 20),
    ]
    (drawn,) = client.books.budgets.table().to_dicts()
    assert (drawn["spent_nanos"], drawn["held_nanos"]) == (2 * each, 0)


def test_what_was_shown_is_not_followed_by_another_answer(client):
    client.providers[""].script = [said("no JSON"), said(GOOD)]
    shown = []
    with pytest.raises(CallFailed, match="no JSON, which its schema asks for") as raised:
        client.complete(ASK, model=MODEL, schema=CITY, on_text=shown.append)
    assert isinstance(raised.value.__cause__, MalformedAnswer)
    assert (raised.value.streamed, "".join(shown), len(client.providers[""].requests)) == (True, "no JSON", 1)


def test_a_call_of_a_tool_is_not_held_to_the_schema_of_answers(client):
    client.providers[""].script = [said("", ToolCall("c1", "look_up", "{}"))]
    assert client.complete(ASK, model=MODEL, schema=CITY).attempts == 1


def test_a_schema_that_is_none_is_refused_before_anything_is_asked(client):
    with pytest.raises(ConfigError, match="no JSON schema: 'objekt'"):
        client.complete(ASK, model=MODEL, schema={"type": "objekt"})
    assert client.providers[""].requests == []
    assert client.books.ledger.frame().is_empty()


def test_a_schema_elsewhere_is_not_fetched():
    assert "refers to one elsewhere" in wrong(GOOD, {"$ref": "http://127.0.0.1:9/schema.json"})
    assert wrong('{"city": "Paris"}', {"$defs": {"c": CITY}, "$ref": "#/$defs/c"}) == ""
    assert "'city' is a required property" in wrong("{}", {"$defs": {"c": CITY}, "$ref": "#/$defs/c"})
