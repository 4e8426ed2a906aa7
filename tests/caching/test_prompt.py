"""The simulated prompt cache against the rules of each vendor, and against scripted vendors that keep real text."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.caching.scripted_vendor import Part, ScriptedVendor
from workbench.caching.prompt_cache import (
    load_prompt_cache_rules,
    prefix_breaks,
    prompt_cache_savings,
    simulate_prompt_cache,
)
from workbench.caching.prompt_cache_tables import prompt_cache_billed_error
from workbench.caching.prompt_calls import (
    PromptCallRecord,
    Segment,
    mark_stable_prefix,
    prompt_call_of,
    prompt_calls_with_ttl,
    volatile_segments_last,
)
from workbench.errors import ConfigError
from workbench.inference.messages import Request, Usage

VENDORS = load_prompt_cache_rules()
SONNET, OLD, NEW, GEMINI = "claude-sonnet-4-6", "gpt-4o", "gpt-5.6", "gemini-3.8-flash"
FAMILIES = {SONNET: "anthropic", OLD: "openai-old", NEW: "openai-new", GEMINI: "gemini"}


def system(name, tokens, **more):
    return Segment("system", name, tokens, **more)


def message(name, tokens=50, **more):
    return Segment("message", name, tokens, **more)


def call(at, *segments, model=SONNET, scope="acme", **more):
    more = {"tenant_id": scope, "feature": "answer", **more}
    return PromptCallRecord(at=at, scope=scope, model=model, segments=segments, **more)


def run(*calls):
    return simulate_prompt_cache(calls, VENDORS)


MARKED = system("stable", 2000, breakpoint=True)


def test_a_second_call_reads_what_the_first_one_wrote():
    found = run(call(0, MARKED, message("a")), call(10, MARKED, message("b")))
    assert found.select("read", "write", "fresh").rows() == [(0, 2000, 50), (2000, 0, 50)]
    assert found["saved_usd_high"].to_list() == pytest.approx([-2000 * 0.25 * 3e-6, 2000 * 0.9 * 3e-6])
    assert found["saved_usd_low"].to_list() == found["saved_usd_high"].to_list()


@pytest.mark.parametrize("model", FAMILIES)
def test_a_timestamp_in_front_leaves_nothing_to_read(model):
    long = system("stable", 9000, breakpoint=True)
    calls = [call(i, system(f"now {i}", 10), long, message("same"), model=model) for i in range(5)]
    found = run(*calls)
    assert found["read"].sum() == 0
    assert found["broken_by"].to_list() == [None] + ["system 1"] * 4
    assert found["stable_tokens"].to_list() == [None, 0, 0, 0, 0]
    later = run(*volatile_segments_last(calls))
    assert later["read"].to_list()[1:] == [later["read"][1]] * 4
    assert later["read"][1] >= 9000 - 128
    assert set(later["broken_by"].to_list()[1:]) == {"message 2"}


@pytest.mark.parametrize(("model", "minimum"), [(SONNET, 1024), (OLD, 1024), (NEW, 1024), (GEMINI, 4096)])
def test_below_the_minimum_nothing_is_kept_or_charged(model, minimum):
    for size, read in ((minimum - 1, 0), (minimum, minimum)):
        same = [call(i, message("all", size, breakpoint=True), model=model) for i in (0, 1)]
        found = run(*same)
        assert found["read"].to_list() == [0, read]
        assert (found["write"].sum() > 0) == (read > 0 and model in (SONNET, NEW))


def test_a_prefix_is_kept_five_minutes_after_its_last_use():
    assert run(call(0, MARKED), call(299, MARKED))["read"].to_list() == [0, 2000]
    assert run(call(0, MARKED), call(301, MARKED))["read"].to_list() == [0, 0]
    assert run(call(0, MARKED), call(299, MARKED), call(598, MARKED))["read"].to_list() == [0, 2000, 2000]


def test_an_hour_costs_more_to_write_and_pays_when_calls_are_rare():
    calls = [call(600 * i, MARKED, message(str(i))) for i in range(6)]
    short, long = run(*calls), run(*prompt_calls_with_ttl(calls, 3600))
    assert short["read"].sum() == 0
    assert long["read"].to_list() == [0] + [2000] * 5
    assert long["usd"][0] - long["uncached_usd"][0] == pytest.approx(2000 * 3e-6)
    assert short["saved_usd_high"].sum() < 0 < long["saved_usd_high"].sum()


def test_two_first_calls_at_once_each_write():
    found = run(call(0, MARKED, started_ms=2000), call(1.9, MARKED, started_ms=2000), call(2, MARKED), call(60, MARKED))
    assert found["write"].to_list() == [2000, 2000, 0, 0]
    assert found["read"].to_list() == [0, 0, 2000, 2000]


def test_one_tenant_never_reads_what_another_one_wrote():
    found = run(call(0, MARKED, scope="acme"), call(1, MARKED, scope="birch"), call(2, MARKED, scope="birch"))
    assert found["read"].to_list() == [0, 0, 2000]
    request = Request(SONNET, ({"role": "user", "content": "hello"},))
    records = [prompt_call_of(request, len, at=0, tenant_id=t, feature="f") for t in ("acme", "birch")]
    assert [r.scope for r in records] == ["acme", "birch"]


def test_another_model_has_a_cache_of_its_own():
    assert run(call(0, MARKED), call(1, MARKED, model="claude-opus-5-5"))["read"].to_list() == [0, 0]


def test_openai_reads_in_steps_of_128_and_its_newer_models_only_at_breakpoints():
    prompts = [(system("stable", 1500), message(name)) for name in ("a", "b")]
    old = run(*(call(i, *p, model=OLD) for i, p in enumerate(prompts)))
    assert old.select("read", "write", "fresh").rows() == [(0, 0, 1550), (1408, 0, 142)]
    assert (old["saved_usd_low"].to_list(), old["saved_usd_high"][1]) == ([0, 0], pytest.approx(1408 * 0.5 * 2.5e-6))
    new = run(*(call(i, *p, model=NEW) for i, p in enumerate(prompts)))
    assert new.select("read", "write").rows() == [(0, 1550), (0, 1550)]
    assert new["saved_usd_high"].sum() == pytest.approx(-2 * 1550 * 0.25 * 4e-6)
    marked = run(*mark_stable_prefix([call(i, *p, model=NEW) for i, p in enumerate(prompts)]))
    assert marked.select("read", "write").rows() == [(0, 1550), (1500, 50)]


def test_the_newer_models_of_openai_keep_the_newest_message_and_the_latest_three_breakpoints():
    parts = [message(str(i), 1024, breakpoint=i < 4) for i in range(6)]
    wrote = call(0, *parts, model=NEW)
    for size, read in ((1, 0), (2, 2048), (3, 3072), (4, 4096), (5, 4096), (6, 6144)):
        assert run(wrote, call(1, *parts[:size], message("other"), model=NEW))["read"][1] == read


def test_openai_forgets_after_an_hour_in_memory_however_often_it_is_asked():
    found = run(*(call(500 * i, message("all", 2048), model=OLD) for i in range(10)))
    assert found["read"].to_list() == [0, *[2048] * 7, 0, 2048]
    extended = run(*(call(7200 * i, message("all", 2048), model="gpt-5.5") for i in range(14)))
    assert extended["read"].to_list() == [0, *[2048] * 12, 0]


def test_an_earlier_write_is_found_within_twenty_segments_only():
    turns = [message(str(i), 100) for i in range(50)]
    wrote = call(0, *turns[:19], replace(turns[19], breakpoint=True))
    for size, read in ((38, 2000), (39, 0)):
        later = (*turns[:size], replace(turns[size], breakpoint=True))
        assert run(wrote, call(1, *later))["read"][1] == read


def test_what_the_vendor_would_refuse_is_an_error():
    five = [message(str(i), 2000, breakpoint=True) for i in range(5)]
    with pytest.raises(ConfigError, match=r"5 breakpoints.*at most 4"):
        run(call(0, *five))
    with pytest.raises(ConfigError, match="has 300, 3600"):
        run(call(0, message("a", breakpoint=True, ttl_s=60)))
    with pytest.raises(ConfigError, match="longer than one before"):
        run(call(0, MARKED, message("b", breakpoint=True, ttl_s=3600)))
    with pytest.raises(ConfigError, match=r"did you mean .gpt-5\.6."):
        run(call(0, MARKED, model="gpt-5.7"))


def test_savings_add_up_and_breaks_are_named_without_text():
    calls = [call(i, MARKED, message(f"q{i}"), feature="find" if i % 2 else "answer") for i in range(6)]
    found = run(*calls)
    by = prompt_cache_savings(found)
    assert by["calls"].to_list() == [3, 3]
    for name in ("read", "usd", "saved_usd_high"):
        assert by[name].sum() == pytest.approx(found[name].sum())
    assert prefix_breaks(found).rows() == [("answer", "message 1", 2, 2, 2000.0), ("find", "message 1", 2, 2, 2000.0)]


SAID = {
    "tools": ({"name": "find", "parameters": {"b": 1, "a": 2}}, {"name": "sum"}),
    "messages": (
        {"role": "system", "content": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]},
        {"role": "user", "content": "What is a secret?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
    ),
}


def test_a_request_becomes_a_record_of_hashes():
    record = prompt_call_of(
        Request(SONNET, **SAID), len, at=3, tenant_id="acme", feature="answer", billed=Usage(1, 2, 3, 4, 2)
    )
    assert [s.kind for s in record.segments] == ["tools", "tools", "system", "message", "message"]
    assert [s.breakpoint for s in record.segments] == [False, False, True, False, False]
    assert [s.tokens for s in record.segments[2:4]] == [9, 17]
    assert (record.billed_read, record.billed_write, record.billed_write_long) == (2, 3, 2)
    assert "secret" not in repr(record)
    assert "brief" not in repr(record)


@pytest.mark.parametrize(
    ("place", "changed"),
    [
        (0, {"tools": ({"name": "find", "parameters": {"a": 2, "b": 1}}, SAID["tools"][1])}),
        (2, {"messages": ({"role": "system", "content": "Be  brief."}, *SAID["messages"][1:])}),
        (3, {"messages": (SAID["messages"][0], {"role": "assistant", "content": "What is a secret?"})}),
        (4, {"messages": (*SAID["messages"][:2], {**SAID["messages"][2], "tool_calls": [{"id": "2"}]})}),
    ],
)
def test_whatever_changes_in_a_request_changes_the_hash_of_its_segment(place, changed):
    one, other = (
        prompt_call_of(Request(SONNET, **said), len, at=0, tenant_id="t", feature="f")
        for said in (SAID, {**SAID, **changed})
    )
    assert one.segments[place].sha256 != other.segments[place].sha256
    assert [s.sha256 for s in one.segments[:place]] == [s.sha256 for s in other.segments[:place]]


def test_a_marker_is_no_part_of_what_is_said():
    plain = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    hour = {"role": "system", "content": [{**plain["content"][0], "cache_control": {"type": "ephemeral", "ttl": "1h"}}]}
    one, other = (
        prompt_call_of(Request(SONNET, (m,)), len, at=0, tenant_id="t", feature="f").segments[0] for m in (plain, hour)
    )
    assert one.sha256 == other.sha256
    assert (one.breakpoint, other.breakpoint, other.ttl_s) == (False, True, 3600)


@st.composite
def traffic(draw, model):
    """Calls of two scopes whose prompts often share their beginnings; each text begins with a letter of its own."""
    calls, clock = [], 0
    often = draw(st.lists(st.integers(0, 2), min_size=1, max_size=6))
    for _ in range(draw(st.integers(1, 12))):
        clock += draw(st.sampled_from([0, 1, 1, 60, 60, 299, 300, 301, 601]))
        names = often[: draw(st.integers(1, 6))] + draw(st.sampled_from([[], [0], [1], [2]]))
        marks = draw(st.lists(st.sampled_from(["", "", "5m"]), min_size=len(names), max_size=len(names)))
        marks = [m if sum(map(bool, marks[: i + 1])) <= 4 else "" for i, m in enumerate(marks)]
        hours = draw(st.integers(0, 2)) if model == SONNET else 0
        marks = ["1h" if m and sum(map(bool, marks[: i + 1])) <= hours else m for i, m in enumerate(marks)]
        roles = ["system" if i < 2 and len(names) > 2 else "user" for i in range(len(names))]
        parts = [
            Part(role, chr(0x4E00 + 3 * (role == "user") + name) * (317, 1100, 2600)[name], mark)
            for role, name, mark in zip(roles, names, marks, strict=True)
        ]
        started = draw(st.sampled_from([0, 500, 60_000]))
        calls.append((clock, draw(st.sampled_from(["a", "a", "b"])), parts, started))
    return calls


def request_of(model, parts):
    marker = {"": {}, "5m": {"cache_control": {"type": "ephemeral"}}, "1h": {"cache_control": {"ttl": "1h"}}}
    said = tuple({"role": p.role, "content": [{"type": "text", "text": p.text, **marker[p.mark]}]} for p in parts)
    return Request(model, said)


def billed_log(model, calls, **vendor):
    scripted = ScriptedVendor(FAMILIES[model], **vendor)
    records, dollars = [], []
    for at, scope, parts, started in calls:
        bill = scripted.serve(scope, at, parts, answered=at + started / 1000, output=7)
        fresh = sum(len(p.text) for p in parts) - bill.read - bill.write
        usage = Usage(fresh, bill.read, bill.write, 7, bill.write_1h)
        record = prompt_call_of(
            request_of(model, parts), len, at=at, tenant_id="t", scope=scope, feature="f", output_tokens=7,
            started_ms=started, billed=usage,
        )  # fmt: skip
        records.append(record)
        dollars.append(bill.usd)
    return records, dollars


@pytest.mark.parametrize("model", FAMILIES)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_the_simulation_is_the_bill_of_a_vendor_that_keeps_its_rules(model, data):
    records, dollars = billed_log(model, data.draw(traffic(model)))
    found = simulate_prompt_cache(records, VENDORS)
    assert (found["read"] + found["write"] + found["fresh"]).to_list() == [r.input_tokens for r in records]
    assert min(found["read"].min(), found["write"].min(), found["fresh"].min()) >= 0
    assert found["read"].to_list() == [r.billed_read for r in records]
    assert found["write"].to_list() == [r.billed_write for r in records]
    assert found["usd"].to_list() == pytest.approx(dollars)
    assert prompt_cache_billed_error(found)["error"].to_list() == [pytest.approx(0, abs=1e-12)]
    most = found["input"] * (1 - VENDORS[model].read_ratio) * VENDORS[model].input_usd_per_mtok / 1e6
    assert (found["saved_usd_high"] <= most + 1e-12).all()
    assert (found["saved_usd_low"] <= found["saved_usd_high"]).all()


def test_a_vendor_that_forgets_early_is_an_error_above_0():
    parts = [Part("system", "s" * 3000, "5m"), Part("user", "hello")]
    calls = [(100 * i, "a", parts, 0) for i in range(10)]
    assert prompt_cache_billed_error(simulate_prompt_cache(billed_log(SONNET, calls)[0], VENDORS))[
        "error"
    ].to_list() == [0]
    (worse,) = prompt_cache_billed_error(
        simulate_prompt_cache(billed_log(SONNET, calls, forgets_after=60)[0], VENDORS)
    ).rows(named=True)
    assert (worse["read"], worse["billed_read"], worse["calls"]) == (27_000, 0, 10)
    assert worse["error"] > 0.8
    assert prompt_cache_billed_error(run(call(0, MARKED))).is_empty()


def test_rules_name_their_source_and_refuse_what_cannot_be(tmp_path):
    assert all(r.source.startswith("https://") and r.read_on.year >= 2026 for r in VENDORS.values())
    text = "[models.x]\nvendor = 'v'\n"
    (tmp_path / "v.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="no table of prompt-cache rules"):
        load_prompt_cache_rules(tmp_path / "v.toml")
    with pytest.raises(ConfigError, match="read_ratio"):
        replace(VENDORS[SONNET], read_ratio=1.5)
    with pytest.raises(ConfigError, match="no segments"):
        call(0)
