"""Prompt caches on the docs assistant's own prompts: too short to be kept, and what would change that."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from workbench.caching.prompt_cache import load_prompt_cache_rules
from workbench.caching.prompt_cache_tables import (
    prompt_arrival_times,
    prompt_break_table,
    prompt_cache_table,
    prompt_log,
    prompt_what_if_table,
    with_longer_prefix,
)
from workbench.caching.prompt_calls import Segment, approximate_prompt_tokens
from workbench.inference.messages import Request
from workbench.records import Document, Query
from workbench.routing.prompts import Prompts
from workbench.routing.recorded_outcomes import RecordedRequest

VENDORS = load_prompt_cache_rules()
PROMPTS = Prompts.load(Path(__file__).parents[2] / "evalsets" / "docs_qa" / "prompts.toml")
DOCUMENTS = [
    Document(f"lib.f{i}", f"Does the thing number {i}.\n" + "word " * 300, tenant_id="pandas") for i in range(5)
]


def asked(i, feature, tenant):
    query = Query(f"q{i}", f"How do I do the thing number {i}?", tenant_id=tenant)
    messages = PROMPTS.messages(feature, "top5", tenant_id=tenant, question=query.text, documents=DOCUMENTS)
    return RecordedRequest(query, "dev", feature, "top5", Request("m", messages, max_tokens=64))


ASKED = [asked(i, ("answer", "find", "check")[i % 3], ("pandas", "polars")[i % 2]) for i in range(60)]
CALLS = prompt_log(ASKED, prompt_arrival_times(60, 10.0))


def cells(table, name):
    return [row[[c.name for c in table.columns].index(name)] for row in table.rows]


def test_the_assistants_prompts_lie_under_every_minimum_and_the_table_says_so():
    table = prompt_cache_table(CALLS, VENDORS)
    assert len(table.rows) == len(VENDORS)
    assert set(cells(table, "of input read")) == {0}
    assert set(cells(table, "USD saved at most")) == {0}
    assert "save nothing" in table.caption
    assert f"least kept is {min(r.min_tokens for r in VENDORS.values())}" in table.caption


def test_the_log_marks_the_end_of_the_system_prompt_and_holds_no_text():
    assert {tuple((s.kind, s.breakpoint) for s in c.segments) for c in CALLS} == {
        (("system", True), ("message", False))
    }
    assert {c.tenant_id for c in CALLS} == {c.scope for c in CALLS} == {"pandas", "polars"}
    assert "thing" not in repr(CALLS)


def test_a_longer_stable_beginning_is_read_and_its_price_stands_beside_it():
    longer = with_longer_prefix(CALLS, 4096)
    table = prompt_cache_table(longer, VENDORS)
    assert "nothing" not in table.caption
    assert min(cells(table, "of input read")) > 0.5
    best_effort = [row for row in table.rows if not VENDORS[row[0]].promised]
    assert best_effort
    assert all(row[-2] == 0 < row[-1] for row in best_effort)
    rows = {row[:2]: row[2:] for row in prompt_what_if_table(CALLS, VENDORS, longer=(4096,)).rows}
    name = "4,096 tokens that never change in front"
    for alone, uncached, cached in zip(
        rows["as they are", "not at all"], rows[name, "not at all"], rows[name, "as usual"], strict=True
    ):
        assert alone < cached < uncached
    assert rows[name, "longer"][list(VENDORS).index("gpt-5.5")] is None


def test_rare_calls_pay_for_the_longer_lifetime():
    rare = prompt_log(ASKED, prompt_arrival_times(60, 0.05))
    rows = {row[:2]: row[2] for row in prompt_what_if_table(rare, VENDORS, longer=(4096,)).rows}
    name = "4,096 tokens that never change in front"
    assert rows[name, "longer"] < rows[name, "not at all"] < rows[name, "as usual"]


def test_the_tenants_name_breaks_the_prefix_where_one_account_serves_all():
    own = prompt_break_table(CALLS, VENDORS)
    assert set(cells(own, "first difference")) == {"message 1"}
    assert set(cells(own, "kept by")) == {"none"}
    shared = prompt_break_table(prompt_log(ASKED, prompt_arrival_times(60, 10.0), scope="all"), VENDORS)
    assert "system 1" in cells(shared, "first difference")
    assert "claude-opus-5-5" in cells(prompt_break_table(with_longer_prefix(CALLS, 600), VENDORS), "kept by")[0]


def test_a_clock_in_the_system_prompt_is_found_and_its_price_shown():
    clock = [
        replace(c, segments=(Segment("system", f"now {i}", 20), *with_longer_prefix([c], 2048)[0].segments))
        for i, c in enumerate(CALLS)
    ]
    assert set(cells(prompt_break_table(clock, VENDORS), "first difference")) == {"system 1"}
    rows = {row[:2]: row[2] for row in prompt_what_if_table(clock, VENDORS, longer=()).rows}
    assert rows["as they are", "not at all"] < rows["as they are", "as usual"]
    assert rows["what changes goes last", "as usual"] < rows["as they are", "not at all"]


def test_arrivals_have_their_rate_and_tokens_their_bytes():
    times = prompt_arrival_times(4000, 30.0, seed=1)
    assert times == sorted(times)
    assert times[-1] / 60 == pytest.approx(4000 / 30, rel=0.05)
    assert np.std(np.diff(times)) == pytest.approx(2, rel=0.1)
    assert [approximate_prompt_tokens(t) for t in ("", "a", "abcd", "abcde")] == [0, 1, 1, 2]
