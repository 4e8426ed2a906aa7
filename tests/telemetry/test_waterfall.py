"""A trace reads well, and nothing that anybody wrote into it can be anything but text."""

import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.telemetry.trace_samples import ANSWER, QUESTION, SIGNATURE, SYSTEM, cached, sample, span
from workbench.rendering.html import sanitize
from workbench.telemetry import waterfall as span_parts
from workbench.telemetry.span_tree import SpanRow, span_totals, spans_in_order
from workbench.telemetry.waterfall import waterfall, waterfall_page, waterfall_text

TAGS = {
    "section", "style", "header", "h2", "p", "dl", "dt", "dd", "div", "span", "ol", "li", "details", "summary", "svg",
    "rect", "pre", "table", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip
ATTRIBUTES = {
    "class", "style", "aria-label", "aria-hidden", "role", "tabindex", "viewbox", "width", "height", "x", "y", "fill",
    "preserveaspectratio", "fill-opacity", "scope", "data-label",
}  # fmt: skip
HOSTILE = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</style><svg onload=alert(1)>",
    "\u202egnp.exe\u2066", "\x00\x1b[31m\x85\ud800", "&lt;b&gt;", "]]>-->", "x" * 200_000, "\n" * 500,
)  # fmt: skip
NAMES = (
    "gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions", "gen_ai.retrieval.query.text",
    "gen_ai.retrieval.documents", "gen_ai.tool.call.arguments", "gen_ai.tool.call.result", "gen_ai.tool.name",
    "gen_ai.evaluation.explanation", "gen_ai.evaluation.name", "gen_ai.evaluation.score.value", "error.type",
    "gen_ai.usage.input_tokens", "wb.cost_usd", "wb.attempt", "wb.waited_s", "wb.cache.hit", "wb.cache.kind",
    "wb.cache.similarity", "gen_ai.response.time_to_first_chunk", "gen_ai.response.finish_reasons",
    "gen_ai.request.model", "input.value", "wb.tenant_id", "wb.item_id", "unknown",
)  # fmt: skip


class Read(HTMLParser):
    """Tags, attributes and text as a browser reads them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.values: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.values += [value or "" for _, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def messages(text: str) -> list[Any]:
    parts = [{"type": kind, "content": text, "name": text, "arguments": text, "response": {text: text}} for kind in
             ("text", "tool_call", "tool_call_response", text)]  # fmt: skip
    call = {"id": text, "function": {"name": text, "arguments": text}}
    return [{"role": text, "parts": parts}, {"role": "tool", "content": text, "name": text}, text, None, 7,
            {"role": "assistant", "content": None, "tool_calls": [call, text]}, [text], {text: text}]  # fmt: skip


def hostile_row(text: str) -> SpanRow:
    import json

    given: dict[str, Any] = dict.fromkeys(NAMES, text) | {text: text}
    given["gen_ai.input.messages"] = json.dumps(messages(text))
    given["gen_ai.retrieval.documents"] = json.dumps([{"id": text, "score": text, "text": text}, {"score": True}, {}])
    event = {"exception.type": text, "exception.stacktrace": text, "exception.place": text}
    score = {"gen_ai.evaluation.name": text, text: text}
    return SpanRow(
        trace_id=text, span_id=text, name=text, operation=text, status="error", message=text, attributes=given,
        started_ns=1, ended_ns=2,
        events=[{"name": "exception", "attributes": event}, {"name": "gen_ai.evaluation.result", "attributes": score}],
    )  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_text_in_every_field(text: str) -> None:
    html = waterfall([hostile_row(text)])
    read = Read(html)
    assert set(read.tags) <= TAGS
    assert read.attributes <= ATTRIBUTES
    assert read.tags.count("style") == 1
    assert not any(value.startswith(("javascript", "http")) for value in read.values)
    for shown in (html, waterfall_text([hostile_row(text)])):
        assert all(character.isprintable() or character == "\n" for character in shown)
        assert len(shown) < 1_000_000
        shown.encode()


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner))


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=8), st.booleans())
def test_whatever_the_attributes_hold_a_page_and_a_text_are_made(given_: dict[str, Any], as_text: bool) -> None:
    import json

    attributes = {
        k: json.dumps(v) if as_text or not isinstance(v, str | bool | int | float) else v for k, v in given_.items()
    }
    row = SpanRow(trace_id="t", span_id="a", name="a", attributes=attributes, operation="chat", status="error")
    assert set(Read(waterfall_page([row])).tags) <= TAGS | {"html", "head", "meta", "title", "body", "main"}
    assert waterfall_text([row])


def test_page_shows_what_was_asked_answered_found_called_and_scored() -> None:
    text = Read(waterfall_page(sample())).text
    call = '{"function": "pandas.DataFrame.merge"}'
    for shown in (
        QUESTION, ANSWER, SYSTEM, SIGNATURE, call, "pandas.DataFrame.join", "0.794", "assistant calls signature",
        "812 → 21", "$0.00042", "918 ms", "Throttled: fast/chat-large", "first model throttled", "accepted.",
        "attempt 2", "cache miss", "chat-medium-2026-09", "tool_calls",
    ):  # fmt: skip
        assert shown in text, shown
    assert '{"role"' not in text
    assert "&quot;" not in text


def test_totals_count_each_amount_once() -> None:
    outer = [replace(row, attributes=dict(row.attributes) | {"wb.cost_usd": 9.0, "gen_ai.usage.input_tokens": 9**9})
             if row.name.startswith("invoke") else row for row in sample()]  # fmt: skip
    found = span_totals(outer)
    assert found.cost_usd == pytest.approx(0.00110004)
    assert (found.input_tokens, found.output_tokens, found.model_calls, found.errors) == (1740, 117, 3, 1)
    assert found.nanos == 2_391_000_000


def test_attempts_at_several_models_stand_side_by_side_in_their_order() -> None:
    lines = [line for line in waterfall_text(sample()).splitlines() if "|" in line]
    attempts = [line for line in lines if line.lstrip(" ✕").startswith("chat ")]
    assert [line.split("chat ")[1].split(" ")[0] for line in attempts] == [
        "fast/chat-large", "steady/chat-medium", "steady/chat-medium",
    ]  # fmt: skip
    assert all(line.startswith("  ") and not line.startswith("   ") for line in attempts)
    assert "✕ chat fast/chat-large [Throttled]" in attempts[0]
    assert "[attempt 2]" in attempts[1]


def test_cache_hit_is_seen_without_opening_anything() -> None:
    assert "✓ semantic cache hit 0.971" in Read(waterfall(cached())).text
    assert "[✓ semantic cache hit 0.971]" in waterfall_text(cached())
    told = {"wb.source": "cached", "wb.cache.kind": "response", "wb.cache.similarity": 1.0, "wb.cache.saved_nanos": 420}
    served = [span(1, 0, "chat m", 0, 1, attributes=told)]
    assert "[✓ response cache hit 1.000]" in waterfall_text(served)
    assert "saved $0.00000042" in waterfall_text(served)
    assert span_totals(served).model_calls == 0
    assert "[replayed]" in waterfall_text([span(1, 0, "chat m", 0, 1, attributes={"wb.source": "replayed"})])


def test_failure_is_told_in_words_and_signs_and_not_by_colour_alone() -> None:
    read = Read(waterfall([replace(row, status="error") for row in sample()]))
    assert "✕ failed" in read.text
    assert read.text.count("✕") == 2 + len(sample())
    assert "✓ done" in Read(waterfall(sample())).text


def test_bars_tell_their_times_to_a_screen_reader_and_depth_is_spoken() -> None:
    read = Read(waterfall(sample()))
    assert "starts after 372 ms, takes 918 ms" in read.values
    assert "level 3: embeddings all-MiniLM-L6-v2" in read.text


def test_whom_a_span_worked_for_is_shown_only_where_it_differs() -> None:
    judge = span(9, 1, "chat judge", 1, 1, attributes={"wb.purpose": "judge"})
    top = sample()[-1]
    facts = [pair for part in span_parts.waterfall_parts(judge, top) if part.kind == "facts" for pair in part.pairs]
    assert facts == [("purpose", "judge")]


def test_every_span_is_shown_once_with_its_parent_missing_or_in_a_circle() -> None:
    orphan, one, two = span(2, 77, "orphan", 5, 1), span(3, 4, "one", 6, 1), span(4, 3, "two", 7, 1)
    order = spans_in_order([two, one, orphan])
    assert [(row.name, depth) for row, depth in order] == [("orphan", 0), ("one", 0), ("two", 1)]


def test_deep_and_long_traces_stay_bounded() -> None:
    rows = [span(i, i - 1, f"step {i}", i, 3000 - i, attributes={"x": "y" * 8000}) for i in range(1, 3001)]
    html = waterfall(rows)
    assert len(html) < 7_000_000
    assert "and 2,000 more spans" in html
    assert "Left out: the page is too long." in html
    assert waterfall([]) == '<p class="wb-trace">This trace holds no spans.</p>'


def test_report_that_strips_styles_still_tells_the_story() -> None:
    text = Read(sanitize(waterfall(sample()), prefix="x-")).text
    for shown in (QUESTION, "Throttled", "812 → 21", "1.08 s"):
        assert shown in text


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 1200), ("light", 390), ("dark", 320)])
def test_a_browser_shows_it_without_error_request_or_sideways_scroll(tmp_path: Path, scheme: str, width: int) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("no chromium on the path")
    path = tmp_path / "trace.html"
    path.write_text(
        waterfall_page([*sample(), replace(hostile_row(HOSTILE[1] + "x" * 5000), trace_id="t")]), encoding="utf-8"
    )
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        shown = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800}).new_page()
        said: list[str] = []
        shown.on("console", lambda message: said.append(message.text))
        shown.on("pageerror", lambda error: said.append(str(error)))
        shown.on("request", lambda sent: said.append(sent.url) if not sent.url.startswith("file:") else None)
        shown.goto(path.as_uri())
        closed = shown.evaluate("document.body.innerText.includes('failover')")
        shown.emulate_media(media="print", color_scheme=scheme)
        printed = shown.evaluate("document.querySelector('.facts').getBoundingClientRect().height > 0")
        shown.emulate_media(media="screen", color_scheme=scheme)
        shown.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
        opened = shown.evaluate("document.body.innerText.includes('failover')")
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        ground = shown.evaluate("getComputedStyle(document.body).backgroundColor")
        browser.close()
    assert not said
    assert (closed, printed, opened) == (False, True, True)
    assert (sum(int(c) for c in ground.removeprefix("rgb(").removesuffix(")").split(",")) > 380) == (scheme == "light")
