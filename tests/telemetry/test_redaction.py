"""No secret that can be told stays in a text; what only looks a little like one does."""

import json
import time
from collections.abc import Callable
from functools import partial
from html import escape
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.telemetry.redaction import REDACTED, redact, secret_field, secret_values

LETTERS = "aB3dE6gH9jK2mN5pQ8rT1vW4xY7zA0cD"


@pytest.mark.parametrize(
    "secret",
    [
        f"sk-{LETTERS}", f"sk-ant-api03-{LETTERS}", f"sk-proj-{LETTERS}", "AKIAIOSFODNN7EXAMPLE", f"AIza{LETTERS}abc",
        f"ghp_{LETTERS}", f"github_pat_{LETTERS}", f"hf_{LETTERS}", f"glpat-{LETTERS}", f"gsk_{LETTERS}",
        f"xoxb-123456-{LETTERS}", f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.{LETTERS}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("around", ["{}", "key={}", "use {}, please", '{{"a": "{}"}}', "(`{}`)", "\n{}\n"])
def test_key_of_a_known_form_goes_whatever_stands_around_it(secret: str, around: str) -> None:
    shown = redact(around.format(secret), ())
    assert secret not in shown
    assert LETTERS not in shown
    assert REDACTED in shown


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Authorization: Bearer tok-abc.def~1", "tok-abc.def~1"),
        ("authorization: Basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNzd29yZA"),
        ('{"Authorization": "Token 0123456789"}', "0123456789"),
        ("X-Api-Key: 0123456789", "0123456789"),
        ('{"api_key": "0123456789"}', "0123456789"),
        ('{"arguments": "{\\"api_key\\": \\"0123456789\\"}"}', "0123456789"),
        ("aws_secret_access_key = abc/def+ghi", "abc/def+ghi"),
        ("Cookie: session=abcdef; id=xyz123", "xyz123"),
        ("Set-Cookie: session=abcdef; Path=/", "abcdef"),
        ("postgresql://me:hunter2@db:5432/x", "hunter2"),
        ("redis://:hunter2@db", "hunter2"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc\n-----END RSA PRIVATE KEY-----", "MIIEow"),
        ("-----BEGIN PRIVATE KEY-----\nMIIEow\nabc", "abc"),
        ("password=correct-horse", "correct-horse"),
    ],
)
def test_secret_in_a_known_place_goes_and_its_name_stays(text: str, secret: str) -> None:
    shown = redact(text, ())
    assert secret not in shown
    assert REDACTED in shown


@pytest.mark.parametrize(
    "text",
    [
        "How do I sort by a key in pandas?", "basic understanding of sk-learn", "tokens: 512 in, 20 out",
        "a task-oriented-dialogue-with-many-words", "http://example.com:8080/path@2x.png", "the API key is stored",
        "df.set_index(keys=['a'], drop=True)", "https://example.com/a:b", "2026-11-23T10:00:00+00:00",
    ],
)  # fmt: skip
def test_ordinary_text_stays(text: str) -> None:
    assert redact(text, ()) == text


def test_values_of_telling_variables_go_in_every_spelling_and_short_ones_stay() -> None:
    value = 'p"ä\\ss/word line'
    env = {"MY_PASSWORD": value, "APP_TOKEN": "12345678", "SHORT_KEY": "true", "HOME": "/home/someone"}
    secrets = secret_values(env)
    text = f"{value} {json.dumps(value)} {json.dumps(value, ensure_ascii=False)} 12345678 true /home/someone p%22"
    shown = redact(text, secrets)
    assert shown == f'{REDACTED} "{REDACTED}" "{REDACTED}" {REDACTED} true /home/someone p%22'


@pytest.mark.parametrize(
    "write", [quote, partial(quote, safe=""), quote_plus, escape], ids=["path", "all", "form", "html"]
)
def test_value_of_a_telling_variable_goes_also_as_addresses_and_pages_write_it(write: Callable[[str], str]) -> None:
    value = "s3 cr/et&ä<word>"
    assert write(value) != value
    shown = redact(f"GET https://example.com/?q={write(value)}&n=1", secret_values({"MY_PASSWORD": value}))
    assert shown == f"GET https://example.com/?q={REDACTED}&n=1"


def test_value_that_is_no_utf8_goes_too() -> None:
    value = b"se\xffcret-\x80".decode("utf-8", "surrogateescape")  # as `os.environ` has it
    assert redact(f"{value} se%FFcret-%80", secret_values({"A_KEY": value})) == f"{REDACTED} {REDACTED}"


def test_longer_secret_goes_before_one_that_is_part_of_it() -> None:
    assert redact("abcdefgh-ijkl", secret_values({"A_KEY": "abcdefgh", "B_KEY": "abcdefgh-ijkl"})) == REDACTED


def test_environment_is_read_when_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert redact("say swordfish-42") == "say swordfish-42"
    monkeypatch.setenv("WIKI_SECRET", "swordfish-42")
    assert redact("say swordfish-42") == f"say {REDACTED}"


@pytest.mark.parametrize(
    "name", ["Authorization", "x-api-key", "http.request.header.cookie", "api_key", "clientSecret"]
)
def test_fields_that_hold_secrets_are_known_by_name(name: str) -> None:
    assert secret_field(name)


@pytest.mark.parametrize("name", ["gen_ai.usage.input_tokens", "max_tokens", "keys", "token", "gen_ai.tool.name"])
def test_fields_of_models_are_no_secrets(name: str) -> None:
    assert not secret_field(name)


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_redacting_twice_is_redacting_once(text: str) -> None:
    once = redact(text, ())
    assert redact(once, ()) == once


@pytest.mark.parametrize(
    "part", ["a", "://", "sk-", "authorization: ", "-----BEGIN PRIVATE KEY-----", "eyJ.", "cookie=", "A:"]
)
def test_time_grows_with_the_length_and_not_faster(part: str) -> None:
    def seconds(n: int) -> float:
        text = part * (n // len(part))
        best = float("inf")
        for _ in range(3):
            started = time.thread_time()  # not what else the machine does
            redact(text, ())
            best = min(best, time.thread_time() - started)
        return best

    assert seconds(200_000) < 40 * seconds(20_000) + 0.01
