"""Text of others at each place of a trace: each place has its own case, so that a failure names it."""

import json
from functools import cache

import pytest

from tests.reports.hostile import defect_of, evil, hostile_spans
from workbench.telemetry.span_tree import SpanRow
from workbench.telemetry.waterfall import waterfall_page, waterfall_text

TOOL = "gen_ai.tool.call."


def rows() -> list[SpanRow]:
    """A trace of two spans; every text in it tells where it belongs."""
    message = {"role": evil("role"), "content": evil("said")}
    attributes = {
        "gen_ai.input.messages": json.dumps([message]),
        "gen_ai.retrieval.query.text": evil("query"),
        "gen_ai.retrieval.documents": json.dumps([{"id": evil("document"), "text": evil("passage")}]),
        f"{TOOL}result": evil("result"),
        "gen_ai.request.model": evil("model"),
        "wb.attempt": evil("attempt"),
        "error.type": evil("error-type"),
        "wb.tenant_id": evil("other-tenant"),
        evil("attribute-name"): evil("attribute"),
    }
    raised = {"exception.place": evil("raised-at"), "exception.stacktrace": evil("stack")}
    score = {"gen_ai.evaluation.name": evil("score"), "gen_ai.evaluation.score.label": evil("score-label")}
    events = [
        {"name": "exception", "attributes": raised},
        {"name": "gen_ai.evaluation.result", "attributes": score},
    ]
    known = {"wb.tenant_id": evil("tenant"), "wb.user_id": evil("user"), "wb.feature": evil("feature")}
    labels = {"wb.cache.hit": True, "wb.cache.kind": evil("cache"),
              "gen_ai.evaluation.score.value": 1, "gen_ai.evaluation.score.label": evil("chip")}  # fmt: skip
    return [
        SpanRow(trace_id=evil("trace"), span_id="1", name=evil("top"), attributes=known | labels, ended_ns=9),
        SpanRow(
            trace_id=evil("trace"), span_id="2", parent_id="1", name=evil("name"), attributes=attributes, events=events,
            status="error", message=evil("message"), operation=evil("operation"), ended_ns=8,
        ),
    ]  # fmt: skip


FACT = r"<dt>{}</dt><dd>"
# Document, place: what stands just before the text, and what it is.
PLACES = {
    ("page", "title"): ("<title>Trace: ", "top"),
    ("page", "heading"): ("<h2>", "top"),
    ("page", "about: tenant"): ("tenant ", "tenant"),
    ("page", "about: user"): ("user ", "user"),
    ("page", "about: feature"): ("feature ", "feature"),
    ("page", "about: trace"): ("trace ", "trace"),
    ("page", "span: name of the first"): ('<span class="what">', "top"),
    ("page", "span: name"): ('<span class="what">', "name"),
    ("page", "chip: attempt"): ('<span class="chip ">attempt ', "attempt"),
    ("page", "chip: error class"): ('<span class="chip bad">', "error-type"),
    ("page", "chip: kind of cache"): ('<span class="chip good">✓ ', "cache"),
    ("page", "chip: label of a score"): ('<span class="chip ">1 ', "chip"),
    ("page", "error: class"): ('<p class="text">', "error-type"),
    ("page", "error: message"): (": ", "message"),
    ("page", "error: place"): ('<p class="text">', "raised-at"),
    ("page", "error: stack"): ('<pre tabindex="0">', "stack"),
    ("page", "message: role"): ('<p class="role">', "role"),
    ("page", "message: text"): ('<div class="text">', "said"),
    ("page", "query"): ('<p class="text">', "query"),
    ("page", "result of a tool"): ('<pre tabindex="0">', "result"),
    ("page", "document id"): ('<td data-label="document"[^>]*>', "document"),
    ("page", "passage"): ('<td data-label="text"[^>]*>', "passage"),
    ("page", "fact: model"): (FACT.format("model asked"), "model"),
    ("page", "fact: attempt"): (FACT.format("attempt"), "attempt"),
    ("page", "fact: tenant"): (FACT.format("tenant"), "other-tenant"),
    ("page", "fact: kind of cache"): (FACT.format("cache"), "cache"),
    ("page", "fact: name of a score"): (FACT.format("score"), "score"),
    ("page", "fact: label of a score"): (FACT.format("label"), "score-label"),
    ("page", "fact: label of the first span's score"): (FACT.format("label"), "chip"),
    ("page", "attribute: name"): ("<dt>", "attribute-name"),
    ("page", "attribute: value"): ("<dd>", "attribute"),
    ("text", "about: tenant"): ("tenant ", "tenant"),
    ("text", "about: user"): ("user ", "user"),
    ("text", "about: feature"): ("feature ", "feature"),
    ("text", "about: trace"): ("trace ", "trace"),
    ("text", "span: name of the first"): ("(?:^|\n)", "top"),
    ("text", "span: name"): ("✕ ", "name"),
    ("text", "heading of the texts"): ("\n", "name"),
    ("text", "chip: kind of cache"): (r"\[✓ ", "cache"),
    ("text", "error: class"): ("  what: ", "error-type"),
    ("text", "error: message"): (": ", "message"),
    ("text", "error: place"): ("  at: ", "raised-at"),
    ("text", "message: role"): ("\n  ", "role"),
    ("text", "message: text"): (": ", "said"),
    ("text", "query"): ("  Query: ", "query"),
    ("text", "result of a tool"): ("  Result: ", "result"),
    ("text", "document id"): ("  1  ", "document"),
    ("text", "passage"): ("  ", "passage"),
    ("text", "facts: model"): ("model asked ", "model"),
    ("text", "facts: attempt"): (", attempt ", "attempt"),
    ("text", "facts: kind of cache"): ("cache ", "cache"),
    ("text", "facts: label of the first span's score"): ("label ", "chip"),
    ("text", "facts: tenant"): ("tenant ", "other-tenant"),
    ("text", "facts: name of a score"): ("score ", "score"),
    ("text", "facts: label of a score"): ("label ", "score-label"),
}  # fmt: skip
UNSAFE = {"page": "<>\"'", "text": ""}


@cache
def sources() -> dict[str, str]:
    """Both forms of the trace."""
    return {"page": waterfall_page(rows()), "text": waterfall_text(rows())}


@pytest.mark.parametrize(("document", "place"), PLACES, ids=[": ".join(place) for place in PLACES])
def test_text_of_others_is_shown_and_is_nothing_but_text(document: str, place: str) -> None:
    before, field = PLACES[document, place]
    found = hostile_spans(sources()[document], field, before)
    assert found, f"{field} is not shown there"
    defects = [defect_of(match["shown"], field, UNSAFE[document]) for match in found]
    assert not any(defects), defects


@pytest.mark.parametrize("document", UNSAFE)
def test_every_place_has_its_case(document: str) -> None:
    source = sources()[document]
    cases = [case for (name, _), case in PLACES.items() if name == document]
    held = {match.start("shown") for before, field in cases for match in hostile_spans(source, field, before)}
    missed = [source[max(m.start() - 60, 0) : m.end()] for m in hostile_spans(source) if m.start() not in held]
    assert missed == []
