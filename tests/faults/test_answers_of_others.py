"""No call gets what a server sent for another: not from a connection with something left on it, nor by a mix-up."""

import logging
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.faults.misbehaving_server import FAULTS, MisbehavingServer, misbehaving_server, signature, vector
from workbench.errors import AnswerMismatch, CallFailed, ProviderError
from workbench.inference.budgets import Budget, Budgets
from workbench.inference.call_attempt import Books
from workbench.inference.client import Client
from workbench.inference.embedding import HostedEmbedder
from workbench.inference.failover import RetryPolicy
from workbench.inference.hosted_connections import ANSWER_IDS, REQUEST_ID
from workbench.inference.hosted_models import HostedAnswerIds, LiteLLMProvider
from workbench.inference.messages import Request, Response
from workbench.inference.prices import PriceTable, load_prices
from workbench.state import open_engine
from workbench.telemetry.attribution import attributed
from workbench.telemetry.ledger import Ledger
from workbench.testing import FakeClock

LIBRARY, HANDLER = "local/scripted", "deepseek/scripted"  # asked by OpenAI's library, and by litellm's own handler
SURPLUS = ("twice", "surplus", "late_surplus")
ENCODERS = {"openai/encoder": "OPENAI_BASE_URL", "hosted_vllm/encoder": "HOSTED_VLLM_API_BASE"}
VENDORS = ("openai/m", "local/m", "azure/m", "anthropic/claude-sonnet-4-5", "gemini/gemini-2.5-flash", "deepseek/m",
           "mistral/m", "openrouter/m", "hosted_vllm/m")  # fmt: skip
# one answer of each of these may be another's as far as anybody can tell, if it comes before its own
UNTOLD = {"previous"}


def asking(text: str, model: str) -> Request:
    return Request(model, ({"role": "user", "content": text},), max_tokens=20)


def signed(text: str) -> str:
    return signature(f'["{text}"]')


def ask(server: MisbehavingServer, request: Request, on_text: Callable[[str], object] | None = None) -> Response:
    return LiteLLMProvider(server.address, "key").complete(request, timeout_s=60, on_text=on_text)


def priced() -> PriceTable:
    table = load_prices()
    price = table.models["openai/gpt-5.4-nano"]
    return replace(table, models={**table.models, **dict.fromkeys((LIBRARY, HANDLER, *ENCODERS), price)})


@pytest.mark.parametrize("on_text", [None, len], ids=["whole", "streamed"])
@pytest.mark.parametrize("model", [LIBRARY, HANDLER])
@pytest.mark.parametrize("fault", SURPLUS)
def test_what_is_left_on_a_connection_is_no_later_call_s_answer(fault, model, on_text):
    with misbehaving_server(faults=[fault], signed=True) as server:
        for number in range(6):
            text = f"{fault} {model} {number}"
            assert ask(server, asking(text, model), on_text).text.endswith(signed(text))
            time.sleep(0.05 if fault == "late_surplus" else 0)  # until it has come
        assert len({seen.connection for seen in server.seen}) == len(server.seen) == 6


@pytest.mark.parametrize("model", ENCODERS)
@pytest.mark.parametrize("fault", SURPLUS)
def test_what_is_left_on_a_connection_is_no_later_text_s_vector(fault, model, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with misbehaving_server(faults=[fault], signed=True) as server:
        monkeypatch.setenv(ENCODERS[model], server.address)
        embedder = HostedEmbedder(model, Books(priced()), policy=RetryPolicy(attempts_per_model=1))
        for number in range(6):
            own = np.array(vector(text := f"{fault} {number}"))
            assert embedder.embed([text])[0] @ own / np.linalg.norm(own) == pytest.approx(1, abs=1e-5)
            time.sleep(0.05 if fault == "late_surplus" else 0)
        assert len({seen.connection for seen in server.seen}) == len(server.seen) == 6


@pytest.mark.parametrize("on_text", [None, len], ids=["whole", "streamed"])
@pytest.mark.parametrize("model", VENDORS)
def test_to_every_vendor_a_request_says_that_it_is_the_last_of_its_connection(model, on_text):
    with misbehaving_server() as server:
        for _ in range(2):
            with suppress(ProviderError):  # not every vendor's protocol is spoken here
                ask(server, asking("Hi", model), on_text)
    assert [seen.headers["Connection"] for seen in server.seen] == ["close", "close"]
    assert len({seen.connection for seen in server.seen}) == 2
    assert len({seen.headers[REQUEST_ID] for seen in server.seen}) == 2


def test_a_cookie_that_came_with_one_answer_goes_out_with_no_other_request(monkeypatch):
    monkeypatch.setitem(FAULTS, "good", lambda handler: handler.good(Set_Cookie="tenant=acme"))
    with misbehaving_server() as server:
        for model in (LIBRARY, HANDLER) * 2:
            ask(server, asking("Hi", model))
    assert [seen.headers.get("Cookie") for seen in server.seen] == [None] * 4


@pytest.mark.parametrize("on_text", [None, len], ids=["whole", "streamed"])
@pytest.mark.parametrize("model", [LIBRARY, HANDLER])
def test_an_answer_with_the_id_of_another_request_s_answer_is_an_error_and_is_not_shown(model, on_text):
    shown: list[str] = []
    with misbehaving_server(faults=["good", "previous"], signed=True) as server:
        ask(server, asking("mine", model), on_text)
        with pytest.raises(AnswerMismatch, match="another request") as raised:
            ask(server, asking("yours", model), on_text and shown.append)
        assert ask(server, asking("mine", model), on_text).text.endswith(signed("mine"))  # a gateway's cache may
    assert (raised.value.billed, raised.value.retryable, raised.value.streamed, shown) == ("unknown", True, False, [])


@pytest.mark.parametrize("name", ANSWER_IDS)
def test_an_answer_whose_header_names_another_request_s_answer_is_an_error(name, monkeypatch):
    told = {name.replace("-", "_"): "req_011CSHoEeqs5C35K2UUqR7Fy" + name[0]}
    monkeypatch.setitem(FAULTS, "good", lambda handler: handler.good(**told))
    with misbehaving_server() as server:
        ask(server, asking("mine", HANDLER))
        with pytest.raises(AnswerMismatch, match=name):
            ask(server, asking("yours", HANDLER))


@pytest.mark.parametrize("answer_id", ["", "x", "chatcmpl-421", "chatcmpl-1764410000123456", "chat-completion-of-mine"])
def test_ids_that_may_come_again_by_chance_tell_nothing(answer_id):
    ids = HostedAnswerIds()
    assert ids.belongs(answer_id, "a")
    assert ids.belongs(answer_id, "b")


def test_only_the_newest_ids_are_remembered():
    ids, drawn = HostedAnswerIds(limit=2), [f"msg_01XFDUDYJgAACzvnptvVo{n}EL" for n in range(3)]
    assert all(ids.belongs(answer_id, "a") for answer_id in drawn)
    assert [ids.belongs(answer_id, "b") for answer_id in drawn[1:]] == [False, False]
    assert ids.belongs(drawn[0], "b")


def test_a_mismatch_is_charged_and_asked_again_and_never_an_answer(tmp_path: Path):
    engine = open_engine(f"sqlite:///{tmp_path / 'state.sqlite'}")
    books = Books(priced(), Budgets(engine, [Budget(1.0, "total")]), Ledger(engine), clock=FakeClock())
    with misbehaving_server(faults=["another_s_request_id", "good"], signed=True) as server:
        client = Client({"": LiteLLMProvider(server.address, "key")}, books)
        done = client.complete(asking("mine", LIBRARY).messages, model=LIBRARY, max_tokens=20)
    assert done.text.endswith(signed("mine"))
    rows = books.ledger.frame().sort("attempt").to_dicts()
    assert [(r["status"], r["error_class"], r["cost_nanos"] > 0) for r in rows] == [
        ("unknown", "AnswerMismatch", True),
        ("ok", "", True),
    ]


@pytest.mark.slow
# connections of attempts that ran out of time are left to end with their server
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_of_a_thousand_calls_of_five_tenants_none_gets_another_s_answer(tmp_path: Path) -> None:
    calls, threads = 1000, 8
    mix = dict.fromkeys(FAULTS.keys() - UNTOLD, 1.0) | {"good": 60.0} | dict.fromkeys(SURPLUS, 8.0)
    engine = open_engine(f"sqlite:///{tmp_path / 'state.sqlite'}")
    books = Books(priced(), Budgets(engine, [Budget(100.0, "total")]), Ledger(engine))
    policy = RetryPolicy(
        attempts_per_model=3, base_s=0.02, cap_s=0.1, deadline_s=10, attempt_timeout_s=2, cooldown_failures=calls
    )
    with misbehaving_server(11, mix, hang_s=3.0, signed=True) as server:
        client = Client({"": LiteLLMProvider(server.address, "key")}, books, policy=policy)

        def call(number: int) -> tuple[int, str]:
            model, on_text = (LIBRARY, HANDLER)[number % 2], (None, len)[number // 2 % 2]
            who = {"tenant_id": f"tenant-{number % 5}", "item_id": str(number)}
            messages = asking(f"call {number}", model).messages
            try:
                return number, client.complete(messages, model=model, max_tokens=20, on_text=on_text, **who).text
            except CallFailed as error:
                return number, type(error.__cause__).__name__

        with ThreadPoolExecutor(threads) as pool:
            ends = list(pool.map(call, range(calls)))
    owner = {signed(f"call {number}"): number for number in range(calls)}
    answers = [(number, owner[text.split()[-1]]) for number, text in ends if text.startswith("Paris")]
    others = [(number, whose) for number, whose in answers if number != whose]
    leaked = [pair for pair in others if pair[0] % 5 != pair[1] % 5]
    rows, seen = books.ledger.frame(), Counter(seen.fault for seen in server.seen)
    logging.info("%d answers, errors %s", len(answers), Counter(t for _, t in ends if not t.startswith("Paris")))
    assert set(mix) == set(seen), "every fault was met"
    assert (len(others), len(leaked)) == (0, 0), f"of {len(answers)} answers, these are others': {others}"
    assert len(answers) > 0.5 * calls, "most calls are answered, on a busy machine too: how many time out is its doing"
    answered = rows.filter(status="ok")
    assert sorted(map(int, answered["item_id"])) == sorted(number for number, _ in answers)
    assert set(rows["tenant_id"]) == {f"tenant-{n}" for n in range(5)}


@pytest.mark.slow
@pytest.mark.parametrize("model", ENCODERS)
def test_of_three_hundred_texts_of_five_tenants_none_gets_another_s_vector(model, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    mix = {"good": 6, "twice": 1, "surplus": 1, "late_surplus": 1, "500": 1, "reset_mid_body": 1}
    policy = RetryPolicy(attempts_per_model=8, base_s=0.02, cap_s=0.1, cooldown_failures=1000)
    with misbehaving_server(12, mix, signed=True) as server:
        monkeypatch.setenv(ENCODERS[model], server.address)
        embedder = HostedEmbedder(model, Books(priced()), policy=policy)

        def cosine(number: int) -> float:
            own = np.array(vector(f"text {number}"))
            with attributed(tenant_id=f"tenant-{number % 5}"):
                return float(embedder.embed([f"text {number}"])[0] @ own / np.linalg.norm(own))

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(cosine, range(300)))
    assert set(mix) == {seen.fault for seen in server.seen}
    assert [n for n, value in enumerate(found) if value < 0.9999] == []
