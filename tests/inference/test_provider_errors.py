"""What an error of a provider says, and how long it asks to wait."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import AccountRefused, ModelMissing, Rejected, Throttled, Unavailable
from workbench.inference.provider_errors import (
    error_of_status,
    error_told_inside,
    retry_wait_asked,
    typed_provider_error,
)
from workbench.inference.vendors import DEFAULT, FAILED_ENDS, VENDORS, vendor_bills

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
dates = st.builds(
    "Wed, {} Oct {} {}:28:00 {}".format, st.integers(), st.integers(), st.integers(), st.text() | st.integers()
)
SECRET = "Zq9abcdefghijklmnopqrstuvwxyz0123456789ABCD"


@pytest.mark.parametrize(("away_s", "wait_s"), [(90, 90.0), (0, 0.0), (-90, 0.0)])
def test_a_date_is_waited_for_and_one_in_the_past_is_no_wait(away_s, wait_s):
    date = format_datetime(NOW + timedelta(seconds=away_s), usegmt=True)
    assert retry_wait_asked({"retry-after": date}, NOW) == wait_s


@pytest.mark.parametrize(
    "value",
    [
        "", "soon", "nan", "inf", "-5", "1e999",
        "Wed, 21 Oct 99999999999999 07:28:00 GMT", "Wed, 21 Oct 2026 99:28:00 GMT",
        "Wed, 21 Oct 2026 07:28:00 +9999", "Wed, 21 Oct 2026 07:28:00 +99999999999999999999",
        "Fri, 31 Dec 9999 23:59:59 -2359",
    ],
)  # fmt: skip
def test_a_header_that_says_no_time_is_not_waited_for(value):
    assert retry_wait_asked({"retry-after": value}, NOW) is None or "9999 23" in value


@pytest.mark.parametrize("before", range(240, 310, 7))
def test_a_secret_is_taken_out_before_the_message_is_cut(monkeypatch, before):
    monkeypatch.setenv("MY_VENDOR_TOKEN", SECRET)
    told = str(typed_provider_error(ValueError("p" * before + " bad key " + SECRET), "openai/m"))
    assert SECRET[:4] not in told
    assert len(told) < 350


@pytest.mark.parametrize(
    ("kind", "status", "said"),
    [
        (AccountRefused, 429, "Your account is not active, please check your billing details on our website."),
        (AccountRefused, 400, "This organization has been disabled."),
        (AccountRefused, 400, "Organization has been restricted. Please reach out to support."),
        (AccountRefused, 400, "You have reached your monthly spend limit"),
        (AccountRefused, 400, "The security token included in the request is expired"),
        (AccountRefused, 400, "API key expired. Please renew the API key."),
        (AccountRefused, 400, "Insufficient account balance"),
        (ModelMissing, 400, "The provided model identifier is invalid."),
        (ModelMissing, 400, "Invocation of model ID anthropic.x with on-demand throughput isn't supported."),
        (ModelMissing, 400, "model 'command' was removed on September 15, 2025"),
        (ModelMissing, 400, "No endpoints found for x/y"),
        (ModelMissing, 400, "Unsupported model: gpt-x"),
        (ModelMissing, 400, "Model x is not available in your region"),
        (Rejected, 400, "max_tokens is too large"),
        (Rejected, 400, "messages: field required"),
        (Rejected, 400, "Invalid value: 'foo'. Supported values are: 'system'"),
        (Throttled, 429, "You exceeded your current quota, please check your plan and billing details."),
    ],
)
def test_what_concerns_the_account_or_the_model_goes_elsewhere_and_what_concerns_the_request_does_not(
    kind, status, said
):
    found = error_of_status(status, {}, said, said, model="openai/m", told=True)
    assert (type(found), found.billed, found.elsewhere) == (kind, "no", kind in (AccountRefused, ModelMissing))


OVERLOADED = '{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}'
BELIEFS = [
    # vendor, status, whether the error was told in words, billed; the sources are in `VENDORS`
    ("openai", 429, False, "no"), ("openai", 503, True, "no"), ("openai", 503, False, "unknown"),
    ("openai", 500, True, "unknown"), ("openai", 502, True, "unknown"), ("openai", 504, True, "unknown"),
    ("openai", 408, True, "unknown"), ("openai", 400, True, "no"), ("openai", None, True, "no"),
    ("anthropic", 529, True, "no"), ("anthropic", 529, False, "unknown"), ("anthropic", 500, True, "unknown"),
    ("gemini", 500, True, "no"), ("gemini", 500, False, "unknown"), ("gemini", 503, True, "no"),
    ("azure", 400, True, "unknown"), ("azure", 401, True, "no"), ("azure", 429, True, "no"),
    ("azure", 408, True, "unknown"), ("openrouter", 502, True, "no"), ("openrouter", 504, True, "unknown"),
    ("nobody", 503, True, "no"), ("nobody", 500, True, "unknown"),
]  # fmt: skip


@pytest.mark.parametrize(("vendor", "status", "told", "bill"), BELIEFS)
def test_what_a_vendor_bills_of_a_failure_is_what_it_is_believed_to(vendor, status, told, bill):
    assert vendor_bills(f"{vendor}/m", status, told=told) == bill


def test_every_belief_has_its_source():
    assert all("https://" in vendor.source for vendor in (*VENDORS.values(), DEFAULT))
    assert all("https://" in source for source in FAILED_ENDS.values())


def ended(reason, *, tokens=0, **error):
    return json.dumps({"choices": [{"finish_reason": reason, "message": {"content": ""}, **error}],
                       "usage": {"prompt_tokens": 9, "completion_tokens": tokens}})  # fmt: skip


DIED = {"error": {"code": 502, "message": "the provider died"}}
ENDS = [
    ("openrouter", ended("error", **DIED), 502, "no"), ("openrouter", ended("error"), None, "no"),
    ("openrouter", ended("error", tokens=3, **DIED), 502, "unknown"), ("mistral", ended("error"), None, "unknown"),
    ("openrouter", json.dumps({"choices": [{"finish_reason": "error"}], **DIED}), 502, "unknown"),
    ("deepseek", ended("insufficient_system_resource"), None, "unknown"),
    ("zai", ended("network_error"), None, "unknown"),
    ("hosted_vllm", ended("abort", tokens=1), None, "unknown"),
    ("cohere", '{"finish_reason": "TIMEOUT"}', None, "unknown"),
    ("cohere", '{"type": "message-end", "delta": {"finish_reason": "ERROR", "error": "?"}}', None, "unknown"),
]  # fmt: skip


@pytest.mark.parametrize(("vendor", "body", "status", "bill"), ENDS)
def test_an_answer_that_ends_in_a_failure_of_the_vendors_is_unavailable_and_free_where_the_vendor_says(
    vendor, body, status, bill
):
    error = error_told_inside(body).typed(f"{vendor}/m")
    assert (type(error), error.status, error.billed) == (Unavailable, status, bill)


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls", "content_filter", "COMPLETE", "errors", None])
def test_other_ends_are_no_failures(reason):
    assert error_told_inside(ended(reason)) is None


def test_a_failed_end_that_a_model_writes_about_is_none():
    said = json.dumps({"choices": [{"finish_reason": "stop", "message": {"content": ended("error")}}]})
    assert error_told_inside(said) is None


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (OVERLOADED, 529),
        ('{"error": {"message": "overloaded", "code": 529}}', 529),
        ('{"error": {"message": "?", "code": "503"}}', 503),
        ('[{"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}]', 503),
        ('{"error": {"message": "Server is at capacity", "type": "engine"}}', 503),
        ('{"error": "Model is overloaded"}', 503),
        ('{"object": "error", "message": "wait", "type": "rate_limit_error", "code": 429}', 429),
        ('{"message": "invalid api token"}', None),
        ('{"detail": "Service Unavailable"}', None),
        ('{"error": {"message": "upstream"}, "usage": null}', None),
    ],
)
def test_an_error_in_a_body_has_the_status_of_its_code_its_type_or_its_words(body, status):
    assert error_told_inside(body).status == status


@pytest.mark.parametrize(
    "body",
    [
        "", "{", "[]", "null", "7", '"error"', "<html>503</html>", "{}", '{"choices": []}', '{"error": null}',
        '{"type": "message_start", "message": {"id": "m1", "usage": {"input_tokens": 9}}}',
        '{"error": {"message": "?", "code": 503}, "usage": {"prompt_tokens": 9}}',
        '{"error": {"message": "?", "usage": {"prompt_tokens": 9}}}',
        '{"error": {"message": "?"}, "choices": [{"message": {"content": "half"}}]}',
        '{"id": "x", "status": "completed", "output": [{"type": "message"}]}',
    ],
)  # fmt: skip
def test_what_holds_an_answer_counts_tokens_or_cannot_be_read_is_no_refusal(body):
    assert error_told_inside(body) is None


@given(st.text() | st.recursive(st.none() | st.text() | st.integers(), lambda part: st.lists(part) | st.dictionaries(
    st.sampled_from(["error", "errors", "message", "code", "type", "status", "usage", "detail", "object"]), part
)).map(json.dumps))  # fmt: skip
def test_no_body_is_an_error_of_our_own(body):
    found = error_told_inside(body)
    assert found is None or found.typed("openai/m").billed in ("no", "unknown")


@given(st.text() | dates)
def test_what_is_neither_is_no_wait_and_never_an_error(said):
    found = retry_wait_asked({"retry-after": said}, NOW)
    assert found is None or found >= 0
