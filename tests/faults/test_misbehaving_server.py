"""Each way in which a real HTTP server can misbehave is one typed error, at the cost of one request."""

import threading
import time

import pytest

from tests.faults.misbehaving_server import FAULTS, RETRY_AFTER_S, TEXT, misbehaving_server
from workbench.errors import (
    AccountRefused,
    AnswerMismatch,
    AttemptTimeout,
    CallFailed,
    ConnectionLost,
    ContentRefused,
    ContextTooLong,
    MalformedAnswer,
    ModelMissing,
    ProviderError,
    Rejected,
    Throttled,
    Unavailable,
)
from workbench.inference.call_attempt import Books
from workbench.inference.client import Client
from workbench.inference.failover import RetryPolicy
from workbench.inference.hosted_models import LiteLLMProvider
from workbench.inference.messages import Request, Usage
from workbench.inference.prices import load_prices

ASKED = Request("openai/scripted", ({"role": "user", "content": "The capital of France?"},), max_tokens=20)
KEY = "sk-test-0123456789abcdef"
MAIN, OTHER = "local/smollm2-135m", "local/qwen2.5-coder-0.5b"
# fault: error, billed, seconds to wait, status
WHOLE = {
    "429_seconds": (Throttled, "no", RETRY_AFTER_S, 429),
    "429_fraction": (Throttled, "no", 0.25, 429),
    "429_date": (Throttled, "no", RETRY_AFTER_S, 429),
    "429": (Throttled, "no", None, 429),
    "429_nonsense": (Throttled, "no", None, 429),
    "400": (Rejected, "no", None, 400),
    "bad_schema": (Rejected, "no", None, 400),
    "401": (AccountRefused, "no", None, 401),
    "402": (AccountRefused, "no", None, 402),
    "403": (AccountRefused, "no", None, 403),
    "404": (ModelMissing, "no", None, 404),
    "410": (ModelMissing, "no", None, 410),
    "usage_limit": (AccountRefused, "no", None, 400),
    "no_credit": (AccountRefused, "no", None, 400),
    "bad_key_as_400": (AccountRefused, "no", None, 400),
    "retired_as_400": (ModelMissing, "no", None, 400),
    "no_quota": (AccountRefused, "no", None, 429),
    "413": (ContextTooLong, "no", None, 413),
    "422": (Rejected, "no", None, 422),
    "408": (Unavailable, "unknown", None, 408),
    "500": (Unavailable, "unknown", None, 500),
    "503": (Unavailable, "no", None, 503),
    "503_seconds": (Unavailable, "no", 7, 503),
    "503_page": (Unavailable, "unknown", None, 503),
    "503_with_usage": (Unavailable, "unknown", None, 503),
    "529": (Unavailable, "no", None, 529),
    "overloaded_as_500": (Unavailable, "no", None, 500),
    "context_too_long": (ContextTooLong, "no", None, 400),
    "content_refused": (ContentRefused, "no", None, 400),
    "content_filter": (ContentRefused, "no", None, 400),
    "reset_before_any_byte": (Unavailable, "unknown", None, None),
    "close_before_any_byte": (Unavailable, "unknown", None, None),
    "reset_mid_body": (ConnectionLost, "unknown", None, None),
    "cut_body": (ConnectionLost, "unknown", None, None),
    "malformed_json": (MalformedAnswer, "unknown", None, None),
    "json_of_another_kind": (MalformedAnswer, "unknown", None, None),
    "wrong_content_type": (MalformedAnswer, "unknown", None, None),
    "empty_body": (MalformedAnswer, "unknown", None, None),
    "empty_object": (MalformedAnswer, "unknown", None, None),
    "empty_choices": (MalformedAnswer, "unknown", None, None),
    "error_as_200": (Unavailable, "no", None, 529),
    "error_of_a_type_as_200": (Unavailable, "no", None, 529),
    "error_in_words_as_200": (Unavailable, "no", None, None),
    "500_as_200": (Unavailable, "unknown", None, 500),
    "429_as_200": (Throttled, "no", 7, 429),
    "no_credit_as_200": (AccountRefused, "no", None, 402),
    "too_long_as_200": (ContextTooLong, "no", None, 400),
    "error_with_usage_as_200": (MalformedAnswer, "unknown", None, None),
    "another_s_request_id": (AnswerMismatch, "unknown", None, None),
    "hang": (AttemptTimeout, "unknown", None, None),
    "drip_headers": (AttemptTimeout, "unknown", None, None),
    "drip_body": (AttemptTimeout, "unknown", None, None),
}
STREAMED = {
    "503": (Unavailable, "no", False),
    "503_page": (Unavailable, "unknown", False),
    "error_as_200": (Unavailable, "no", False),
    "error_as_first_event": (Unavailable, "no", False),
    "error_after_a_role": (Unavailable, "unknown", False),
    "429": (Throttled, "no", False),
    "context_too_long": (ContextTooLong, "no", False),
    "reset_before_any_byte": (Unavailable, "unknown", False),
    "wrong_content_type": (MalformedAnswer, "unknown", False),
    "empty_choices": (MalformedAnswer, "unknown", False),
    "cut_stream": (ConnectionLost, "unknown", True),
    "bad_event": (MalformedAnswer, "unknown", True),
    "error_event": (Unavailable, "unknown", True),
    "another_s_request_id": (AnswerMismatch, "unknown", False),
    "hang": (AttemptTimeout, "unknown", False),
    "drip_stream": (AttemptTimeout, "unknown", False),
}
# what these spoil is another call: tests/faults/test_answers_of_others.py
OTHERS = {"twice", "surplus", "late_surplus", "previous"}
SLOW = {"hang", "drip_headers", "drip_body", "drip_stream"}


def ask(server, *, timeout_s=60.0, on_text=None):
    provider = LiteLLMProvider(api_base=server.address, api_key=KEY)
    return provider.complete(ASKED, timeout_s=timeout_s, on_text=on_text)


def failure(fault, on_text=None):
    """The error for one fault, after the checks that hold for all: one request, in time, without the key."""
    with misbehaving_server(faults=[fault], hang_s=30.0) as server:
        started = time.monotonic()
        with pytest.raises(ProviderError) as raised:
            ask(server, timeout_s=2.0 if fault in SLOW else 60.0, on_text=on_text)
        assert time.monotonic() - started < 15.0, "half the time for which the server would go on"
        while not server.seen and time.monotonic() - started < 10.0:  # a busy machine may send after the time-out
            time.sleep(0.05)
        assert len(server.seen) == 1, "retries belong to the caller alone"
        assert KEY not in str(raised.value)
        return raised.value


@pytest.fixture(autouse=True, scope="module")
def _warm():
    """The first call of litellm takes seconds; the limits here are for those after it."""
    with misbehaving_server() as server:
        ask(server, timeout_s=200.0)


@pytest.mark.parametrize("fault", WHOLE)
def test_each_fault_is_one_typed_error(fault):
    kind, billed, wait_s, status = WHOLE[fault]
    error = failure(fault)
    assert type(error) is kind, error
    assert (error.billed, error.status, error.streamed) == (billed, status, False)
    assert error.retry_after_s == (wait_s if wait_s is None else pytest.approx(wait_s, abs=2 if "date" in fault else 0))
    assert error.retryable == (kind not in (Rejected, ContentRefused) and not kind.elsewhere)
    assert str(error).startswith("openai/scripted: "), "it says who was asked"


@pytest.mark.parametrize("fault", [name for name, (_, _, _, status) in WHOLE.items() if 400 <= (status or 0) < 430])
def test_a_fallback_is_asked_unless_the_request_itself_is_refused(fault):
    """Another vendor has its own key, credit and models."""
    kind, _, _, status = WHOLE[fault]
    once = RetryPolicy(attempts_per_model=1, base_s=0.0)
    with misbehaving_server(faults=[fault]) as first, misbehaving_server() as second:
        providers = {MAIN: LiteLLMProvider(first.address), OTHER: LiteLLMProvider(second.address)}
        client = Client(providers, Books(load_prices()), policy=once)
        if kind in (Rejected, ContentRefused):
            with pytest.raises(CallFailed) as raised:
                client.complete(ASKED.messages, model=MAIN, fallbacks=[OTHER])
            assert (type(raised.value.__cause__), raised.value.__cause__.status) == (kind, status)
        else:
            done = client.complete(ASKED.messages, model=MAIN, fallbacks=[OTHER])
            assert (done.text, done.attempts) == (TEXT, 2)
        assert (len(first.seen), len(second.seen)) == (1, int(kind not in (Rejected, ContentRefused)))


@pytest.mark.parametrize("fault", STREAMED)
def test_each_fault_of_a_stream_is_one_typed_error_that_knows_whether_text_was_shown(fault):
    kind, billed, streamed = STREAMED[fault]
    shown = []
    error = failure(fault, shown.append)
    assert type(error) is kind, error
    assert (error.billed, error.streamed) == (billed, streamed)
    assert bool(shown) == streamed


def test_every_fault_of_the_server_is_tested():
    assert set(FAULTS) == set(WHOLE) | set(STREAMED) | OTHERS | {
        "good",
        "slow",
        "thinking_beside",
        "no_usage",
        "wrong_usage",
    }


def test_a_refused_connection_was_never_billed():
    with misbehaving_server() as server:
        pass
    with pytest.raises(Unavailable, match="refused") as raised:
        ask(server)
    assert (raised.value.billed, raised.value.retryable) == ("no", True)


def test_a_good_answer_is_read_whole_with_its_token_classes():
    with misbehaving_server(faults=["good", "slow"]) as server:
        answers = [ask(server), ask(server)]
    for answer in answers:
        assert (answer.text, answer.model, answer.finish_reason) == (TEXT, "scripted", "stop")
        assert answer.usage == Usage(fresh=12, cache_read=8, output=7)
    assert answers[1].latency_ms > 300
    assert server.seen[0].headers["Authorization"] == f"Bearer {KEY}"


def test_a_stream_is_shown_as_it_comes_and_is_the_same_answer():
    shown = []
    with misbehaving_server() as server:
        answer = ask(server, on_text=shown.append)
    assert shown == ["Paris ", "is the capital ", "of France."]
    assert (answer.text, answer.usage, answer.finish_reason) == (TEXT, Usage(fresh=12, cache_read=8, output=7), "stop")
    assert 0 < answer.first_token_ms <= answer.latency_ms


@pytest.mark.parametrize("on_text", [None, lambda text: None])
def test_thinking_that_stands_beside_the_completion_is_paid_as_output(on_text):
    with misbehaving_server(faults=["thinking_beside"]) as server:
        assert ask(server, on_text=on_text).usage == Usage(fresh=20, output=107)


@pytest.mark.parametrize("on_text", [None, lambda text: None])
@pytest.mark.parametrize("fault", ["no_usage", "wrong_usage"])
def test_usage_that_is_absent_or_impossible_is_none_and_never_a_guess(fault, on_text):
    with misbehaving_server(faults=[fault]) as server:
        assert ask(server, on_text=on_text).usage is None


def test_a_reader_that_raises_ends_the_call_with_its_own_error():
    def read(text):
        raise KeyError(text)

    with misbehaving_server() as server, pytest.raises(KeyError, match="Paris"):
        ask(server, on_text=read)


def test_a_call_that_was_left_behind_ends_with_its_connection():
    def left():
        return [thread.name for thread in threading.enumerate() if thread.name == "in_time: openai/scripted"]

    with misbehaving_server(faults=["drip_body"], hang_s=1.0) as server:
        with pytest.raises(AttemptTimeout):
            ask(server, timeout_s=0.3)
        assert len(left()) == 1
    for _ in range(100):
        if not left():
            return
        time.sleep(0.05)
    raise AssertionError(f"threads stay: {left()}")


def test_the_script_is_seeded_and_faults_are_drawn_by_weight():
    def kinds(seed):
        with misbehaving_server(seed, {"good": 3, "429": 1, "500": 1}) as server:
            for _ in range(12):
                try:
                    ask(server)
                except ProviderError:
                    continue
            return [seen.fault for seen in server.seen]

    assert kinds(1) == kinds(1) != kinds(2)
    assert set(kinds(1)) == {"good", "429", "500"}


def test_a_fault_that_the_server_does_not_know_is_refused():
    with pytest.raises(ValueError, match="unknown faults"), misbehaving_server(faults=["418"]):
        pass
