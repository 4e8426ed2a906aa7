"""What a span keeps, for whom, and what it must never keep."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from tests.databases import file_bytes
from workbench.errors import ConfigError
from workbench.state import open_engine
from workbench.telemetry.attribution import attributed, carry_attribution
from workbench.telemetry.span_tree import SpanRow
from workbench.telemetry.spans import LIMIT_BYTES, Span, Tracing
from workbench.telemetry.traces import load_trace

MESSAGES = "gen_ai.input.messages"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    opened = open_engine(f"sqlite:///{tmp_path / 'state.sqlite'}")
    yield opened
    opened.dispose()


@contextmanager
def tracing_on(engine: sa.Engine, **options: Any) -> Iterator[Tracing]:
    tracing = Tracing(engine, **options)
    try:
        yield tracing
    finally:
        tracing.close()


def stored(engine: sa.Engine, trace_id: str, wait_s: float = 0) -> dict[str, SpanRow]:
    return {row.name: row for row in load_trace(engine, trace_id, wait_s=wait_s).rows}


def test_attributes_have_the_names_of_the_convention_and_say_for_whom(engine: sa.Engine) -> None:
    asked = {"gen_ai.request.model": "m", "gen_ai.usage.input_tokens": np.int64(7), "gen_ai.request.temperature": None}
    who = attributed(tenant_id="acme", feature="answer", purpose="eval")
    with tracing_on(engine) as tracing, who, tracing.span("chat m", "chat", asked) as span:
        span.set({"gen_ai.response.finish_reasons": ["stop"], "wb.cost_usd": np.float32(0.5)})
    row = stored(engine, span.trace_id)["chat m"]
    assert row.attributes == {
        "gen_ai.operation.name": "chat", "wb.tenant_id": "acme", "wb.feature": "answer", "wb.purpose": "eval",
        "gen_ai.request.model": "m", "gen_ai.usage.input_tokens": 7, "gen_ai.response.finish_reasons": ["stop"],
        "wb.cost_usd": 0.5,
    }  # fmt: skip
    assert (row.operation, row.status, row.parent_id) == ("chat", "unset", "")
    assert row.ended_ns >= row.started_ns > 1.7e18


def test_span_is_a_child_of_the_one_around_it_also_in_carried_threads(engine: sa.Engine) -> None:
    with tracing_on(engine) as tracing, attributed(tenant_id="acme"):

        def work(i: int) -> str:
            with tracing.span(f"step {i}") as outer, tracing.span(f"inner {i}"):
                return outer.trace_id

        with tracing.span("root") as root, ThreadPoolExecutor(8) as pool:
            ids = {future.result() for future in [pool.submit(carry_attribution(work), i) for i in range(24)]}
            left_alone = pool.submit(work, 99).result()
    assert ids == {root.trace_id}
    assert left_alone != root.trace_id
    rows = stored(engine, root.trace_id)
    assert len(rows) == 49
    for i in range(24):
        assert rows[f"inner {i}"].parent_id == rows[f"step {i}"].span_id
        assert rows[f"step {i}"].parent_id == root.span_id
        assert rows[f"inner {i}"].attributes["wb.tenant_id"] == "acme"
    assert "wb.tenant_id" not in stored(engine, left_alone)["step 99"].attributes


def test_exception_is_recorded_and_goes_on(engine: sa.Engine) -> None:
    with tracing_on(engine) as t, pytest.raises(KeyError), t.span("outer") as span, t.span("inner"):
        {}["what is not there"]
    rows = stored(engine, span.trace_id)
    for name in ("outer", "inner"):
        assert rows[name].status == "error"
        assert rows[name].message == "'what is not there'"
        assert rows[name].attributes["error.type"] == "KeyError"
    (event,) = rows["inner"].events
    assert event["name"] == "exception"
    assert "test_spans.py" in event["attributes"]["exception.stacktrace"]


def test_without_content_nothing_that_was_written_reaches_the_database(tmp_path: Path) -> None:
    word = "Blutwurst"
    engine = open_engine(f"sqlite:///{tmp_path / 'state.sqlite'}")

    def fail(span: Span) -> None:
        span.set({"gen_ai.tool.call.arguments": word, "gen_ai.retrieval.query.text": word, "wb.kept": "Leberwurst"})
        span.content("anything", [{"text": word}])
        raise ValueError(f"cannot answer {word}")

    with tracing_on(engine, capture_content=False) as tracing, pytest.raises(ValueError, match=word):  # noqa: SIM117
        with tracing.span("chat m", "chat", {MESSAGES: word}) as span:
            fail(span)
    row = stored(engine, span.trace_id)["chat m"]
    assert row.attributes["error.type"] == "ValueError"
    assert row.events[0]["attributes"]["exception.place"].startswith("test_spans.py:")
    engine.dispose()
    data = file_bytes(tmp_path)
    assert b"Leberwurst" in data
    assert word.encode() not in data


@pytest.mark.parametrize(("said", "captures"), [("0", False), ("off", False), ("1", True), ("", True)])
def test_environment_decides_on_content(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, said: str, captures: bool
) -> None:
    monkeypatch.setenv("WORKBENCH_CAPTURE_CONTENT", said)
    with tracing_on(engine) as tracing, tracing.span("a", attributes={MESSAGES: "hello"}) as span:
        pass
    assert (MESSAGES in stored(engine, span.trace_id)["a"].attributes) == captures


def test_answer_that_is_neither_yes_nor_no_is_refused(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_CAPTURE_CONTENT", "nein")
    with pytest.raises(ConfigError, match="0 keeps no content"):
        Tracing(engine)


def test_no_secret_reaches_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ["env-value-0815", "sk-abcdefghijklmnopqrst", "header-value-1", "hunter2-pass", "cookie-value-2"]
    monkeypatch.setenv("ACME_API_KEY", secrets[0])
    everything = {
        "headers": {"Authorization": f"Bearer {secrets[2]}", "cookie": secrets[4]},
        "pairs": [["x-api-key", secrets[2]]],
        "text": f"{secrets[0]} and {secrets[1]} at https://me:{secrets[3]}@example.com",
        secrets[1]: "as a key",
        "nested": {"arguments": '{"key": "' + secrets[0] + '", "api_key": "' + secrets[2] + '"}'},
    }
    engine = open_engine(f"sqlite:///{tmp_path / 'state.sqlite'}")
    with tracing_on(engine) as tracing, tracing.span(f"chat {secrets[0]}") as span:
        span.set({MESSAGES: everything, "gen_ai.request.header.authorization": secrets[2], "wb.note": secrets[1]})
        span.set({"wb.list": [secrets[0], "x"], "wb.record": everything})
        span.content("long", ["x" * 9000, everything])
        span.error(ValueError(f"refused: {everything}"))
    trace = load_trace(engine, span.trace_id, wait_s=0)
    engine.dispose()
    shown = file_bytes(tmp_path) + trace.html().encode() + trace.text().encode()
    assert b"[redacted]" in shown
    assert [secret for secret in secrets if secret.encode() in shown] == []


def test_secret_in_an_error_goes_wherever_the_stack_is_cut(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "a0b1c2d3e4f5g6h7i8j9-klmnopqrstuvwxyz-0123"  # no known form: found by its value alone
    monkeypatch.setenv("SHOP_DB_PASSWORD", secret)
    with tracing_on(engine) as tracing:
        for behind in range(3960, 4000, 5):
            with tracing.span("failed") as span:
                span.error(ValueError(f"{secret}{'.' * behind}"))
            (event,) = stored(engine, span.trace_id, wait_s=5)["failed"].events
            told = event["attributes"]["exception.stacktrace"] + event["attributes"]["exception.message"]
            assert not [i for i in range(len(secret) - 7) if secret[i : i + 8] in told]


def test_numbers_that_json_has_not_are_kept_as_words(engine: sa.Engine) -> None:
    odd = {"a": float("nan"), "b": [float("inf"), 1.5], "c": Fraction(10**400), "d": np.float32("-inf")}
    with tracing_on(engine) as tracing, tracing.span("odd") as span:
        span.set({"wb.cost_usd": float("nan"), "wb.odd": odd, "wb.huge": Fraction(10**400)})
        span.content(MESSAGES, odd)
    load_trace(engine, span.trace_id, wait_s=0).html()
    with engine.connect() as connection:
        read = sa.text("SELECT json_extract(attributes, '$.\"wb.cost_usd\"') FROM wb_span")
        assert connection.execute(read).scalar_one() == "nan"
    assert stored(engine, span.trace_id)["odd"].attributes["wb.odd"] == (
        f'{{"a": "nan", "b": ["inf", 1.5], "c": "1{"0" * 400}", "d": "-inf"}}'
    )


def test_long_content_is_cut_inside_and_stays_json_with_the_hash_of_the_whole(engine: sa.Engine) -> None:
    import json

    messages = [{"role": "system", "content": "s" * 30_000}, {"role": "user", "content": "why?"}]
    with tracing_on(engine) as tracing, tracing.span("a", attributes={MESSAGES: messages}) as span:
        span.content("short", messages[1:])
        span.content("text", "ü" * 20_000)
        span.content("many", list(range(100_000)))
    kept = stored(engine, span.trace_id)["a"].attributes
    read = json.loads(kept[MESSAGES])
    assert read[1] == messages[1]
    assert read[0]["content"].startswith("s" * 4000)
    assert read[0]["content"].endswith(" characters)")
    assert len(kept[f"wb.sha256.{MESSAGES}"]) == 64
    assert "wb.sha256.short" not in kept
    assert "+99,800 items" in kept["many"]
    assert all(len(str(value).encode()) <= LIMIT_BYTES for value in kept.values())


@dataclass
class Record:
    text: str = "x"


class RefusesToo:
    def __str__(self) -> str:
        raise RuntimeError("no")


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    "value",
    [
        "\x00\ud800\u202e", 2**70, -(2**63) - 1, float("nan"), float("-inf"), 10**5000, b"\xff\x00", CIRCLE,
        RefusesToo(), {1: {2: {(3, 4): None}}}, "x" * 3_000_000, [], {}, [""], [1, "a"], np.arange(5), Record,
        Record(), object(),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_whatever_is_set_the_call_goes_on_and_the_span_is_stored(engine: sa.Engine, value: Any) -> None:
    with tracing_on(engine) as tracing, attributed(tenant_id="a\x00\ud800"), tracing.span("n\x00\ud800") as span:
        span.set({"wb.value": value, "n\x00": 1})
        span.content(MESSAGES, value)
        span.error(ValueError(value))
    (row,) = load_trace(engine, span.trace_id, wait_s=0).rows
    assert row.attributes["wb.value"] != ""
    assert tracing.lost == 0


def test_tracer_of_the_users_program_is_left_alone_and_can_stand_around(engine: sa.Engine) -> None:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    before = trace.get_tracer_provider()
    theirs = TracerProvider(shutdown_on_exit=False)
    around = theirs.get_tracer("app").start_as_current_span("request")
    with tracing_on(engine) as tracing, around as request, tracing.span("root") as root, tracing.span("child"):
        pass
    assert trace.get_tracer_provider() is before
    rows = stored(engine, root.trace_id)
    assert set(rows) == {"root", "child"}
    assert rows["root"].parent_id == format(request.get_span_context().span_id, "016x")


def test_sampling_of_the_environment_does_not_thin_the_store(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    with tracing_on(engine) as tracing, tracing.span("a") as span:
        pass
    assert stored(engine, span.trace_id)


def test_spans_after_close_are_counted_and_no_error(engine: sa.Engine) -> None:
    with tracing_on(engine) as tracing:
        pass
    with tracing.span("late") as span:
        span.set({"a": 1})
    tracing.flush()
    tracing.close()
    assert tracing.lost == 1
